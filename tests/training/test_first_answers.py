"""What stops a training with TRL before it spoils the weights or wastes hours, with a real tiny model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests import shipped
from tests.training.test_trl import ALGORITHM, TRAINER, job, rows  # noqa: F401  # a fixture

from rearank.rewards import NdcgReward, RewardBreakdown, RewardError
from rearank.tracking import read_jsonl
from rearank.training.base import TrainingError
from rearank.training.guard import Guard
from rearank.training.local import load_tokenizer
from rearank.training.rows import chats, read_rows
from rearank.training.sft import Sft
from rearank.training.targets import answer_after, ending, target_tokens
from rearank.types import JudgedWindow

torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
STRIPS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and '</think>' in m['content'] %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('users only') }}{% endif %}{% endfor %}"
)
NOTES = "<think> [1] 0 [2] 2 </think> <answer> [2] > [1] </answer>"


def model(folder: Path, template: str) -> str:
    """The tiny model with another chat template."""
    place = folder / "model"
    shutil.copytree(shipped.ASSETS, place)
    (place / "chat_template.jinja").write_text(template)
    return str(place)


@pytest.mark.parametrize("validated", [True, False])
def test_answers_that_can_not_be_read_stop_the_run_at_its_start(
    rows: Path,  # noqa: F811
    tmp_path: Path,
    validated: bool,
) -> None:
    short = job(rows, tmp_path, max_tokens=3, **({} if validated else {"validation": []}))
    with pytest.raises(TrainingError, match=r"100% of the answers .*max_unread=0\.9: .*model\.max_tokens") as stopped:
        TRAINER.train(short, ALGORITHM)
    assert "\n" not in str(stopped.value)
    steps = [line["step"] for line in read_jsonl(tmp_path / "train.jsonl")]
    assert steps == [0 if validated else 1], "what was found is logged"
    assert not (tmp_path / "result.json").exists(), "the same command begins again"
    anyway = replace(TRAINER, guard=Guard(max_unread=None))
    assert anyway.train(short, ALGORITHM).steps == 2


@dataclass(frozen=True, kw_only=True)
class Flat(NdcgReward):
    def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
        return replace(super().__call__(completion, judged), total=1.0)


def test_a_step_without_spread_is_warned_of(
    rows: Path,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        TRAINER.train(job(rows, tmp_path, reward=Flat(), validation=[]), ALGORITHM)
    said = [line for record in caplog.records if "has any spread" in (line := record.getMessage())]
    assert len(said) == 1, "once for steps in a row"
    assert said[0].startswith("step 1: ")
    assert "algorithm.temperature" in said[0]


@pytest.mark.parametrize("raises", [False, True])
def test_a_reward_that_is_not_finite_or_fails_stops_the_run_after_its_last_step(
    rows: Path,  # noqa: F811
    tmp_path: Path,
    raises: bool,
) -> None:
    """Saved though no checkpoint was due; with the reward mended the run ends where an undisturbed one does."""
    algorithm, trainer = replace(ALGORITHM, steps=3, learning_rate=1e-3), replace(TRAINER, save_every=100)
    whole = trainer.train(job(rows, tmp_path / "whole", validation=[]), algorithm)
    asked = 0

    class Odd(NdcgReward):
        def __call__(self, completion: str, judged: JudgedWindow) -> RewardBreakdown:
            nonlocal asked
            asked += 1
            found = super().__call__(completion, judged)
            if asked == 8 * 2 + 3 and raises:
                raise LookupError("no such grade")
            return replace(found, total=float("nan")) if asked == 8 * 2 + 3 else found

    part = job(rows, tmp_path / "part", validation=[])
    said = r"Odd raised LookupError: no such grade \(.+, line \d+\)" if raises else "total is nan"
    with pytest.raises(RewardError, match=said + r", for row \d+, query '.+' and the answer '"):
        trainer.train(replace(part, reward=Odd()), algorithm)
    kept = [path.name for path in (tmp_path / "part" / "checkpoints").glob("checkpoint-*")]
    assert kept == ["checkpoint-2"]
    again = trainer.train(part, algorithm)
    one, other = (load_file(Path(result.model) / "model.safetensors") for result in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_template_that_refuses_the_prompt_is_named_before_any_work(rows: Path, tmp_path: Path) -> None:  # noqa: F811
    system = [replace(row, prompt=(replace(row.prompt[0], role="system"), *row.prompt)) for row in read_rows(rows)]
    refused = job(rows, tmp_path, model=model(tmp_path, NO_SYSTEM + STRIPS), train=system[:8], validation=[])
    for work in (lambda: TRAINER.train(refused, ALGORITHM), lambda: TRAINER.fine_tune(refused, Sft(batch=4))):
        with pytest.raises(TrainingError, match=r"refuses the system role \(users only\): set prompt\.system=''"):
            work()


def targets(place: str, prompt: Sequence[dict[str, str]], answer: str) -> tuple[str, str]:
    tokenizer = load_tokenizer(place, None)
    ids, asked = target_tokens(tokenizer, prompt, answer, ending(tokenizer, prompt))
    assert tokenizer.decode(ids[:asked]) == tokenizer.decode(
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    )
    return tokenizer.decode(ids[:asked]), tokenizer.decode(ids[asked:])


def test_notes_stay_in_the_target_whatever_the_template_does(rows: Path, tmp_path: Path) -> None:  # noqa: F811
    prompt = chats(read_rows(rows)[:1])[0]
    _, plain = targets(str(shipped.ASSETS), prompt, NOTES)
    _, stripped = targets(model(tmp_path, STRIPS), prompt, NOTES)
    assert stripped == plain
    for part in ("<think> [1] 0 [2] 2 </think>", "<|im_end|>"):
        assert part in stripped
    assert stripped.count("<|im_end|>") == 1


def test_sft_learns_the_notes_under_a_template_that_strips_them(rows: Path, tmp_path: Path) -> None:  # noqa: F811
    losses = []
    for name, place in (("plain", str(shipped.ASSETS)), ("strips", model(tmp_path, STRIPS))):
        sft = Sft(steps=1, batch=4, targets="grades")
        TRAINER.fine_tune(job(rows, tmp_path / name, model=place, validation=[]), sft)
        losses += [line["train/loss"] for line in read_jsonl(tmp_path / name / "train.jsonl") if "train/loss" in line]
    assert losses[0] == losses[1], "the same tokens are learned"


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("ask\n", NOTES, NOTES),
        ("ask\n<think>\n", NOTES, NOTES.removeprefix("<think>")),
        ("ask\n<think>\n", "[2] > [1]", "</think>\n[2] > [1]"),
        ("ask\n<think>\n\n</think>\n\n", "<think>  </think> <answer> [1] </answer>", "<answer> [1] </answer>"),
        ("ask\n<think>\n\n</think>\n\n", "[2] > [1]", "[2] > [1]"),
    ],
)
def test_an_answer_follows_what_the_template_has_opened(prompt: str, answer: str, expected: str) -> None:
    assert answer_after(prompt, answer) == expected


def test_a_reasoning_that_the_template_has_closed_takes_no_notes() -> None:
    with pytest.raises(TrainingError, match=r"set sft\.targets=ideal"):
        answer_after("ask\n<think>\n\n</think>\n\n", NOTES)
