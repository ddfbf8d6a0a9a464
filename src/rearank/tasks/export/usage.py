"""How the exported model is used: rearank's own lines, a server, llama.cpp; with the settings it was measured with."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rearank.arguments import written
from rearank.choices import choose
from rearank.config import ConfigError, build
from rearank.engines.template import example
from rearank.runs.declared import TARGET
from rearank.tasks.export.words import fenced
from rearank.tasks.run_description import closest_option
from rearank.types import Message

_NAME = re.compile(r"[A-Za-z][\w-]*([/.][\w-]+)*", re.ASCII)
_WORDS = ("true", "false", "null", "nan", "inf", "yes", "no", "on", "off")
"""What Hydra reads as the text that it is, and what looks so and is another value."""
_MODEL = ("max_tokens", "temperature", "top_p", "thinking")


@dataclass(frozen=True)
class HowToAsk:
    """What a caller must set.

    Args:
        place: a hub id, or where the folder is to be put.
        name: of the model, in tables.
        model: its node, as it was trained.
        prompt: the node.
        strategy: the node; ``None`` where nothing says which.
        base: what an adapter goes with; ``None`` for a whole model.
    """

    place: str
    name: str
    model: Mapping[str, Any]
    prompt: Mapping[str, Any]
    strategy: Mapping[str, Any] | None
    base: str | None = None

    @cached_property
    def choices(self) -> dict[str, tuple[str, list[str]]]:
        """Group -> option and ``key=value`` of what differs from it; without those that no option comes close to."""
        nodes = {"prompt": self.prompt, "strategy": self.strategy}
        return {
            group: found
            for group, node in nodes.items()
            if node is not None and (found := _as_written(group, node)) is not None
        }

    def lines(self) -> list[str]:
        """Of the card."""
        found = self.choices
        if "prompt" not in found:
            return [
                "Its prompt is of a class of its own, which `rearank.json` names; without that class it can't be asked."
            ]
        merging = "`python -m rearank.engines.merge BASE ADAPTER FOLDER` makes one model of base and adapter, first. "
        drawn = (
            "Answers are sampled; `generation_config.json` says how."
            if self.model.get("temperature")
            else "Answers are greedy. vLLM by itself samples: other clients than rearank must send `temperature: 0`."
        )
        return [
            f"{merging if self.base else ''}With rearank as a library:",
            fenced(self._python(found), "python"),
            "As a server (`/v1/rerank`):",
            fenced(f"rearank task=serve {self._arguments(found)} engine=vllm tracking=none", "sh"),
            "With vLLM as the server, which rearank sends its prompts to, window by window:",
            fenced(self._vllm(found), "sh"),
            drawn,
            *self._asked(),
            *self._gguf(),
        ]

    def _python(self, found: Mapping[str, tuple[str, list[str]]]) -> str:
        option, changed = found["prompt"]
        settings = {"name": self.name, "path": self.place, "prompt": option} | self._sampling()
        arguments = ", ".join(f"{key}={_literal(value)}" for key, value in settings.items())
        strategy = found.get("strategy")
        overrides = [*changed, *(strategy[1] if strategy else [])]
        given = [f"strategy={_literal(strategy[0])}"] if strategy else []
        given += [f"overrides={_literal(overrides)}"] if overrides else []
        return (
            "from rearank import Reranker\nfrom rearank.engines.model import Model\n\n"
            f"model = Model({arguments})\n"
            f"with Reranker({', '.join(['model', *given])}) as reranker:\n"
            '    print(reranker.rerank("a query", ["one passage", "another passage"]))'
        )

    def _arguments(self, found: Mapping[str, tuple[str, list[str]]]) -> str:
        """Of the command line."""
        named = {"path": self.place, "name": self.name} | self._sampling()
        parts = ["model=local", *(shlex.quote(_pair(f"model.{key}", value)) for key, value in named.items())]
        for group, (option, changed) in found.items():
            parts += [f"{group}={option}", *map(shlex.quote, changed)]
        return " ".join(parts)

    def _vllm(self, found: Mapping[str, tuple[str, list[str]]]) -> str:
        place, base = shlex.quote(self.place), shlex.quote(self.base or "")
        serve = (
            f"vllm serve {base} --enable-lora --lora-modules {place}={place}" if self.base else f"vllm serve {place}"
        )
        asked = self._arguments(found)
        return (
            f"{serve}\nrearank task=rerank {asked} engine=openai "
            "engine.base_url=http://localhost:8000/v1 rerank.input=rows.jsonl rerank.output=out.jsonl tracking=none"
        )

    def _asked(self) -> Iterator[str]:
        """A window of three as the prompt shows it."""
        try:
            messages: tuple[Message, ...] = example(build(self.prompt, "prompt", stored=True))
        except (
            ConfigError,
            TypeError,
            ValueError,
            ImportError,
        ):  # a class that isn't here, a text that needs a tokenizer
            return
        yield "What it is asked, here of three passages:"
        yield fenced("\n\n".join(f"{message.role}: {message.content}" for message in messages), "text")

    def _gguf(self) -> Iterator[str]:
        """llama.cpp's own tools."""
        place, name = shlex.quote(self.place), shlex.quote(self.name.replace("/", "-"))
        if self.base:
            make = f"python convert_lora_to_gguf.py --base {shlex.quote(self.base)} --outfile {name}.gguf {place}"
            yield "As a GGUF file, by llama.cpp's tools (not tried here):"
            yield fenced(make, "sh")
            return
        yield "As a GGUF file, by llama.cpp's tools (not tried here; rounded weights are others than were measured):"
        yield fenced(
            f"python convert_hf_to_gguf.py --outtype bf16 --outfile {name}.gguf {place}\n"
            f"llama-quantize {name}.gguf {name}-Q4_K_M.gguf Q4_K_M\nllama-server -m {name}-Q4_K_M.gguf",
            "sh",
        )

    def _sampling(self) -> dict[str, Any]:
        return {key: value for key in _MODEL if (value := self.model.get(key)) is not None}


def _as_written(group: str, node: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The option that comes closest to ``node``, and what makes it the same."""
    best = closest_option(group, node)
    if best is None:
        return None
    there, wanted = dict(_leaves(group, choose((group,), {group: best[0]}).nodes[group])), dict(_leaves(group, node))
    if there.get(f"{group}.{TARGET}") != wanted.get(f"{group}.{TARGET}"):
        return None
    changed = [
        f"{'' if key in there else '+'}{_pair(key, value)}"
        for key, value in wanted.items()
        if key not in there or there[key] != value
    ]
    return best[0], changed


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}", inner)
    else:
        yield key, value


def _pair(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it; the shell's quotes are left to the caller."""
    if isinstance(value, str) and (not _NAME.fullmatch(value) or value.lower() in _WORDS):
        return shlex.split(written(key, value))[0]
    if isinstance(value, str | float) and not isinstance(value, bool):
        return f"{key}={value}"
    return f"{key}={json.dumps(value)}"


def _literal(value: Any) -> str:
    """As Python has it, with double quotes."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
