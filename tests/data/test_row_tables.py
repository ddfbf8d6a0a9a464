"""Rows of files and of the hub, and queries with graded passages made of them."""

from __future__ import annotations

import gzip
import json
import logging
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.rearank_rows import write_jsonl, write_parquet

from rearank.augmentation import MultiSample, WindowFilter
from rearank.data import DataError, HoldsRows, JudgedCandidates, JudgedSource
from rearank.data.rows.graded import GradedColumns, GradedRows
from rearank.data.rows.tables import RowTable

Row = dict[str, Any]

OWN: list[Row] = [
    {
        "id": 7,
        "query": "what do bees eat",
        "passages": [
            {"id": "p1", "text": "Bees eat nectar.", "title": "Bees", "grade": 3},
            {"id": "p2", "text": "A bee can fly.", "title": None, "grade": 0},
            {"id": "p3", "text": "Pollen feeds the brood.", "title": "Pollen", "grade": 1},
        ],
    },
    {
        "id": "q 8",
        "query": "who wrote Faust",
        "passages": [
            {"id": "p1", "text": "Goethe wrote Faust.", "title": "", "grade": 2},
            {"id": "p4", "text": "A fist.", "title": "", "grade": 0},
        ],
    },
]
TEVATRON: list[Row] = [
    {
        "query_id": "q1",
        "query": "what do bees eat",
        "positive_passages": [{"docid": "d1", "title": "Bees", "text": "Bees eat nectar."}],
        "negative_passages": [
            {"docid": "d2", "title": "", "text": "A bee can fly."},
            {"docid": "d3", "title": "-", "text": "Wasps eat fruit."},
        ],
    }
]
BGE: list[Row] = [
    {
        "query": "what do bees eat",
        "pos": ["Bees eat nectar."],
        "neg": ["A bee can fly.", "Wasps eat fruit."],
        "pos_scores": [9.1],
        "neg_scores": [1.5, -3.25],
        "prompt": "Is it relevant?",
    }
]
BGE_COLUMNS = GradedColumns(id=None, passages=None, positives="pos", negatives="neg")
TRIPLES = [
    ("what do bees eat", "Bees eat nectar.", "A bee can fly."),
    ("who wrote Faust", "Goethe wrote Faust.", "A fist."),
    ("what do bees eat", "Bees eat nectar.", "Wasps eat fruit."),
]
TRIPLE_COLUMNS = GradedColumns(id=None, passages=None, positives="positive", negatives="negative")
TSV = ("query", "positive", "negative")


def dataset(path: Path, columns: GradedColumns | None = None, **more: Any) -> GradedRows:
    return GradedRows("mini", str(path), columns or GradedColumns(), **more)


def texts(item: JudgedCandidates) -> dict[str, int]:
    return {p.text: item.grades[p.id] for p in item.candidates.passages}


def write_triples(path: Path, lines: Sequence[Sequence[str]]) -> Path:
    text = "".join("\t".join(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def write_json(path: Path, some: list[Row]) -> Path:
    path.write_text(json.dumps(some, indent=1))
    return path


def write_packed(path: Path, some: list[Row]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in some).encode()))
    return path


WRITERS = {"r.parquet": write_parquet, "r.jsonl": write_jsonl, "r.json": write_json, "r.jsonl.gz": write_packed}


@pytest.mark.parametrize("name", WRITERS)
def test_graded_passages_are_read_from_every_kind_of_file(name: str, tmp_path: Path) -> None:
    rows = [{**row, "id": str(row["id"])} for row in OWN] if name.endswith("parquet") else OWN
    source = dataset(WRITERS[name](tmp_path / name, rows), order="given")
    assert isinstance(source, JudgedSource)
    assert not isinstance(source, HoldsRows), "windows are drawn of it"
    assert source.preflight() == []
    first, second = source.judged(10)
    assert (first.candidates.query.id, second.candidates.query.id) == ("7", "q_8"), "as run files can carry them"
    assert [(p.id, p.text, p.title) for p in first.candidates.passages] == [
        ("p1", "Bees eat nectar.", "Bees"),
        ("p2", "A bee can fly.", ""),
        ("p3", "Pollen feeds the brood.", "Pollen"),
    ]
    assert first.grades == {"p1": 3, "p2": 0, "p3": 1}
    assert texts(second) == {"Goethe wrote Faust.": 2, "A fist.": 0}, "an id is of its query: p1 is another text here"


def test_tevatrons_rows(tmp_path: Path) -> None:
    columns = GradedColumns("query_id", "query", None, None, "positive_passages", "negative_passages", "docid")
    (item,) = dataset(write_jsonl(tmp_path / "r.jsonl", TEVATRON), columns).judged(10)
    assert item.grades == {"d1": 1, "d2": 0, "d3": 0}
    assert sorted(p.id for p in item.candidates.passages) == ["d1", "d2", "d3"]
    assert item.candidates.query.id == "q1"


