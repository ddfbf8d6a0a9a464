"""Tags and the marks of a reasoning in a completion: what is reasoning, what is reply, and where the answer stands.

``rearank.parsing`` reads completions with these, and ``rearank.neutral`` keeps them out of prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# How models mark their reasoning: <think>, [THINK], ◁think▷, <seed:think>, <|begin_of_thought|>, <|START_THINKING|>; in
# no such form gpt-oss, Apertus, MedGemma, Gemma. One charset comes first, which makes the search ten times as fast.
MARK = re.compile(
    r"(?P<left>[<\[◁])(?:[|｜]?(?P<close>/|end_(?:of_)?)?(?:(?:begin|start)_(?:of_)?|\w{1,20}[:_])?"
    r"(?P<word>think(?:ing)?|thoughts?|reason(?:ing)?|analysis|scratchpad|reflection)(?:_(?:start|begin)|(?P<shut>_end))?"
    r"[|｜]?[>\]▷]"
    r"|(?P<opens>\|channel\|>(?:analysis|commentary)<\|message\|>|\|inner_prefix\|>|unused94>(?:thought)?"
    r"|\|channel>thought)"
    r"|(?P<closes>\|channel\|>final<\|message\|>|\|inner_suffix\|>|unused95>|channel\|>))",
    re.IGNORECASE,
)
# In words: gpt-oss' without its special tokens, and Granite's.
WORDED = re.compile(
    r"analysis(?=[A-Z])(?:(?s:(.*?))assistantfinal)?|Here is my thought process:(?s:(.*?))Here is my response:"
)
# The tag with which a text begins, <cot> or <details type="reasoning">, and what it holds if it is closed.
_LEADING = re.compile(
    r"\s*+(?P<tag><\s*+(?P<name>[a-z][a-z_.:-]{0,40}+)(?:\s[^<>]{0,200}+)?+>)"
    r"(?:(?P<inside>(?s:.*?))<\s*+/\s*+(?P=name)\s*+>)?+",
    re.IGNORECASE,
)
_REASONING = re.compile(r"think|thought|reason|analys|scratchpad|reflect|monologue|deliberat|\bcot\b", re.IGNORECASE)
# What isn't put around a reasoning: names of an answer, and what HTML is written with.
_NO_REASONING = re.compile(
    r".*(?:answer|rank|result|output|response|reply|final|order|permutation|solution)|json|xml|(?:[biaup]|[oud]l|li|d[dt]"
    r"|em|strong|mark|small|div|span|code|pre|table|t[hrd]|tbody|thead|html|body|main|section|article|blockquote|center"
    r"|font)\Z",
    re.IGNORECASE,
)
_LABEL = re.compile(r"\W*+(?:(?:passage|document|doc|text)\W++)?(?:\d++|[a-z])\W*+", re.IGNORECASE)
_READABLE = re.compile(r"[\d\[［【]|\b(?:[B-Z]|(?-i:A))\b(?<!I)|\b(?:yes|no)\b", re.IGNORECASE)
_MOST_LEADING = 8  # a bound keeps the time linear
_OTHER = ("", "")
# Behind a word it is a type's parameter in code: List<Answer>.
_ANSWER = re.compile(r"(?P<opens>(?!(?<=[A-Za-z0-9_])<(?-i:Answer)>)<answer>)|</answer>", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z0-9_]<[A-Z][a-z]+>")


def split_reasoning(text: str) -> tuple[str, str | None, bool, bool]:
    """(reply outside the reasoning, first complete reasoning, whether one stays open, whether it is in ``<think>``).

    Some chat templates open the reasoning themselves, so a closing mark that comes first ends a reasoning that began
    with the completion. Inside a reasoning only its own closing mark counts. No reasoning opens directly behind a word
    (``List<thought>``), nor inside an answer that is complete (``because of <reason> code``) unless it closes there.
    A text that begins with any other tag than an answer's or HTML's has its reasoning inside, if a reply follows.
    """
    begin, said, cut = _leading(text)
    if cut:
        return "", None, True, False
    reply, think, unclosed, tagged = _split(text[begin:] if begin else text)
    return reply, said if think is None and not unclosed else think, unclosed, tagged


def _leading(text: str) -> tuple[int, str | None, bool]:
    """(where the reply begins, the reasoning in the tag with which ``text`` begins, whether that is never closed)."""
    begin, said = 0, None
    for _ in range(_MOST_LEADING):
        tag = _LEADING.match(text, begin)
        if tag is None or MARK.fullmatch(tag["tag"]) or _NO_REASONING.match(tag["name"]):
            break
        known = _REASONING.search(tag["tag"]) is not None
        if tag["inside"] is None:
            return begin, said, known and not any(map(closes, MARK.finditer(text, tag.end())))
        if not (known or _is_reasoning(text, tag)):
            break
        begin, said = tag.end(), tag["inside"] if said is None else said
    return begin, said, False


def _is_reasoning(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag of no known name holds a reasoning: not one label of several, nor the reply itself."""
    again = re.compile(rf"<\s*+{re.escape(tag['name'])}[\s>]", re.IGNORECASE)
    if _LABEL.fullmatch(tag["inside"]) or again.search(text, tag.end()) or not _READABLE.search(text, tag.end()):
        return False
    return any(begin > tag.end() for begin, _ in answers_in(text)) or not any(answers_in(tag["inside"]))


