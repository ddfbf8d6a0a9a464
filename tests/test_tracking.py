"""Figures on disk as they come; W&B beside them, offline."""

from __future__ import annotations

import logging
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rearank.tracking
from rearank.rewards import NdcgReward
from rearank.tracking import Artefact, JsonlTracker, NoTracking, WandbTracking, read_jsonl
from rearank.tracking.names import NAMES, as_markdown, expected, rollout_name, undocumented
from rearank.tracking.run_trackers import RunTrackers
from rearank.tracking.wandb_runs import TrackingError, unreachable, wandb_name
from rearank.training.base import describe
from rearank.types import JudgedWindow, Passage, Query, Window
from tests.engines.canned_server import canned_server
from tests.wandb_file import read_offline


def judged() -> JudgedWindow:
    return JudgedWindow(Window(Query("q", "?"), (Passage("a", "a"), Passage("b", "b"))), (0, 1))


def test_jsonl(tmp_path: Path) -> None:
    tracker = NoTracking().open(tmp_path / "run", "name", {}, "train")
    tracker.log({"train/loss": 1.0}, 1)
    tracker.log({"train/loss": 0.5}, 2)
    tracker.table("rollouts", ["query", "answer"], [["q", "[1]"]], 2)
    tracker.close()
    assert read_jsonl(tmp_path / "run" / "train.jsonl") == [
        {"step": 1, "train/loss": 1.0},
        {"step": 2, "train/loss": 0.5},
    ]
    assert read_jsonl(tmp_path / "run" / "train-rollouts.jsonl") == [{"step": 2, "query": "q", "answer": "[1]"}]


def test_a_resumed_run_says_nothing_twice(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path, "train")
    for step in range(5):
        tracker.log({"x": step}, step)
    with tracker.path.open("a") as file:
        file.write('{"step": 5, "x"')  # a kill in the middle of a line
    tracker.rewind(2)
    tracker.log({"x": 30}, 3)
    assert [line["x"] for line in read_jsonl(tracker.path)] == [0, 1, 2, 30]


def test_a_key_is_asked_for_only_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert WandbTracking().preflight() == []
    assert "WANDB_API_KEY" in WandbTracking(mode="online").preflight()[0]
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr("rearank.tracking.wandb_runs.unreachable", lambda url: None)
    assert WandbTracking(mode="online").preflight() == []


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A key, and no server: nothing listens at W&B's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        yield


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        yield url


