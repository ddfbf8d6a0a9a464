"""LlamaIndex's postprocessor in LlamaIndex's own query engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tests.adapters.lists import TEXTS, expected, reversing
from tests.adapters.real import real, run_example
from tests.rerankers import tiny

from rearank.engines import EngineError, ScriptedNode

real("llama_index.core")
from llama_index.core import Settings  # noqa: E402
from llama_index.core.llms import MockLLM  # noqa: E402
from llama_index.core.query_engine import RetrieverQueryEngine  # noqa: E402
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer  # noqa: E402
from llama_index.core.retrievers import BaseRetriever  # noqa: E402
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from rearank.adapters import llamaindex as adapter  # noqa: E402

NODES = [NodeWithScore(node=TextNode(text=t, metadata={"place": i}), score=0.5) for i, t in enumerate(TEXTS)]


@pytest.fixture
def postprocessor() -> Iterator[adapter.RearankPostprocessor]:
    with reversing() as reranker:
        yield adapter.RearankPostprocessor(reranker=reranker)


def places(nodes: list[NodeWithScore]) -> list[int]:
    return [one.node.metadata["place"] for one in nodes]


def test_nodes_come_back_in_order(postprocessor: adapter.RearankPostprocessor) -> None:
    found = postprocessor.postprocess_nodes(NODES, query_str="which")
    assert places(found) == expected() != list(range(len(TEXTS)))
    assert [one.score for one in found] == [1 / rank for rank in range(1, 8)]
    assert NODES[0].score == 0.5, "what was given stays as it was"
    assert postprocessor.postprocess_nodes([], query_str="which") == []
    assert len(postprocessor.postprocess_nodes([NODES[0], NODES[0]], query_str="which")) == 2
    with pytest.raises(ValueError, match="needs the query"):
        postprocessor.postprocess_nodes(NODES)


def test_it_awaits_and_keeps_the_top(postprocessor: adapter.RearankPostprocessor) -> None:
    some = postprocessor.model_copy(update={"top_n": 2})
    assert places(asyncio.run(some.apostprocess_nodes(NODES, QueryBundle("which")))) == expected()[:2]
    assert places(some.postprocess_nodes(NODES, QueryBundle("which"))) == expected()[:2]
    with pytest.raises(ValidationError, match="top_n"):
        adapter.RearankPostprocessor(reranker=postprocessor.reranker, top_n=0)


def test_the_model_reads_the_metadata_that_it_is_told_to(postprocessor: adapter.RearankPostprocessor) -> None:
    node = NodeWithScore(node=TextNode(text="x", metadata={"title": "T", "file": "secret.txt"}))
    assert postprocessor._passages([node]) == [{"text": "x", "title": "T"}]
    told = postprocessor.model_copy(update={"metadata_mode": MetadataMode.LLM, "title_key": None})
    [passage] = told._passages([node])
    assert "file: secret.txt" in passage["text"]
    assert passage["title"] == ""


def test_in_a_query_engine(postprocessor: adapter.RearankPostprocessor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "_llm", MockLLM())  # it would look for OpenAI's

    class Fixed(BaseRetriever):
        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            return NODES

    synthesizer = get_response_synthesizer(response_mode=ResponseMode.NO_TEXT)
    engine = RetrieverQueryEngine(Fixed(), synthesizer, node_postprocessors=[postprocessor])
    assert places(engine.query("which").source_nodes) == expected()
    assert places(asyncio.run(engine.aquery("which")).source_nodes) == expected()


def test_it_is_written_down_without_the_model(postprocessor: adapter.RearankPostprocessor) -> None:
    assert postprocessor.to_dict()["class_name"] == "RearankPostprocessor"
    assert "reranker" not in postprocessor.to_dict()


def test_a_failure_is_raised_and_leaves_no_order() -> None:
    with tiny(ScriptedNode("reverse", failing=1.0)) as reranker, pytest.raises(EngineError):
        adapter.RearankPostprocessor(reranker=reranker).postprocess_nodes(NODES, query_str="which")


@pytest.mark.slow
def test_the_docstrings_example_runs() -> None:
    names = run_example(adapter)
    assert names["best"].node.text in ("old bread", "hot soup")
    names["postprocessor"].reranker.close()
