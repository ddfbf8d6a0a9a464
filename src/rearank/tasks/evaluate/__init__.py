"""Reranking benchmarks and scoring what comes of it.

``evaluation`` every benchmark in turn · ``systems`` what is measured · ``measuring`` one benchmark · ``reranking`` one
system over its queries · ``scores`` what is kept of it · ``published`` numbers to compare with · ``tables`` of one
benchmark, ``benchmark_lists`` of several · ``tracked`` what the trackers get.
"""

from rearank.moved import attributes_of
from rearank.tasks.evaluate.evaluation import Evaluating, EvaluationError, asked, evaluate, settled
from rearank.tasks.evaluate.systems import CheckpointError, System, systems

__getattr__ = attributes_of(__name__)  # old names of what has moved

__all__ = ["CheckpointError", "Evaluating", "EvaluationError", "System", "asked", "evaluate", "settled", "systems"]
