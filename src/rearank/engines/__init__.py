"""Engines: messages in, a completion out; and what stands between one and a strategy.

``nodes`` what conf/engine builds to · ``transformers`` and ``vllm`` models on this machine (``chat`` what both need,
``decoding`` the first one's loop, which trainers use, too, ``template`` whether a model's own takes a prompt) ·
``openai`` models behind a server · ``home`` an event loop of an engine's own · ``scripted`` a public fake ·
``recording`` and ``store`` no call is paid for twice · ``ranker`` prompt, call, parse · ``session`` candidates to
rankings · ``model`` what conf/model builds to (``architecture`` its sizes, ``merge`` makes one of an adapter,
``from_gguf`` of a GGUF file).
"""

from rearank.engines.base import Engine, EngineError, EngineNode, SeesWindows
from rearank.engines.nodes import NoEngine, ScriptedNode, TransformersNode, VllmNode
from rearank.engines.openai.budget import BudgetError
from rearank.engines.openai.node import OpenAINode
from rearank.engines.ranker import PromptRanker, Recorder
from rearank.engines.recording import RecordingEngine
from rearank.engines.scripted import ScriptedEngine
from rearank.engines.store import CompletionStore, StoreError, call_key

__all__ = [
    "BudgetError",
    "CompletionStore",
    "Engine",
    "EngineError",
    "EngineNode",
    "NoEngine",
    "OpenAINode",
    "PromptRanker",
    "Recorder",
    "RecordingEngine",
    "ScriptedEngine",
    "ScriptedNode",
    "SeesWindows",
    "StoreError",
    "TransformersNode",
    "VllmNode",
    "call_key",
]
