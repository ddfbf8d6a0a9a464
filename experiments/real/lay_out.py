"""Lay out SciFact for ``experiment=real/scifact``: in BEIR's layout, with its first 150 test claims as a split.

python experiments/real/lay_out.py              # ir_datasets fetches it (beir/scifact, 3 MB), into data/
python experiments/real/lay_out.py FOLDER       # FOLDER holds scifact in BEIR's layout: links to it
... --into PLACE                             # what paths.data names; default data
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

CLAIMS = 150
_LINKED = ("scifact/corpus.jsonl", "scifact/queries.jsonl", "scifact/qrels/train.tsv", "scifact/qrels/test.tsv")
_HEAD = "query-id\tcorpus-id\tscore"


def lay_out(folder: Path, into: Path) -> None:
    """Links, and the split; raises ``SystemExit`` naming what isn't there."""
    if missing := [name for name in _LINKED if not (folder / name).exists()]:
        raise SystemExit(f"{folder}: there is no {missing[0]}; see the head of {__file__}")
    for name in _LINKED:
        place = into / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to((folder / name).resolve())
    _split(into)


def fetch(into: Path) -> None:
    """The files, written from ir_datasets' ``beir/scifact``, and the split."""
    import ir_datasets

    write({split: ir_datasets.load(f"beir/scifact/{split}") for split in ("train", "test")}, into)
    _split(into)


def write(splits: dict[str, Any], into: Path) -> None:
    """BEIR's layout of ir_datasets' datasets, by split; they share their passages."""
    place = into / "scifact"
    (place / "qrels").mkdir(parents=True, exist_ok=True)
    docs = next(iter(splits.values())).docs_iter()
    _jsonl(place / "corpus.jsonl", ({"_id": d.doc_id, "title": getattr(d, "title", ""), "text": d.text} for d in docs))
    queries = {q.query_id: q.text for dataset in splits.values() for q in dataset.queries_iter()}
    _jsonl(place / "queries.jsonl", ({"_id": i, "text": text} for i, text in queries.items()))
    for split, dataset in splits.items():
        lines = [f"{one.query_id}\t{one.doc_id}\t{one.relevance}" for one in dataset.qrels_iter()]
        (place / "qrels" / f"{split}.tsv").write_text("\n".join([_HEAD, *lines, ""]), encoding="utf-8")


def _jsonl(path: Path, lines: Iterable[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _split(into: Path) -> None:
    head, *lines = (into / "scifact/qrels/test.tsv").read_text(encoding="utf-8").splitlines()
    kept = first_queries(lines, CLAIMS)
    (into / "scifact/qrels/first150.tsv").write_text("\n".join([head, *kept, ""]), encoding="utf-8")


def first_queries(lines: Sequence[str], count: int) -> list[str]:
    """The judgements of the first ``count`` queries, in the file's order."""
    kept = set(list(dict.fromkeys(line.split("\t")[0] for line in lines))[:count])
    return [line for line in lines if line.split("\t")[0] in kept]


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path, nargs="?")
    words.add_argument("--into", type=Path, default=Path("data"))
    given = words.parse_args()
    lay_out(given.folder, given.into) if given.folder is not None else fetch(given.into)
    print(f"paths.data={given.into}")
