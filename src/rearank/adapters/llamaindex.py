"""LlamaIndex's node postprocessor: our reranker in a query engine. Needs the extra ``llamaindex``.

For example, by itself; ``index.as_query_engine(node_postprocessors=[...])`` takes it, too::

    from llama_index.core.schema import NodeWithScore, TextNode
    from rearank import Reranker
    from rearank.adapters.llamaindex import RearankPostprocessor
    postprocessor = RearankPostprocessor(reranker=Reranker("tiny", engine="transformers"), top_n=1)
    found = [NodeWithScore(node=TextNode(text=text)) for text in ("old bread", "hot soup")]
    [best] = postprocessor.postprocess_nodes(found, query_str="soup")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from rearank.reranker import Reranker, RerankResult

try:
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
except ImportError as error:
    raise ImportError(
        "rearank.adapters.llamaindex needs LlamaIndex: install rearank's extra llamaindex (pip install -e "
        "'.[llamaindex]')"
    ) from error


class RearankPostprocessor(BaseNodePostprocessor):  # type: ignore[misc]
    """Nodes, best first; their scores are 1 / rank: an order, no probabilities.

    Args:
        reranker: of this package.
        top_n: keep so many; ``None`` for all.
        title_key: of the metadata, where a node has a title there; ``None`` for none.
        metadata_mode: which metadata the model reads before each text; by default none.

    Without a query it raises ``ValueError``, and for a failed call ``EngineError``.
    """

    reranker: Reranker = Field(exclude=True)
    top_n: Annotated[int, Field(ge=1)] | None = None
    title_key: str | None = "title"
    metadata_mode: MetadataMode = MetadataMode.NONE

    @classmethod
    def class_name(cls) -> str:
        """What LlamaIndex writes down."""
        return "RearankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        result = self.reranker.rerank(_query(query_bundle), self._passages(nodes), top=self.top_n)
        return _scored(nodes, result)

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        result = await self.reranker.arerank(_query(query_bundle), self._passages(nodes), top=self.top_n)
        return _scored(nodes, result)

    def _passages(self, nodes: Sequence[NodeWithScore]) -> list[dict[str, Any]]:
        # A list may hold one node twice: their places are the passages' ids.
        titles = (one.node.metadata.get(self.title_key) if self.title_key else None for one in nodes)
        return [
            {
                "text": one.node.get_content(metadata_mode=self.metadata_mode),
                "title": title if isinstance(title, str) else "",
            }
            for one, title in zip(nodes, titles, strict=True)
        ]


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise ValueError("reranking needs the query: give query_str or query_bundle")
    return str(bundle.query_str)


def _scored(nodes: Sequence[NodeWithScore], result: RerankResult) -> list[NodeWithScore]:
    return [NodeWithScore(node=nodes[item.index].node, score=item.score) for item in result]
