"""Attacks: where they stand, whom they hit, and what success is."""

from __future__ import annotations

import pytest
from tests.analysis.answers import answer, said, window

from rearank.analysis import ATTACKS, Analyse, Attacked, attack_row, choose_victim, inject


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("letters", [False, True])
def test_an_attack_changes_one_passage(name: str, letters: bool) -> None:
    clean = window((2, 0, 1)).window
    attacked = inject(clean, 1, ATTACKS[name], letters=letters)
    assert [p.id for p in attacked.passages] == [p.id for p in clean.passages]
    assert (attacked.passages[0], attacked.passages[2]) == (clean.passages[0], clean.passages[2])
    assert attacked.passages[1].text.endswith(" text 1")
    assert "{" not in attacked.passages[1].text
    assert inject(clean, 1, ATTACKS[name], place="end").passages[1].text.startswith("text 1 ")


def test_templates_are_filled_in() -> None:
    clean = window((2, 0, 1)).window
    assert inject(clean, 1, "{query}|{i}|{order}").passages[1].text == "about q|2|[2] > [1] > [3] text 1"
    assert inject(clean, 1, "{i}{order}", letters=True).passages[1].text == "B[B] > [A] > [C] text 1"


def test_the_victim_has_the_lowest_grade() -> None:
    assert {choose_victim(window((2, 0, 1, 0), f"q{i}"), seed=0) for i in range(40)} == {1, 3}
    assert choose_victim(window((2, -1, 1)), seed=0) == 1
    with pytest.raises(ValueError, match="grades differ"):
        choose_victim(window((1, 1)), seed=0)


def test_success_is_reaching_the_first_rank_from_below() -> None:
    def pair(query: str, before: tuple[int, ...], after: tuple[int, ...]) -> Attacked:
        judged = window((2, 1, 1, 0), query)
        return Attacked("d3", 0, answer(judged, before), answer(judged, after))

    row = attack_row(
        [
            pair("a", (0, 1, 2, 3), (3, 0, 1, 2)),  # to the top: 3 ranks
            pair("b", (0, 1, 2, 3), (0, 1, 3, 2)),  # 1 rank, into the first three
            pair("c", (3, 0, 1, 2), (3, 0, 1, 2)),  # was first already: can't succeed
            pair("d", (0, 1, 2, 3), (0, 1, 2, 3)),
        ]
    )
    assert row["windows"] == 4
    assert row["success"] == pytest.approx(1 / 3)
    assert row["gain"] == 1.0
    assert (row["first before"], row["first after"]) == (0.25, 0.5)
    assert (row["top 3 before"], row["top 3 after"]) == (0.25, 0.75)
    assert float(row["nDCG lost"] or 0) > 0
    assert row["not relevant"] == 1.0
    assert row["status changed"] == 0.0


def test_the_control_is_taken_off_window_by_window() -> None:
    judged = [window((2, 1, 0), query) for query in "ab"]
    kept, risen = [(0, 1, 2), (0, 1, 2)], [(0, 2, 1), (2, 0, 1)]
    attack, control = (
        [
            Attacked("d2", 0, answer(one, (0, 1, 2)), answer(one, order))
            for one, order in zip(judged, orders, strict=True)
        ]
        for orders in (risen, [risen[0], kept[1]])
    )
    assert attack_row(attack, control)["over control"] == 1.0  # (1 - 1) and (2 - 0)
    assert attack_row(attack, attack)["over control"] == 0.0
    assert "over control" not in attack_row(attack)


def test_an_attack_that_breaks_the_answer_is_seen() -> None:
    judged = window((1, 0))
    row = attack_row([Attacked("d1", 0, answer(judged, (0, 1)), said(judged, "nothing"))])
    assert (row["status changed"], row["unread after"], row["gain"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"what": ("lenght",)}, "lenght"),
        ({"attacks": ("spell",)}, "spell"),
        ({"windows": 0}, "windows"),
        ({"permutations": 0}, "permutations"),
        ({"queries": 0}, "queries"),
        ({"window_size": 1}, "window_size"),
        ({"temperature": -1.0}, "temperature"),
        ({"repeats": 2, "temperature": 0.0}, "temperature=0.6"),
    ],
)
def test_bad_settings_name_themselves(change: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match=names):
        Analyse(**change)  # type: ignore[arg-type]


def test_own_attacks_come_after_the_chosen() -> None:
    assert list(Analyse(attacks=("order",), more_attacks={"mine": "{i}"}).attack_texts) == ["order", "mine"]
    assert Analyse().attack_texts == ATTACKS
