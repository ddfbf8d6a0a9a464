"""LangChain's compressor in LangChain's own retriever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from tests.adapters.lists import TEXTS, expected, reversing
from tests.adapters.real import real, run_example
from tests.rerankers import tiny

from rearank.engines import EngineError, ScriptedNode

real("langchain_core")
from langchain_core.documents import Document  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402
from pydantic import ValidationError  # noqa: E402

from rearank.adapters import langchain as adapter  # noqa: E402

DOCUMENTS = [Document(id="same", page_content=text, metadata={"place": i}) for i, text in enumerate(TEXTS)]


@pytest.fixture
def compressor() -> Iterator[adapter.RearankCompressor]:
    with reversing() as reranker:
        yield adapter.RearankCompressor(reranker=reranker)


def test_documents_come_back_in_order_with_their_metadata(compressor: adapter.RearankCompressor) -> None:
    found = compressor.compress_documents(DOCUMENTS, "which")
    assert [one.metadata["place"] for one in found] == expected() != list(range(len(TEXTS)))
    assert [one.page_content for one in found] == [TEXTS[one.metadata["place"]] for one in found]
    assert {one.id for one in found} == {"same"}
    assert [one.metadata["relevance_score"] for one in found] == [1 / rank for rank in range(1, 8)]
    assert "relevance_score" not in DOCUMENTS[0].metadata, "what was given stays as it was"
    assert compressor.compress_documents([], "which") == []


def test_it_awaits_and_keeps_the_top(compressor: adapter.RearankCompressor) -> None:
    some = compressor.model_copy(update={"top_n": 2})
    found = asyncio.run(some.acompress_documents(DOCUMENTS, "which"))
    assert [one.metadata["place"] for one in found] == expected()[:2]
    assert [one.metadata["place"] for one in some.compress_documents(DOCUMENTS, "which")] == expected()[:2]
    with pytest.raises(ValidationError, match="top_n"):
        adapter.RearankCompressor(reranker=compressor.reranker, top_n=0)
    with pytest.raises(ValidationError, match="top_k"):
        adapter.RearankCompressor(reranker=compressor.reranker, top_k=1)


def test_a_title_is_read_where_there_is_one(compressor: adapter.RearankCompressor) -> None:
    document = Document(page_content="x", metadata={"title": "T", "head": 3})
    assert compressor._passages([document])[0]["title"] == "T"
    assert compressor.model_copy(update={"title_key": "head"})._passages([document])[0]["title"] == ""
    assert compressor.model_copy(update={"title_key": None})._passages([document])[0]["title"] == ""


def test_in_a_contextual_compression_retriever(compressor: adapter.RearankCompressor) -> None:
    retrievers = real("langchain_classic.retrievers")

    class Fixed(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return DOCUMENTS

    chain = retrievers.ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed())
    assert [one.metadata["place"] for one in chain.invoke("which")] == expected()
    assert [one.metadata["place"] for one in asyncio.run(chain.ainvoke("which"))] == expected()


def test_a_failure_is_raised_and_leaves_no_order() -> None:
    with tiny(ScriptedNode("reverse", failing=1.0)) as reranker, pytest.raises(EngineError):
        adapter.RearankCompressor(reranker=reranker).compress_documents(DOCUMENTS, "which")


@pytest.mark.slow
def test_the_docstrings_example_runs() -> None:
    names = run_example(adapter)
    assert names["best"].metadata["page"] in (3, 5)
    names["compressor"].reranker.close()
