"""Parts of the report: escaping, pieces of answers, curves over seeds, systems side by side."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.hostile import ATTACKS

from rearank.report import ReportError, RunFolder, read_folder, render
from rearank.report.curves import curves, seed_groups
from rearank.report.folder import FIRST, SYSTEM, Evaluated, labelled
from rearank.report.page import as_json
from rearank.report.results import comparisons, result_rows, seed_rows, sides
from rearank.report.texts import cut, pieces

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]))


@given(ANY_TEXT)
def test_no_text_can_leave_its_json_block(text: str) -> None:
    written = as_json({"text": text})
    assert not set("<>&\u2028\u2029") & set(written)
    written.encode()  # valid Unicode, lone surrogates too
    assert json.loads(written)["text"] == re.sub("[\ud800-\udfff]", "\ufffd", text)


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        as_json([math.nan])


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_is_one_file_whose_policy_allows_its_own_script_alone() -> None:
    page = render("<b>title</b> " + ATTACKS[0], {"data": {"attacks": ATTACKS}})
    parser = _Elements()
    parser.feed(page)
    scripts = [attributes for tag, attributes in parser.found if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert not [tag for tag, attributes in parser.found if "src" in attributes or tag in ("link", "img", "b", "iframe")]
    (policy,) = [a["content"] for tag, a in parser.found if a.get("http-equiv") == "Content-Security-Policy"]
    for name in ("style", "script"):
        content = page.split(f"<{name}>", 1)[1].split(f"</{name}>", 1)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert render("t", {"data": 1}) == render("t", {"data": 1})


@given(ANY_TEXT, st.integers(1, 9))
def test_pieces_joined_are_the_answer(text: str, size: int) -> None:
    found = pieces(text, size)
    assert "".join(one if isinstance(one, str) else str(one[0]) for one in found) == text
    for one in found:
        if not isinstance(one, str) and len(one) > 1:
            assert all(0 <= position < size for position in one[1])


def test_mentions_and_tags_are_pieces_of_their_own() -> None:
    assert pieces("<think> [3] beats passages 1 and 2, not [9] </think> <answer> [3] > [1]</answer>", 3) == [
        *(["<think>"], " ", ["[3]", [2]], " beats ", ["passages 1 and 2", [0, 1]], ", not [9] ", ["</think>"], " "),
        *(["<answer>"], " ", ["[3]", [2]], " > ", ["[1]", [0]], ["</answer>"]),
    ]
    assert pieces("[B] > [A]", 2, letters=True) == [["[B]", [1]], " > ", ["[A]", [0]]]


def test_cut_says_that_something_is_missing() -> None:
    assert cut("short", 5) == "short"
    assert cut("a longer text", 6) == "a lon…"


def _run(label: str, seed: int, lines: list[dict[str, float]], reward: str = "ndcg") -> RunFolder:
    return RunFolder(label, Path(label), curves={"train": lines}, training={"reward": reward, "seed": seed})


def test_seeds_of_the_same_settings_are_one_line_with_a_band() -> None:
    runs = [
        _run("reward=ndcg,seed=1", 1, [{"step": 1, "r": 0.2}, {"step": 2, "r": 0.4}]),
        _run("reward=ndcg,seed=2", 2, [{"step": 1, "r": 0.4}, {"step": 2, "r": 0.4}, {"step": 2, "r": 0.8}]),
        _run("reward=exact,seed=1", 1, [{"step": 1, "r": math.nan, "s": 1.0}], "exact"),
    ]
    assert seed_groups(runs) == {"reward=ndcg": [0, 1], "reward=exact,seed=1": [2]}
    first, second = curves(runs)["lines"]
    # A run that went on after a stop says a step again: the last counts.
    assert first["series"]["r"] == {"steps": [1, 2], "mean": [0.3, 0.6], "low": [0.2, 0.4], "high": [0.4, 0.8]}
    assert second["series"] == {"s": {"steps": [1], "mean": [1.0]}}
    assert (first["seeds"], second["seeds"]) == (2, 1)


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    (line,) = curves([_run("r", 1, [{"step": step, "r": 1.0} for step in range(1000)])])["lines"]
    steps = line["series"]["r"]["steps"]
    assert len(steps) <= 401
    assert (steps[0], steps[-1]) == (0, 999)


def _system(name: str, values: dict[str, float], role: str = SYSTEM, seed: int = 1) -> Evaluated:
    measured = {"ndcg_cut_10": values}
    return Evaluated(
        name, name, role, "dl19", measured, {}, {"status_ok": 2}, {"seed": seed, "model": "m"}, {}, None, None, Path()
    )


def test_what_runs_share_is_there_once_and_seeds_are_put_together() -> None:
    first, base = _system("bm25", {"1": 0.1, "2": 0.3}, FIRST), _system("base", {"1": 0.2, "2": 0.3})
    runs = [
        RunFolder(f"seed={n}", Path(f"seed={n}"), (first, base, _system("grpo", {"1": 0.1 * n, "2": 0.5}, seed=n)))
        for n in (1, 2, 3)
    ]
    group = sides(runs)["dl19"]
    assert [side.system.label for side in group] == ["bm25", "base", *(f"seed={n}: grpo" for n in (1, 2, 3))]
    rows = result_rows(group)
    assert rows[0]["runs"] == [0, 1, 2]
    assert rows[2]["means"] == {"ndcg_cut_10": pytest.approx(0.3)}
    assert len(comparisons("dl19", group)["rows"]) == 10
    base_row, grpo = seed_rows(runs, "dl19")
    assert (base_row["seeds"], base_row["sd"]) == (3, 0.0)
    assert (grpo["mean"], grpo["low"], grpo["high"]) == pytest.approx((0.35, 0.3, 0.4))


def test_labels_and_folders_of_sweeps(tmp_path: Path) -> None:
    place = tmp_path / "reward=ndcg,seed=1"
    place.mkdir()
    assert labelled(str(place)) == (None, place)
    assert labelled(f"mine={place}") == ("mine", place)
    assert labelled(f"seed=1={place}") == ("seed=1", place)
    assert labelled("mine=nowhere") == ("mine", Path("nowhere"))
    assert labelled("nowhere") == (None, Path("nowhere"))
    with pytest.raises(ReportError, match="nothing was trained, evaluated or analysed here"):
        read_folder(place)
    with pytest.raises(ReportError, match="there is no such folder"):
        read_folder(tmp_path / "other")
