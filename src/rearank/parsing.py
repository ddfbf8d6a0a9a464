"""Completion text -> permutation and status. Training and evaluation read answers here and nowhere else.

A completion is untrusted: every string, however long or malformed, gives a full permutation of the window. What the
answer named comes first, in its order; the rest follows as it was given. Identifiers are read from the answer only,
never from the reasoning, whatever marks a model puts around it. Where prose stands around the order, the longest chain
of distinct valid identifiers is the order: of complete ones that contradict each other the last, unless the first
begins the answer, and else the first of equal ones. The time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from rearank.marks import MARK, WORDED, answers_in, closes, is_behind_word, split_reasoning
from rearank.types import Permutation
from rearank.yes_no import yes_or_no

# One bracket pair around one or more numbers: [3], [3, 1], ["3", "1"], [3 > 1], and full-width ［3］, 【3】.
_BRACKETS = re.compile(r"[\[［【]([^\[\]［］【】]*)[\]］】]")
_LABEL = r"[\"']?[-−]?\d++(?:\.0++)?+[\"']?\s*+"  # [2.0] is [2]
_NUMBERS = re.compile(rf"\s*+{_LABEL}(?:[,，>＞]\s*+{_LABEL})*+")
_NUMBER = re.compile(r"([-−]?\d+)(?:\.0++(?!\d))?")
_MARGIN = "*_` \t\r\n"  # of what stands between two labels
_DIGITS = re.compile(r"\d+")
# Without brackets, or in round ones, only text that is nothing but a list counts ("3 > 1", "(3), (1)"), or else the
# longest chain of `>`.
_BARE_LIST = re.compile(r"\s*+[(（]?\d++(?:(?:[)）]?\s*+[,，>＞]\s*+|[)）]?\s++)[(（]?\d++)*+[)）]?\s*+[.。]?\s*+")
_PASSAGE = r"(?:(?i:passage|document|doc|text)\s++)?+"
_BEFORE, _BEHIND = r"[#*`\"'(（]{0,3}+", r"[*`\"')）]{0,3}+"
_BARE_CHAIN = re.compile(
    rf"(?<![\w.]){_PASSAGE}{_BEFORE}(?<![\w.])\d++(?:{_BEHIND}\s*+[>＞]\s*+{_PASSAGE}{_BEFORE}\d++)++"
)
# What may stand around a list without brackets that is complete: a heading, and a remark at the end.
_AROUND = re.compile(
    r"\A[\s*_#]*+(?i:(?:(?:my|the|final|best) )*+(?:ranking|order|answer|result|output|list|permutation)(?: is)?)"
    r"[*_ ]*+:[\s*_]*+|\([^\W\d_]{2}[^()]*+\)\s*+[.。]?\s*+\Z"
)
_CANONICAL = re.compile(r"\s*+\[\d++\](?:\s*+>\s*+\[\d++\])*+\s*+")
# Letters as labels: [B], [B > A]; without brackets an answer that is nothing but labels, or else "Passage B".
_LETTERS = re.compile(r"\s*+[\"']?[A-Za-z][\"']?\s*+(?:[,，>＞]\s*+[\"']?[A-Za-z][\"']?\s*+)*+")
_LETTER = re.compile(r"[A-Za-z]")
_BARE_LETTERS = re.compile(r"\W*+[A-Za-z](?:[)）]?\s*+[,，>＞]\s*+[(（]?[A-Za-z])*+\W*+")
_BARE_LETTER_CHAIN = re.compile(rf"(?<!\w)[A-Za-z](?:{_BEHIND}\s*+[>＞]\s*+{_BEFORE}[A-Za-z](?!\w))++")
# Between two identifiers of one chain: remarks in round brackets, the numbers of a list, and tags don't count.
_REMARK = re.compile(r"\([^()]*+\)|\n\s*+\d++[.)]|</?[A-Za-z]\w{0,20}>")
_MORE = (">", "＞", "≻", "→", "≥")
# An order from worst to best isn't the one that was asked for, and none is guessed from it.
_LESS = ("<", "＜", "≺", "←", "≤", "⪯", "≼", "≪", "<-", "<=", "&lt;")
_WORST_FIRST = re.compile(
    r"\b(?:least|worst|lowest)(?:[ -]relevant)? (?:to (?:the )?(?:most|best|highest)|first)\b", re.IGNORECASE
)
_NAMED = re.compile(r"\b(?i:passage|document|text)\s++[\[(]?([A-Z]|\d++)(?!\w)")
# How an answer without reasoning begins: its tag, a chain (behind a short heading), a label, or a yes or no.
_ANSWER_FIRST = re.compile(
    r"[\s*_`]*+(?:<answer>|(?:[^\d<>\[［【\n]{0,80}[:\n][\s*_`]*+)?(?:\d{1,3}[.)]\s*+)?[\[［【(（]?[\"']?(?:\d{1,9}|[A-Z](?!\w))"
    r"[\"']?[\]］】)）]?\s*+(?:[>＞,，.\[]|\d++[.)]|\Z)|(?:passage|document|text)\s++\w{1,9}\W*+\Z|(?:yes|no)(?!\w))",
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
    reply, think, unclosed, tagged = split_reasoning(text)
    answer = _last_answer(reply) if tags else reply
    numbers = _letters(answer or "", size, best) if letters else _numbers(answer or "", size, best)
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
    reply, think, unclosed, _ = split_reasoning(text)
    answer = _last_answer(reply) if tags else reply
    relevant = yes_or_no(answer or "")
    status = _form(text, answer, unclosed, names_any=relevant is not None)
    return ParsedRelevance(relevant, status, think, answer)


def _form(text: str, answer: str | None, unclosed: bool, *, names_any: bool) -> ParseStatus:
    """The status by the completion's form alone."""
    if not text.strip() or (answer is not None and not unclosed and not names_any):
        return ParseStatus.EMPTY
    if unclosed:
        return ParseStatus.UNCLOSED_THINK
    return ParseStatus.NO_ANSWER_TAG if answer is None else ParseStatus.OK


