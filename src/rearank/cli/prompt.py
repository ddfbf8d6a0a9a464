"""``rearank prompt show | render``: the messages that a model would be sent, and how many tokens they are.

::

    rearank prompt show prompt=rearank                                  # on a window of three made-up passages
    rearank prompt render prompt=compact model=tiny input=my.jsonl      # on the first list of a file of one's own

What follows is the config's, as in any command: ``prompt.max_words=50``, ``strategy=...``,
``rerank.columns.text=body``; ``input=`` is short for ``rerank.input=``, and takes whatever ``task=rerank`` reads. No
model is asked and none is loaded, its tokenizer aside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rearank.choices import Chosen, choose
from rearank.config import ConfigError
from rearank.data import DataError
from rearank.engines import EngineError
from rearank.engines.session import Session
from rearank.ranking import Failure
from rearank.reranker.setup import Parts
from rearank.tasks.rerank.inputs import formats_of, input_name, make_input
from rearank.tasks.rerank.rows import BadRow
from rearank.tasks.rerank_cost import Counting
from rearank.types import Candidates, Completion, Message, Passage, Query, Sampling, Window

_GROUPS = ("model", "prompt", "strategy", "engine", "rerank", "benchmark")
_EXAMPLE = Candidates(
    Query("example", "how do bees find flowers"),
    (
        Passage("a", "Bees see ultraviolet light, and many petals carry marks that only show in it.", "Colours"),
        Passage("b", "A dance on the comb tells other bees which way to fly, and how far."),
        Passage("c", "Honey keeps for years where no water gets into the jar."),
    ),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Call:
    """One call: the passages' ids in the window's order, what is sent, and its tokens."""

    passages: tuple[str, ...]
    messages: tuple[Message, ...]
    tokens: int


class _Recording(Counting):
    """Keeps every window's order, and what it was shown as."""

    def __init__(self, parts: Parts, why: str | None = None) -> None:
        super().__init__(parts, why)
        self.calls: list[Call] = []

    async def complete_window(self, window: Window, messages: Sequence[Message], sampling: Sampling) -> Completion:
        answer = await super().complete_window(window, messages, sampling)
        tokens = self.tokens[window.query.id][-1]
        self.calls.append(Call(tuple(one.id for one in window.passages), tuple(messages), tokens))
        return answer


def prompt(words: Sequence[str]) -> None:
    """Print what ``words``, the rest of the command line, ask for.

    Raises:
        ConfigError: for a key or option that isn't there.
        DataError: for an input that can't be read, or a query that it doesn't hold.
    """
    parser = argparse.ArgumentParser("rearank prompt", description="What a model would be sent; nothing is asked.")
    parser.add_argument("what", choices=("show", "render"), help="of an example, or of a list of your own (input=...)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--query", metavar="ID", help="render: this query's list; without it the first")
    parser.add_argument("--calls", metavar="N", type=int, default=1, help="calls shown, in the order they are made")
    parser.add_argument("--config-dir", metavar="FOLDER", help="with options of your own")
    parser.add_argument("keys", nargs="*", metavar="key=value", help="prompt=compact model=tiny input=my.jsonl")
    given = parser.parse_intermixed_args(words)
    chosen = _chosen(given.keys, given.config_dir)
    parts = Parts(*(chosen.build(group) for group in ("model", "prompt", "strategy", "engine")))
    candidates = _EXAMPLE if given.what == "show" else _list_of(chosen, given.query)
    counting = _recorded(parts, candidates)
    found = {
        "prompt": chosen.options["prompt"],
        "settings": chosen.nodes["prompt"],
        "model": parts.model.name,
        "strategy": chosen.options["strategy"],
        "tokens_counted_by": counting.counted_by,
        "query": candidates.query.id,
        "calls": len(counting.calls),
    }
    shown = counting.calls[: given.calls]
    if given.json:
        print(json.dumps({**found, "shown": [_plain(call) for call in shown]}, ensure_ascii=False, indent=1))
        return
    print("\n".join(_lines(found, shown, candidates)))


def _chosen(keys: Iterable[str], folder: str | None) -> Chosen:
    overrides = [f"rerank.{key}" if key.startswith("input=") else key for key in keys]
    overrides += [f"hydra.searchpath=['file://{Path(folder).absolute()}']"] if folder is not None else []
    if wrong := next((key for key in overrides if "=" not in key), None):
        raise ConfigError(f"{wrong}: this is no argument; write key=value")
    try:
        return choose(_GROUPS, {}, overrides)
    except ConfigError as error:
        raise error.__cause__ or error from None  # Hydra's own, which is explained as in any command


def _list_of(chosen: Chosen, wanted: str | None) -> Candidates:
    settings, benchmark = chosen.build("rerank"), chosen.build("benchmark")
    settings = replace(settings, output="-")
    for one in make_input(settings, formats_of(settings), benchmark).lists():
        if isinstance(one, BadRow):
            raise one.error
        if wanted in (None, one.query.id):
            top = one.top(settings.depth)
            if not top.passages:
                raise DataError(
                    f"{input_name(settings)}: query {top.query.id!r} has no passage; choose another: --query"
                )
            return top
    which = "nothing is in it" if wanted is None else f"it has no query {wanted!r}"
    raise DataError(f"{input_name(settings)}: {which}; give another input=... or --query")


def _recorded(parts: Parts, candidates: Candidates) -> _Recording:
    """Every call of the list, where answers keep the order."""
    try:
        counting = _Recording(parts)
    except EngineError as error:
        counting = _Recording(parts, str(error))
    failed: list[str] = []

    def done(one: Any) -> None:
        failed.extend([str(one.result)] if isinstance(one.result, Failure) else [])

    session = Session(counting, parts.prompt, parts.strategy, parts.model.sampling, max_concurrent_queries=1)
    asyncio.run(session.rerank([candidates], traced=(), on_done=done))
    if failed:
        raise DataError(f"query {candidates.query.id!r} can't be asked: {failed[0]}")
    return counting


def _plain(call: Call) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in call.messages]
    return {"passages": list(call.passages), "tokens": call.tokens, "messages": messages}


def _lines(found: dict[str, Any], shown: Sequence[Call], candidates: Candidates) -> Iterable[str]:
    """For a terminal: control characters, which could move its cursor, are written as escapes."""
    yield f"prompt={found['prompt']} model={found['model']} strategy={found['strategy']}"
    yield f"tokens: counted by {found['tokens_counted_by']}"
    places = {passage.id: number for number, passage in enumerate(candidates.passages, 1)}
    for number, call in enumerate(shown, 1):
        where = ", ".join(str(places[one]) for one in call.passages)
        yield ""
        yield (
            f"== call {number} of {found['calls']} of query {_visible(found['query'])}: passages {where} of the list; "
            f"{call.tokens} tokens =="
        )
        for message in call.messages:
            yield f"--- {message.role}"
            yield _visible(message.content)
    if found["calls"] > len(shown):
        yield ""
        yield f"{found['calls'] - len(shown)} more calls: --calls={found['calls']} shows them"


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
