"""Figures are drawn of whatever rows there are, the same bytes of the same rows."""

from __future__ import annotations

from pathlib import Path

from tests.analysis.answers import answer, window

from rearank.analysis import (
    Asked,
    Attacked,
    Point,
    attack_row,
    bin_rows,
    compared_with_reasoning,
    faithfulness_row,
    ndcg_rows,
    rank_rows,
    shuffled,
    tau_rows,
)
from rearank.analysis.drawing import draw_attack, draw_faithfulness, draw_length, draw_position

JUDGED = window((1, 2, 0))


def test_four_figures(tmp_path: Path) -> None:
    bins = {"a": bin_rows([Point(f"q{i}", i, i / 9) for i in range(9)], 3), "one": bin_rows([Point("q", 1, 0.5)], 3)}
    found = [compared_with_reasoning(answer(JUDGED, (0, 1, 2), "[1] 1 [2] 2"))]
    asked = [Asked(tuple(answer(one, (0, 1, 2)) for one in shuffled(JUDGED, 2, 0)))]
    row = attack_row([Attacked("d2", 0, answer(JUDGED, (0, 1, 2)), answer(JUDGED, (2, 0, 1)))])
    never = attack_row([])
    drawn = [
        *draw_length(tmp_path, bins, {"a": []}, "nDCG@10"),
        *draw_faithfulness(
            tmp_path, {"a": tau_rows(found), "b": tau_rows([])}, dict.fromkeys("ab", faithfulness_row(found))
        ),
        *draw_position(tmp_path, {"a": rank_rows(asked)}, {"a": ndcg_rows(asked)}, {"best": rank_rows(asked)}),
        *draw_attack(
            tmp_path,
            [
                {"system": "a", "attack": "order", "neutralise": "no", **row},
                {"system": "a", "attack": "order", "neutralise": "yes", **never},
            ],
        ),
    ]
    names = ("length", "faithfulness", "position", "attack")
    assert [path.name for path in drawn] == [f"{name}.{ending}" for name in names for ending in ("png", "svg")]
    assert "share brought to rank 1" not in (tmp_path / "length.svg").read_text()
    assert all(path.stat().st_size > 5000 for path in drawn)
    again = draw_length(tmp_path / "again", bins, {"a": []}, "nDCG@10")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in drawn[:2]]
