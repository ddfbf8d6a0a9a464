"""A look into a collection and its first stage before any work: what can't be read is found in seconds.

Small collections are read whole, as they will be anyway; of large ones the first lines of each file.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from rearank.data.base import DataError
from rearank.data.files import parse_json, read_lines
from rearank.data.irds import Irds
from rearank.data.trec import RunFile, read_run
from rearank.reach import reachable
from rearank.runs.content import places_in

_SMALL = 32 << 20  # bytes that are read within seconds
_FIRST = 20  # lines
_CATALOGUE = "https://ir-datasets.com"


def opened(name: str, collection: Any, retriever: Any, *, judged: bool = True) -> list[str]:
    """Why ``name`` can't be used, a line each; empty where what was looked at is in order.

    Args:
        name: of the dataset or benchmark.
        collection: a ``rearank.data.Collection``.
        retriever: its first stage.
        judged: whether its queries and judgements will be used; its passages alone otherwise.
    """
    try:
        if isinstance(collection, Irds):
            _look_for(collection)
            return []
        files = [path for _, place in places_in([collection, retriever]) for path in _files(place)]
        if not files:
            return []  # made by code: there is nothing to be missing
        if sum(path.stat().st_size for path in files) > _SMALL:
            for path in files:
                _first_lines(path)
        elif judged:
            _whole(collection, getattr(retriever, "chosen", retriever))
        else:
            next(iter(collection.iter_passages()), None)
    except DataError as error:
        line = str(error)
        return [line if line.startswith(name) else f"{name}: {line}"]
    return []


def _whole(collection: Any, retriever: Any) -> None:
    judged, queries = collection.qrels(), collection.queries()
    passages = {passage for grades in judged.values() for passage in grades}
    if judged and not judged.keys() & queries.keys():
        raise DataError(
            f"none of the {len(judged)} judged queries is among the {len(queries)} topics; check that they belong "
            "together"
        )
    if judged and max(grade for grades in judged.values() for grade in grades.values()) < 1:
        place = getattr(collection, "qrels_file", "")
        where = f"{place}: " if place else ""
        raise DataError(f"{where}no passage has a grade above 0; check the column of grades in the judgements")
    if passages and passages.isdisjoint(passage.id for passage in collection.iter_passages()):
        raise DataError(
            f"none of the {len(passages)} judged passages is in the collection; check that judgements and passages "
            "belong together"
        )
    if isinstance(retriever, RunFile) and judged and judged.keys().isdisjoint(read_run(retriever.path)):
        raise DataError(f"{retriever.path}: no line of a judged query; give the run of these topics")


def _first_lines(path: Path) -> None:
    for number, line in islice(read_lines(path), _FIRST):
        if line.lstrip().startswith("{"):
            parse_json(line, path, number, "fetch the file again")


def _files(place: Path) -> list[Path]:
    return [path for path in sorted(place.rglob("*")) if path.is_file()] if place.is_dir() else [place]


def _look_for(collection: Irds) -> None:
    """Raises ``DataError`` for a collection of the catalogue that isn't here and can't be fetched now."""
    first = collection.id.partition("/")[0]
    if first not in _catalogued():
        return  # a user's own entry
    place = _place(collection)
    if not place.exists() and not reachable(_CATALOGUE):
        raise DataError(
            f"ir_datasets {collection.id!r} isn't on this machine ({place}) and the network can't be reached; lay its "
            f"files there by hand ({_CATALOGUE}/{first}.html), or choose another collection"
        )


def fetched(collection: Any) -> bool:
    """Whether reading ``collection`` fetches nothing that isn't on this machine yet, as far as can be seen."""
    return not isinstance(collection, Irds) or _place(collection).exists()


def _place(collection: Irds) -> Path:
    """Where ir_datasets keeps it."""
    first, *rest = collection.id.split("/")
    home = Path(os.environ.get("IR_DATASETS_HOME", "~/.ir_datasets")).expanduser() / first
    return home / rest[0] if first == "beir" and rest else home


def _catalogued() -> set[str]:
    """The collections that ir_datasets fetches by itself."""
    spec = find_spec("ir_datasets")
    if spec is None or not spec.submodule_search_locations:
        return set()
    listed: dict[str, Any] = json.loads((Path(spec.submodule_search_locations[0]) / "etc/downloads.json").read_text())
    return set(listed)
