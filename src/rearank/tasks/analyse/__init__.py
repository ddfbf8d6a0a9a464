"""What a model writes, not only what it scores.

``analysis`` every benchmark in turn · ``questions`` what is asked · ``asking`` it of a model · ``tables`` what comes
of it.
"""

from rearank.tasks.analyse.analysis import AnalysisError, analyse

__all__ = ["AnalysisError", "analyse"]
