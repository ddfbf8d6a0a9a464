"""TRL with a real tiny model: the reward it is paid by is ours; LoRA, SFT, faults."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests import shipped

from rearank.algorithms import MaxRl, PolicyGradient
from rearank.augmentation import MultiSample, WindowFilter
from rearank.data import Source
from rearank.data.bm25 import Bm25
from rearank.data.synthetic import SyntheticCollection
from rearank.engines.chat import opening
from rearank.parsing import ParseStatus, parse_ranking
from rearank.prompts import CompactPrompt
from rearank.rewards import AbsoluteReward, NdcgReward, RewardBreakdown, RewardFunction, SeesGroup
from rearank.tracking import NoTracking, read_jsonl
from rearank.training.base import Lora, TrainingError, TrainingJob
from rearank.training.guard import Guard
from rearank.training.local import complete_checkpoint, load_tokenizer, mark_complete
from rearank.training.rows import read_rows, write_rows
from rearank.training.sft import Sft, ideal_answer
from rearank.training.trl import TrlTrainer
from rearank.training.trl.reward import TrlReward
from rearank.types import JudgedWindow, Passage, Query, Window

torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file
greedy = pytest.importorskip("rearank.training.trl.answers", exc_type=ImportError).greedy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
ALGORITHM = PolicyGradient(steps=2, prompts_per_step=2, group_size=4, learning_rate=1e-4, kl=0.0)
TRAINER = TrlTrainer(save_every=1, validate_every=1, device="cpu", threads=1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_rows(tmp_path_factory.mktemp("rows"))


def made_rows(folder: Path) -> Path:
    source = Source("s", SyntheticCollection(split="train", query_count=6), Bm25(cache_dir=str(folder)))
    draw = MultiSample(2, 5, 20, filter=WindowFilter(minimum=0.0, min_relevant=0))
    windows = [w for item in source.judged(20) for w in draw.augment(item.candidates, item.grades).windows]
    write_rows(folder / "rows.parquet", windows, CompactPrompt(), "s", "train")
    return folder / "rows.parquet"


def job(rows: Path, folder: Path, **changes: Any) -> TrainingJob:
    read = read_rows(rows)
    base = TrainingJob(
        model=str(shipped.ASSETS),
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
    paid = TrlReward(NdcgReward(), read)(
        completions=[[{"role": "assistant", "content": text}] for text in COMPLETIONS for _ in read],
        row=[row.index for _ in COMPLETIONS for row in read],
        log_metric=logged.__setitem__,
        prompts=None,
        completion_ids=None,
    )
    assert paid == [NdcgReward()(text, row.judged).total for text in COMPLETIONS for row in read]
    assert logged["train/reward/total"] == pytest.approx(sum(paid) / len(paid))
    assert sum(logged[f"rollout/parse/{status.value}"] for status in ParseStatus) == pytest.approx(1)


CUT = "The format is <answer> [5] > [4] > [3] > [2] > [1] </answer>. Now passage [1] is about"


def test_a_reasoning_that_the_template_opened_earns_nothing_until_it_ends(rows: Path) -> None:
    """The same text as in evaluation: cut while it quotes the format, it is no answer."""
    model, tokenizer = shipped.load()
    read = read_rows(rows)
    tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    paid = TrlReward(NdcgReward(), read, opening(tokenizer))

    def total(text: str) -> float:
        (found,) = paid(completions=[[{"content": text}]], row=[0], log_metric=lambda *_: None)
        return found

    ended = "so </think> <answer> [5] > [4] > [3] > [2] > [1] </answer>"
    assert total(CUT) == NdcgReward()("<think>" + CUT, read[0].judged).total == NdcgReward()("", read[0].judged).total
    assert paid.scored[0][2].status is ParseStatus.UNCLOSED_THINK
    assert total(ended) == NdcgReward()("<think>" + ended, read[0].judged).total
    (text, length), *_ = greedy(model, tokenizer, [read[0].prompt], 4, 1)
    assert text.startswith("<think>")
    assert length <= 4


@dataclass(frozen=True, kw_only=True)
class Novel(NdcgReward):
    """The answer that no other of its group gives earns 1 more."""

    def score_group(self, completions: Sequence[str], judged: JudgedWindow) -> list[RewardBreakdown]:
        times, alone = Counter(completions), [self(text, judged) for text in completions]
        return [
            replace(one, total=one.total + (times[text] == 1)) for text, one in zip(completions, alone, strict=True)
        ]


def test_a_reward_sees_its_group(rows: Path) -> None:
    read = read_rows(rows)
    asked = [(0, "a"), (1, "a"), (0, "b"), (0, "a"), (1, "b")]  # groups need not lie together
    paid = TrlReward(Novel(), read)
    found = paid(
        completions=[[{"role": "assistant", "content": text}] for _, text in asked],
        row=[number for number, _ in asked],
        log_metric=lambda *_: None,
    )
    alone = [NdcgReward()(text, read[number].judged).total for number, text in asked]
    assert [a - b for a, b in zip(found, alone, strict=True)] == [0, 1, 1, 0, 1]
    assert [text for _, text, _ in paid.scored] == [text for _, text in asked]
    assert isinstance(Novel(), SeesGroup)
    assert not isinstance(NdcgReward(), SeesGroup)


@pytest.mark.parametrize(
    ("algorithm", "reward"),
    [
        (MaxRl(kl=0.0), AbsoluteReward()),
        (PolicyGradient(advantage="leave_one_out", kl=0.01), Novel()),
        (PolicyGradient(advantage="batch", kl=0.0), NdcgReward()),
    ],
    ids=["maxrl", "leave_one_out", "batch"],
)
def test_algorithms_that_trl_does_not_have(
    rows: Path, tmp_path: Path, algorithm: PolicyGradient, reward: RewardFunction
) -> None:
    small = replace(algorithm, steps=2, prompts_per_step=2, group_size=4, learning_rate=1e-4)
    result = TRAINER.train(job(rows, tmp_path, reward=reward, validation=[]), small)
    assert result.steps == 2
    lines = [line for line in read_jsonl(tmp_path / "train.jsonl") if "train/loss" in line]
    assert all({"rollout/reward_spread", "rollout/groups_without_spread"} <= line.keys() for line in lines)


def test_a_reward_that_the_algorithm_cannot_learn_from_is_refused(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"algorithm=maxrl .* NdcgReward may be negative: set reward=absolute"):
        TRAINER.train(job(rows, tmp_path), MaxRl())


def test_lora_leaves_a_model_any_tool_loads(rows: Path, tmp_path: Path) -> None:
    trainer = replace(TRAINER, lora=Lora(rank=4))
    result = trainer.train(job(rows, tmp_path), replace(ALGORITHM, learning_rate=5e-2))
    model, tokenizer = shipped.load(result.model)
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


@pytest.mark.parametrize("targets", ["ideal", "grades"])
def test_sft_learns_its_targets(rows: Path, tmp_path: Path, targets: Any) -> None:
    result = TRAINER.fine_tune(job(rows, tmp_path), Sft(steps=3, batch=4, learning_rate=1e-3, targets=targets))
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
        TRAINER.train(job(rows, tmp_path, max_tokens=1020), ALGORITHM)
    with pytest.raises(
        TrainingError, match=r"8 training windows are fewer than a step takes: lower .*prompts_per_step \(9\)"
    ):
        TRAINER.train(job(rows, tmp_path), replace(ALGORITHM, prompts_per_step=9))
    with pytest.raises(TrainingError, match="no tokenizer can be loaded"):
        load_tokenizer(str(tmp_path), None)


def test_a_checkpoint_cut_short_is_not_resumed_from(tmp_path: Path) -> None:
    assert complete_checkpoint(tmp_path) is None
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    mark_complete(tmp_path / "checkpoint-2")
    mark_complete(tmp_path / "checkpoint-4")
    assert complete_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert not (tmp_path / "checkpoint-10").exists()


@dataclass
class Seen:
    """What TRL's trainer did: updates made before each sampling; (updates before, prompts, ratios) of each pass."""

    sampled: list[int] = field(default_factory=list)
    passes: list[tuple[int, list[tuple[int, ...]], Any]] = field(default_factory=list)
    trainer: Any = None


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """TRL's trainer as ours makes it for several minibatches, which also writes down what it does."""
    from rearank.training.trl import policy

    found = Seen()

    class Watched(policy.PolicyTrainer):
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            found.trainer = self
            found.sampled.append(self.state.global_step)
            return super()._generate_and_score_completions(inputs)

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            now, *_ = self._get_per_token_logps_and_entropies(model, ids, mask, inputs["completion_ids"].size(1))
            ratios = ((now.detach() - inputs["old_per_token_logps"]) * inputs["completion_mask"]).exp()
            prompts = [tuple(prompt) for prompt in inputs["prompt_ids"].tolist()]
            found.passes.append((self.state.global_step, prompts, ratios))
            return super()._compute_loss(model, inputs)

    monkeypatch.setattr(policy, "PolicyTrainer", Watched)
    return found


