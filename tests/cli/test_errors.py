"""``REARANK_ERRORS=json``: the last line on standard error is for programs; and the exit status."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.cli.errors import as_json
from rearank.cli.running import guarded
from rearank.cli.start import main
from rearank.config import ConfigError
from rearank.data import DataError
from rearank.tasks.preflight import PreflightError


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """The status of what is run, and the last line on standard error as JSON."""

    def end(work: Callable[[], Any], *words: str) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["rearank", *words])
        monkeypatch.setenv("REARANK_ERRORS", "json")
        status = work() if work is main else guarded(work)
        lines = capsys.readouterr().err.splitlines()
        return status, json.loads(lines[-1]) if lines else None

    return end


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (
            ConfigError("model.path: a value is missing; set model.path=..."),
            1,
            {"kind": "config", "key": "model.path", "remedy": "set model.path=..."},
        ),
        (
            DataError("rows.jsonl:3: no query; give one"),
            1,
            {"kind": "data", "key": None, "remedy": "give one", "message": "rows.jsonl:3: no query; give one"},
        ),
        (
            DataError("data.tsv: an empty file"),
            1,
            {"kind": "data", "key": None, "remedy": None},
        ),
        (
            PreflightError(
                "this run can't start on this machine:\n  - name: is odd\n  - engine=vllm needs a GPU; buy it"
            ),
            1,
            {
                "kind": "preflight",
                "problems": [
                    {"message": "name: is odd", "key": "name", "remedy": None},
                    {"message": "engine=vllm needs a GPU; buy it", "key": "engine", "remedy": "buy it"},
                ],
            },
        ),
        (OSError(errno.ENOSPC, "", "/x"), 1, {"kind": "file", "key": None}),
        (KeyboardInterrupt(), 130, {"kind": "interrupted", "remedy": "the same command goes on from here"}),
        (
            SystemExit("rearank: seed can't be swept: why; set one"),
            1,
            {"kind": "config", "key": "seed", "remedy": "set one"},
        ),
        (SystemExit(2), 2, {"kind": "usage"}),
        (ZeroDivisionError("division by zero"), 1, {"kind": "bug", "message": "ZeroDivisionError: division by zero"}),
    ],
)
def test_what_went_wrong_is_one_line_for_programs(
    ended: Callable[..., tuple[int, Any]], error: BaseException, status: int, expected: dict[str, Any]
) -> None:
    found_status, found = ended(raising(error))
    assert (found_status, found["status"]) == (status, status)
    assert {key: found[key] for key in expected} == expected
    assert ("trace" in found) == (found["kind"] == "bug")


def test_what_ends_well_prints_nothing(ended: Callable[..., tuple[int, Any]]) -> None:
    assert ended(lambda: None) == (0, None)


def test_hydras_own_words_are_explained(ended: Callable[..., tuple[int, Any]]) -> None:
    status, found = ended(main, "--cfg", "job", "reward=ndgc")
    assert (status, found["kind"], found["key"], found["remedy"]) == (1, "config", "reward", "did you mean ndcg?")
    status, found = ended(main, "--nonsense")
    assert (status, found["kind"]) == (2, "usage")
    status, found = ended(main, "--cfg", "job", "dataset@validation=null", "reward=ndcg")
    assert (status, found["key"], found["remedy"]) == (1, "dataset@validation", "write '~dataset@validation'")
    status, found = ended(main, "--cfg", "job", "prompt=compact", "prompt.max_token=3")
    assert (status, found["key"]) == (1, "prompt.max_token")
    assert found["remedy"] == "did you mean max_tokens or max_characters?"


def test_keys_of_options_of_ones_own_are_known(ended: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text("_target_: mine.Reward\nsharpness: 2\n")
    for place in (("--config-dir", str(tmp_path)), (f"hydra.searchpath=['file://{tmp_path}']",)):
        status, found = ended(main, *place, "--cfg", "job", "reward=mine", "reward.sharpnes=3")
        assert (status, found["key"], found["remedy"]) == (1, "reward.sharpnes", "did you mean sharpness?")


def test_without_being_asked_errors_stay_a_line_for_people(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rearank"])
    monkeypatch.delenv("REARANK_ERRORS", raising=False)
    assert guarded(raising(ConfigError("name: is odd; choose another"))) == 1
    assert capsys.readouterr().err == "rearank: name: is odd; choose another\n"
    with pytest.raises(SystemExit) as left:
        guarded(raising(SystemExit(2)))
    assert left.value.code == 2


@given(message=st.text(), kind=st.text())
def test_any_message_is_one_line_and_comes_back_whole(message: str, kind: str) -> None:
    line = as_json(kind, message, 1)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["kind"]) == (message, kind)
    assert found["remedy"] is None or message.endswith(found["remedy"])