def _split(text: str) -> tuple[str, str | None, bool, bool]:
    """As ``split_reasoning``, by known marks."""
    if worded := WORDED.match(text):
        said = worded[worded.lastindex] if worded.lastindex else None
        return text[worded.end() :] if said is not None else "", said, said is None, False
    reply: list[str] = []
    think: str | None = None
    tagged, start, first = False, 0, True
    inside: tuple[str, str] | None = None
    marks = list(MARK.finditer(text))
    closed = _closed(marks) if marks else []
    answers = answers_in(text) if marks else iter(())
    opened, ended = next(answers, (0, 0))
    for mark, closing in zip(marks, closed, strict=True):
        kind = _kind(mark)
        if closes(mark):
            if inside == kind or first:
                if think is None:
                    think, tagged = text[start : mark.start()], mark[0].lower() == "</think>"
                inside, start = None, mark.end()
        elif inside is None:
            while ended and ended < mark.end():
                opened, ended = next(answers, (0, 0))
            answered = start <= opened <= mark.start() and not (closing is not None and closing < ended)
            if (ended and answered) or is_behind_word(text, mark):
                continue
            reply.append(text[start : mark.start()])
            inside, start = kind, mark.end()
        first = False
    if inside is None:
        reply.append(text[start:])
    return "".join(reply), think, inside is not None, tagged


def answers_in(text: str) -> Iterator[tuple[int, int]]:
    """Where the content of each closed ``<answer>`` begins and ends."""
    opened: int | None = None
    for tag in _ANSWER.finditer(text):
        if tag["opens"]:
            opened = tag.end()
        elif opened is not None:
            yield opened, tag.start()
            opened = None


def is_behind_word(text: str, mark: re.Match[str]) -> bool:
    """Whether an opening mark is code's, as in ``List<thought>`` or ``by[reason]``: directly behind a word."""
    before = text[mark.start() - 1 : mark.start()]
    return bool(mark["word"]) and not closes(mark) and before.isascii() and (before.isalnum() or before == "_")


def is_parameter(text: str, place: int) -> bool:
    """Whether the ``<`` at ``place`` begins a type's parameter in code, ``List<Answer>``, which is read as no tag."""
    return place > 0 and _CODE.match(text, place - 1) is not None


def _kind(mark: re.Match[str]) -> tuple[str, str]:
    return (mark["left"], mark["word"].lower()) if mark["word"] else _OTHER


def closes(mark: re.Match[str]) -> bool:
    """Whether a mark ends a reasoning."""
    return bool(mark["close"] or mark["shut"] or mark["closes"])


def _closed(marks: list[re.Match[str]]) -> list[int | None]:
    """For each mark, where the next closing one of its kind begins."""
    nearest: dict[tuple[str, str], int] = {}
    found: list[int | None] = []
    for mark in reversed(marks):
        kind = _kind(mark)
        if closes(mark):
            nearest[kind] = mark.start()
        found.append(nearest.get(kind))
    return found[::-1]
