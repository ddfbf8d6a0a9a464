"""Miniature source files, laid where ir_datasets looks for the real ones, in the shapes it reads.

``python miniatures.py <home> <cache> <names...>``, with ``IR_DATASETS_HOME`` at the same ``<home>``, measures each
benchmark's first stage and prints it as JSON: ir_datasets fixes its folder when it is imported, hence the process of
its own.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def lines(rows: Sequence[object]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def lay_beir(home: Path, name: str, docs: Mapping[str, str], queries: Mapping[str, str], qrels: Sequence[str]) -> None:
    """BEIR's zip: corpus.jsonl, queries.jsonl and qrels/test.tsv under the set's name."""
    path = home / "beir" / name / "source.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        corpus = [{"_id": i, "title": "", "text": text, "metadata": {}} for i, text in docs.items()]
        archive.writestr(f"{name}/corpus.jsonl", lines(corpus))
        archive.writestr(f"{name}/queries.jsonl", lines([{"_id": i, "text": t} for i, t in queries.items()]))
        archive.writestr(f"{name}/qrels/test.tsv", "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\n" for q in qrels))


def lay_bright(home: Path, split: str) -> None:
    """BRIGHT's parquet files. ``cells/a 1.txt`` (a space in its id) is excluded for query 0, which finds it best."""
    docs = {"cells/a 1.txt": "why do cells divide", "cells/b.txt": "cells divide", "cells/c d.txt": "they divide"}
    write_parquet(home / f"bright/{split}.docs.parquet", [{"id": i, "content": t} for i, t in docs.items()])
    query = {"query": "why do cells divide", "reasoning": "", "gold_answer": "", "gold_ids": ["cells/c d.txt"]}
    queries = [
        {**query, "id": "0", "excluded_ids": ["cells/a 1.txt"]},
        {**query, "id": "1", "excluded_ids": ["N/A"]},
    ]
    write_parquet(home / f"bright/{split}.queries.parquet", queries)
    for source in ("Gemini-1.0", "claude-3-opus", "gpt4", "grit", "llama3-70b"):
        write_parquet(home / f"bright/{split}.{source}_reason.queries.parquet", [{"id": "0", "reasoning": "steps"}])


def lay_nano(home: Path, name: str) -> None:
    """NanoBEIR's three parquet files."""
    folder = home / "nano-beir" / name
    write_parquet(folder / "corpus.parquet", [{"_id": "d1", "text": "red apples"}, {"_id": "d2", "text": "pears"}])
    write_parquet(folder / "queries.parquet", [{"_id": "q1", "text": "apple"}, {"_id": "q2", "text": "pear"}])
    write_parquet(folder / "qrels.parquet", [{"query-id": f"q{n}", "corpus-id": f"d{n}"} for n in (1, 2)])


def lay_mrtydi(home: Path, code: str, language: str, docs: Mapping[str, str], query: str, relevant: str) -> None:
    """Mr.TyDi's archive as ir_datasets unpacks it."""
    folder = home / "mr-tydi" / f"{code}.data" / f"mrtydi-v1.0-{language}"
    write(folder / "topic.test.tsv", f"1\t{query}\n")
    write(folder / "qrels.test.txt", f"1\tQ0\t{relevant}\t1\n")
    (folder / "collection").mkdir()
    corpus = lines([{"id": i, "contents": text} for i, text in docs.items()])
    (folder / "collection" / "docs.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))


def lay_dl19(home: Path) -> None:
    """MS MARCO's collection, and TREC DL 2019's topics, grades and official list."""
    folder = home / "msmarco-passage"
    collection = b"0\tred apples\n1\tgreen apples and pears\n2\tships\n"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "collectionandqueries.tar.gz", "w:gz") as archive:
        entry = tarfile.TarInfo("collection.tsv")
        entry.size = len(collection)
        archive.addfile(entry, io.BytesIO(collection))
    write(folder / "trec-dl-2019/queries.tsv", "7\tgreen apples\n8\tnot judged\n")
    write(folder / "trec-dl-2019/qrels", "7 Q0 1 3\n7 Q0 2 0\n")
    write(folder / "trec-dl-2019/ms.run", "7 Q0 0 1 5.0 official\n7 Q0 1 2 4.0 official\n8 Q0 2 1 1.0 official\n")


def lay_dl21(home: Path) -> None:
    """MS MARCO v2 unpacked (an id is a place in a file), and TREC DL 2021's topics, grades and official list."""
    folder = home / "msmarco-passage-v2"
    row = {"spans": "(0,5)", "docid": "msmarco_doc_00_0"}
    first = json.dumps({"pid": "msmarco_passage_00_0", "passage": "ships at sea", **row}) + "\n"
    other = f"msmarco_passage_00_{len(first)}"
    bundle = first + json.dumps({"pid": other, "passage": "green apples", **row}) + "\n"
    write(folder / "msmarco_v2_passage.tar.extracted/msmarco_passage_00", bundle)
    write(folder / "msmarco_v2_passage.tar.extracted/_built", "")
    write(folder / "trec-dl-2021/queries.tsv", "7\tgreen apples\n")
    write(folder / "trec-dl-2021/qrels", f"7 0 {other} 3\n")
    top = f"7 Q0 msmarco_passage_00_0 1 5.0 official\n7 Q0 {other} 2 4.0 official\n"
    (folder / "trec-dl-2021/top100.trec.gz").write_bytes(gzip.compress(top.encode()))


def lay_all(home: Path) -> None:
    """Every miniature; each has one judged query whose answer is known by looking."""
    lay_beir(home, "scifact", {"1": "red apples", "2": "ships"}, {"9": "apple", "10": "left out"}, ["9\t1\t1"])
    own = {"arg-con": "apples are good", "arg-pro": "apples are bad for the teeth"}
    lay_beir(home, "arguana", own, {"arg-con": "apples are good"}, ["arg-con\targ-pro\t1"])
    lay_bright(home, "biology")
    lay_nano(home, "scifact")
    thai = {"1#0": "ประเทศไทยอยู่ในเอเชีย", "2#0": "แอปเปิ้ลเป็นผลไม้"}
    lay_mrtydi(home, "th", "thai", thai, "ผลไม้คืออะไร", "2#0")
    finnish = {"1#0": "Suomi on maa", "2#0": "Omena on hedelmä"}
    lay_mrtydi(home, "fi", "finnish", finnish, "mikä on HEDELMÄ", "2#0")
    lay_dl19(home)
    lay_dl21(home)


def measured(names: Sequence[str], cache: str) -> dict[str, object]:
    """Per benchmark: each query's candidates and nDCG@10 of the first stage."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from rearank.config import build

    found: dict[str, object] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for name in names:
            option, *overrides = name.split(",")
            config = compose(overrides=[f"+benchmark={option}", f"+paths.cache={cache}", *overrides])
            benchmark = build(OmegaConf.to_container(config, resolve=True)["benchmark"])  # type: ignore[call-overload,index]
            run = {i.candidates.query.id: [p.id for p in i.candidates.passages] for i in benchmark.judged()}
            texts = [p.text for i in benchmark.judged() for p in i.candidates.passages]
            ndcg = benchmark.score(run)["ndcg_cut_10"]
            # MS MARCO v2 is never indexed, so nobody asks for its fingerprint.
            corpus = "" if option == "dl21" else benchmark.collection.fingerprint()
            found[name] = {"run": run, "ndcg": ndcg, "texts": texts, "corpus": corpus}
    return found


if __name__ == "__main__":
    json.dump(measured(sys.argv[2:], sys.argv[1]), sys.stdout)