MINIBATCHES = replace(ALGORITHM, prompts_per_step=4, minibatches=2, learning_rate=1e-3)


def test_a_step_is_one_sampling_and_an_update_for_each_minibatch(rows: Path, tmp_path: Path, seen: Seen) -> None:
    result = replace(TRAINER, micro_batch=4).train(job(rows, tmp_path), MINIBATCHES)
    assert seen.sampled == [0, 2], "answers come from the policy that a step begins with"
    assert [updates for updates, *_ in seen.passes] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {int(state["step"]) for state in seen.trainer.optimizer.state.values()} == {4}
    for update in range(4):
        groups = Counter(prompt for updates, prompts, _ in seen.passes if updates == update for prompt in prompts)
        assert list(groups.values()) == [4, 4], "an update takes whole groups"
    far = [float((ratios - 1).abs().max()) for *_, ratios in seen.passes]
    assert max(far[0], far[1], far[4], far[5]) < 1e-4, "the first update of a step is on-policy"
    assert min(far[2], far[3], far[6], far[7]) > 1e-2, "the second isn't"
    # What is logged and kept counts steps, not updates.
    lines = read_jsonl(tmp_path / "train.jsonl")
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
    assert [line["step"] for line in lines if "val/ndcg@10" in line] == [0, 1, 2]
    assert result.steps == 2
    kept = (tmp_path / "checkpoints").glob("checkpoint-*")
    assert sorted(path.name for path in kept) == ["checkpoint-1", "checkpoint-2"]


