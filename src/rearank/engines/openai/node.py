"""The node of ``engine=openai``: nothing is imported before ``create``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rearank.checks import missing_packages, shown_variable
from rearank.engines.base import Engine
from rearank.engines.nodes import CreatesEngine, EngineRequest
from rearank.engines.openai.settings import OpenAISettings


@dataclass(frozen=True)
class OpenAINode(OpenAISettings, CreatesEngine):
    """A server that speaks OpenAI's chat protocol; see ``OpenAISettings`` for the fields."""

    def preflight(self) -> list[str]:
        """The package; the key, as the node names it. The server itself is asked by ``examine_server``."""
        missing = [f"engine=openai: {line}" for line in missing_packages("api", "openai")]
        key = os.environ.get(self.variable or "", "").strip()
        if self.variable is not None and not key:
            missing.append(f"engine=openai needs a key: set the environment variable {shown_variable(self.variable)}")
        elif not (key.isascii() and key.isprintable()) or " " in key:
            missing.append(f"the environment variable {self.variable} holds characters that no key has")
        for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            place = os.environ.get(name) if any(url.startswith("https:") for url in self.urls) else None
            if place and not os.path.exists(place):  # noqa: PTH110
                missing.append(
                    f"the environment variable {name} names {place}, which does not exist; unset it or mend it"
                )
        return missing

    def examine_server(self, model: str) -> tuple[list[str], list[str]]:
        """Ask each server what it has, and with ``trial`` for an answer: problems and warnings, a line each."""
        from rearank.engines.openai.trial import try_servers

        return try_servers(self, self.served_model or model)

    def _engine(self, asked: EngineRequest) -> Engine:
        from rearank.engines.openai.engine import OpenAIEngine

        return OpenAIEngine(self, asked.model, revision=asked.revision, thinking=asked.thinking)
