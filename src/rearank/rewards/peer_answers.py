"""How the peers' own scorers read an answer: tags as written, every run of digits an identifier.

Looser than ``rearank.parsing``, which every other part of this project reads answers with; for the rewards that must
pay exactly what a peer's code pays. So other models' reasoning marks, a reasoning that was cut and prose around the
order are read as the peer reads them, and the breakdown's status and nDCG as evaluation does. The text is the whole
answer, with the ``<think>`` that a chat template opened for it.
"""

from __future__ import annotations

import re

_THINK, _OPEN, _CLOSE = "<think>", "<answer>", "</answer>"
_TURN = re.compile(r"</think>\s*+<answer>")


def first_answer(text: str) -> str | None:
    """What the first closed ``<answer>`` holds; ``None`` where none is closed."""
    opened = text.find(_OPEN)
    start = opened + len(_OPEN)
    end = text.find(_CLOSE, start) if opened >= 0 else -1
    return text[start:end] if end >= 0 else None


def reasoned_answer(text: str) -> str | None:
    """What the first answer holds that follows on a reasoning: ``<think>...</think> <answer>...</answer>`` anywhere."""
    opened = text.find(_THINK)
    turn = _TURN.search(text, opened + len(_THINK)) if opened >= 0 else None
    end = text.find(_CLOSE, turn.end()) if turn is not None else -1
    return text[turn.end() : end] if turn is not None and end >= 0 else None


def is_reasoned_answer(text: str) -> bool:
    """Whether ``text`` is ``<think>...</think> <answer>...</answer>`` from its first character to its last."""
    if not (text.startswith(_THINK) and text.endswith(_CLOSE)):
        return False
    turn = _TURN.search(text, len(_THINK))
    return turn is not None and turn.end() <= len(text) - len(_CLOSE)


def digit_runs(text: str) -> list[str]:
    """Every longest run of digits of any script, as written."""
    return "".join(c if c.isdigit() else " " for c in text).split()


def numbers(runs: list[str]) -> list[int] | None:
    """``runs`` as whole numbers; ``None`` where Python reads one as no number: ``\u00b2``, or thousands of digits."""
    try:
        return [int(run) for run in runs]
    except ValueError:
        return None