def test_several_passes_over_the_minibatches(rows: Path, tmp_path: Path, seen: Seen) -> None:
    result = TRAINER.train(job(rows, tmp_path), replace(MINIBATCHES, updates=2))
    assert seen.sampled == [0, 4]
    groups = [set(prompts) for _, prompts, _ in seen.passes]
    assert groups[:2] == groups[2:4], "the second pass takes the minibatches of the first"
    assert result.steps == 4, "with updates each pass counts"


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_stopped_run_ends_where_a_whole_one_does(rows: Path, tmp_path: Path, minibatches: int) -> None:
    """Stopped in step 3 of 4, it goes on after step 2, with the second epoch's order of the windows."""
    algorithm = replace(MINIBATCHES, steps=4, minibatches=minibatches)
    trainer = replace(TRAINER, validate_every=4)
    whole = trainer.train(job(rows, tmp_path / "whole", validation=[]), algorithm)
    left = 16 * 2 + 5  # answers, of 16 a step

    class Stopped(NdcgReward):
        def __call__(self, *arguments: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    with pytest.raises(KeyboardInterrupt):
        trainer.train(job(rows, tmp_path / "stopped", validation=[], reward=Stopped()), algorithm)
    last = complete_checkpoint(tmp_path / "stopped" / "checkpoints")
    assert last is not None
    assert last.name == "checkpoint-2"
    again = trainer.train(job(rows, tmp_path / "stopped", validation=[]), algorithm)
    assert again.steps == whole.steps == 4
    curves = [read_jsonl(tmp_path / name / "train.jsonl") for name in ("whole", "stopped")]
    timeless = [[{k: v for k, v in line.items() if "seconds" not in k and k != "time"} for line in c] for c in curves]
    assert timeless[0] == timeless[1]
    weights = [load_file(Path(result.model) / "model.safetensors") for result in (whole, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
