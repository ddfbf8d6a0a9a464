"""Whether a model's chat template takes a prompt, and what to set where it doesn't. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rearank.prompts import Prompt, Tokenizer
from rearank.types import Message, Passage, Query, Window

_SYSTEM = "the system role"
_ALTERNATION = "two turns of one role in a row"
_SINGLE = "more than one turn"
_REMEDIES = {
    _SYSTEM: "set prompt.system='' (say what it says in prompt.opening)",
    _ALTERNATION: "let the assistant acknowledge each passage (prompt.received='Received passage [{i}].'), or choose a "
    "prompt of one turn (prompt=compact)",
    _SINGLE: "choose a prompt of one turn (prompt=compact)",
}


def example(prompt: Prompt, tokenizer: Tokenizer | None = None, size: int = 3) -> tuple[Message, ...]:
    """A conversation of the form that ``prompt`` always has, of ``size`` passages, to try a template with.

    The beginning of the answer, where the prompt gives one, is left out.
    """
    passages = tuple(Passage(str(number), f"Text {number}.") for number in range(1, size + 1))
    messages = prompt.render(Window(Query("q", "a query"), passages), tokenizer)
    return messages[:-1] if messages[-1].role == "assistant" else messages


def refusal(render: Callable[[Sequence[Message]], object], messages: Sequence[Message]) -> str | None:
    """Why a chat template can't render ``messages``, in a line with the remedy; ``None`` where it can.

    Args:
        render: the model's own template: a tokenizer's ``apply_chat_template``, say; whatever it raises is a refusal.
        messages: a prompt, without a beginning of its answer.
    """
    if (reason := _failure(render, messages)) is None:
        return None
    for kinds, changed in _changes(messages):
        if _failure(render, changed) is None:
            what, remedies = " and ".join(kinds), "; ".join(_REMEDIES[kind] for kind in kinds)
            return f"the model's chat template refuses {what} ({reason}): {remedies}"
    return (
        f"the model's chat template refuses this prompt ({reason}): choose another (prompt=...), or put a "
        "chat_template.jinja that takes it into the model's folder"
    )


def _failure(render: Callable[[Sequence[Message]], object], messages: Sequence[Message]) -> str | None:
    try:
        render(messages)
    except Exception as error:  # a template may raise anything, and each kind of tokenizer has its own
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def _changes(messages: Sequence[Message]) -> Iterator[tuple[tuple[str, ...], Sequence[Message]]]:
    """What a template may refuse, and ``messages`` without it: small changes first."""
    bare = [message for message in messages if message.role != "system"]
    single = [Message("user", bare[-1].content)] if bare else []
    without = ((_SYSTEM,), bare) if len(bare) < len(messages) else None
    head = messages[: len(messages) - len(bare)]
    if without:
        yield without
    yield (_ALTERNATION,), [*head, *_alternating(bare)]
    if without:
        yield (_SYSTEM, _ALTERNATION), _alternating(bare)
    yield (_SINGLE,), [*head, *single]
    if without:
        yield (_SYSTEM, _SINGLE), single


def _alternating(messages: Sequence[Message]) -> list[Message]:
    """``messages`` with a turn of the other role between two of the same one."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1].role == message.role:
            found.append(Message("assistant" if message.role == "user" else "user", "Yes."))
        found.append(message)
    return found
