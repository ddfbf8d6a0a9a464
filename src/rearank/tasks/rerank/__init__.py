"""``task=rerank``: lists in, lists in a better order out; no judgements anywhere.

``task`` what its result depends on · ``reranking`` the whole job · ``looking`` what it would meet · ``inputs`` what the
input is · ``rows`` and ``lists`` its readers · ``in_order`` the rerank loop over more queries than memory holds ·
``records`` what is written of a query · ``outputs`` files that appear whole · ``reading`` these for
other tasks · ``on_ray`` all of it on a cluster.
"""

from rearank.tasks.rerank.task import RerankTask

__all__ = ["RerankTask"]
