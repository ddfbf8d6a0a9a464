"""``experiments/real``: its data from ir_datasets and from a folder, its tests between systems, its README's tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rearank.data.beir import BeirFolder

ROOT = Path(__file__).resolve().parents[1] / "experiments" / "real"


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """Scripts, imported as they import one another."""
    sys.path.insert(0, str(ROOT))
    try:
        import lay_out
        import real_results

        yield {"data": lay_out, "results": real_results}
    finally:
        sys.path.remove(str(ROOT))
        for name in ("lay_out", "real_results"):
            sys.modules.pop(name, None)


def test_the_split_has_the_first_queries_and_all_their_judgements(modules: Any) -> None:
    lines = ["b\tp1\t1", "a\tp2\t1", "b\tp3\t0", "c\tp1\t1"]
    assert modules["data"].first_queries(lines, 2) == lines[:3]
    assert modules["data"].first_queries(lines, 9) == lines


def test_what_ir_datasets_has_is_written_as_a_folder_has_it(modules: Any, tmp_path: Path) -> None:
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("p1\tone text\np2\tan “other” text\n")
    for split in ("train", "test"):
        (tmp_path / f"{split}.tsv").write_text(f"{split}-1\tis it so in {split}?\n")
        (tmp_path / f"{split}.qrels").write_text(f"{split}-1 0 p2 1\n")
    made = {
        split: ir_datasets.create_dataset(
            docs_tsv=str(tmp_path / "docs.tsv"),
            queries_tsv=str(tmp_path / f"{split}.tsv"),
            qrels_trec=str(tmp_path / f"{split}.qrels"),
        )
        for split in ("train", "test")
    }
    modules["data"].write(made, tmp_path / "fetched")
    modules["data"].lay_out(tmp_path / "fetched", tmp_path / "linked")
    for split, name in (("train", "train"), ("first150", "test")):
        found = BeirFolder(str(tmp_path / "linked" / "scifact"), split, "scifact")
        assert found.qrels() == {f"{name}-1": {"p2": 1}}
        assert found.queries()[f"{name}-1"].text == f"is it so in {name}?"
        assert [one.text for one in found.iter_passages()] == ["one text", "an “other” text"]
    with pytest.raises(SystemExit, match=r"there is no scifact/corpus\.jsonl"):
        modules["data"].lay_out(tmp_path / "none", tmp_path / "linked")


def system(*values: float) -> dict[str, Any]:
    return {
        "per_query": {f"q{n}": value for n, value in enumerate(values)},
        "calls": 4,
        "unread": 1,
        "tokens": 40,
    }


def test_seeds_count_as_one_system_and_collections_are_corrected_together(modules: Any) -> None:
    results = modules["results"]
    one = {
        "first": system(0.1, 0.2, 0.3, 0.4),
        "cold": system(0.1, 0.2, 0.3, 0.4),
        "grpo-seed1": system(0.2, 0.4, 0.3, 0.6),
        "grpo-seed2": system(0.4, 0.2, 0.5, 0.8),
    }
    assert results.values_of(one, "grpo") == pytest.approx({"q0": 0.3, "q1": 0.3, "q2": 0.4, "q3": 0.7})
    assert results.values_of(one, "alone") is None
    found = results.tests_of({"scifact150": one, "noveleval": one})
    asked = [(test["system"], test["other"], test["benchmark"]) for test in found]
    assert asked == [
        (mine, other, benchmark)
        for mine, other in (("grpo", "cold"), ("grpo", "first"), ("cold", "first"))
        for benchmark in ("scifact150", "noveleval")
    ]
    first = found[0]
    assert first["difference"] == pytest.approx(0.175)
    assert first["low"] < 0.175 < first["high"]
    assert first["holm"] == pytest.approx(min(1.0, 2 * first["p"]))
    shown = results.table({"benchmarks": {"scifact150": one}, "core_hours": {"real-cold": 1.5, "real-grpo-seed1": 2.0}})
    assert "0.3500, 0.5000" not in shown
    assert "0.3750, 0.4750" in shown, "the seeds' means"
    assert "75.0%" in shown
    assert "cold 1.5, grpo-seed1 2; 3.5 in all" in shown


def test_the_readme_shows_what_results_json_says(modules: Any) -> None:
    results, stored = modules["results"], ROOT / "results.json"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = text.partition(results.BEGIN)[2].partition(results.END)[0].strip()
    # Before anything was measured the README shows no result.
    assert made == (results.table(json.loads(stored.read_text())) if stored.is_file() else "")
