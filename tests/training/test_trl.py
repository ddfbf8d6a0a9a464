"""TRL with a real tiny model: the reward it is paid by is ours; LoRA, SFT, faults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rearank.augmentation import MultiSample, WindowFilter
from rearank.data import Source
from rearank.data.bm25 import Bm25
from rearank.data.synthetic import SyntheticCollection
from rearank.parsing import ParseStatus, parse_ranking
from rearank.prompts import CompactPrompt
from rearank.rewards import NdcgReward
from rearank.tracking import NoTracking, read_jsonl
from rearank.training import tiny
from rearank.training.algorithm import PolicyGradient
from rearank.training.base import Lora, TrainingError, TrainingJob
from rearank.training.fit import greedy
from rearank.training.guard import Guard
from rearank.training.local import checked_rows, complete_checkpoint, load_tokenizer, mark_complete
from rearank.training.rows import read_rows, write_rows
from rearank.training.sft import Sft, ideal_answer
from rearank.training.trl import TrlTrainer, _RewardFunction
from rearank.types import JudgedWindow, Passage, Query, Window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
ALGORITHM = PolicyGradient(steps=2, prompts_per_step=2, group_size=4, learning_rate=1e-4, kl=0.0)
TRAINER = TrlTrainer(save_every=1, validate_every=1, device="cpu", threads=1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    source = Source("s", SyntheticCollection(split="train", query_count=6), Bm25(cache_dir=str(folder)))
    draw = MultiSample(2, 5, 20, filter=WindowFilter(minimum=0.0, min_relevant=0))
    windows = [w for item in source.judged(20) for w in draw.augment(item.candidates, item.grades).windows]
    write_rows(folder / "rows.parquet", windows, CompactPrompt(), "s", "train")
    return folder / "rows.parquet"


def job(rows: Path, folder: Path, **changes: Any) -> TrainingJob:
    read = read_rows(rows)
    base = TrainingJob(
        model=str(tiny.ASSETS),
        revision=None,
        max_tokens=48,
        train=read[:8],
        validation=read[8:],
        reward=NdcgReward(),
        folder=folder,
        tracker=NoTracking().open(folder, "test", {}, "train"),
        seed=1,
    )
    return replace(base, **changes)


COMPLETIONS = [
    "<think> x </think> <answer> [2] > [1] > [3] > [4] > [5] </answer>",
    "<think> x </think> <answer> [1] </answer>",
    "<think> x",
    "",
    "[5] > [4] > [3] > [2] > [1]",
    "<think> x </think> <answer> [0] > [9] </answer>",
]


def test_trl_pays_what_the_reward_says(rows: Path, tmp_path: Path) -> None:
    read, logged = read_rows(rows), {}
    paid = _RewardFunction(job(rows, tmp_path), read)(
        completions=[[{"role": "assistant", "content": text}] for text in COMPLETIONS for _ in read],
        row=[row.index for _ in COMPLETIONS for row in read],
        log_metric=logged.__setitem__,
        prompts=None,
        completion_ids=None,
    )
    assert paid == [NdcgReward()(text, row.judged).total for text in COMPLETIONS for row in read]
    assert logged["train/reward/total"] == pytest.approx(sum(paid) / len(paid))
    assert sum(logged[f"rollout/parse/{status.value}"] for status in ParseStatus) == pytest.approx(1)


def test_lora_leaves_a_model_any_tool_loads(rows: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, lora=Lora(rank=4))
    result = trainer.train(job(rows, tmp_path), replace(ALGORITHM, learning_rate=5e-2))
    model, tokenizer = tiny.load(result.model)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    prompts = [row.prompt for row in read_rows(rows)[8:]]
    answers = [text for text, _ in greedy(model, tokenizer, prompts, 48, 4)]
    curves = read_jsonl(tmp_path / "train.jsonl")
    scored = [NdcgReward()(text, row.judged) for text, row in zip(answers, read_rows(rows)[8:], strict=True)]
    best = max(line["val/ndcg@10"] for line in curves if "val/ndcg@10" in line)
    assert sum(b.ndcg_reranked for b in scored) / len(scored) == pytest.approx(best)
    assert result.best_ndcg == pytest.approx(best)


def test_kl_uses_the_model_it_started_from(rows: Path, tmp_path: Path) -> None:
    TRAINER.train(job(rows, tmp_path, validation=[]), replace(ALGORITHM, kl=0.1))
    lines = [line for line in read_jsonl(tmp_path / "train.jsonl") if "train/kl" in line]
    assert len(lines) == 2
    assert lines[0]["train/kl"] == pytest.approx(0.0, abs=1e-6)
    assert json.loads((tmp_path / "best.json").read_text()) == {"step": 2, "ndcg": None}


def test_a_collapsing_run_is_stopped_and_says_why(rows: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, guard=Guard(patience=2))
    result = trainer.train(job(rows, tmp_path), replace(ALGORITHM, steps=6, learning_rate=1e-12))
    assert (result.steps, result.best_step) == (2, 0)
    assert result.stopped is not None
    assert "2 validations in a row without a better nDCG@10" in result.stopped
    assert (Path(result.model) / "model.safetensors").is_file()


@pytest.mark.parametrize("notes", ["none", "grades"])
def test_sft_learns_its_targets(rows: Path, tmp_path: Path, notes: Any) -> None:
    result = Sft(steps=3, batch=4, learning_rate=1e-3, notes=notes).train(job(rows, tmp_path), TRAINER)
    losses = [line["train/loss"] for line in read_jsonl(tmp_path / "train.jsonl") if "train/loss" in line]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert (Path(result.model) / "model.safetensors").is_file()


def test_ideal_answers() -> None:
    window = Window(Query("q", "x"), tuple(Passage(str(i), "") for i in range(3)))
    judged = JudgedWindow(window, (-1, 2, 0))
    bare = ideal_answer(judged, notes=False)
    assert parse_ranking(bare, 3).permutation.order == (1, 0, 2)
    assert parse_ranking(bare, 3).status is ParseStatus.OK
    assert ideal_answer(judged, notes=True).startswith("<think> [1] 0 [2] 2 [3] 0 </think>")
    assert ideal_answer(judged, notes=False, tags=False) == "[2] > [1] > [3]"


def test_what_does_not_fit_is_named(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"trainer\.micro_batch \(3\) must divide .* = 8"):
        replace(TRAINER, micro_batch=3).train(job(rows, tmp_path), ALGORITHM)
    with pytest.raises(TrainingError, match=r"every training prompt .* longer than the model's context of 1024"):
        checked_rows(
            job(rows, tmp_path, max_tokens=1020), load_tokenizer(str(tiny.ASSETS), None), read_rows(rows), "training"
        )
    with pytest.raises(
        TrainingError, match=r"8 training windows are fewer than a step takes: lower .*prompts_per_step \(9\)"
    ):
        TRAINER.train(job(rows, tmp_path), replace(ALGORITHM, prompts_per_step=9))
    with pytest.raises(TrainingError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path), None)
    with pytest.raises(TrainingError, match=r"object doesn.t fine-tune; set trainer=trl"):
        Sft().train(job(rows, tmp_path), object())


def test_a_checkpoint_cut_short_is_not_resumed_from(tmp_path: Path) -> None:
    assert complete_checkpoint(tmp_path) is None
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    mark_complete(tmp_path / "checkpoint-2")
    mark_complete(tmp_path / "checkpoint-4")
    assert complete_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-10").exists()
