"""What sentence-transformers' reranking evaluator asks of a model. Needs the extra ``sentence-transformers``.

For example::

    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
    from rearank import Reranker
    from rearank.adapters.sentence_transformers import AsCrossEncoder
    samples = [{"query": "soup", "positive": ["hot soup"], "negative": ["old bread", "cold tea"]}]
    evaluator = CrossEncoderRerankingEvaluator(samples, name="meals")
    print(evaluator(AsCrossEncoder(Reranker("tiny", engine="transformers"))))
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np

from rearank.reranker import Reranker, RerankResult


class AsCrossEncoder:
    """A reranker with a cross-encoder's two verbs, ``predict`` and ``rank``; its scores are 1 / rank.

    Pairs that follow each other with one query are a list, which the model puts in order as a whole.

    Args:
        reranker: of this package.
        order: in which the model reads a list. The evaluator puts the relevant documents first, which would tell a
            model that reads lists the answer: ``shuffled`` (the same way each time) hides it. ``given`` is for lists
            in a first stage's order (samples with ``documents``, and ``always_rerank_positives=False``).
    """

    def __init__(self, reranker: Reranker, order: Literal["shuffled", "given"] = "shuffled") -> None:
        if order not in ("shuffled", "given"):
            raise ValueError(f"order is 'shuffled' or 'given', not {order!r}")
        self.reranker = reranker
        self.order = order
        self.model_card_data = FoundMetrics()

    def predict(
        self, inputs: Sequence[Sequence[str]], *, show_progress_bar: bool | None = False, **unused: Any
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A score for each pair of query and document.

        ``unused``: how a cross-encoder batches, on which device... The engine decides that here.
        """
        lists = [(query, [pair[1] for pair in pairs]) for query, pairs in groupby(inputs, lambda pair: pair[0])]
        places = [self._places(len(documents), number) for number, (_, documents) in enumerate(lists)]
        asked = [(query, [docs[i] for i in order]) for (query, docs), order in zip(lists, places, strict=True)]
        results = self.reranker.rerank_many(asked, show_progress=bool(show_progress_bar))
        scores = []
        for order, result in zip(places, results, strict=True):
            assert isinstance(result, RerankResult)  # a failure was raised
            found = np.empty(len(order))
            found[[order[item.index] for item in result]] = [item.score for item in result]
            scores.append(found)
        return np.concatenate(scores) if scores else np.empty(0)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **unused: Any,
    ) -> list[dict[str, Any]]:
        """Best first: ``corpus_id``, ``score`` and, where asked for, ``text``. The model reads them as given."""
        return [
            {"corpus_id": item.index, "score": item.score} | ({"text": item.text} if return_documents else {})
            for item in self.reranker.rerank(query, documents, top=top_k)
        ]

    def _places(self, count: int, seed: int) -> list[int]:
        places = list(range(count))
        if self.order == "shuffled":
            random.Random(seed).shuffle(places)
        return places


class FoundMetrics:
    """Where an evaluator leaves what it found, as in a model card."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def set_evaluation_metrics(self, evaluator: Any, metrics: dict[str, float], epoch: int = 0, step: int = 0) -> None:
        """Keep the newest."""
        self.found.update(metrics)