def is_mark(text: str) -> bool:
    """Whether ``text`` is a reasoning's opening or closing mark, and nothing else."""
    return MARK.fullmatch(text) is not None


def opened_at_end(text: str) -> str:
    """The opening mark of a reasoning that ends ``text``, white space included; ``""`` where there is none."""
    end = text[-_LONGEST_MARK:]
    last = [mark for mark in MARK.finditer(end) if not end[mark.end() :].strip()]
    return end[last[0].start() :] if last and not closes(last[0]) else ""


def cut_in_reasoning(text: str) -> bool:
    """Whether a text that the token limit cut is a reasoning that a chat template opened out of sight.

    For servers, whose templates aren't known. Such a text has no mark of a reasoning and doesn't begin with an answer.
    """
    if not text.strip() or WORDED.match(text) or _ANSWER_FIRST.match(text):
        return False
    return all(is_behind_word(text, mark) for mark in MARK.finditer(text))


def _last_answer(reply: str) -> str | None:
    """The content of the last ``<answer>`` that is closed."""
    found = list(answers_in(reply))
    return reply[found[-1][0] : found[-1][1]] if found else None


def _numbers(answer: str, size: int, best: bool) -> Sequence[str]:
    """The identifiers that ``answer`` names, in its order."""
    if _CANONICAL.fullmatch(answer):
        return _DIGITS.findall(answer)  # what most trained models write, read in a third of the time
    numbers, rising = _bracketed(answer, _NUMBERS, _NUMBER, size)
    if rising or (numbers and (best or _valid(numbers, size) == size)):
        return numbers
    chain = _bare(_BARE_CHAIN, _NUMBER, answer, size)
    if numbers:  # a stray bracket beside a whole chain is no order
        return chain if _valid(chain, size) == size else numbers
    if _BARE_LIST.fullmatch(bare := _without_heading(answer)):
        listed = _NUMBER.findall(bare)
        if bare == answer or _valid(listed, size) == size:
            return listed
    return chain or ([name for name in _named(answer) if name.isdigit()] if best else ())


