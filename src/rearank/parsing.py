"""Completion text -> permutation and status. Training and evaluation read answers here and nowhere else.

A completion is untrusted: every string, however long or malformed, gives a full permutation of the window. What the
answer named comes first, in its order; the rest follows as it was given. Identifiers are read from the answer only,
never from the reasoning, whatever marks a model puts around it. Where prose stands around the order, the longest chain
of distinct valid identifiers is the order, and the first of equal ones. The time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rearank.types import Permutation

# How models mark their reasoning: <think>, [THINK], ◁think▷, <seed:think>, <|begin_of_thought|>, <|START_THINKING|>; in
# no such form gpt-oss, Apertus, MedGemma, Gemma. One charset comes first, which makes the search ten times as fast.
_MARK = re.compile(
    r"(?P<left>[<\[◁])(?:[|｜]?(?P<close>/|end_(?:of_)?)?(?:(?:begin|start)_(?:of_)?|\w{1,20}[:_])?"
    r"(?P<word>think(?:ing)?|thoughts?|reason(?:ing)?|analysis|scratchpad|reflection)[|｜]?[>\]▷]"
    r"|(?P<opens>\|channel\|>(?:analysis|commentary)<\|message\|>|\|inner_prefix\|>|unused94>(?:thought)?"
    r"|\|channel>thought)"
    r"|(?P<closes>\|channel\|>final<\|message\|>|\|inner_suffix\|>|unused95>|channel\|>))",
    re.IGNORECASE,
)
# In words: gpt-oss' without its special tokens, and Granite's.
_WORDED = re.compile(
    r"analysis(?=[A-Z])(?:(?s:(.*?))assistantfinal)?|Here is my thought process:(?s:(.*?))Here is my response:"
)
_OTHER = ("", "")
_ANSWER_OPEN = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(r"</answer>", re.IGNORECASE)
# One bracket pair around one or more numbers: [3], [3, 1], ["3", "1"], [3 > 1], and full-width ［3］, 【3】.
_BRACKETS = re.compile(r"[\[［【]([^\[\]［］【】]*)[\]］】]")
_NUMBERS = re.compile(r"\s*+[\"']?[-−]?\d++[\"']?\s*+(?:[,，>＞]\s*+[\"']?[-−]?\d++[\"']?\s*+)*+")
_NUMBER = re.compile(r"[-−]?\d+")
_DIGITS = re.compile(r"\d+")
# Without brackets, only text that is nothing but a list counts ("3 > 1", "3, 1"), or else the last chain of `>`.
_BARE_LIST = re.compile(r"\s*+\d++(?:(?:\s*+[,，>＞]\s*+|\s++)\d++)*+\s*+[.。]?\s*+")
_BARE_CHAIN = re.compile(r"(?<![\w.])\d++(?:\s*+[>＞]\s*+\d++)++")
_CANONICAL = re.compile(r"\s*+\[\d++\](?:\s*+>\s*+\[\d++\])*+\s*+")
# Letters as labels: [B], [B > A]; without brackets an answer that is nothing but labels, or else "Passage B".
_LETTERS = re.compile(r"\s*+[\"']?[A-Za-z][\"']?\s*+(?:[,，>＞]\s*+[\"']?[A-Za-z][\"']?\s*+)*+")
_LETTER = re.compile(r"[A-Za-z]")
_BARE_LETTERS = re.compile(r"\W*+[A-Za-z](?:\s*+[,，>＞]\s*+[A-Za-z])*+\W*+")
_BARE_LETTER_CHAIN = re.compile(r"(?<!\w)[A-Za-z](?:\s*+[>＞]\s*+[A-Za-z](?!\w))++")
# Between two identifiers of one chain: remarks in round brackets and the numbers of a list don't count.
_REMARK = re.compile(r"\([^()]*+\)|\n\s*+\d++[.)]")
_MORE = (">", "＞", "≻", "→", "≥")
_NAMED = re.compile(r"\b(?i:passage|document|text)\s++[\[(]?([A-Z]|\d++)(?!\w)")
_YES_OR_NO = re.compile(r"(?<!\w)(?:(yes)|no)(?!\w)", re.IGNORECASE)
_FIRST_WORD = re.compile(r"[\W_]*+(?:(yes)|no)(?!\w)", re.IGNORECASE)
# How an answer without reasoning begins: its tag, a chain (behind a short heading), a label, or a yes or no.
_ANSWER_FIRST = re.compile(
    r"[\s*_`]*+(?:<answer>|(?:[^\d<>\[［【\n]{0,80}[:\n][\s*_`]*+)?(?:\d{1,3}[.)]\s*+)?[\[［【]?[\"']?(?:\d{1,9}|[A-Z](?!\w))"
    r"[\"']?[\]］】]?\s*+(?:[>＞,，.\[]|\d++[.)]|\Z)|(?:passage|document|text)\s++\w{1,9}\W*+\Z|(?:yes|no)(?!\w))",
    re.IGNORECASE,
)
_LONGEST_MARK = 100  # characters, with the line breaks behind it
_LONGEST_NUMBER = 9  # digits; longer ones are out of any window's range, and int() refuses thousands of digits


class ParseStatus(StrEnum):
    """How an answer was read: the first that applies, from worst to best."""

    EMPTY = "empty"
    """No text, or an answer that names no passage (is neither yes nor no, where that was asked)."""
    UNCLOSED_THINK = "unclosed_think"
    """A ``<think>`` that never ends: cut at the token limit, as a rule."""
    NO_ANSWER_TAG = "no_answer_tag"
    """Tags were asked for, and there is no complete ``<answer>...</answer>`` outside the reasoning."""
    OUT_OF_RANGE = "out_of_range"
    """An identifier that is not in the window, ``[0]`` among them; it is ignored."""
    DUPLICATES = "duplicates"
    """A passage named twice, or several where the best alone was asked for; what came first counts."""
    PARTIAL = "partial"
    """Some passages were not named."""
    OK = "ok"
    """Each passage named exactly once; or the one that was asked for; or a yes or no."""


@dataclass(frozen=True, slots=True)
class ParsedRanking:
    """What was read.

    ``think`` and ``answer`` are the texts inside the tags (``None`` where absent or unfinished; without tags ``answer``
    is the reply after the reasoning); ``named`` counts the passages the answer named, each once. ``tagged`` says
    whether the reasoning stands in ``<think>``, as prompts ask, and not in another model's marks.
    """

    permutation: Permutation
    status: ParseStatus
    think: str | None
    answer: str | None
    named: int = 0
    tagged: bool = False

    @property
    def is_canonical(self) -> bool:
        """True for a complete permutation in the form the prompts ask for, ``[3] > [1] > [2]``."""
        return self.status is ParseStatus.OK and self.answer is not None and bool(_CANONICAL.fullmatch(self.answer))


@dataclass(frozen=True, slots=True)
class ParsedRelevance:
    """What was read of an answer about one passage; ``relevant`` is ``None`` where it is neither yes nor no."""

    relevant: bool | None
    status: ParseStatus
    think: str | None
    answer: str | None

    @property
    def ranking(self) -> ParsedRanking:
        """The same as of a window of one passage, which was named if it was judged."""
        named = int(self.relevant is not None)
        return ParsedRanking(Permutation.identity(1), self.status, self.think, self.answer, named)


def parse_ranking(
    text: str, size: int, *, tags: bool = True, best: bool = False, letters: bool = False
) -> ParsedRanking:
    """Read the ranking that ``text`` gives of a window of ``size`` passages.

    Args:
        text: a model's completion; any string.
        size: number of passages in the window, at least 0.
        tags: whether the prompt asked for ``<answer>`` tags. If so identifiers come from the last complete
            ``<answer>``; if not, from the reply after the reasoning.
        best: whether it asked for the best passage alone. One identifier is then a complete answer, "Passage 3" is one
            too, and naming several is not what was asked.
        letters: whether it labelled the passages A, B, ... instead of 1, 2, ...

    Returns:
        A full permutation always; see :class:`ParseStatus` for what went wrong.

    Raises:
        ValueError: if ``size`` is negative. Never because of ``text``.
    """
    if size < 0:
        raise ValueError(f"a window can't have {size} passages")
    reply, think, unclosed, tagged = _split_reasoning(text)
    answer = _last_answer(reply) if tags else reply
    numbers = _letters(answer or "", size) if letters else _numbers(answer or "", size, best)
    order, out_of_range, duplicates = _positions(numbers, size)
    rest = (i for i in range(size) if i not in order) if len(order) < size else ()
    permutation = Permutation((*order, *rest))
    status = _form(text, answer, unclosed, names_any=bool(order) or out_of_range)
    if status is ParseStatus.OK:
        if out_of_range:
            status = ParseStatus.OUT_OF_RANGE
        elif duplicates or (best and len(order) > 1):
            status = ParseStatus.DUPLICATES
        elif len(order) < size and not best:
            status = ParseStatus.PARTIAL
    return ParsedRanking(permutation, status, think, answer, len(order), tagged)


def parse_yes_no(text: str, *, tags: bool = True) -> ParsedRelevance:
    """Read whether ``text`` calls its one passage relevant: by the answer's first word, or the only yes or no in it.

    Args:
        text: a model's completion; any string.
        tags: whether the prompt asked for ``<answer>`` tags, as in ``parse_ranking``.
    """
    reply, think, unclosed, _ = _split_reasoning(text)
    answer = _last_answer(reply) if tags else reply
    relevant = _yes_or_no(answer or "")
    status = _form(text, answer, unclosed, names_any=relevant is not None)
    return ParsedRelevance(relevant, status, think, answer)


def _form(text: str, answer: str | None, unclosed: bool, *, names_any: bool) -> ParseStatus:
    """The status by the completion's form alone."""
    if not text.strip() or (answer is not None and not unclosed and not names_any):
        return ParseStatus.EMPTY
    if unclosed:
        return ParseStatus.UNCLOSED_THINK
    return ParseStatus.NO_ANSWER_TAG if answer is None else ParseStatus.OK