def test_bges_rows(tmp_path: Path) -> None:
    (item,) = dataset(write_jsonl(tmp_path / "r.jsonl", BGE), BGE_COLUMNS).judged(10)
    assert texts(item) == {"Bees eat nectar.": 1, "A bee can fly.": 0, "Wasps eat fruit.": 0}
    assert len(item.candidates.query.id) == 16, "made of the text"


@pytest.mark.parametrize("name", ["triples.tsv", "triples.tsv.gz"])
def test_triples_are_joined_by_their_query(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_triples(tmp_path / name, TRIPLES)
    with caplog.at_level(logging.INFO):
        bees, faust = dataset(path, TRIPLE_COLUMNS, tsv=TSV).judged(10)
    assert texts(bees) == {"Bees eat nectar.": 1, "A bee can fly.": 0, "Wasps eat fruit.": 0}
    assert texts(faust) == {"Goethe wrote Faust.": 1, "A fist.": 0}
    assert "1 passages that their query had before count once" in caplog.text
    (only,) = dataset(path, TRIPLE_COLUMNS, tsv=TSV, max_rows=1).judged(10)
    assert len(only.candidates.passages) == 2


def test_lists_of_texts_with_grades_beside_them_and_an_object_of_lists(tmp_path: Path) -> None:
    listed = {"q": "bees", "deep": {"docs": ["nectar", "wings"], "labels": [True, 0.0]}}
    columns = GradedColumns(id=None, query="q", passages="deep.docs", grades="deep.labels")
    (item,) = dataset(write_jsonl(tmp_path / "a.jsonl", [listed]), columns).judged(5)
    assert texts(item) == {"nectar": 1, "wings": 0}
    ms_marco = {
        "query_id": 1,
        "query": "bees",
        "passages": {"is_selected": [0, 1], "passage_text": ["wings", "nectar"]},
    }
    columns = GradedColumns("query_id", text="passage_text", grade="is_selected")
    (item,) = dataset(write_jsonl(tmp_path / "b.jsonl", [ms_marco]), columns).judged(5)
    assert texts(item) == {"wings": 0, "nectar": 1}


def test_a_folder_is_read_by_its_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train-00000-of-00002.jsonl", OWN[:1])
    write_jsonl(tmp_path / "train-00001-of-00002.jsonl", OWN[1:])
    write_jsonl(tmp_path / "val.jsonl", [{**OWN[0], "id": "held out"}])
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("no rows")
    (tmp_path / ".cache").mkdir()
    write_jsonl(tmp_path / ".cache" / "train.jsonl", OWN)
    assert [item.candidates.query.id for item in dataset(tmp_path).judged(3)] == ["7", "q_8"]
    assert [item.candidates.query.id for item in dataset(tmp_path, split="val").judged(3)] == ["held_out"]
    bare = tmp_path / "bare"
    bare.mkdir()
    (said,) = dataset(bare).preflight()
    assert "no parquet, JSONL, JSON or TSV file in this folder" in said
    with pytest.raises(DataError, match="no parquet, JSONL, JSON or TSV file in this folder"):
        dataset(bare).judged(3)
    write_jsonl(bare / "part1.jsonl", OWN)
    assert len(dataset(bare).judged(3)) == 2, "no file names a split: all count"


def test_the_hubs_rows_are_read_as_the_packages_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    hub, load = tmp_path / "hub", datasets.load_dataset
    write_parquet(hub / "train.parquet", [{**row, "id": str(row["id"])} for row in OWN])
    write_parquet(hub / "val.parquet", [{**OWN[0], "id": "held out"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *how, **more: load(str(hub), *how, **more))
    source = dataset(Path("some/rows"))
    assert source.judged(3) == dataset(hub).judged(3)
    (held_out,) = replace(source, split="validation").judged(3)
    assert held_out.candidates.query.id == "held_out"
    with pytest.raises(DataError, match=r"some/rows: can't be loaded \(.*nowhere.*subset and split, or lay its files"):
        replace(source, split="nowhere").judged(3)
    with pytest.raises(DataError, match=r"some/rows: row 0: no column 'question'; there is id, query, passages: set"):
        replace(source, columns=GradedColumns(query="question")).judged(3)


def test_a_hub_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = dataset(Path("nobody/nothing"))
    assert source.preflight() == []
    with pytest.raises(DataError, match=r"nobody/nothing: can't be loaded.*set dataset\.path=<file>"):
        source.judged(3)


@pytest.mark.parametrize("path", ["no/rows.jsonl.gz", "rows.tsv", "a/b/c"])
def test_a_path_that_is_neither_here_nor_a_hub_id(path: str) -> None:
    (said,) = dataset(Path(path)).preflight()
    assert said.startswith(f"{path}: no such file; set dataset.path")
    with pytest.raises(DataError, match="no such file"):
        dataset(Path(path)).judged(3)


def passage(**change: Any) -> Row:
    return {"id": "a", "query": "q", "passages": [{"id": "x", "text": "t", "grade": 1, **change}]}


FAULTS: Mapping[str, tuple[Row, str]] = {
    "no column": ({"id": 1, "question": "q"}, "no column 'query'; there is id, question: set dataset.columns.query"),
    "blank query": ({"id": 1, "query": " "}, "column 'query' is ' ', and a text is expected"),
    "no list": ({"id": 1, "query": "q", "passages": 3}, "column 'passages' is 3, and a list is expected"),
    "odd id": ({"id": None, "query": "q", "passages": []}, "the query id is of type NoneType"),
    "no text": (passage(text=None), "passage 0 of 'passages': no text under 'text'; it has id, text, grade: set"),
    "empty text": (passage(text=" \n"), "passage 0 of 'passages' is empty"),
    "no object": ({"id": 1, "query": "q", "passages": [["t"]]}, "passage 0 of 'passages' is of type list"),
    "a text alone": ({"id": 1, "query": "q", "passages": ["t"]}, "no grade under 'grade'; set dataset.columns.grade"),
    "odd grade": (passage(grade=0.5), "a grade under 'grade' is 0.5; write a whole number"),
    "a time": (passage(grade=1731000000), "a grade under 'grade' is 1731000000; write a whole number to 10000"),
    "odd title": (passage(title=3), "the title is 3"),
    "surrogate id": (passage(id="\ud800"), "half of a character"),
    "ragged": ({"id": 1, "query": "q", "passages": {"text": ["a", "b"], "grade": [1]}}, "differ in length"),
    "two texts": (
        {"id": 1, "query": "q", "passages": [{"id": "x", "text": t, "grade": 1} for t in "ab"]},
        "passage 'x' of query '1' has another text before",
    ),
    "query twice": ({**OWN[0], "query": "another"}, "query '7' has another text in a row before"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_is_named_with_its_remedy_or_skipped_and_counted(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row, message = FAULTS[fault]
    path = write_jsonl(tmp_path / "r.jsonl", [OWN[0], row, OWN[1]])
    with pytest.raises(DataError) as caught:
        dataset(path).judged(5)
    said = str(caught.value)
    assert said.startswith(f"{path}:2: ")
    assert message in said
    assert "or leave such rows out with dataset.on_bad_row=skip" in said
    held = dataset(path, on_bad_row="skip").judged(5)
    assert held == dataset(write_jsonl(tmp_path / "good.jsonl", OWN)).judged(5), "nothing of it stays"
    assert f"bad row: 1 (the first: {path}:2: " in caplog.text
    assert "2 queries stay" in caplog.text


def test_lines_that_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(OWN[0]) + "\n\nnot json\n[1]\n" + json.dumps(OWN[1]) + "\n")
    with pytest.raises(DataError, match=r"r\.jsonl:3: not JSON.*\(TSV: set dataset\.tsv"):
        dataset(path).judged(5)
    assert len(dataset(path, on_bad_row="skip").judged(5)) == 2
    ragged = write_triples(tmp_path / "r.tsv", [*TRIPLES, ("query", "passage")])
    with pytest.raises(DataError, match=r"r\.tsv:4: 3 columns \(query, positive, negative\) .* and 2 are there"):
        dataset(ragged, TRIPLE_COLUMNS, tsv=TSV).judged(5)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cut\.parquet: not a whole parquet file"):
        dataset(cut).judged(5)
    (tmp_path / "cut.json").write_text("[{}, ")
    with pytest.raises(DataError, match=r"cut\.json:1: not JSON"):
        dataset(tmp_path / "cut.json").judged(5)


def test_an_archive_is_not_taken_for_a_table(tmp_path: Path) -> None:
    write_triples(tmp_path / "triples.tsv", TRIPLES)
    packed = tmp_path / "triples.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "triples.tsv", "triples.tsv")
    with pytest.raises(DataError, match=r"triples\.tar\.gz: an archive; unpack it"):
        dataset(packed, TRIPLE_COLUMNS, tsv=TSV).judged(5)


def test_where_nothing_is_left_the_first_fault_is_said(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "r.jsonl", BGE * 2)
    with pytest.raises(
        DataError, match=r"no queries to train on; bad row: 2 \(the first: .*r\.jsonl:1: no column 'id'"
    ):
        dataset(path, on_bad_row="skip").judged(5)
    with pytest.raises(DataError, match="there is no row"):
        dataset(write_jsonl(tmp_path / "empty.jsonl", [])).judged(5)


def test_a_query_without_a_relevant_passage_is_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*OWN, passage(grade=0), {"id": "b", "query": "r", "passages": []}]
    assert len(dataset(write_jsonl(tmp_path / "r.jsonl", rows)).judged(5)) == 2
    assert "query without a relevant passage: 2; 2 queries stay" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"positives": "pos"}, "give one of passages, positives a name; passages and positives are given one"),
        ({"passages": None}, "give one of passages, positives a name; none is given one"),
        ({"negatives": "neg"}, "negatives go with positives"),
        ({"passages": None, "positives": "pos", "grades": "g"}, "grades stand beside passages"),
    ],
)
def test_column_maps_that_contradict_themselves(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradedColumns(**columns)


def test_positives_do_not_stand_first_and_none_is_lost_where_lists_are_cut(tmp_path: Path) -> None:
    rows = [{"query": f"q{n}", "pos": ["right"], "neg": [f"wrong {i}" for i in range(9)]} for n in range(200)]
    path = write_jsonl(tmp_path / "r.jsonl", rows)

    def places(depth: int, **how: Any) -> list[int]:
        found = dataset(path, BGE_COLUMNS, **how).judged(depth)
        assert all(len(item.candidates.passages) == depth for item in found)
        return [[p.text for p in item.candidates.passages].index("right") for item in found]

    shuffled = places(10)
    counts = [shuffled.count(place) for place in range(10)]
    assert min(counts) > 5, "20 a place are expected"
    assert max(counts) < 40
    assert shuffled == places(10) != places(10, seed=1), "by the seed alone"
    assert places(10, order="given") == [0] * 200
    assert len(places(3)) == 200, "index() would raise where the relevant passage is cut off"


PIECES = ("nectar", "wings ", "\ud800", "[1] > [2]", "\t", "<answer>", "\x00", "é", "\r\n", "x" * 50)
PASSAGES = st.lists(
    st.tuples(st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join), st.integers(0, 3)), max_size=8
)