@pytest.mark.parametrize(
    ("said", "online", "problem"),
    [("offline", False, None), ("dryrun", False, None), ("disabled", False, None), ("bogus", True, "WANDB_MODE=bogus")],
)
def test_wandb_s_own_mode_is_honoured_where_ours_is_auto(
    said: str, online: bool, problem: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rearank.tracking.wandb_runs.unreachable", lambda url: None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert WandbTracking().online
    monkeypatch.setenv("WANDB_MODE", said)
    assert WandbTracking().online is online
    assert [problem in line for line in WandbTracking().preflight()] == ([True] if problem else [])  # type: ignore[operator]
    assert WandbTracking(mode="online").online, "what the config names wins"
    assert not WandbTracking(mode="offline").online


def test_a_disabled_wandb_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("rearank.tracking.wandb_runs.find_spec", lambda name: None)
    assert WandbTracking().preflight() == []
    tracker = WandbTracking().open(tmp_path, "name", {}, "train")
    tracker.log({"train/loss": 1.0}, 1)
    tracker.close()
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


@pytest.mark.usefixtures("keyed")
def test_without_a_network_runs_are_kept_offline_and_that_is_logged_before_any_work(
    caplog: pytest.LogCaptureFixture,
) -> None:
    began = time.monotonic()
    assert WandbTracking().preflight() == []
    assert not WandbTracking().online
    assert time.monotonic() - began < 3
    (line,) = (record.getMessage() for record in caplog.records)
    assert "W&B does not answer (http://127.0.0.1:" in line
    assert "wandb sync" in line
    (problem,) = WandbTracking(mode="online").preflight()
    assert "set tracking.mode=offline" in problem


def test_a_server_that_never_answers_is_given_up_within_seconds(stuck: str) -> None:
    began = time.monotonic()
    assert "timed out" in str(unreachable(stuck))
    assert time.monotonic() - began < 6
    assert unreachable(stuck) is not None
    assert time.monotonic() - began < 6, "asked once"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_a_server_that_takes_no_run_leaves_it_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb")
    refusal = {"data": None, "errors": [{"message": "invalid key"}]}
    with canned_server(lambda *_: (401, refusal)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url.removesuffix("/v1"))
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        monkeypatch.delenv("WANDB_MODE", raising=False)
        assert WandbTracking().online
        began = time.monotonic()
        tracker = WandbTracking().open(tmp_path / "auto", "name", {}, "train")
        assert time.monotonic() - began < 60
        tracker.log({"train/loss": 1.0}, 1)
        tracker.close()
        assert list((tmp_path / "auto" / "wandb").glob("offline-run-*/run-*.wandb"))
        assert "W&B takes no run" in caplog.text
        with pytest.raises(TrackingError, match=r"set tracking\.mode=offline"):
            WandbTracking(mode="online").open(tmp_path / "online", "name", {}, "train")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearank.tracking.wandb_runs.find_spec", lambda name: None)
    assert "tracking=none" in WandbTracking().preflight()[0]


def test_names_of_earlier_versions_are_read_under_their_new_ones(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"step": 1, "rollout/reward/rank": 0.5}\n')
    assert read_jsonl(tmp_path / "train.jsonl") == [{"step": 1, "train/reward/rank": 0.5}]


def test_names_are_a_table_without_overlaps() -> None:
    names = [one.name for one in NAMES]
    assert len(set(names)) == len(names)
    assert all(one.meaning for one in NAMES)
    plain = [name for name in names if "<" not in name]
    for name in plain:
        assert [one.name for one in NAMES if one.matches(name)] == [name]
    assert {"train/reward/rank", "val/ndcg@10", "rollout/parse/ok"} <= set(plain)
    assert "| `train/reward/rank` |" in as_markdown()
    assert undocumented(["test/dl19/grpo", "test/dl19/grpo/map", "val/ndcg@10", "val/ndcg@11", "trian/loss"]) == [
        "val/ndcg@11",
        "trian/loss",
    ]


def test_the_readers_table_is_this_one() -> None:
    assert as_markdown() in (Path(rearank.tracking.__file__).parent / "README.md").read_text()


def test_what_is_described_is_documented_for_both_trainers() -> None:
    scored = describe([NdcgReward()("<think></think><answer>[2] > [1]</answer>", judged())])
    assert {rollout_name(name) for name in scored} | {f"val/{name}" for name in scored} <= expected("trl")
    assert expected("trl") < expected("verl")
    only_verl = {one.name for one in NAMES if "verl" in (one.by, one.always)}
    assert expected("verl") - expected("trl") <= only_verl


def test_an_undocumented_name_is_told(tmp_path: Path) -> None:
    tracker = NoTracking().open(tmp_path, "name", {}, "train")
    with pytest.warns(UserWarning, match="trian/loss"):
        tracker.log({"trian/loss": 1.0}, 1)


def test_artefacts_are_written_once_with_their_sums(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"abc")
    tracker = NoTracking().open(tmp_path / "run", "name", {}, "train")
    for _ in range(2):
        tracker.artefact(Artefact("model", "m", {"model": tmp_path / "model"}, {"step": 3}))
    (line,) = read_jsonl(tmp_path / "run" / "artefacts.jsonl")
    assert (line["kind"], line["used"], line["metadata"]) == ("model", False, {"step": 3})
    sums = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert line["files"] == {"model/weights": {"bytes": 3, "sha256": sums}}


def test_an_unknown_kind_of_artefact_is_refused() -> None:
    with pytest.raises(ValueError, match="'checkpoint'"):
        WandbTracking(upload=("checkpoint",))  # type: ignore[arg-type]
    assert wandb_name("rewards/reward=ndcg,seed=1") == "rewards-reward-ndcg-seed-1"
    assert len(wandb_name("x" * 300)) == 128


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_an_offline_run_read_back_says_what_the_jsonl_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "rows").write_text("rows")
    node = WandbTracking(mode="offline", tags=("t",))
    tracker = node.open(tmp_path / "run", "reward=ndcg,seed=3", {"seed": 3, "commit": "abc"}, "train", "rewards-sweep")
    names = sorted(expected("trl"))
    for step in range(3):
        tracker.log({name: step + place / 7 for place, name in enumerate(names)}, step)
    tracker.table("rollouts", ["query", "total"], [["q", 0.5], ["r", "0.25"]], 2)
    tracker.artefact(Artefact("dataset", "rows-x", {"rows": tmp_path / "rows"}, {"windows": 1}, used=True))
    tracker.artefact(Artefact("model", "model-x", {"model": tmp_path / "rows"}))
    tracker.close()
    found = read_offline(tmp_path / "run")
    lines = read_jsonl(tmp_path / "run" / "train.jsonl")
    assert found.figures() == {line.pop("step"): line for line in lines}
    assert set(found.figures()[0]) == set(names)
    assert found.tables() == {"rollouts": 2}
    assert (found.run.run_id, found.run.project) == ((tmp_path / "run" / "wandb-id.txt").read_text(), "rearank")
    assert (found.run.run_group, found.run.job_type, list(found.run.tags)) == ("rewards-sweep", "train", ["t"])
    assert found.run.display_name == "reward=ndcg,seed=3/train"
    assert {key: found.config[key] for key in ("seed", "commit")} == {"seed": 3, "commit": "abc"}
    kinds = {one.type: one for one in found.artefacts}
    assert kinds["dataset"].manifest.contents[0].local_path, "its file is kept, to be sent"
    assert kinds["model"].manifest.contents[0].ref == (tmp_path / "rows").as_uri(), "where it is, not what"


