"""Where shared prompts want a group's answers: on one GPU, and in one pass of the model."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby


def over_ranks(
    groups: Sequence[Hashable], prompt: Sequence[int], answer: Sequence[int], ranks: int, update: int
) -> list[int]:
    """An order of a step's answers: the first rank's, then the next one's, and so on, the same number for each.

    Each rank's answers are again in the order of the updates that they belong to. An update takes neighbours of the
    given order, whatever the number of ranks. Its groups stay whole where each rank can have as many of them as the
    next, and the ranks' tokens are balanced; otherwise neighbours stay together.

    Args:
        groups: the group of each answer; a group's answers are neighbours.
        prompt: tokens of each answer's prompt.
        answer: tokens of each answer.
        ranks: their number divides ``update``.
        update: answers of one update; divides the number of answers.
    """
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for begin in range(0, len(groups), update):
        block = range(begin, begin + update)
        whole = [list(its) for _, its in groupby(block, groups.__getitem__)]
        if len(whole) % ranks or len({len(its) for its in whole}) > 1:
            share = update // ranks
            spread = [[list(block[place : place + share])] for place in range(0, update, share)]
        else:
            tokens = [prompt[its[0]] + sum(answer[index] for index in its) for its in whole]
            spread = [[whole[number] for number in one] for one in _even(tokens, ranks)]
        for part, its_groups in zip(parts, spread, strict=True):
            part += sorted(index for its in its_groups for index in its)
    return [index for part in parts for index in part]


def _even(tokens: Sequence[int], ranks: int) -> list[list[int]]:
    """As many items for each rank as for the next: the largest first, each to the rank with the fewest tokens yet."""
    spread: list[list[int]] = [[] for _ in range(ranks)]
    for number in sorted(range(len(tokens)), key=tokens.__getitem__, reverse=True):
        free = [its for its in spread if len(its) < len(tokens) // ranks]
        min(free, key=lambda its: sum(map(tokens.__getitem__, its))).append(number)
    return spread


def into_passes(
    groups: Sequence[Hashable],
    prompt: Sequence[int],
    answer: Sequence[int],
    budget: int,
    *,
    padded: bool,
    at_least: int = 1,
) -> list[list[int]]:
    """Which answers go through the model together; a prompt's answers do where they fit.

    Args:
        groups: the prompt of each answer.
        prompt: tokens of each answer's prompt.
        answer: tokens of each answer.
        budget: tokens of a pass, each prompt counted once; an answer that exceeds it has a pass of its own.
        padded: whether every group is a row, with prompts as long as the pass's longest and answers as long as the
            pass's most; otherwise nothing is padding.
        at_least: so many passes, if there are as many answers. Sharded over GPUs all of them need the same number.
    """

    def tokens(piece: Sequence[int]) -> int:
        return prompt[piece[0]] - 1 + answered(piece)

    def answered(piece: Sequence[int]) -> int:
        return sum(answer[index] for index in piece)

    def cost(pieces: Sequence[Sequence[int]]) -> int:
        if not padded:
            return sum(map(tokens, pieces))
        return len(pieces) * (max(prompt[piece[0]] - 1 for piece in pieces) + max(map(answered, pieces)))

    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    pieces = [piece for its in members.values() for piece in _pieces(its, prompt, answer, budget)]
    passes: list[list[list[int]]] = []
    for piece in sorted(pieces, key=tokens, reverse=True):  # neighbours of about the same length need little padding
        for made in passes:
            if cost([*made, piece]) <= budget:
                made.append(piece)
                break
        else:
            passes.append([piece])
    found = [[index for piece in made for index in piece] for made in passes]
    while len(found) < min(at_least, len(groups)):
        largest = max(found, key=len)
        half = (len(largest) + 1) // 2
        found.append(largest[half:])
        del largest[half:]
    return found


def _pieces(indexes: Sequence[int], prompt: Sequence[int], answer: Sequence[int], budget: int) -> Iterator[list[int]]:
    """One group's answers, in parts that fit a pass with their prompt."""
    piece: list[int] = []
    used = before = prompt[indexes[0]] - 1
    for index in indexes:
        if piece and used + answer[index] > budget:
            yield piece
            piece, used = [], before
        piece.append(index)
        used += answer[index]
    yield piece