def _letters(answer: str, size: int, best: bool) -> Sequence[str]:
    """As ``_numbers``, of passages labelled A, B, ...: as the numbers 1, 2, ..."""
    letters, rising = _bracketed(answer, _LETTERS, _LETTER, size)
    if rising or (letters and (best or _valid(letters, size) == size)):
        return letters
    chain = _bare(_BARE_LETTER_CHAIN, _LETTER, answer, size)
    if letters:
        return chain if _valid(chain, size) == size else letters
    if _BARE_LETTERS.fullmatch(bare := _without_heading(answer)):
        listed = _as_numbers(_LETTER.findall(bare))
        if bare == answer or _valid(listed, size) == size:
            return listed
    return chain or _as_numbers(name for name in _named(answer) if not name.isdigit())


def _bare(several: re.Pattern[str], one: re.Pattern[str], answer: str, size: int) -> Sequence[str]:
    """The order by the chains without brackets."""
    found = list(several.finditer(answer))
    chains = [_as_numbers(one.findall(chain[0])) for chain in found]
    begins = bool(found) and not any(map(str.isalnum, answer[: found[0].start()]))
    return _longest(chains, size, chains[0] if begins else ())


def _without_heading(answer: str) -> str:
    return answer if _WORST_FIRST.search(answer) else _AROUND.sub("", answer)


def _named(answer: str) -> list[str]:
    """The labels of ``Passage 3`` or ``document B``; none where a sign puts the worse one first."""
    found = list(_NAMED.finditer(answer))
    for before, after in pairwise(found):
        if answer[before.end() : after.start()].strip(_MARGIN).endswith(_LESS):
            return []
    return [name[1] for name in found]


def _as_numbers(labels: Iterable[str]) -> list[str]:
    """Letters as the numbers of their places; numbers as they are."""
    return [str(ord(label.upper()) - ord("A") + 1) if label.isalpha() else label for label in labels]


def _bracketed(answer: str, several: re.Pattern[str], one: re.Pattern[str], size: int) -> tuple[Sequence[str], bool]:
    """(the order by the labels in bracket pairs that hold nothing else, whether there is one from worst to best).

    Where no word stands around them, all count, in the order of their first mention. Else a chain by ``>`` says what
    the order is, or a list that names as many as all of the text does. Beside an order from worst to best only such a
    chain counts.
    """
    every: list[str] = []
    chains: list[list[str]] = []
    lists: list[list[str]] = []
    end, chained, prose, rising, begins = 0, False, False, False, False
    for bracket in _BRACKETS.finditer(answer):
        inner = bracket.group(1)
        if not several.fullmatch(inner):
            continue
        labels = _as_numbers(one.findall(inner))
        between = _REMARK.sub("", answer[end : bracket.start()])
        words, line = any(map(str.isalnum, between)), "\n" in between.strip()
        sign = between.rstrip(_MARGIN)
        follows = bool(every) and not line and sign.endswith(_MORE)
        rising = rising or (bool(every) and sign.endswith(_LESS))
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
        begins = begins if every else not words
        every += labels
        end = bracket.end()
    rising = rising or (bool(every) and not chains and _WORST_FIRST.search(answer) is not None)
    if not (rising or prose or any(map(str.isalnum, answer[end:]))):
        return every, False
    start = every if begins else ()
    chain, listing = _longest(chains, size, start), _longest(lists, size, start)
    if rising or _valid(chain, size):
        return chain, rising
    return (listing if _valid(listing, size) == _valid(every, size) else every), False


def _longest(chains: Sequence[Sequence[str]], size: int, start: Sequence[str]) -> Sequence[str]:
    """The chain that names most of the window's passages, the first of equals.

    Of complete ones that contradict each other it is the last, unless the first is ``start``: a denied order is
    mentioned before the right one, and a reason behind it.
    """
    first = max(chains, key=lambda chain: _valid(chain, size), default=())
    if _valid(first, size) < size or first == start[: len(first)]:
        return first
    last = next((chain for chain in reversed(chains) if _valid(chain, size) == size), first)
    return first if [*_positions(first, size)[0]] == [*_positions(last, size)[0]] else last


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