def _yes_or_no(answer: str) -> bool | None:
    first = _FIRST_WORD.match(answer)
    if first is not None:
        return first.group(1) is not None
    found = {word.group(1) is not None for word in _YES_OR_NO.finditer(answer)}
    return found.pop() if len(found) == 1 else None


def is_mark(text: str) -> bool:
    """Whether ``text`` is a reasoning's opening or closing mark, and nothing else."""
    return _MARK.fullmatch(text) is not None


def opened_at_end(text: str) -> str:
    """The opening mark of a reasoning that ends ``text``, white space included; ``""`` where there is none."""
    end = text[-_LONGEST_MARK:]
    last = [mark for mark in _MARK.finditer(end) if not end[mark.end() :].strip()]
    return end[last[0].start() :] if last and not (last[0]["close"] or last[0]["closes"]) else ""


def cut_in_reasoning(text: str) -> bool:
    """Whether a text that the token limit cut is a reasoning that a chat template opened out of sight.

    For servers, whose templates aren't known. Such a text has no mark of a reasoning and doesn't begin with an answer.
    """
    return bool(text.strip()) and not (_MARK.search(text) or _WORDED.match(text) or _ANSWER_FIRST.match(text))


def _split_reasoning(text: str) -> tuple[str, str | None, bool, bool]:
    """(reply outside the reasoning, first complete reasoning, whether one stays open, whether it is in ``<think>``).

    Some chat templates open the reasoning themselves, so a closing mark that comes first ends a reasoning that began
    with the completion. Inside a reasoning only its own closing mark counts.
    """
    if worded := _WORDED.match(text):
        said = worded[worded.lastindex] if worded.lastindex else None
        return text[worded.end() :] if said is not None else "", said, said is None, False
    reply: list[str] = []
    think: str | None = None
    tagged, start = False, 0
    inside: tuple[str, str] | None = None
    for number, mark in enumerate(_MARK.finditer(text)):
        kind = (mark["left"], mark["word"].lower()) if mark["word"] else _OTHER
        closes = bool(mark["close"] or mark["closes"])
        if closes and (inside == kind or number == 0):
            if think is None:
                think, tagged = text[start : mark.start()], mark[0].lower() == "</think>"
            inside, start = None, mark.end()
        elif not closes and inside is None:
            reply.append(text[start : mark.start()])
            inside, start = kind, mark.end()
    if inside is None:
        reply.append(text[start:])
    return "".join(reply), think, inside is not None, tagged


