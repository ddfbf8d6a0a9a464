"""The interface of AnswerDotAI's package rerankers: our reranker where its rankers go. Needs the extra ``rerankers``.

Importing this makes ``rerankers.Reranker("rearank7b", model_type="rearank")`` one of ours. By itself::

    from rearank import Reranker
    from rearank.adapters.rerankers import RearankRanker
    ranker = RearankRanker(Reranker("tiny", engine="transformers"))
    results = ranker.rank("soup", ["old bread", "hot soup"], doc_ids=["a", "b"])
    best = results.top_k(1)[0]
    print(best.doc_id, best.text, best.rank)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rearank.reranker import Reranker, RerankResult

try:
    from rerankers.documents import Document
    from rerankers.models import AVAILABLE_RANKERS
    from rerankers.models.ranker import BaseRanker
    from rerankers.results import RankedResults, Result
    from rerankers.utils import prep_docs
except ImportError as error:
    raise ImportError(
        "rearank.adapters.rerankers needs the package rerankers: install rearank's extra rerankers (pip install -e "
        "'.[rerankers]')"
    ) from error


class RearankRanker(BaseRanker):  # type: ignore[misc]
    """Ranks documents by the model's order; ``score`` of a result is 1 / rank, no probability.

    Args:
        model: a reranker of this package, or what ``rearank.Reranker`` takes as its model.
        verbose: means nothing here: nothing is printed.
        arguments: the others of ``rearank.Reranker``.
    """

    def __init__(self, model: Any, verbose: int = 1, **arguments: Any) -> None:
        if isinstance(model, Reranker) and arguments:
            raise TypeError(f"this reranker is made already: leave out {', '.join(arguments)}")
        self.reranker = model if isinstance(model, Reranker) else Reranker(model, **arguments)

    def score(self, query: str, doc: str) -> float:
        """Not to be had: the model puts several passages in order, and gives no score to one."""
        raise NotImplementedError("a listwise reranker gives no score to a single document; use rank")

    def rank(
        self,
        query: str,
        docs: Any,
        doc_ids: Sequence[Any] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """All documents, best first.

        Args:
            query: what to rank them by.
            docs: one or several strings or ``rerankers.Document``; of these ``metadata["title"]`` is the title.
            doc_ids: of strings, one each; otherwise their places.
            metadata: of strings, one each.
        """
        documents = _documents(docs, doc_ids, metadata)
        return _ranked(query, documents, self.reranker.rerank(query, _passages(documents)))

    async def rank_async(
        self,
        query: str,
        docs: Any,
        doc_ids: Sequence[Any] | None = None,
        metadata: Sequence[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """As ``rank``; a cancelled call is cancelled in the engine, too."""
        documents = _documents(docs, doc_ids, metadata)
        return _ranked(query, documents, await self.reranker.arerank(query, _passages(documents)))


def _documents(docs: Any, doc_ids: Sequence[Any] | None, metadata: Sequence[dict[str, Any]] | None) -> list[Document]:
    if isinstance(docs, (list, tuple)) and not docs:
        return []
    found: list[Document] = prep_docs(docs, doc_ids, metadata)
    for number, document in enumerate(found):
        if document.document_type != "text":
            raise ValueError(f"document {number} is an image; this model reads text alone")
        if document.doc_id is None:
            document.doc_id = number
    return found


def _passages(documents: Sequence[Document]) -> list[dict[str, Any]]:
    titles = (document.metadata.get("title") for document in documents)
    return [
        {"text": document.text, "title": title if isinstance(title, str) else ""}
        for document, title in zip(documents, titles, strict=True)
    ]


def _ranked(query: str, documents: Sequence[Document], result: RerankResult) -> RankedResults:
    ranked = [Result(document=documents[item.index], score=item.score, rank=item.rank) for item in result]
    return RankedResults(results=ranked, query=query, has_scores=True)


AVAILABLE_RANKERS["rearank"] = RearankRanker
