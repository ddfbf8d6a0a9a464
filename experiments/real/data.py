"""Lay out SciFact for ``experiment=real/scifact``: links to what is there, and its first 150 test claims as a split.

    python experiments/real/data.py FOLDER [INTO]

``FOLDER`` holds ``scifact`` in BEIR's layout; ``INTO`` (default ``data``) is what ``paths.data`` names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

CLAIMS = 150
_LINKED = ("scifact/corpus.jsonl", "scifact/queries.jsonl", "scifact/qrels/train.tsv", "scifact/qrels/test.tsv")


def lay_out(folder: Path, into: Path) -> None:
    """Raises ``SystemExit`` naming what isn't there."""
    if missing := [name for name in _LINKED if not (folder / name).exists()]:
        raise SystemExit(f"{folder}: there is no {missing[0]}; see the head of {__file__}")
    for name in _LINKED:
        place = into / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to((folder / name).resolve())
    head, *lines = (folder / "scifact/qrels/test.tsv").read_text(encoding="utf-8").splitlines()
    (into / "scifact/qrels/first150.tsv").write_text("\n".join([head, *first_queries(lines, CLAIMS), ""]))


def first_queries(lines: Sequence[str], count: int) -> list[str]:
    """The judgements of the first ``count`` queries, in the file's order."""
    kept = set(list(dict.fromkeys(line.split("\t")[0] for line in lines))[:count])
    return [line for line in lines if line.split("\t")[0] in kept]


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("into", type=Path, nargs="?", default=Path("data"))
    given = words.parse_args()
    lay_out(given.folder, given.into)
    print(f"paths.data={given.into}")