def _last_answer(reply: str) -> str | None:
    """The content of the last ``<answer>`` that is closed."""
    last: str | None = None
    position = 0
    opens = [m.end() for m in _ANSWER_OPEN.finditer(reply)]
    for close in _ANSWER_CLOSE.finditer(reply):
        inner: int | None = None
        while position < len(opens) and opens[position] <= close.start():
            inner = opens[position]
            position += 1
        if inner is not None:
            last = reply[inner : close.start()]
    return last


def _numbers(answer: str, size: int, best: bool) -> Sequence[str]:
    """The identifiers that ``answer`` names, in its order."""
    if _CANONICAL.fullmatch(answer):
        return _DIGITS.findall(answer)  # what most trained models write, read in a third of the time
    if numbers := _bracketed(answer, _NUMBERS, _NUMBER, size):
        return numbers
    if _BARE_LIST.fullmatch(answer):
        return _NUMBER.findall(answer)
    chains = [_NUMBER.findall(chain) for chain in _BARE_CHAIN.findall(answer)]
    if chains or not best:
        return _longest(chains, size)
    return [name for name in _NAMED.findall(answer) if name.isdigit()]


def _letters(answer: str, size: int) -> Sequence[str]:
    """As ``_numbers``, of passages labelled A, B, ...: as the numbers 1, 2, ..."""
    if letters := _bracketed(answer, _LETTERS, _LETTER, size):
        return letters
    if _BARE_LETTERS.fullmatch(answer):
        return _as_numbers(_LETTER.findall(answer))
    chains = [_as_numbers(_LETTER.findall(chain)) for chain in _BARE_LETTER_CHAIN.findall(answer)]
    return _longest(chains, size) or _as_numbers(n for n in _NAMED.findall(answer) if not n.isdigit())


