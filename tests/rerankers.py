"""Rerankers of the tiny model's parts, composed once: composing takes a fifth of a second."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from rearank import Reranker
from rearank.engines import Engine, EngineNode, ScriptedNode
from rearank.ranking import SlidingWindow
from rearank.reranker.setup import Parts


@cache
def _tiny() -> Parts:
    return Reranker("tiny", engine=ScriptedNode()).parts


def tiny(engine: EngineNode | Engine, **arguments: Any) -> Reranker:
    """Windows of five, all parts given as objects."""
    parts = _tiny()
    # Its own prompt as an object would be compared with the node of that name, which is composing again.
    model = replace(parts.model, prompt=None)
    return Reranker(model, prompt=parts.prompt, strategy=SlidingWindow(5, 2), engine=engine, **arguments)
