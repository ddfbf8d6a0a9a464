"""A Haystack component: our reranker in a pipeline. Needs the extra ``haystack``.

For example, by itself; ``pipeline.add_component("ranker", RearankComponent(...))`` takes it, too::

    from haystack import Document
    from rearank.adapters.haystack import RearankComponent
    ranker = RearankComponent(model="tiny", engine="transformers", top_k=1)
    ranker.warm_up()
    found = [Document(content="old bread"), Document(content="hot soup")]
    [best] = ranker.run(query="soup", documents=found)["documents"]
    ranker.close()

Haystack reads a saved pipeline back where it trusts this module:
``Pipeline.loads(text, allowed_modules=["rearank.adapters.haystack"])``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rearank.reranker import Reranker, RerankResult

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise ImportError(
        "rearank.adapters.haystack needs Haystack: install rearank's extra haystack (pip install -e '.[haystack]')"
    ) from error


@component
class RearankComponent:
    """Documents, best first, with 1 / rank as their score. It is made of names alone, so that a pipeline can be saved.

    Args:
        model, strategy, engine, prompt, store, overrides: as of ``rearank.Reranker``, by name. The model is loaded by
            ``warm_up``, or with the first call.
        top_k: keep so many; ``None`` for all.
        title_key: of ``meta``, where a document has a title there; ``None`` for none.

    A failed call raises ``EngineError``; a document without a text ``ValueError``.
    """

    def __init__(
        self,
        model: str = "rearank7b",
        *,
        strategy: str | None = None,
        engine: str | None = None,
        prompt: str | None = None,
        store: str | None = None,
        overrides: list[str] | None = None,
        top_k: int | None = None,
        title_key: str | None = "title",
    ) -> None:
        _check(top_k)
        chosen = {
            "strategy": strategy,
            "engine": engine,
            "prompt": prompt,
            "store": store,
            "overrides": overrides or [],
        }
        self._arguments: dict[str, Any] = {"model": model, **chosen}
        self.top_k = top_k
        self.title_key = title_key
        self._made: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model; once is enough."""
        if self._made is None:
            self._reranker().warm_up()

    def close(self) -> None:
        """Let the model go; the next call loads it again."""
        if self._made is not None:
            self._made.close()
            self._made = None

    def to_dict(self) -> dict[str, Any]:
        """As it was made, for a file."""
        written: dict[str, Any] = default_to_dict(self, **self._arguments, top_k=self.top_k, title_key=self.title_key)
        return written

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RearankComponent:
        """The other way round."""
        made: RearankComponent = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """The documents in the model's order; ``top_k`` here goes before the component's own."""
        result = self._reranker().rerank(query, self._passages(documents), top=self._most(top_k))
        return {"documents": _scored(documents, result)}

    @component.output_types(documents=list[Document])  # type: ignore[untyped-decorator]
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """As ``run``, in an ``AsyncPipeline``."""
        result = await self._reranker().arerank(query, self._passages(documents), top=self._most(top_k))
        return {"documents": _scored(documents, result)}

    def _reranker(self) -> Reranker:
        if self._made is None:
            self._made = Reranker(**self._arguments)
        return self._made

    def _most(self, top_k: int | None) -> int | None:
        _check(top_k)
        return self.top_k if top_k is None else top_k

    def _passages(self, documents: list[Document]) -> list[dict[str, Any]]:
        found = []
        for number, document in enumerate(documents):
            if document.content is None:
                raise ValueError(f"document {number} ({document.id[:80]!a}) has no content; the model reads text alone")
            title = document.meta.get(self.title_key) if self.title_key else None
            found.append({"text": document.content, "title": title if isinstance(title, str) else ""})
        return found


def _check(top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is the number of documents to keep and must be at least 1, not {top_k}")


def _scored(documents: list[Document], result: RerankResult) -> list[Document]:
    return [replace(documents[item.index], score=item.score) for item in result]
