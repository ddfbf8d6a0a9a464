"""Every way in which ir_datasets or a folder can lack its data is a DataError with the remedy."""

from __future__ import annotations

from pathlib import Path

import ir_datasets
import pytest
from ir_datasets.formats import TrecQrels, TsvDocs, TsvQueries
from ir_datasets.util import Download, LocalDownload, RequestsDownload, ZipExtract

from rearank.data import DataError
from rearank.data.beir import BeirFolder
from rearank.data.irds import Irds


def registered(name: str, tmp_path: Path, source: object) -> Irds:
    """An ir_datasets entry whose three files come from ``source``."""
    known = f"{name}-{tmp_path.name}"
    parts = (TsvDocs(source), TsvQueries(source), TrecQrels(source, {}))
    ir_datasets.registry.register(known, ir_datasets.Dataset(*parts))
    return Irds(known)


class Endless(RequestsDownload):
    """Its owner asks for a name and a password, and nobody is there to type them."""

    def stream(self) -> object:
        raise EOFError("EOF when reading a line")


class Missing(RequestsDownload):
    """Its reader needs a package that isn't installed."""

    def stream(self) -> object:
        raise ImportError("No module named 'trec_car'")


def sources(tmp_path: Path) -> dict[str, tuple[object, str]]:
    refused = RequestsDownload("http://127.0.0.1:1/file", tries=1)
    page = r"https://ir-datasets\.com/"
    (tmp_path / "damaged.zip").write_bytes(b"PK, but not much more")
    (tmp_path / "other").write_text("1\ttext\n")
    found = Download([LocalDownload(tmp_path / "other")], cache_path=str(tmp_path / "fetched"), expected_md5="0" * 32)
    return {
        "unreachable": (Download([refused], str(tmp_path / "a")), f"Check the network.*IR_DATASETS_HOME.*{page}"),
        "nowhere": (Download([refused, refused], str(tmp_path / "b")), "Check the network, or lay the files by hand"),
        "by_hand": (LocalDownload(tmp_path / "disk4"), f"disk4.*This file must be obtained by hand: {page}"),
        "licensed": (Download([Endless("http://127.0.0.1:1/")], str(tmp_path / "c")), "user name and password"),
        "unpackaged": (
            Download([Missing("http://127.0.0.1:1/")], str(tmp_path / "d")),
            "trec_car.*Install that package",
        ),
        "changed": (found, "HashVerificationError.*isn't the file that ir_datasets knows"),
        "damaged": (ZipExtract(LocalDownload(tmp_path / "damaged.zip"), "corpus"), "BadZipFile.*may be cut short"),
        "full": (Download([refused], str(tmp_path / "e"), size_hint=10**18), "Insufficient disk space.*Make room"),
    }


@pytest.mark.parametrize(
    "name", ["unreachable", "nowhere", "by_hand", "licensed", "unpackaged", "changed", "damaged", "full"]
)
def test_ir_datasets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    source, message = sources(tmp_path)[name]
    collection = registered(name, tmp_path, source)
    for ask in (collection.queries, collection.qrels, lambda: list(collection.iter_passages())):
        with pytest.raises(DataError, match=rf"ir_datasets can't give '{name}.*{message}"):
            ask()


def test_a_fault_of_code_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        registered("code", tmp_path, object()).queries()


def test_a_licensed_folder_says_who_has_it(tmp_path: Path) -> None:
    folder = BeirFolder(str(tmp_path), name="robust04", obtain="NIST gives it out")
    with pytest.raises(
        DataError, match=r"queries\.jsonl: no such file of a BEIR folder; .*; robust04: NIST gives it out"
    ):
        folder.queries()
