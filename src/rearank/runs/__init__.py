"""A run's folder: what its results depend on, and how a stage goes on or is moved aside."""

from rearank.runs.identity import code_of

__all__ = ["code_of"]
