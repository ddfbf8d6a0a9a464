"""LangChain's document compressor: our reranker behind any retriever. Needs the extra ``langchain``.

For example, by itself; ``ContextualCompressionRetriever(base_compressor=..., base_retriever=...)`` takes it, too::

    from langchain_core.documents import Document
    from rearank import Reranker
    from rearank.adapters.langchain import RearankCompressor
    compressor = RearankCompressor(reranker=Reranker("tiny", engine="transformers"), top_n=1)
    found = [Document("old bread", metadata={"page": 3}), Document("hot soup", metadata={"page": 5})]
    [best] = compressor.compress_documents(found, "soup")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from rearank.reranker import Reranker, RerankResult

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict, Field
except ImportError as error:
    raise ImportError(
        "rearank.adapters.langchain needs LangChain: install rearank's extra langchain (pip install -e '.[langchain]')"
    ) from error


class RearankCompressor(BaseDocumentCompressor):  # type: ignore[misc]
    """Documents, best first: copies with their ids and metadata, and ``relevance_score`` among these (1 / rank).

    Args:
        reranker: of this package.
        top_n: keep so many; ``None`` for all.
        title_key: of the metadata, where a document has a title there; ``None`` for none.

    A failed call raises ``EngineError``: it never leaves the documents as they were.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Reranker
    top_n: Annotated[int, Field(ge=1)] | None = None
    title_key: str | None = "title"

    def compress_documents(self, documents: Sequence[Document], query: str, callbacks: Any = None) -> list[Document]:
        """The documents in the model's order; ``callbacks`` are told nothing."""
        return _copies(documents, self.reranker.rerank(query, self._passages(documents), top=self.top_n))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> list[Document]:
        """As ``compress_documents``; a cancelled call is cancelled in the engine, too."""
        return _copies(documents, await self.reranker.arerank(query, self._passages(documents), top=self.top_n))

    def _passages(self, documents: Sequence[Document]) -> list[dict[str, Any]]:
        # Two documents may have one id, or none: their places are the passages' ids.
        titles = (document.metadata.get(self.title_key) if self.title_key else None for document in documents)
        return [
            {"text": document.page_content, "title": title if isinstance(title, str) else ""}
            for document, title in zip(documents, titles, strict=True)
        ]


def _copies(documents: Sequence[Document], result: RerankResult) -> list[Document]:
    return [
        given.model_copy(update={"metadata": {**given.metadata, "relevance_score": item.score}})
        for item in result
        for given in (documents[item.index],)
    ]
