"""sentence-transformers' own evaluator on our model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.adapters.lists import TEXTS, expected, reversing
from tests.adapters.real import real, run_example
from tests.rerankers import tiny

from rearank.adapters import sentence_transformers as adapter
from rearank.data.bm25 import Bm25
from rearank.data.synthetic import SyntheticCollection
from rearank.engines import EngineError, ScriptedNode
from rearank.metrics import ndcg

np = pytest.importorskip("numpy")
evaluation = real("sentence_transformers.cross_encoder.evaluation")
Evaluator = evaluation.CrossEncoderRerankingEvaluator

COLLECTION = SyntheticCollection(seed=1, split="test", passage_count=300, query_count=12, name="small")
GIVEN = ScriptedNode("given")


def test_scores_go_with_their_pairs() -> None:
    pairs = [["which", text] for text in TEXTS] + [["other", text] for text in TEXTS]
    with reversing() as reranker:
        scores = adapter.AsCrossEncoder(reranker, order="given").predict(pairs)
        assert list(np.argsort(-scores[:7])) == list(np.argsort(-scores[7:])) == expected()
        assert sorted(scores[:7], reverse=True) == [1 / rank for rank in range(1, 8)]
        assert adapter.AsCrossEncoder(reranker).predict([]).shape == (0,)
        ranked = adapter.AsCrossEncoder(reranker).rank("which", TEXTS, top_k=2, return_documents=True)
    assert ranked == [{"corpus_id": i, "score": 1 / r, "text": TEXTS[i]} for r, i in enumerate(expected()[:2], 1)]
    with pytest.raises(ValueError, match="order is"):
        adapter.AsCrossEncoder(reranker, order="random")  # type: ignore[arg-type]


def test_a_list_is_shuffled_the_same_way_each_time() -> None:
    pairs = [["which", text] for text in TEXTS]
    with tiny(GIVEN) as reranker:
        first, second = (adapter.AsCrossEncoder(reranker).predict(pairs) for _ in range(2))
    assert list(first) == list(second)
    assert list(np.argsort(-first)) != list(range(7))


def test_the_evaluator_tells_a_model_that_changes_nothing_no_answer() -> None:
    """It puts the relevant documents first: a model that keeps the order it reads would be perfect."""
    samples = [
        {"query": f"q{n}", "positive": [f"good {n}"], "negative": [f"bad {n} {i}" for i in range(9)]} for n in range(20)
    ]
    evaluator = Evaluator(samples, name="small")
    with tiny(GIVEN) as reranker:
        told = evaluator(adapter.AsCrossEncoder(reranker, order="given"))
        model = adapter.AsCrossEncoder(reranker)
        hidden = evaluator(model)
    assert told["small_ndcg@10"] == 1.0
    assert 0.3 < hidden["small_ndcg@10"] < 0.7, "as of a random order"
    assert model.model_card_data.found == hidden


def test_the_evaluators_ndcg_is_ours(tmp_path: Path) -> None:
    """Over first-stage lists, in their order: the same figure from their code and from ours."""
    judged, queries = COLLECTION.qrels(), COLLECTION.queries()
    lists = Bm25(cache_dir=str(tmp_path)).retrieve(COLLECTION, queries, 10)
    samples, ours = [], []
    with reversing() as reranker:
        for qid, query in queries.items():
            passages = lists[qid].passages
            good = [passage.text for passage in passages if judged[qid].get(passage.id, 0) > 1]
            documents = [passage.text for passage in passages]
            if not good or len(documents) < 2 or len(set(documents)) < len(documents):
                continue  # what their code has no figure for, or takes for one document
            samples.append({"query": query.text, "positive": good, "documents": documents})
            grades = [int(passage.text in good) for passage in passages]
            ours.append(ndcg([grades[i] for i in reranker.rerank(query.text, documents).indexes], grades, 10))
        evaluator = Evaluator(samples, always_rerank_positives=False)
        found = evaluator(adapter.AsCrossEncoder(reranker, order="given"))
    assert len(samples) > 5
    assert found["ndcg@10"] == pytest.approx(np.mean(ours))
    assert found["ndcg@10"] != found["base_ndcg@10"]


def test_a_failure_is_raised() -> None:
    with tiny(ScriptedNode("reverse", failing=1.0)) as reranker, pytest.raises(EngineError):
        adapter.AsCrossEncoder(reranker).predict([["which", text] for text in TEXTS])


@pytest.mark.slow
def test_the_docstrings_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run_example(adapter)
    assert "meals_ndcg@10" in capsys.readouterr().out
