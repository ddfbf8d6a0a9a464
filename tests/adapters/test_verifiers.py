"""The environment of verifiers: its own loader, client and rollouts, against a server whose answers are known."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.adapters.real import real, run_example
from tests.engines.canned_server import canned_server
from tests.engines.canned_server import chat as bare

from rearank.config import ConfigError
from rearank.prompts import CompactPrompt
from rearank.rewards import NdcgReward, RewardBreakdown, score
from rearank.training.rows import RowError, write_rows
from rearank.types import JudgedWindow, Passage, Query, Window

vf = real("verifiers")
from rearank.adapters import verifiers as adapter  # noqa: E402

# verifiers leaves its connections for the collector to close.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

GOOD = "<think> the last one </think> <answer> [3] > [1] > [2] </answer>"
BAD = "<think> none </think> I would say the first."
WINDOWS = [
    JudgedWindow(
        Window(Query(f"q{n}", f"which of {n}"), tuple(Passage(f"p{i}", f"passage {i} of {n}") for i in range(3))),
        (0, 0, n),
    )
    for n in (1, 2)
]


def chat(content: str) -> dict[str, Any]:
    """With what OpenAI's client insists on."""
    return {**bare(content), "object": "chat.completion", "created": 0, "model": "any"}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KEY", "none")
    folder = tmp_path / "outputs" / "quickstart" / "prepared"
    prompt = CompactPrompt()
    write_rows(folder / "train.parquet", WINDOWS, prompt, "test", "train")
    write_rows(folder / "validation.parquet", WINDOWS[:1], prompt, "test", "validation")
    return str(folder)


def client(url: str) -> Any:
    return vf.ClientConfig(api_base_url=url, api_key_var="KEY", max_retries=0)


def test_rollouts_earn_what_the_reward_says(rows: str) -> None:
    environment = vf.load_environment("rearank", rows=rows)
    answers = {0: GOOD, 1: BAD}

    def answer(request: dict[str, Any], number: int) -> tuple[int, Any]:
        return 200, chat(answers[request["seed"]])

    async def both() -> list[Any]:
        example = environment.get_dataset()[1]
        return [
            await environment.run_rollout(example, client(server.url), "any", {"seed": seed}, state_columns=["info"])
            for seed in answers
        ]

    with canned_server(answer) as server:
        outputs = asyncio.run(both())
    found = [score(NdcgReward(), text, WINDOWS[1]) for text in (GOOD, BAD)]
    assert [one["reward"] for one in outputs] == [one.total for one in found]
    assert found[0].total == 1.0 > found[1].total
    assert [one["metrics"]["read"] for one in outputs] == [1.0, 0.0]
    assert outputs[0]["metrics"]["ndcg_reranked"] == found[0].ndcg_reranked == 1.0
    assert outputs[0]["metrics"]["ndcg_initial"] == found[0].ndcg_initial
    asked = "\n".join(message["content"] for message in server.requests[0]["messages"])
    assert "passage 2 of 2" in asked
    assert "which of 2" in asked


def test_a_group_has_advantages(rows: str) -> None:
    environment = vf.load_environment("rearank", rows=rows)
    example = environment.get_dataset()[0]
    texts = iter([GOOD, BAD])

    with canned_server(lambda request, number: (200, chat(next(texts)))) as server:
        outputs = asyncio.run(
            environment.run_group([example, example], client(server.url), "any", {}, state_columns=["trajectory"])
        )
    rewards = [one["reward"] for one in outputs]
    assert sorted(rewards) == sorted(score(NdcgReward(), text, WINDOWS[0]).total for text in (GOOD, BAD))
    advantages = [one["trajectory"][0]["advantage"] for one in outputs]
    assert advantages == [reward - sum(rewards) / 2 for reward in rewards]


def test_a_reasoning_that_comes_apart_is_part_of_the_answer(rows: str) -> None:
    environment = vf.load_environment("rearank", rows=rows)
    reply = chat("<answer> [3] > [1] > [2] </answer>")
    reply["choices"][0]["message"]["reasoning_content"] = "the last one"
    with canned_server(lambda request, number: (200, reply)) as server:
        output = asyncio.run(environment.run_rollout(environment.get_dataset()[0], client(server.url), "any", {}))
    assert output["metrics"]["format_tags"] == 1.0
    assert output["reward"] == 1.0


def test_a_rollout_that_failed_is_no_bad_answer(rows: str) -> None:
    """Its floor would teach the model that a server's error is its own fault."""
    environment = vf.load_environment("rearank", rows=rows)
    with canned_server(lambda request, number: (400, {"error": {"message": "no"}})) as server:
        output = asyncio.run(environment.run_rollout(environment.get_dataset()[0], client(server.url), "any", {}))
    assert output["error"]
    assert (output["reward"], set(output["metrics"].values())) == (0.0, {0.0})


def test_length_costs_what_the_server_counted(rows: str) -> None:
    length = "reward.length={_target_: rearank.rewards.LengthPenalty, budget: 2, weight: 0.5, full: 4}"
    environment = vf.load_environment("rearank", rows=rows, overrides=[length])
    reply = chat(GOOD)
    reply["usage"] = {"prompt_tokens": 5, "completion_tokens": 40, "total_tokens": 45}
    with canned_server(lambda request, number: (200, reply)) as server:
        output = asyncio.run(environment.run_rollout(environment.get_dataset()[0], client(server.url), "any", {}))
    assert output["metrics"]["length"] == -0.5
    assert output["reward"] == 0.5


def test_a_reward_that_is_wrong_ends_it(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """verifiers by itself would log it and count 0."""

    def wrong(self: NdcgReward, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        raise ZeroDivisionError("mine")

    environment = vf.load_environment("rearank", rows=rows)
    monkeypatch.setattr(NdcgReward, "__call__", wrong)
    with canned_server(lambda request, number: (200, chat(GOOD))) as server, pytest.raises(ZeroDivisionError):
        asyncio.run(environment.run_rollout(environment.get_dataset()[0], client(server.url), "any", {}))


def test_what_cannot_be_is_named(rows: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ndgc"):
        adapter.load_environment(rows, reward="ndgc")
    with pytest.raises(FileNotFoundError, match="task=prepare"):
        adapter.load_environment(str(tmp_path / "nowhere"))
    (Path(rows) / "validation.parquet").write_bytes(b"x")
    with pytest.raises(RowError, match="not a parquet file"):
        adapter.load_environment(rows)
    (Path(rows) / "validation.parquet").unlink()
    assert len(adapter.load_environment(rows).get_dataset()) == 2


def test_the_docstrings_example_runs(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    logging.getLogger("verifiers").setLevel(logging.ERROR)
    with canned_server(lambda request, number: (200, chat(GOOD))) as server:
        original = vf.ClientConfig
        monkeypatch.setattr(vf, "ClientConfig", lambda **given: original(**{**given, "api_base_url": server.url}))
        names = run_example(adapter)
    assert names["results"]["outputs"][0]["reward"] == 1.0
    assert "'ndcg_reranked': 1.0" in capsys.readouterr().out
