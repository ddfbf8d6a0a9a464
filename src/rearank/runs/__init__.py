"""What a run's results depend on: the code that decides them, the content of local data and models."""

from rearank.runs.content import CONTENT, files_of
from rearank.runs.identity import code_of

__all__ = ["CONTENT", "code_of", "files_of"]
