"""Local data and models are known by what is in them, not by where they lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rearank.data.files import content_hash
from rearank.data.trec import RunFile, TrecFiles
from rearank.engines.checkpoint import fingerprint
from rearank.engines.model import Model
from rearank.runs import CONTENT, files_of
from rearank.runs.content import REMEMBERED, reading, sha256_of


@pytest.fixture
def collection(tmp_path: Path) -> TrecFiles:
    for name, text in (("docs.tsv", "d1\tcats\n"), ("topics.tsv", "q1\tcat\n"), ("qrels", "q1 0 d1 1\n")):
        (tmp_path / name).write_text(text)
    return TrecFiles(*(str(tmp_path / name) for name in ("docs.tsv", "topics.tsv", "qrels")))


@pytest.mark.parametrize(("name", "field"), [("docs.tsv", "docs"), ("topics.tsv", "topics"), ("qrels", "qrels_file")])
def test_a_passage_a_query_and_a_judgement_are_noticed(
    collection: TrecFiles, tmp_path: Path, name: str, field: str
) -> None:
    before = files_of(dataset=collection)
    assert before.keys() == {"dataset.docs", "dataset.topics", "dataset.qrels_file"}
    (tmp_path / name).write_text((tmp_path / name).read_text().replace("1", "2"))
    after = files_of(dataset=collection)
    assert [key for key in before if before[key] != after[key]] == [f"dataset.{field}"]


def test_a_place_and_a_time_are_not(collection: TrecFiles, tmp_path: Path) -> None:
    before = files_of(dataset=collection)
    os.utime(tmp_path / "docs.tsv")
    assert files_of(dataset=collection) == before
    (tmp_path / "elsewhere").mkdir()
    moved = (shutil.move(place, tmp_path / "elsewhere") for place in (collection.docs, collection.topics))
    assert files_of(dataset=TrecFiles(*map(str, moved), collection.qrels_file)) == before


def test_any_file_of_a_model_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "model.safetensors").write_bytes(b"1")
    model = Model(name="own", path=str(tmp_path))
    before = files_of(model=model)
    (tmp_path / ".hidden").write_text("not of the model")
    assert files_of(model=model) == before
    (tmp_path / "parts" / "model.safetensors").write_bytes(b"2")
    assert files_of(model=model).keys() == before.keys() == {"model.path"}
    assert files_of(model=model) != before
    (tmp_path / "parts" / "model.safetensors").write_bytes(b"1")
    assert files_of(model=model) == before
    (tmp_path / "parts" / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert files_of(model=model) != before


def test_what_is_not_here_has_no_digest() -> None:
    assert files_of(model=Model(name="hub", path="owner/model"), retriever=RunFile("nowhere.trec"), none=None) == {}
    assert files_of(model=Model(name="tiny", path="pkg://rearank/training/assets/tiny")).keys() == {"model.path"}


@dataclass(frozen=True)
class Large:
    files: tuple[str, ...] = field(metadata=CONTENT)


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"x" * (1 << 20))
    small.write_bytes(b"x")
    node, cache = {"parts": [Large((str(large), str(small)))]}, tmp_path / "cache"
    first = files_of(cache, data=node)
    assert first.keys() == {"data.parts.0.files.0", "data.parts.0.files.1"}
    assert (cache / REMEMBERED).is_file()
    opened = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *rest, **more: opened.append(path.name) or real(path, *rest, **more))
    assert files_of(cache, data=node) == first
    assert "large" not in opened
    assert "small" in opened
    large.write_bytes(b"y" * (1 << 20))
    now = files_of(cache, data=node)
    assert now != first
    state = large.stat()
    shapes = (f'{{"{large}": {known}}}' for known in ("5", "[]", f"[{state.st_size}, {state.st_mtime_ns}, [1]]"))
    for text in ("not ours", "", "[]", "3", '{"a": 5}', *shapes):
        (cache / REMEMBERED).write_text(text)
        assert files_of(cache, data=node) == now, text


def test_hashes_name_users_files_and_never_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 5000)
    (tmp_path / "readme.txt").write_text("no weights")
    answers = "6b7e097b0d32cd070e1777b18739235528eeb36deed6d64058e329dfd9c6b66b"
    index = "d5d487ed98132fb20fb6663089eb0525de432487da692bbac3b841af1e820293"
    assert fingerprint(tmp_path) == answers
    assert content_hash(tmp_path / "config.json", tmp_path / "readme.txt") == index
    assert files_of(model=Model(name="own", path=str(tmp_path))) == {"model.path": "9813b73d8fb1690c"}
    monkeypatch.setattr("rearank.engines.checkpoint._HASHED_WHOLE", 1 << 20)
    by_ends = fingerprint(tmp_path)
    os.utime(tmp_path / "model.safetensors", (0, 0))
    assert answers != by_ends != fingerprint(tmp_path)


def test_large_files_are_read_with_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rearank.runs.content._LARGE", 1 << 20)
    monkeypatch.setattr("rearank.progress.EVERY", 0.01)
    pages = [tmp_path / "a", tmp_path / "b"]
    for page in pages:
        page.write_bytes(b"0" * (3 << 19))
    with reading(*pages) as blocks:
        for page in pages:
            for _ in blocks(page):
                time.sleep(0.05)
    shown = capsys.readouterr().err
    assert "reading files: 4/4 MiB" in shown
    assert sha256_of(*pages)[0] == hashlib.sha256(b"0" * (3 << 19)).hexdigest()
