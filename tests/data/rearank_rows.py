"""A miniature in the shape of le723z/rearank_12k: windows of the built-in collection in the tiny model's prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rearank.augmentation import MultiSample, WindowFilter
from rearank.data import Source
from rearank.data.bm25 import Bm25
from rearank.data.synthetic import SyntheticCollection
from rearank.metrics import ndcg
from rearank.prompts import CompactPrompt

Row = dict[str, Any]


def rows(cache: Path, queries: int = 12, sets: int = 4) -> tuple[list[Row], dict[str, dict[str, int]]]:
    """So many windows of each query, in first-stage order as the originals are; and the judgements."""
    collection = SyntheticCollection(split="train", passage_count=1000, query_count=queries)
    keep_all = WindowFilter(minimum=0.0, min_relevant=1)
    draw = MultiSample(sets=sets, size=5, depth=20, order="first_stage", filter=keep_all)
    made: list[Row] = []
    qrels: dict[str, dict[str, int]] = {}
    for item in Source("mini", collection, Bm25(cache_dir=str(cache))).judged(20):
        query = item.candidates.query
        qrels[query.id] = item.grades
        for judged in draw.augment(item.candidates, item.grades).windows:
            ideal = list(item.grades.values())
            best = sorted(judged.relevance, reverse=True)
            made.append(
                {
                    "data_source": "TREC-DL-TOP100",
                    "prompt": [{"role": m.role, "content": m.content} for m in CompactPrompt().render(judged.window)],
                    "query": query.text,
                    "hits": [
                        {"content": p.text, "qid": query.id, "docid": p.id, "rank": n, "score": 10.0 - n}
                        for n, p in enumerate(judged.window.passages, 1)
                    ],
                    "metrics": {"NDCG@10": round(ndcg(judged.relevance, ideal), 5)},
                    "best_metrics": {"NDCG@10": round(ndcg(best, ideal), 5)},
                    "reward_model": {"style": "rule", "ground_truth": ""},
                }
            )
    return made, qrels


def write_parquet(path: Path, some: list[Row]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(some), path)
    return path


def write_jsonl(path: Path, some: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return path


def write_qrels(path: Path, qrels: dict[str, dict[str, int]]) -> Path:
    path.write_text("".join(f"{q} 0 {d} {grade}\n" for q, judged in qrels.items() for d, grade in judged.items()))
    return path


WRITERS: dict[str, Callable[[Path, list[Row]], Path]] = {"rows.parquet": write_parquet, "rows.jsonl": write_jsonl}
