"""The BRIGHT archive of the paper's authors, in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rearank.data import Collection, DataError, Retriever
from rearank.data.benchmark import Benchmark
from rearank.data.bright import BrightArchive, BrightArchiveRun
from rearank.data.synthetic import SyntheticCollection
from rearank.types import Passage, Query


def lay_archive(root: Path, data: str, split: str = "pony") -> BrightArchive:
    """``data``: the folder in the archive that holds corpus, queries and qrels."""
    files = {
        f"{data}pyserini_corpus/{split}/{split}.jsonl": "".join(
            json.dumps({"id": f"{split}/p_{n}.txt", "contents": f"page {n}"}) + "\n" for n in range(3)
        ),
        f"{data}pyserini_queries/{split}.tsv": "0\twhich page?\n1\tand which other?\n",
        f"{data}pyserini_qrels/{split}.tsv": f"0\t0\t{split}/p_1.txt\t1\n1\t0\t{split}/p_2.txt\t1\n",
        f"runs_bm25/bm25.{split}.filtered.trec": f"0 Q0 {split}/p_0.txt 1 9.5 Anserini\n"
        f"0 Q0 {split}/p_1.txt 2 9.1 Anserini\n1 Q0 {split}/p_2.txt 1 4.0 Anserini\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return BrightArchive(str(root), split)


@pytest.mark.parametrize("data", ["", "data/"])
def test_a_split_and_its_run(tmp_path: Path, data: str) -> None:
    archive = lay_archive(tmp_path, data)
    assert isinstance(archive, Collection)
    assert isinstance(BrightArchiveRun(), Retriever)
    assert archive.queries()["1"] == Query("1", "and which other?")
    assert next(archive.iter_passages()) == Passage("pony/p_0.txt", "page 0")
    assert archive.fingerprint() == BrightArchive(str(tmp_path), "pony").fingerprint()
    benchmark = Benchmark(archive.name, archive, BrightArchiveRun())
    run = {i.candidates.query.id: [p.id for p in i.candidates.passages] for i in benchmark.judged()}
    assert run == {"0": ["pony/p_0.txt", "pony/p_1.txt"], "1": ["pony/p_2.txt"]}
    assert benchmark.score(run)["ndcg_cut_10"] == {"0": pytest.approx(0.6309, abs=1e-4), "1": 1.0}


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pyserini_corpus/pony/pony\.jsonl: no such corpus.*unpack the archive"):
        BrightArchive(str(tmp_path), "pony").queries()
    archive = lay_archive(tmp_path, "")
    (tmp_path / "runs_bm25/bm25.pony.filtered.trec").unlink()
    with pytest.raises(DataError, match=r"bm25\.pony\.filtered\.trec: no such run file"):
        BrightArchiveRun().retrieve(archive, archive.queries(), 5)
    with pytest.raises(DataError, match="synthetic is no split of the BRIGHT archive; choose retriever=bm25"):
        BrightArchiveRun().retrieve(SyntheticCollection(), {}, 5)
