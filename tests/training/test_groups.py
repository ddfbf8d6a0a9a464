"""Which answers are on one rank, and go through the model together, where a group shares its prompt."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearank.training.verl import Cluster, VerlTrainer
from rearank.training.verl.sharing.groups import into_passes, over_ranks


def spread(sizes: list[int], ranks: int, update: int, answer: list[int] | None = None) -> list[list[int]]:
    """Each rank's answers of groups of these sizes."""
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    order = over_ranks(groups, [10] * len(groups), answer or [1] * len(groups), ranks, update)
    each = len(groups) // ranks
    return [order[begin : begin + each] for begin in range(0, len(groups), each)]


def test_a_group_is_on_one_rank_and_tokens_are_balanced() -> None:
    lengths = [9, 9, 1, 1, 2, 2, 8, 8]
    assert spread([2, 2, 2, 2], 2, 8, lengths) == [[0, 1, 2, 3], [4, 5, 6, 7]], "28 and 28 tokens of answers"


def test_an_update_has_the_groups_that_one_rank_would_give_it() -> None:
    """verl hands a rank's answers to updates in their order: the first update is of groups 0 to 3 on any ranks."""
    for ranks in (1, 2, 4):
        parts = spread([2] * 8, ranks, update=8, answer=list(range(16)))
        share = 8 // ranks
        assert sorted(index for part in parts for index in part[:share]) == list(range(8))
        assert sorted(index for part in parts for index in part[share:]) == list(range(8, 16))


def test_groups_that_are_fewer_than_ranks_are_cut_once() -> None:
    assert spread([4, 4], 4, 8) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert spread([4, 4, 4], 2, 12) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_groups_of_other_sizes_stay_in_order() -> None:
    assert spread([3, 1, 2, 2], 2, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_answer_has_one_place(data: st.DataObject) -> None:
    ranks = data.draw(st.sampled_from([1, 2, 4]))
    size = data.draw(st.integers(1, 4))
    update = ranks * size * data.draw(st.integers(1, 3))
    sizes = [size] * (update * data.draw(st.integers(1, 3)) // size)
    answer = data.draw(st.lists(st.integers(1, 9), min_size=sum(sizes), max_size=sum(sizes)))
    parts = spread(sizes, ranks, update, answer)
    assert sorted(index for part in parts for index in part) == list(range(sum(sizes)))
    for part in parts:  # whole groups, next to each other
        assert [len(list(its)) for _, its in groupby(part, lambda index: index // size)] == [size] * (len(part) // size)


def test_a_group_goes_through_in_one_pass_where_it_fits() -> None:
    # Rows of 9 prompt tokens (the last one counts with the answers) and 2 x 5 of answers.
    assert into_passes("abab", [10] * 4, [5] * 4, budget=38, padded=True) == [[0, 2, 1, 3]]
    assert into_passes("abab", [10] * 4, [5] * 4, budget=37, padded=True) == [[0, 2], [1, 3]]


def test_a_group_that_does_not_fit_repeats_its_prompt() -> None:
    assert into_passes("aaaa", [10] * 4, [5] * 4, budget=19, padded=True) == [[0, 1], [2, 3]]
    assert into_passes("aa", [10] * 2, [50] * 2, budget=19, padded=True) == [[0], [1]], "alone, whatever its length"


def test_padding_counts() -> None:
    long_and_short = {"groups": "ab", "prompt": [21, 11], "answer": [5, 15]}
    assert len(into_passes(**long_and_short, budget=50, padded=False)) == 1, "25 and 25 tokens"
    assert len(into_passes(**long_and_short, budget=69, padded=True)) == 2, "prompts end in one column: 2 x (20 + 15)"
    assert len(into_passes(**long_and_short, budget=70, padded=True)) == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_as_many_passes_as_are_asked_for(data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=12))
    prompt = [10 + group for group in groups]
    answer = [data.draw(st.integers(1, 9)) for _ in groups]
    wanted, budget = data.draw(st.integers(1, 15)), data.draw(st.integers(25, 90))
    padded = data.draw(st.booleans())
    passes = into_passes(groups, prompt, answer, budget, padded=padded, at_least=wanted)
    assert sorted(index for one in passes for index in one) == list(range(len(groups)))
    assert len(passes) >= min(wanted, len(groups))
    assert all(passes)
    for one in passes:
        its = {groups[index] for index in one}
        rows = [sum(answer[index] for index in one if groups[index] == group) for group in its]
        before = [9 + group for group in its]
        assert (len(its) * (max(before) + max(rows)) if padded else sum(before) + sum(rows)) <= budget


def test_settings() -> None:
    assert VerlTrainer(cluster=Cluster()).mask_form == "flex"
    assert VerlTrainer(cluster=Cluster(), attention="sdpa").mask_form == "dense"
    assert VerlTrainer(cluster=Cluster(), device="cpu").mask_form == "dense"
    with pytest.raises(ValueError, match="shared_prompt must be 'auto' or True or False, not 'maybe'"):
        VerlTrainer(cluster=Cluster(), shared_prompt="maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exclude each other"):
        VerlTrainer(cluster=Cluster(), shared_prompt=True, fused_kernels=True)
