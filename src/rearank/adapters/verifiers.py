"""An environment of the package verifiers: training windows and a reward, for prime-rl and others. Extra ``verifiers``.

``verifiers.load_environment("rearank", rows=...)`` finds it by that name. The rows are what ``python run.py
task=prepare`` writes: a run's folder ``prepared``. For example::

    import verifiers
    environment = verifiers.load_environment("rearank", rows="outputs/quickstart/prepared", reward="ndcg")
    server = verifiers.ClientConfig(api_base_url="http://localhost:8000/v1", api_key_var="KEY")
    results = environment.evaluate_sync(server, "my-model", num_examples=1)
    print(results["metadata"]["avg_reward"], results["outputs"][0]["metrics"])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rearank.choices import choose
from rearank.parsing import ParseStatus
from rearank.rewards import RewardBreakdown, RewardFunction, SeesGroup, score, score_groups
from rearank.runs.layout import TRAIN_ROWS, VALIDATION_ROWS
from rearank.training.rows import TrainingRow, chats, read_rows
from rearank.types import JudgedWindow

try:
    import verifiers as vf
    from datasets import Dataset
except ImportError as error:
    raise ImportError(
        "rearank.adapters.verifiers needs the package verifiers: install rearank's extra verifiers (pip install -e "
        "'.[verifiers]')"
    ) from error

READ = "read"
"""The metric that is 1 for an answer that could be parsed, 0 for another."""
METRICS = ("rank", "format_tags", "format_list", "ndcg_initial", "ndcg_reranked", "ndcg_best", "length", READ)


def load_environment(
    rows: str, reward: str = "ndcg", overrides: Sequence[str] = (), opened: str = "", **arguments: Any
) -> vf.Environment:
    """One turn an example: the prompt of a training row, and the reward of the answer.

    Args:
        rows: the folder with ``train.parquet`` and ``validation.parquet``; the latter may be missing.
        reward: a name of ``conf/reward``.
        overrides: keys of it, as on the command line: ``["reward.k=5"]``.
        opened: the ``<think>`` with which the model's chat template begins each answer, where it does.
        arguments: of ``verifiers.SingleTurnEnv``.

    Raises:
        ConfigError: for a reward or a key that isn't there.
        RowError, FileNotFoundError: for rows that can't be read.
    """
    chosen: RewardFunction = choose(("reward",), {"reward": reward}, overrides).build("reward")
    folder = Path(rows).expanduser()
    splits = {"dataset": read_rows(folder / TRAIN_ROWS)}
    if (folder / VALIDATION_ROWS).is_file():
        splits["eval_dataset"] = read_rows(folder / VALIDATION_ROWS)
    datasets = {name: _dataset(name, found) for name, found in splits.items()}
    return vf.SingleTurnEnv(**datasets, rubric=RewardRubric(chosen, splits, opened), **arguments)


class RewardRubric(vf.Rubric):  # type: ignore[misc]
    """A reward of this package as verifiers asks for it; its parts are metrics, none of them added to it.

    It scores by itself instead of by functions handed over: verifiers counts a function that raises as a reward of 0,
    and a reward that is wrong must end a training, not bend it. A rollout that failed earns 0, unread.
    """

    def __init__(self, reward: RewardFunction, rows: dict[str, list[TrainingRow]], opened: str = "") -> None:
        super().__init__()
        self._reward, self._rows, self._opened = reward, rows, opened

    @property
    def has_group_rewards(self) -> bool:
        """Whether the reward looks at all answers to a window at once."""
        return isinstance(self._reward, SeesGroup)

    def _get_reward_func_names(self) -> list[str]:
        return list(METRICS)

    async def score_rollout(self, state: vf.State) -> None:
        """Put ``reward`` and ``metrics`` into a rollout's state."""
        _settle(state, None if _failed(state) else score(self._reward, *self._answer(state)))

    async def score_group(self, states: list[vf.State]) -> None:
        """As ``score_rollout``, of rollouts of one example, with each turn's advantage over their mean."""
        answered = [state for state in states if not _failed(state)]
        texts, windows, numbers, lengths = (
            zip(*map(self._answer, answered), strict=True) if answered else ([], [], [], [])
        )
        known = None if None in lengths else lengths
        found = score_groups(self._reward, list(zip(texts, windows, strict=True)), numbers, known)
        for state in states:
            _settle(state, None)
        for state, breakdown in zip(answered, found, strict=True):
            _settle(state, breakdown)
        mean = sum(state["reward"] for state in states) / max(len(states), 1)
        for state in states:
            for step in state["trajectory"]:
                step["advantage"], step["reward"] = state["reward"] - mean, state["reward"]

    def _answer(self, state: vf.State) -> tuple[str, JudgedWindow, int, int | None]:
        """(text, window, number of its row, tokens) of a rollout."""
        row = self._rows[state["info"]["split"]][state["info"]["row"]]
        message = state["completion"][-1]
        usage = state["trajectory"][-1]["response"].usage
        tokens = usage.completion_tokens if usage is not None else None
        return self._opened + _text(message), row.judged, row.index, tokens


def _dataset(split: str, rows: Sequence[TrainingRow]) -> Dataset:
    """What verifiers reads: each row's chat, and which row it is."""
    places = [{"split": split, "row": place} for place in range(len(rows))]
    return Dataset.from_dict({"prompt": chats(rows), "info": places})


def _failed(state: vf.State) -> bool:
    return state.get("error") is not None or not state["completion"]


def _text(message: Any) -> str:
    """An answer as the model wrote it: a server may send the reasoning apart."""
    content, reasoning = message.content or "", message.reasoning_content or ""
    if not isinstance(content, str):  # parts
        content = "".join(str(part.get("text", "")) if isinstance(part, dict) else part.text for part in content)
    if not reasoning.strip() or "</think>" in content:
        return content
    return f"<think>{reasoning}</think>\n{content}"


def _settle(state: vf.State, found: RewardBreakdown | None) -> None:
    if found is None:
        state["reward"], state["metrics"] = 0.0, dict.fromkeys(METRICS, 0.0)
        return
    parts = {**asdict(found), READ: float(found.status is ParseStatus.OK)}
    state["reward"], state["metrics"] = found.total, {name: float(parts[name]) for name in METRICS}
