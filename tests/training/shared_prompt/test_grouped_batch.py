"""Rows with the same prompt share it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rearank.training.shared_prompt.batch import GroupedBatch  # noqa: E402


def batch() -> GroupedBatch:
    """Prompts a (two answers), b, then a again; b's ids are a's with more padding."""
    ids = torch.tensor([[0, 5, 6, 7, 1, 2], [0, 5, 6, 7, 3, 0], [0, 0, 6, 7, 4, 0], [0, 5, 6, 7, 0, 0]])
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 0, 0]])
    return GroupedBatch.from_rows(ids, mask, 2)


def test_neighbours_share_a_prompt() -> None:
    found = batch()
    assert found.group.tolist() == [0, 0, 1, 2]
    assert found.prompt_ids.tolist() == [[0, 5, 6, 7], [0, 0, 6, 7], [0, 5, 6, 7]]
    assert found.prompt_mask.sum(1).tolist() == [3, 2, 3]
    assert found.answer_ids.tolist() == [[1, 2], [3, 0], [4, 0], [0, 0]]
    assert found.answer_mask.tolist() == [[1, 1], [1, 0], [1, 0], [0, 0]]


def test_prompts_that_differ_in_padding_alone_are_two() -> None:
    ids = torch.tensor([[0, 5, 1], [0, 5, 1]])
    found = GroupedBatch.from_rows(ids, torch.tensor([[0, 1, 1], [1, 1, 1]]), 1)
    assert found.group.tolist() == [0, 1]


def test_one_row_is_a_group() -> None:
    found = GroupedBatch.from_rows(torch.tensor([[5, 1]]), torch.tensor([[1, 1]]), 1)
    assert (found.group.tolist(), found.prompt_ids.tolist()) == ([0], [[5]])


def test_what_is_padding_everywhere_is_left_out() -> None:
    found = batch()
    assert found.trimmed_prompts().prompt_ids.tolist() == [[5, 6, 7], [0, 6, 7], [5, 6, 7]]
    part = found.part(1, 4)
    assert part.group.tolist() == [0, 1, 2]
    assert part.trimmed_answers().answer_ids.tolist() == [[3], [4], [0]]
    assert found.part(3, 4).trimmed_answers().answer_mask.tolist() == [[0]], "a column stays"
