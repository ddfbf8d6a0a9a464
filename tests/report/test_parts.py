"""Parts of the report: escaping, pieces of answers, curves over seeds, systems side by side."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report.hostile import ATTACKS

from rearank.report import ReportError, render
from rearank.report.analyses import analyses
from rearank.report.curves import curves, seed_groups
from rearank.report.figures import draw_change, draw_curves
from rearank.report.page import as_json
from rearank.report.results import arm_rows, comparisons, result_rows, seed_rows, sides
from rearank.report.texts import cut, pieces
from rearank.runs.reader import FIRST, SYSTEM, Arm, Evaluated, RunFolder, labelled, read_folder
from rearank.tasks.report import read_run_folder

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


def test_a_seed_that_groups_repeat_is_no_other_setting_and_a_collections_is() -> None:
    def run(seed: int, collection: int) -> RunFolder:
        training = {
            "seed": seed,
            "augmentation": {"sets": 4, "seed": seed},
            "dataset": {"collection": {"seed": collection}},
        }
        return RunFolder(f"seed={seed}", Path(f"{seed}"), curves={"train": [{"step": 1, "r": 0.1}]}, training=training)

    assert seed_groups([run(1, 1), run(2, 1), run(3, 2)]) == {"all seeds": [0, 1], "seed=3": [2]}


def _system(name: str, values: dict[str, float], role: str = SYSTEM, seed: int = 1) -> Evaluated:
    measured = {"ndcg_cut_10": values}
    return Evaluated(
        name, name, role, "dl19", measured, {}, {"status_ok": 2}, {"seed": seed, "model": "m"}, {}, None, Path()
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
    with pytest.raises(ReportError, match="nothing was trained, evaluated, reranked or analysed here"):
        read_run_folder(place, None)
    with pytest.raises(ReportError, match="there is no such folder"):
        read_run_folder(tmp_path / "other", None)


def _arm_run(arm: str, seed: int, values: dict[str, dict[str, float]], best: int = 20) -> RunFolder:
    """As a study's job leaves it: no untrained model, a checkpoint half-way, the settings' seeds its own."""
    systems = [replace(_system("bm25", {"1": 0.1, "2": 0.2}, FIRST), label="first stage")]
    for name, its in values.items():
        label = "tiny after 6 steps of GRPO" if name == "grpo_step6" else f"tiny after GRPO (step {best})"
        statuses = {"status_ok": 2, "calls": 2, "completion_tokens": 10 * seed}
        systems.append(replace(_system(name, its, seed=seed), label=label, calls=statuses))
    lines = [{"step": step, "train/reward/total": 0.1 * step} for step in range(1, 21)]
    return RunFolder(
        f"{arm}, seed {seed}",
        Path(f"arm={arm},seed={seed}"),
        tuple(systems),
        curves={"train": lines},
        training={"seed": seed, "reward": arm},
        arm=Arm("rewards-sweep", arm, (f"reward={arm}",)),
        seed=str(seed),
    )


@pytest.fixture
def study() -> list[RunFolder]:
    """Three arms of two seeds; two of the arms trained the same."""
    half, end = {"1": 0.3, "2": 0.4}, {"1": 0.5, "2": 0.7}
    more, best = {"1": 0.4, "2": 0.4}, {"1": 0.7, "2": 0.7}
    return [
        *(_arm_run("normalised", n, {"grpo_step6": half, "grpo": its}) for n, its in ((2, end), (1, best))),
        *(_arm_run("absolute", n, {"grpo_step6": half, "grpo": its}) for n, its in ((2, end), (1, best))),
        *(_arm_run("exact", n, {"grpo_step6": more, "grpo": its}, 10 + n) for n, its in ((2, best), (1, end))),
    ]


def test_the_seeds_of_an_arm_are_one_system_and_arms_stay_apart(study: list[RunFolder]) -> None:
    group = sides(study)["dl19"]
    arms = ("normalised", "absolute", "exact")
    assert [side.system.label for side in group] == [
        "first stage",
        *(f"{arm}: tiny after 6 steps of GRPO" for arm in arms),
        *(f"{arm}: tiny after GRPO (step 20)" for arm in arms[:2]),
        "exact: tiny after GRPO",  # its seeds kept other steps
    ]
    rows = result_rows(group)
    assert rows[0]["runs"] == [0, 1, 2, 3, 4, 5]
    assert (rows[0]["arm"], rows[0]["seeds"], rows[0]["windows_of"]) == (None, {}, None)
    assert rows[1]["seeds"] == {}  # both seeds measured the same
    normalised = rows[4]
    assert (normalised["arm"], normalised["runs"], normalised["windows_of"]) == ("normalised", [0, 1], "2")
    assert normalised["seeds"] == {"2": pytest.approx(0.6), "1": pytest.approx(0.7)}
    assert normalised["means"] == {"ndcg_cut_10": pytest.approx(0.65)}
    assert group[4].system.values == {"ndcg_cut_10": {"1": pytest.approx(0.6), "2": pytest.approx(0.7)}}
    low, high = normalised["intervals"]["ndcg_cut_10"]
    assert 0.6 - 1e-9 <= low < 0.65 < high <= 0.7 + 1e-9
    assert normalised["statuses"] == {"ok": 4}
    assert normalised["calls"] == {"calls": 4, "completion_tokens": 30}
    spread = {(row["run"], row["system"]): row["each"] for row in seed_rows(study, "dl19")}
    assert spread["exact", "tiny after GRPO"] == {"2": pytest.approx(0.7), "1": pytest.approx(0.6)}
    assert arm_rows(study)[2] == {"label": "exact", "changes": ["reward=exact"], "runs": [4, 5], "seeds": ["2", "1"]}
    assert arm_rows(study[:1]) == []


def test_arms_are_compared_with_the_first_arm_each_system_with_its_like(study: list[RunFolder]) -> None:
    found = comparisons("dl19", sides(study)["dl19"])
    pairs = [(row["b"].partition(":")[0], row["a"].partition(":")[0], row["difference"]) for row in found["rows"]]
    assert pairs == [
        ("absolute", "normalised", 0),
        ("exact", "normalised", pytest.approx(0.05)),
        ("absolute", "normalised", 0),
        ("exact", "normalised", pytest.approx(0.0)),
    ]
    assert [row["p_over_seeds"] is None for row in found["rows"]] == [True, True, False, False]
    assert "p over seeds" in found["note"]
    # A single arm is compared as any run is.
    alone = comparisons("dl19", sides(study[:2])["dl19"])
    assert {row["a"] for row in alone["rows"]} == {"first stage", "tiny after 6 steps of GRPO"}


def test_an_untrained_model_is_there_once_beside_what_was_trained_from_it_and_not_where_it_is_the_arm() -> None:
    runs = [
        _arm_run(arm, 1, {"base": {"1": 0.2, "2": 0.2}, "grpo": {"1": value, "2": 0.5}})
        for arm, value in (("a", 0.5), ("b", 0.6))
    ]
    labels = [side.system.name for side in sides(runs)["dl19"]]
    assert labels == ["bm25", "base", "grpo", "grpo"]
    untrained = [replace(run, systems=tuple(one for one in run.systems if one.name != "grpo")) for run in runs]
    assert [side.arm.label if side.arm else None for side in sides(untrained)["dl19"]] == [None, "a", "b"]


def test_many_lines_have_a_panel_for_each_metric_and_checkpoints_are_a_curve(
    study: list[RunFolder], tmp_path: Path
) -> None:
    few = curves(study[:4])
    assert [line["label"] for line in few["lines"]] == ["normalised", "absolute"]
    checkpoints = few["panels"][0]
    assert checkpoints["title"] == "nDCG@10 on dl19, by checkpoint"
    (metric,) = checkpoints["metrics"]
    assert few["lines"][0]["series"][metric] == {
        "steps": [6, 20], "mean": [0.35, 0.65], "low": [0.35, 0.6], "high": [0.35, 0.7],
    }  # fmt: skip
    assert len(next(panel for panel in few["panels"] if panel["title"] == "Reward")["metrics"]) == 4
    based = replace(study[0], systems=(*study[0].systems, _system("base", {"1": 0.1, "2": 0.3})))
    assert curves([based])["lines"][0]["series"][metric]["steps"] == [0, 6, 20]
    arms = [f"arm {n}" for n in range(11)]
    many = curves([_arm_run(arm, seed, {"grpo": {"1": 0.1, "2": 0.2}}) for arm in arms for seed in (1, 2)])
    assert [line["label"] for line in many["lines"]] == arms
    assert {line["seeds"] for line in many["lines"]} == {2}
    assert all(len(panel["metrics"]) == 1 for panel in many["panels"])
    titles = [panel["title"] for panel in many["panels"]]
    assert titles[:4] == ["Reward", "Reward: rank term", "Reward: list format", "Reward: tags"]
    (_, drawing) = draw_curves(many, tmp_path)
    assert all(f"<!-- {arm} -->" in drawing.read_text() for arm in arms)  # the legend has all of them


def test_files_of_labels_that_begin_alike_are_apart(tmp_path: Path) -> None:
    values = {"1": 0.1, "2": 0.2}
    written = [
        path
        for name in ("first", "second")
        for path in draw_change("dl19", ("bm25", values), (f"{'long ' * 20}{name}", values), "nDCG@10", tmp_path)
    ]
    assert len(set(written)) == 4


def test_a_job_is_named_after_what_it_tries(tmp_path: Path) -> None:
    def job(folder: str, choices: dict[str, str], *overrides: str) -> RunFolder:
        place = tmp_path / "rewards-sweep" / folder
        (place / "training").mkdir(parents=True)
        (place / "training" / "train.jsonl").write_text('{"step": 1}\n')
        (place / ".hydra").mkdir()
        (place / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
        stored = {"status": "finished", "choices": choices, "fixed": ["experiment=small/rewards"]}
        (place / "job.json").write_text(json.dumps(stored))
        return read_folder(place)

    named = {"arm": "absolute", "seed": "2"}
    one = job("arm=absolute,seed=2", named, "experiment=small/rewards", "reward=absolute", "arm=absolute", "seed=2")
    assert (one.label, one.seed) == ("absolute, seed 2", "2")
    assert one.arm is not None
    assert (one.arm.label, one.arm.changes) == ("absolute", ("reward=absolute",))
    assert job("arm=absolute,seed=1", {"arm": "absolute", "seed": "1"}).arm == one.arm
    keys = job("reward=ndcg,seed=1", {"reward": "ndcg", "seed": "1"})
    assert (keys.label, keys.arm and keys.arm.label) == ("reward=ndcg, seed 1", "reward=ndcg")
    seeds = job("seed=1", {"seed": "1", "benchmark": "dl19"})
    assert (seeds.label, seeds.arm and seeds.arm.label) == ("seed 1, dl19", "all seeds")
    assert job("benchmark=dl19", {"benchmark": "dl19"}).arm is None
    own = read_folder(one.path, "mine")  # a label of its own: looked at by itself
    assert (own.label, own.arm) == ("mine", None)


def test_tables_of_an_analysis_have_titles_and_notes_and_older_ones_show_without(tmp_path: Path) -> None:
    rows = [{"system": "s", "tau": math.nan}]
    older = {"benchmarks": {"dl19": {"tables": {"position_ndcg": rows, "length": []}}}}
    newer = {
        "benchmarks": {"dl19": {"tables": {"length": rows}, "titles": {"length": {"title": ATTACKS[0], "note": "n"}}}}
    }
    figures = tmp_path / "analysis" / "dl19" / "figures"
    figures.mkdir(parents=True)
    (figures / "length.svg").write_text("<svg/>")
    first, second = analyses([RunFolder("a", tmp_path, analysis=older), RunFolder("b", tmp_path, analysis=newer)])
    assert first["tables"] == [{"title": "Position nDCG", "note": "", "rows": [{"system": "s", "tau": None}]}]
    assert (second["tables"][0]["title"], second["tables"][0]["note"]) == (ATTACKS[0], "n")
    assert [one["title"] for one in second["figures"]] == ["Length"]
    # Of an arm's seeds the figures are there once.
    arm = Arm("sweep", "a")
    seeds = analyses([RunFolder(f"a, seed {n}", tmp_path, analysis=newer, arm=arm, seed=str(n)) for n in (1, 2)])
    assert [len(one["figures"]) for one in seeds] == [1, 0]
