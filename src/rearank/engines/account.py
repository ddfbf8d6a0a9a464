"""What answers were and what they cost: the one account of calls, tokens and dollars."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rearank.parsing import ParsedRanking, ParseStatus
from rearank.types import Completion

DIGITS = 9
"""Of US dollars."""
_COUNTS = ("calls", "unparsed", "truncated_prompts", "cut_answers", "prompt_tokens", "completion_tokens")

_MOST_COSTS = 1000

_TURN = re.compile(
    r"<\|?(?:im_start|im_end|start_header_id|eot_id|start_of_turn|end_of_turn)\|?>|\[/?INST\]|<｜User｜>"
    r"|^\s*(?:user|assistant)\s*$",
    re.MULTILINE,
)
"""What chat templates put between turns: in an answer it shows that the model went on past its own turn."""


class Unread(StrEnum):
    """Why an answer names no passage, in a few words."""

    TEMPLATE = "with marks of another chat template"
    CUT = "cut at model.max_tokens"
    NO_TEXT = "without any text"
    ONLY_REASONING = "with a reasoning alone"
    OPEN_REASONING = "with a reasoning that never ends"
    NO_TAG = "without a complete <answer>"
    NOTHING_NAMED = "that name nothing of what was asked"


_REMEDIES = {
    Unread.TEMPLATE: "the model's chat template isn't the one it was trained with: take an instruction-tuned model, or "
    "put its own chat_template.jinja into its folder",
    Unread.CUT: "raise model.max_tokens, or switch long reasoning off (model.thinking=false, where the model has it)",
    Unread.NO_TEXT: "the model ends its turn at once: check its chat template (is it an instruction-tuned model, with "
    "the template it was trained with?)",
    Unread.ONLY_REASONING: "the whole answer lies in the reasoning: where a server gives it in its reasoning field, "
    "start the server without its reasoning parser, or set model.thinking as the server is set",
    Unread.OPEN_REASONING: "check the chat template's <think>, and choose the prompt that the model was trained with "
    "(prompt=...)",
    Unread.NO_TAG: "the model doesn't follow the prompt: choose one that it was trained with, or one without tags "
    "(prompt=...)",
    Unread.NOTHING_NAMED: "the model doesn't follow the prompt: choose another (prompt=...) or a larger model",
}


def remedy_of(cause: Unread) -> str:
    """What to do about it."""
    return _REMEDIES[cause]


def cause_of(completion: Completion, parsed: ParsedRanking) -> Unread | None:
    """Why nothing was read; ``None`` for an answer that names something.

    The chat template comes first: a model that doesn't know where its turn ends is cut, too.
    """
    if parsed.named:
        return None
    text = completion.text.strip()
    if _TURN.search(text):
        return Unread.TEMPLATE
    if completion.finish == "length":
        return Unread.CUT
    if not text:
        return Unread.NO_TEXT
    if text.lower().endswith("</think>"):
        return Unread.ONLY_REASONING
    if parsed.status is ParseStatus.UNCLOSED_THINK:
        return Unread.OPEN_REASONING
    return Unread.NO_TAG if parsed.status is ParseStatus.NO_ANSWER_TAG else Unread.NOTHING_NAMED


def unread_of(figures: Mapping[str, float]) -> Counter[Unread]:
    """The causes that ``figures`` (``Account.figures``) count."""
    return Counter(
        {cause: int(figures[name]) for cause in Unread if (name := f"unread_{cause.name.lower()}") in figures}
    )


def describe_unread(causes: Counter[Unread], calls: int) -> str:
    """How many answers could not be read, why, and what to do about the commonest cause; for a line of a log."""
    listed = ", ".join(f"{count} {cause.value}" for cause, count in causes.most_common())
    return f"{causes.total()} of {calls} answers could not be read ({listed}); {_REMEDIES[causes.most_common(1)[0][0]]}"


@dataclass
class Account:
    """Of one query's answers, or of many queries' together.

    It follows from the answers alone: those that came from the completions store count like new ones.
    """

    calls: int = 0
    unparsed: int = 0
    """Answers that named no passage of the window (or neither yes nor no)."""
    truncated_prompts: int = 0
    cut_answers: int = 0
    """Answers that reached ``max_tokens``."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    statuses: Counter[ParseStatus] = field(default_factory=Counter)
    unread: Counter[Unread] = field(default_factory=Counter)
    """``unparsed`` by cause."""
    costs: list[float] = field(default_factory=list)
    """US dollars, of each answer or each query."""

    @classmethod
    def of(cls, figures: Mapping[str, float], cost: float) -> Account:
        """The account whose ``figures()`` these are and whose exact cost is ``cost``."""
        found = cls(unread=unread_of(figures), costs=[cost])
        for name in _COUNTS:
            setattr(found, name, int(figures.get(name, 0)))
        named = {status: f"status_{status.value}" for status in ParseStatus}
        found.statuses.update({status: int(figures[name]) for status, name in named.items() if name in figures})
        return found

    def count(self, completion: Completion, parsed: ParsedRanking) -> None:
        """One more answer, and how it was parsed."""
        self.calls += 1
        self.unparsed += parsed.named == 0
        self.truncated_prompts += completion.prompt_truncated
        self.cut_answers += completion.finish == "length"
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        self.statuses[parsed.status] += 1
        if (cause := cause_of(completion, parsed)) is not None:
            self.unread[cause] += 1
        self.costs.append(completion.cost)

    def add(self, other: Account) -> None:
        """Another query's account."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.statuses.update(other.statuses)
        self.unread.update(other.unread)
        self.costs.append(other.cost)
        if len(self.costs) > _MOST_COSTS:
            self.costs = _exact(self.costs)

    @property
    def cost(self) -> float:
        """US dollars; summed exactly, so that the order in which answers came changes no digit."""
        return math.fsum(self.costs)

    def figures(self) -> dict[str, float]:
        """As ``metrics.json`` has them, in a fixed order."""
        counts: dict[str, float] = {name: getattr(self, name) for name in _COUNTS}
        statuses = {f"status_{status.value}": count for status, count in self.statuses.items()}
        statuses |= {f"unread_{cause.name.lower()}": count for cause, count in self.unread.items()}
        return {**counts, **dict(sorted(statuses.items())), "cost": round(self.cost, DIGITS)}


def _exact(values: Sequence[float]) -> list[float]:
    """A few numbers whose exact sum is that of ``values``: a million queries' costs take no memory."""
    parts: list[float] = []
    while rest := math.fsum([*values, *(-part for part in parts)]):
        parts.append(rest)
    return parts
