"""Models behind a server that speaks OpenAI's chat protocol.

``settings`` the keys · ``node`` what conf/engine/openai.yaml builds to · ``engine`` calls, retries and a budget ·
``server`` the line to it · ``retries`` what is repeated and when · ``replies`` read · ``overflow`` long prompts cut.
"""

from rearank.engines.openai.engine import OpenAIEngine, ServerError

__all__ = ["OpenAIEngine", "ServerError"]