def test_a_damaged_line_is_named_and_a_last_one_cut_short_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = JsonlTracker(tmp_path, "train")
    for step in range(4):
        tracker.log({"x": step}, step)
    whole = tracker.path.read_bytes().splitlines(keepends=True)
    tracker.path.write_bytes(b"".join([whole[0], b'{"step": \xff}\n', b"[1]\n", whole[3], b'{"step": 4, "x']))
    assert [line["step"] for line in read_jsonl(tracker.path)] == [0, 3]
    lines = [f"{tracker.path}, line {number}: can't be parsed and is left out" for number in (2, 3)]
    assert caplog.messages == lines
    tracker.path.write_bytes(whole[0].replace(b"step", b"stfp") + whole[1])
    tracker.rewind(2)
    assert read_jsonl(tracker.path) == [{"step": 1, "x": 1}]


@pytest.mark.parametrize("value", ["true", "1", "TRUE", " yes "])
def test_wandb_s_older_switch_is_honoured_where_ours_is_auto(
    value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_DISABLED", value)
    for mode in ("", "online", "offline"):
        monkeypatch.setenv("WANDB_MODE", mode)
        assert WandbTracking().preflight() == []
        assert not WandbTracking().online
        WandbTracking().open(tmp_path, "name", {}, "train").close()
    assert {path.name for path in tmp_path.iterdir()} <= {"train.jsonl"}
    assert WandbTracking(mode="online").online, "what the config names wins"
    monkeypatch.setenv("WANDB_DISABLED", "false")
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert "WANDB_MODE=sometimes is none of" in WandbTracking().preflight()[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_all_jobs_of_a_run_are_sent_by_the_line_that_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    trackers = RunTrackers(WandbTracking(mode="offline").kept_in(tmp_path / "a run"), "run", "run", {})
    with caplog.at_level(logging.INFO):
        for job in ("train", "evaluate"):
            with trackers.open(tmp_path / "a run" / job, job) as tracker:
                tracker.log({"x/y": 1.0}, 1)
    for job in ("train", "evaluate"):
        assert read_offline(tmp_path / "a run" / job, tmp_path / "a run").run.job_type == job
    (line,) = (record.getMessage() for record in caplog.records if "wandb sync" in record.getMessage())
    (pattern,) = (Path(word) for word in shlex.split(line.partition("wandb sync ")[2]))
    assert len(list(pattern.parent.glob(pattern.name))) == 2
    elsewhere = WandbTracking(folder=str(tmp_path / "other"))
    assert elsewhere.kept_in(tmp_path / "a run") == elsewhere