def _as_numbers(labels: Iterable[str]) -> list[str]:
    """Letters as the numbers of their places; numbers as they are."""
    return [str(ord(label.upper()) - ord("A") + 1) if label.isalpha() else label for label in labels]


def _bracketed(answer: str, several: re.Pattern[str], one: re.Pattern[str], size: int) -> Sequence[str]:
    """The order by the labels in bracket pairs that hold nothing else.

    Where no word stands around them, all count, in the order of their first mention. Else a chain by ``>`` says what
    the order is, or a list that names as many as all of the text does.
    """
    every: list[str] = []
    chains: list[list[str]] = []
    lists: list[list[str]] = []
    end, chained, prose = 0, False, False
    for bracket in _BRACKETS.finditer(answer):
        inner = bracket.group(1)
        if not several.fullmatch(inner):
            continue
        labels = _as_numbers(one.findall(inner))
        between = _REMARK.sub("", answer[end : bracket.start()])
        words, line = any(map(str.isalnum, between)), "\n" in between.strip()
        follows = bool(every) and not line and between.rstrip("*_` \t\r\n").endswith(_MORE)
        if follows and not chained:
            chains.append(lists[-1][-1:])
        if follows or (chained and not between.strip(" \t*_`,，")):
            chains[-1] += labels
            chained = True
        else:
            chained = any(sign in inner for sign in _MORE)
            chains += [list(labels)] if chained else []
        if every and not words:
            lists[-1] += labels
        else:
            lists.append(list(labels))
        prose = prose or words
        every += labels
        end = bracket.end()
    if not (prose or any(map(str.isalnum, answer[end:]))):
        return every
    chain, listing = _longest(chains, size), _longest(lists, size)
    if _valid(chain, size):
        return chain
    return listing if _valid(listing, size) == _valid(every, size) else every


def _longest(chains: Sequence[Sequence[str]], size: int) -> Sequence[str]:
    """The chain that names most of the window's passages, the first of equals."""
    return max(chains, key=lambda chain: _valid(chain, size), default=())


def _valid(labels: Sequence[str], size: int) -> int:
    """How many passages of a window of ``size`` the labels name, each once."""
    return len(_positions(labels, size)[0])


def _positions(numbers: Sequence[str], size: int) -> tuple[dict[int, None], bool, bool]:
    """(0-based positions in the order named, whether any was out of range, whether any came twice)."""
    order: dict[int, None] = {}
    out_of_range = duplicates = False
    for number in numbers:
        # The minus sign U+2212 and anything negative or over-long lie outside every window.
        position = int(number) - 1 if number[0] not in "-−" and len(number) <= _LONGEST_NUMBER else -1
        if not 0 <= position < size:
            out_of_range = True
        elif position in order:
            duplicates = True
        else:
            order[position] = None
    return order, out_of_range, duplicates
