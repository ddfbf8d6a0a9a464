"""The package rerankers: its factory, its documents, its results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.adapters.lists import TEXTS, expected, reversing
from tests.adapters.real import real, run_example
from tests.rerankers import tiny

from rearank.engines import EngineError, ScriptedNode

rerankers = real("rerankers")
from rerankers.models.ranker import BaseRanker  # noqa: E402
from rerankers.results import RankedResults  # noqa: E402

from rearank.adapters import rerankers as adapter  # noqa: E402


@pytest.fixture
def ranker() -> Iterator[adapter.RearankRanker]:
    with reversing() as reranker:
        yield adapter.RearankRanker(reranker)


def test_results_are_the_packages_own(ranker: adapter.RearankRanker) -> None:
    assert isinstance(ranker, BaseRanker)
    ids = [f"d{i}" for i in range(len(TEXTS))]
    results = ranker.rank("which", TEXTS, doc_ids=ids, metadata=[{"n": i} for i in range(len(TEXTS))])
    assert isinstance(results, RankedResults)
    order = expected()
    assert [one.doc_id for one in results] == [ids[i] for i in order]
    assert [one.rank for one in results] == list(range(1, 8))
    assert [one.document.metadata["n"] for one in results] == order
    assert [one.text for one in results.top_k(2)] == [TEXTS[i] for i in order[:2]]
    assert results.get_score_by_docid(ids[order[1]]) == 0.5
    assert results.results_count() == 7


def test_all_that_it_may_be_given(ranker: adapter.RearankRanker) -> None:
    order = expected()
    documents = [rerankers.Document(text) for text in TEXTS]
    assert [one.doc_id for one in ranker.rank("which", documents)] == order
    documents = [rerankers.Document(text, doc_id="same", metadata={"title": "T"}) for text in TEXTS]
    assert [one.text for one in asyncio.run(ranker.rank_async("which", documents))] == [TEXTS[i] for i in order]
    assert adapter._passages(documents)[0] == {"text": "one", "title": "T"}
    assert ranker.rank("which", "alone").results_count() == 1
    assert ranker.rank("which", []).results_count() == 0
    with pytest.raises(ValueError, match="document 0 is an image"):
        ranker.rank("which", [rerankers.Document(document_type="image", base64="")])
    with pytest.raises(NotImplementedError, match="use rank"):
        ranker.score("which", "one")


def test_the_packages_factory_makes_it(ranker: adapter.RearankRanker, capsys: pytest.CaptureFixture[str]) -> None:
    made = rerankers.Reranker(
        "tiny", model_type="rearank", verbose=0, engine="scripted", overrides=["engine.behaviour=given"]
    )
    assert isinstance(made, adapter.RearankRanker)
    assert [one.doc_id for one in made.rank("which", TEXTS)] == list(range(7))
    made.reranker.close()
    with pytest.raises(TypeError, match="leave out engine"):
        adapter.RearankRanker(ranker.reranker, engine="scripted")


def test_a_failure_is_raised_and_leaves_no_order() -> None:
    with tiny(ScriptedNode("reverse", failing=1.0)) as reranker, pytest.raises(EngineError):
        adapter.RearankRanker(reranker).rank("which", TEXTS)


@pytest.mark.slow
def test_the_docstrings_example_runs() -> None:
    names = run_example(adapter)
    assert names["best"].doc_id in ("a", "b")
    names["ranker"].reranker.close()
