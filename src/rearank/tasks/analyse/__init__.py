"""What a model writes, not only what it scores.

``analysis`` every benchmark in turn · ``questions`` what is asked · ``asking`` it of a model · ``tables`` what comes
of it · ``short`` the look that a pipeline ends with.
"""

from rearank.moved import attributes_of
from rearank.tasks.analyse.analysis import AnalysisError, analyse, look

__getattr__ = attributes_of(__name__)  # old names of what has moved

__all__ = ["AnalysisError", "analyse", "look"]
