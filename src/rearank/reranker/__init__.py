"""Reranking as a library: ``from rearank import Reranker``.

``face`` the class · ``setup`` names -> parts that fit each other · ``inputs`` and ``result`` what goes in and comes
out · ``tracing`` every window of a query · ``background`` the event loop behind it.
"""

from rearank.engines.tracing import WindowTrace
from rearank.reranker.face import Reranker
from rearank.reranker.inputs import PassageLike, QueryLike
from rearank.reranker.result import RankedPassage, RerankResult
from rearank.types import well_formed

__all__ = ["PassageLike", "QueryLike", "RankedPassage", "RerankResult", "Reranker", "WindowTrace", "well_formed"]
