"""vLLM in this process.

``engine`` calls · ``arguments`` what vLLM is told · ``processes`` none
of vLLM's outlives this one.
"""

from rearank.engines.vllm.engine import VllmEngine

__all__ = ["VllmEngine"]
