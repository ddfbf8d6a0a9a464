"""Published numbers, which our results are compared with: data with its source, in ``published.json``.

Values are nDCG@10 times 100, as printed, for BM25's first 100 candidates (``Published.depth`` where it is another
number), windows of 20 by steps of 10 and greedy answers, unless the row's name says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

MEASURE = "ndcg_cut_10"
"""Of every value here."""


@dataclass(frozen=True, slots=True)
class Published:
    """One number.

    ``row`` and ``benchmark`` are as in the table (a row's name may say its setting in brackets), ``value`` is times
    100, ``decimals`` as many as were printed, ``source`` the paper and its table, ``by`` who measured it, ``depth``
    how many candidates were reranked.
    """

    row: str
    benchmark: str
    value: float
    decimals: int
    source: str
    by: str
    depth: int = 100

    @property
    def fraction(self) -> float:
        """Between 0 and 1, as our own tables have it."""
        return self.value / 100

    def __str__(self) -> str:
        """The fraction with the decimals that were printed, no more."""
        return f"{self.fraction:.{self.decimals + 2}f}"


def published(row: str, benchmark: str) -> Published | None:
    """The paper's number for a model and a benchmark or a list of benchmarks, ``None`` where there is none.

    Args:
        row: as in the paper's tables (``REARANK-7B``); what stands in brackets there may be left out.
        benchmark: our name of it (``dl19``, ``bright_biology``) or of the list whose average is meant (``beir``). An
            average that isn't printed is that of the printed members, and its source says so.
    """
    printed = all_published(row, benchmark)
    return printed[0] if printed else mean_of(row, averages().get(benchmark, ()))


def all_published(row: str, benchmark: str) -> tuple[Published, ...]:
    """Everybody's printed numbers, the paper's own first and those with more decimals before others."""
    return tuple(_index().get((_plain(row), benchmark), ()))


def mean_of(row: str, benchmarks: Sequence[str]) -> Published | None:
    """The mean of the printed numbers of ``benchmarks``, ``None`` unless every one is printed."""
    found = [printed[0] for name in benchmarks if (printed := all_published(row, name))]
    if not benchmarks or len(found) < len(benchmarks):
        return None
    sources = ", ".join(dict.fromkeys(one.source for one in found))
    return replace(
        found[0],
        benchmark="+".join(benchmarks),
        value=fmean(one.value for one in found),
        decimals=min(one.decimals for one in found),
        source=f"mean of {len(found)} printed numbers, {sources}",
    )


def averages() -> Mapping[str, tuple[str, ...]]:
    """The lists whose averages are printed, and the benchmarks each is the mean of."""
    return {name: tuple(members) for name, members in _data()["averages"].items()}


def rows() -> tuple[str, ...]:
    """Every row's name as printed; ``Model.published`` is one of them."""
    return tuple(dict.fromkeys(row for table in _data()["tables"] for row in table["rows"]))


def _plain(row: str) -> str:
    """Without the bracket: ``RankGPT-4 (top 30 of 3.5)`` in one table is ``RankGPT-4`` in another."""
    return row.partition(" (")[0]


@cache
def _data() -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(files("rearank.evaluation").joinpath("published.json").read_text("utf-8"))
    return content


@cache
def _index() -> Mapping[tuple[str, str], Sequence[Published]]:
    index: dict[tuple[str, str], list[Published]] = {}
    for table in _data()["tables"]:
        source = f"{table['paper']}, {table['table']}"
        for row, values in table["rows"].items():
            depth = table.get("depth", {}).get(row, 100)
            for benchmark, value in zip(table["benchmarks"], values, strict=True):
                one = Published(row, benchmark, value, table["decimals"], source, table["by"], depth)
                index.setdefault((_plain(row), benchmark), []).append(one)
    return index
