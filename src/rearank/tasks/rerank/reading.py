"""What ``task=rerank`` made in a run's folder, read again: from its shards, where it has any, or its output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rearank.data import DataError
from rearank.data.trec import read_run
from rearank.runs.content import digests_of
from rearank.runs.layout import RERANKED, SETTINGS, SUMMARY, read_json
from rearank.sections import STANDARD
from rearank.tasks.rerank.on_ray import MANIFEST, SHARDS


def holds_output(folder: Path) -> bool:
    """Whether ``task=rerank`` came to its end there."""
    return (folder / RERANKED / SUMMARY).is_file()


def read_output(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """query id -> (passage id, score) of its list, best first; scores fall.

    Raises:
        DataError: where what was written is gone, or isn't as it was left.
    """
    stage = folder / RERANKED
    form = str(read_json(stage / SETTINGS).get("output"))
    if (manifest := stage / SHARDS / MANIFEST).is_file():
        names = (json.loads(line)["file"] for line in manifest.read_text("utf-8").splitlines())
        return {query: rows for name in names for query, rows in _read(manifest.parent / name, Path(name).suffix[1:])}
    summary = read_json(stage / SUMMARY)
    output = str(summary.get("output"))
    if output == STANDARD:
        raise DataError(f"{folder}: its output went to standard output; give the file that it was kept in")
    if not Path(output).is_file() or digests_of([Path(output)]) != [summary.get("digest")]:
        raise DataError(f"{output}: the output of {folder} isn't there, or has changed; run that command again")
    return dict(_read(Path(output), form))


def _read(path: Path, form: str) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    if not path.is_file():
        raise DataError(f"{path}: this file is gone; run the command that made it again")
    if form == "trec":
        yield from read_run(path).items()
        return
    for record in _records(path, form == "parquet"):
        ids = [one["id"] for one in record["passages"]]
        yield record["id"], [(one, float(len(ids) - place)) for place, one in enumerate(ids)]


def _records(path: Path, parquet: bool) -> Iterator[dict[str, Any]]:
    if not parquet:
        with path.open("rb") as lines:
            yield from map(json.loads, lines)
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["id", "passages"]):
            yield from batch.to_pylist()