@given(listed=st.lists(st.tuples(st.sampled_from("abc"), PASSAGES), min_size=1, max_size=6), shuffle=st.randoms())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_in_any_order(
    listed: list[tuple[str, list[tuple[str, int]]]], shuffle: random.Random, tmp_path: Path
) -> None:
    """Each distinct text of a query is there once, with its highest grade, wherever its rows stand."""
    rows: list[Row] = []
    expected: dict[str, dict[str, int]] = {}
    for query, passages in listed:
        usable = [(text, grade) for text, grade in passages if text.strip()]
        rows.append({"q": query, "docs": [t for t, _ in usable], "labels": [g for _, g in usable]})
        for text, grade in usable:
            known = expected.setdefault(query, {})
            clean = text.encode("utf-8", "replace").decode()
            known[clean] = max(known.get(clean, 0), grade)
    expected = {query: known for query, known in expected.items() if max(known.values()) > 0}
    columns = GradedColumns(id=None, query="q", passages="docs", grades="labels")

    def found() -> dict[str, JudgedCandidates]:
        if not expected:
            with pytest.raises(DataError, match="no queries to train on"):
                dataset(write_jsonl(tmp_path / "r.jsonl", rows), columns).judged(100)
            return {}
        items = dataset(write_jsonl(tmp_path / "r.jsonl", rows), columns).judged(100)
        return {item.candidates.query.text: item for item in items}

    once = found()
    assert {query: texts(item) for query, item in once.items()} == expected
    shuffle.shuffle(rows)
    assert found() == once, "the order of rows decides nothing"


def test_windows_are_drawn_of_them(tmp_path: Path) -> None:
    rows = [{"query": "bees", "pos": ["nectar", "pollen"], "neg": [f"wings {n}" for n in range(20)]}]
    (item,) = dataset(write_jsonl(tmp_path / "r.jsonl", rows), BGE_COLUMNS).judged(100)
    draw = MultiSample(sets=20, size=8, depth=22, filter=WindowFilter(minimum=0.0))
    made = draw.augment(item.candidates, item.grades).windows
    assert len(made) > 5
    for window in made:
        grades = [int(p.text in ("nectar", "pollen")) for p in window.window.passages]
        assert list(window.relevance) == grades
        assert sum(grades) >= 1


def test_a_hub_id_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or a folder of that name here goes first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    write_jsonl(tmp_path / "owner" / "rows", OWN)
    assert [where for where, _ in RowTable("owner/rows").read()] == ["owner/rows:1", "owner/rows:2"]
