"""What ``task=rerank`` would meet, before any work: its files, the input's first rows, and how much there is to do."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from rearank.data import DataError
from rearank.data.benchmark import Benchmark, BenchmarkList
from rearank.data.opening import opened
from rearank.engines import EngineNode, ScriptedNode
from rearank.sections import STANDARD, Rerank
from rearank.tasks.rerank import on_ray
from rearank.tasks.rerank.inputs import (
    Counted,
    Formats,
    collection_of,
    formats_of,
    input_name,
    make_input,
    refuse_bad,
)
from rearank.tasks.rerank.rows import BadRow
from rearank.training.verl.settings import Cluster

_FIRST = 20  # lists


def problems_of(settings: Rerank, node: Benchmark | BenchmarkList, engine: EngineNode, cluster: Cluster) -> list[str]:
    """What keeps the input from being read, the output from being written or the engine from answering, a line each."""
    try:
        formats = formats_of(settings)
        found = _of_output(settings, formats) + (_of_collection(formats, node) if formats.uses_collection else [])
        if not found and settings.input != STANDARD:
            _look_at_rows(settings, formats, node)
    except DataError as error:
        found = [str(error)]
    if isinstance(engine, ScriptedNode) and engine.behaviour in ("oracle", "noisy"):
        found.append(
            f"engine.behaviour={engine.behaviour} goes by judgements and task=rerank has none; set "
            "engine.behaviour=reverse, random or given"
        )
    return found + (on_ray.problems(settings, cluster) if settings.runner == "ray" else [])


def _of_output(settings: Rerank, formats: Formats) -> list[str]:
    if settings.output == STANDARD:
        text = "parquet can't be written to standard output; name a file"
        return [f"rerank.output=-: {text}"] if formats.output == "parquet" else []
    output = Path(settings.output or "")
    if output.exists() and not output.is_file():
        return [f"rerank.output={output}: this is no file; name one, or - for standard output"]
    there = next(parent for parent in output.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return [f"rerank.output={output}: {there} is no folder that can be written to; name a file elsewhere"]
    if (
        settings.input is not None
        and output.exists()
        and Path(settings.input).exists()
        and output.samefile(settings.input)
    ):
        return [f"rerank.output={output}: this is the input; name another file"]
    return []


def _of_collection(formats: Formats, node: Benchmark | BenchmarkList) -> list[str]:
    benchmark = collection_of(node)
    retriever: Any = benchmark.first_stage if formats.input == "topics" else None
    found = list(retriever.preflight()) if hasattr(retriever, "preflight") else []
    return found or opened(f"benchmark={benchmark.name}", benchmark.collection, retriever, judged=False)


def _look_at_rows(settings: Rerank, formats: Formats, node: Benchmark | BenchmarkList) -> None:
    """Raises ``DataError`` for a bad row among the first, or where none of these can be used."""
    first = list(islice(make_input(settings, formats, node).lengths(), _FIRST))
    bad = [one for one in first if isinstance(one, BadRow)]
    if bad and (settings.bad_rows == "error" or len(bad) == len(first)):
        refuse_bad(Counted(bad=len(bad), first_bad=bad[0]))
    if not first:
        raise DataError(f"{input_name(settings)}: nothing in it; give another rerank.input")
