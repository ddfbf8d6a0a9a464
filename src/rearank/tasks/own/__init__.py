"""A reranker of one's own, from judgements (or a teacher's order) to a model that may be used: ``experiment=own``.

``task`` the pipeline with a cold start, and what follows it · ``gate`` whether the model earned it.
"""

from rearank.tasks.own.gate import Verdict, judge
from rearank.tasks.own.task import OwnTask

__all__ = ["OwnTask", "Verdict", "judge"]
