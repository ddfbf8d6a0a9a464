"""What a chat template refuses of a prompt, and what to set instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rearank.engines.base import turns
from rearank.engines.template import example, refusal
from rearank.prompts import ChatPrompt, CompactPrompt, Prompt
from rearank.types import Message

jinja2 = pytest.importorskip("jinja2")

_TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
_NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ refuse('System role not supported') }}{% endif %}"
_ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ refuse('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
_ALTERNATES_AFTER_SYSTEM = (
    "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
    + _ALTERNATES.replace("in messages", "in rest")
)
_ONE_TURN = "{% if messages|length > 1 %}{{ refuse('one turn') }}{% endif %}"

CHAT = ChatPrompt(system="S", opening="Rank.", received="Received passage [{i}].", final="Now.")
SILENT = ChatPrompt(system="S", opening="Rank.", final="Now.")
COMPACT = CompactPrompt()


def render(template: str) -> Callable[[Sequence[Message]], str]:
    def refuse(words: str) -> None:
        raise jinja2.TemplateError(words)

    compiled = jinja2.Environment(autoescape=False).from_string(template + _TURNS)
    return lambda messages: compiled.render(messages=turns(messages), refuse=refuse)


@pytest.mark.parametrize(
    ("template", "prompt", "words"),
    [
        (_NO_SYSTEM, CHAT, ["the system role (System role not supported)", "prompt.system=''"]),
        (_ALTERNATES_AFTER_SYSTEM, SILENT, ["two turns of one role in a row", "prompt.received="]),
        (_ALTERNATES, CHAT, ["the system role (Conversation roles must alternate)", "prompt.system=''"]),
        (_ALTERNATES, SILENT, ["the system role and two turns", "prompt.system=''", "prompt.received="]),
        (_ONE_TURN, CHAT, ["the system role and more than one turn", "prompt=compact"]),
        ("{{ refuse('never') }}", COMPACT, ["this prompt (never)", "chat_template.jinja"]),
        ("{{ refuse('several\\nlines') }}", COMPACT, ["this prompt (several)"]),
    ],
)
def test_a_refusal_names_what_and_the_remedy(template: str, prompt: Prompt, words: list[str]) -> None:
    line = refusal(render(template), example(prompt))
    assert line is not None
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("", CHAT),
        (_NO_SYSTEM, COMPACT),
        (_ALTERNATES_AFTER_SYSTEM, CHAT),
        (_ALTERNATES, COMPACT),
        (_ALTERNATES, ChatPrompt(opening="Rank.", received="Yes.", final="Now.")),
        (_ONE_TURN, CompactPrompt(prefill="<think> </think> <answer>")),
    ],
)
def test_a_prompt_that_is_taken(template: str, prompt: Prompt) -> None:
    assert refusal(render(template), example(prompt)) is None


def test_the_remedy_is_one() -> None:
    """What a refusal advises is then taken."""
    no_system = ChatPrompt(opening="Rank.", received="Received passage [{i}].", final="Now.")
    assert refusal(render(_ALTERNATES + _NO_SYSTEM), example(no_system)) is None
