"""The published numbers agree with themselves, with the benchmarks' names and with the models that claim a row."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from omegaconf import OmegaConf

from rearank.evaluation.published import all_published, averages, mean_of, published, rows

TABLES: list[dict[str, Any]] = json.loads(files("rearank.evaluation").joinpath("published.json").read_text())["tables"]
SAME_AS = {
    "Qwen2.5-7B zero-shot prompt": "RankQwen2.5-7B",
    "Qwen3-32B, reasoning on": "RankQwen3-32B",
    "REARANK-7B, reasoning on": "REARANK-7B",
}
# 72.0 is printed where (74.16 + 70.00) / 2 = 72.08 would be 72.1.
DISAGREE = {("Table 3", "REARANK-7B", "trec_dl"), ("Table 4", "REARANK-7B, reasoning on", "trec_dl")}


def printed_averages() -> list[tuple[str, str, str, float, int]]:
    return [
        (table["table"], row, name, value, table["decimals"])
        for table in TABLES
        if "REARANK" in table["paper"]
        for row, values in table["rows"].items()
        for name, value in zip(table["benchmarks"], values, strict=True)
        if name in averages()
    ]


def test_printed_averages_are_those_of_the_printed_parts() -> None:
    checked, wrong = 0, set()
    for table, row, name, value, decimals in printed_averages():
        parts = mean_of(SAME_AS.get(row, row), averages()[name])
        if parts is None:
            continue
        checked += 1
        # Half a unit for the average's own rounding and half a unit for that of its parts.
        if abs(parts.value - value) > (10**-decimals + 10**-parts.decimals) / 2 + 1e-9:
            wrong.add((table, row, name))
    assert checked == 29
    assert wrong == DISAGREE


def test_every_table_is_whole() -> None:
    for table in TABLES:
        assert {len(values) for values in table["rows"].values()} == {len(table["benchmarks"])}
        assert all(0 < value < 100 for values in table["rows"].values() for value in values)
        assert all(round(value, table["decimals"]) == value for values in table["rows"].values() for value in values)


def test_looking_up() -> None:
    one = published("REARANK-7B", "dl19")
    assert one is not None
    assert (one.value, str(one), one.by) == (74.16, "0.7416", "the paper's authors")
    assert "Table 1" in one.source
    assert str(published("REARANK-7B", "bright_biology")) == "0.234", "no more decimals than were printed"
    assert str(published("BM25", "dl20")) == "0.4796"
    assert published("REARANK-7B", "quora") is None
    assert published("nobody", "dl19") is None


@pytest.mark.parametrize(
    ("row", "benchmark", "value"),
    [("RankGPT-4", "dl19", 75.59), ("RankGPT-4 (top 30 of 3.5)", "bright_pony", 15.6), ("Rank-R1-7B", "dl20", 68.50)],
)
def test_what_stands_in_brackets_may_be_left_out(row: str, benchmark: str, value: float) -> None:
    found = published(row, benchmark)
    assert found is not None
    assert found.value == value


def test_two_stages_have_their_own_depth() -> None:
    found = published("RankGPT-4", "covid")
    assert found is not None
    assert (found.depth, found.row) == (30, "RankGPT-4 (top 30 of 3.5)")


def test_averages_printed_or_computed() -> None:
    beir, dl, bm25 = published("REARANK-7B", "beir"), published("REARANK-7B", "trec_dl"), published("BM25", "trec_dl")
    assert beir is not None
    assert dl is not None
    assert bm25 is not None
    assert (beir.value, dl.value) == (54.59, 72.0)
    assert bm25.value == pytest.approx(fmean([50.58, 47.96]))
    assert "mean of 2 printed numbers" in bm25.source
    assert mean_of("REARANK-7B", ["dl19", "quora"]) is None


def test_others_measurements_say_who_made_them() -> None:
    assert [(one.value, one.by) for one in all_published("REARANK-7B", "beir") if one.decimals == 2] == [
        (54.59, "the paper's authors"),
        (54.29, "ReasonRank's authors"),
    ]
    reasonrank = published("ReasonRank-7B", "bright")
    assert reasonrank is not None
    assert (reasonrank.value, reasonrank.by) == (26.4, "a third party")


def test_columns_are_benchmarks_and_models_claim_rows_that_exist(root: Path) -> None:
    names = {path.stem for path in (root / "conf" / "benchmark").glob("*.yaml")}
    assert {name for table in TABLES for name in table["benchmarks"]} <= names
    plain = {row.partition(" (")[0] for row in rows()}
    claimed = {path.stem: OmegaConf.load(path).get("published") for path in (root / "conf" / "model").glob("*.yaml")}
    assert {name: row for name, row in claimed.items() if row and row.partition(" (")[0] not in plain} == {}
