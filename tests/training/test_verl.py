"""``trainer=verl`` as far as it goes without verl: the reward it is paid by, preflight, lengths, nodes, export."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.shipped import ASSETS

from rearank.algorithms import PolicyGradient, Ppo
from rearank.config import build, node_of
from rearank.engines.model import Architecture
from rearank.parsing import ParseStatus
from rearank.rewards import NdcgReward, NotFiniteError, RearankAuthorsReward, ReasonRankReward, RewardFunction
from rearank.rewards.absolute import AbsoluteReward
from rearank.rewards.multiview import MultiviewReward
from rearank.tracking import NoTracking
from rearank.training.base import Lora, TrainingError, TrainingForecast, TrainingJob
from rearank.training.rows import RowError, TrainingRow, read_rows, save_rows
from rearank.training.trl.reward import TrlReward
from rearank.training.verl import Cluster, VerlTrainer
from rearank.training.verl.preflight import examine, examine_lengths, settled
from rearank.training.verl.reward import compute_score
from rearank.training.verl.settings import Lengths
from rearank.types import JudgedWindow, Message, Passage, Query, Window

QWEN7B = Architecture(28, 3584, 18944, 28, 4, 128, 152064, 32768, attention_bias="qkv")
LENGTHS = Lengths(4096, 3072)


def window(size: int, seed: int) -> JudgedWindow:
    rng = random.Random(seed)
    grades = tuple(rng.choice((0, 0, 0, 1, 2, 3)) for _ in range(size))
    passages = tuple(Passage(f"p{seed}-{i}", "") for i in range(size))
    return JudgedWindow(Window(Query(f"q{seed}", "text"), passages), grades, (3, 3, 2, *grades) if seed % 2 else None)


def rows(count: int, size: int = 20) -> list[TrainingRow]:
    prompt = (Message("system", "rank"), Message("user", "Query: text"))
    return [TrainingRow(i, "made", "train", prompt, window(size, i)) for i in range(count)]


def completion(rng: random.Random, size: int) -> str:
    """Good, partial, wrong and hostile answers."""
    order = rng.sample(range(1, size + 1), size)
    ranked = " > ".join(f"[{i}]" for i in order)
    return rng.choice(
        [
            f"<think> notes </think> <answer> {ranked} </answer>",
            f"<think> notes </think> <answer> {' > '.join(f'[{i}]' for i in order[: size // 2])} </answer>",
            f"<answer> {ranked} </answer>",
            f"<think> {ranked}",
            f"<think> x </think> <answer> [0] > [{size + 3}] > {ranked} </answer>",
            f"<think> x </think> <answer> {ranked} > [{order[0]}] </answer>",
            "".join(rng.choice("<>[]/think answer 0123456789\n") for _ in range(200)),
            "",
        ]
    )


@pytest.mark.parametrize(
    "reward",
    [
        *(NdcgReward(), AbsoluteReward(ideal="window"), MultiviewReward(partial="score")),
        *(RearankAuthorsReward(), ReasonRankReward()),
    ],
)
def test_both_trainers_are_paid_the_same(reward: RewardFunction, tmp_path: Path) -> None:
    """500 completions through both trainers' entry points, the rows read back from the file that verl reads."""
    save_rows(tmp_path / "rows.parquet", rows(50))
    read = read_rows(tmp_path / "rows.parquet")
    import pyarrow.parquet as pq

    records = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    rng = random.Random(3)
    asked = [(rng.randrange(50), completion(rng, 20)) for _ in range(500)]
    trl = TrlReward(reward, read)
    paid_by_trl = trl(
        completions=[[{"role": "assistant", "content": text}] for _, text in asked],
        row=[index for index, _ in asked],
        log_metric=lambda *_: None,
    )
    node = json.dumps(node_of(reward))
    by_verl = [
        compute_score(
            data_source="made",
            solution_str=text,
            ground_truth=records[index]["reward_model"]["ground_truth"],
            extra_info=records[index]["extra_info"],
            reward=node,
        )
        for index, text in asked
    ]
    assert [score["score"] for score in by_verl] == paid_by_trl
    for score, (_, _, breakdown) in zip(by_verl, trl.scored, strict=True):
        assert ParseStatus(score["status"]) is breakdown.status
        for name in ("rank", "format_tags", "format_list", "ndcg_initial", "ndcg_reranked", "ndcg_best"):
            assert score[name] == getattr(breakdown, name)
    assert len({score["status"] for score in by_verl}) >= 5, "the completions are of many kinds"
    assert len({tuple(score) for score in by_verl}) == 1, "the same keys for every answer, as verl wants them"


def test_both_trainers_read_the_reasoning_that_the_template_opened(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    save_rows(tmp_path / "rows.parquet", rows(1))
    (read,), (record,) = read_rows(tmp_path / "rows.parquet"), pq.read_table(tmp_path / "rows.parquet").to_pylist()
    order = " > ".join(f"[{i + 1}]" for i in range(len(read.judged.relevance)))
    text = f"The format is <answer> {order} </answer>. Now passage [1] is about"
    trl = TrlReward(NdcgReward(), [read], "<think>\n")
    (paid,) = trl(completions=[[{"content": text}]], row=[0], log_metric=lambda *_: None)
    score = compute_score(
        data_source="made",
        solution_str=text,
        ground_truth=record["reward_model"]["ground_truth"],
        extra_info=record["extra_info"],
        reward=json.dumps(node_of(NdcgReward())),
        opened="<think>\n",
    )
    assert score["score"] == paid
    assert score["status"] == trl.scored[0][2].status == ParseStatus.UNCLOSED_THINK


def test_both_trainers_go_by_a_teachers_order(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    (row,) = rows(1)
    size = len(row.judged.relevance)
    taught = replace(row, judged=replace(row.judged, gold=tuple(reversed(range(size)))))
    save_rows(tmp_path / "rows.parquet", [taught])
    (record,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    text = f"<think>x</think> <answer>{' > '.join(f'[{i}]' for i in range(size, 0, -1))}</answer>"
    reward = ReasonRankReward()
    score = compute_score(
        data_source="made",
        solution_str=text,
        ground_truth=record["reward_model"]["ground_truth"],
        extra_info=record["extra_info"],
        reward=json.dumps(node_of(reward)),
    )
    assert score["score"] == reward(text, taught.judged).total
    assert score["score"] > reward(text, row.judged).total, "it is the teacher's own order, and not that of the grades"


def test_a_reward_that_is_not_finite_ends_the_run() -> None:
    truth = {"relevance": [0, 1, 0, 2], "ideal": [], "has_ideal": False}
    extra = {"index": 0, "query_id": "q1", "query": "text", "passage_ids": ["a", "b", "c", "d"]}
    with pytest.raises(NotFiniteError, match=r"total is inf, for row 0, query 'q1' and the answer"):
        compute_score(
            data_source="made",
            solution_str="<think>x</think> <answer>[4] > [3] > [2] > [1]</answer>",
            ground_truth=truth,
            extra_info=extra,
            reward=json.dumps(node_of(AbsoluteReward(weight_list=1e308, weight_tags=1e308))),
        )


def test_a_reward_travels_as_its_node() -> None:
    reward = NdcgReward(floor=None, k=5, weight_rank=0.7)
    assert build(json.loads(json.dumps(node_of(reward)))) == reward
    nested = VerlTrainer(cluster=Cluster(gpus_per_node=2), lora=Lora(rank=4))
    assert build(node_of(nested)) == nested


def test_rows_keep_their_number_when_some_are_left_out(tmp_path: Path) -> None:
    save_rows(tmp_path / "rows.parquet", rows(6)[3:])
    assert [row.index for row in read_rows(tmp_path / "rows.parquet")] == [3, 4, 5]


def test_rows_of_another_version_are_refused(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    save_rows(path, rows(2))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"rearank.rows": b"0"}), path)
    with pytest.raises(RowError, match=r"rows of version 0, this rearank reads 1; run task=prepare again"):
        read_rows(path)


def gpus(count: int = 8, **changes: Any) -> VerlTrainer:
    return VerlTrainer(cluster=Cluster(gpus_per_node=count, gpu_gib=79.0), **changes)


def test_the_papers_setting_fits_eight_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 50}))
    monkeypatch.setattr("rearank.training.verl.preflight.host_gib", lambda: 512.0)
    report = examine(gpus(attention="flash_attention_2"), PolicyGradient(), LENGTHS, QWEN7B, tmp_path)
    assert report.problems == []
    assert any("memory a GPU, computed" in note for note in report.notes)
    assert any(note.startswith("cost: a pass over a step's answers takes") for note in report.notes)
    assert any("memory a machine, computed: 57 of 512 GiB" in note for note in report.notes)
    assert any("disk: " in note for note in report.notes)


def test_every_failure_at_once_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 30}))
    trainer = gpus(1, tokens_per_pass=2048)
    lengths = Lengths(30000, 5000)
    report = examine(trainer, PolicyGradient(), lengths, QWEN7B, tmp_path / "not" / "there")
    said = "\n".join(report.problems)
    assert "trainer.tokens_per_pass (2048) is less than one prompt with its answer" in said
    assert "together exceed the model's context of 32768; lower one of them" in said
    assert "GiB free and" in said
    assert "fewer (trainer.keep)" in said
    assert "trainer.lora" in said, "all weights of 7B don't fit one GPU"
    assert len(report.problems) >= 4


def test_what_a_machines_memory_is_too_small_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(**changes: Any) -> str:
        return "\n".join(examine(gpus(**changes), PolicyGradient(), LENGTHS, QWEN7B, tmp_path).problems)

    monkeypatch.setattr("rearank.training.verl.preflight.host_gib", lambda: 40.0)
    assert "this machine has 40 GiB of memory and loading takes 57" in said()
    assert "do without the reference (algorithm.kl=0)" in said()
    offloaded = said(offload="all")
    assert "training takes 113" in offloaded
    assert "trainer.offload=none" in offloaded
    monkeypatch.setattr("rearank.training.verl.preflight.host_gib", lambda: 512.0)
    assert "GiB of memory and" not in said(offload="all")


def test_what_the_plan_is_told(tmp_path: Path) -> None:
    def memory(**changes: Any) -> str:
        notes = examine(gpus(**changes), PolicyGradient(), LENGTHS, QWEN7B, tmp_path).notes
        return next(note for note in notes if note.startswith("memory a GPU"))

    key = {"use_no_sync_for_gradient_accumulation": True}
    whole = {"actor_rollout_ref": {"actor": {"fsdp_config": key}}}
    fixed: dict[str, Any] = {"tokens_per_pass": 16384, "gradient_checkpointing": False}
    assert "activations 96" in memory(**fixed), "what is set stays, though it does not fit"
    assert "whole gradients 28.4" in memory(verl=whole, **fixed)
    lora = Lora(rank=32)
    assert memory(lora=lora, lora_base="bfloat16") != memory(lora=lora)
    two = Cluster(address="auto", nodes=2, gpu_gib=79.0)
    clusters = (two, replace(two, shard_within_node=True))
    kernel = "flash_attention_2"
    planned = [settled(VerlTrainer(c, attention=kernel), PolicyGradient(), LENGTHS, QWEN7B, 79.0) for c in clusters]
    assert [trainer.gradient_checkpointing for trainer in planned] == [True, False]


def test_every_copy_of_the_weights_is_saved(tmp_path: Path) -> None:
    def checkpoint(**changes: Any) -> float:
        trainer = VerlTrainer(cluster=Cluster(address="auto", nodes=2, gpu_gib=79.0, **changes))
        notes = examine(trainer, PolicyGradient(), LENGTHS, QWEN7B, tmp_path).notes
        note = next(note for note in notes if note.startswith("disk"))
        return float(note.partition("checkpoints of ")[2].split()[0])

    assert checkpoint(shard_within_node=True) == pytest.approx(2 * checkpoint(), abs=0.1)


def test_a_critic_takes_more(tmp_path: Path) -> None:
    def disk(algorithm: PolicyGradient) -> str:
        notes = examine(gpus(), algorithm, LENGTHS, QWEN7B, tmp_path).notes
        return next(note for note in notes if note.startswith("disk"))

    assert disk(Ppo(prompts_per_step=1024)) != disk(PolicyGradient())


def test_unknown_sizes_are_said(tmp_path: Path) -> None:
    report = examine(gpus(), PolicyGradient(), LENGTHS, None, tmp_path)
    assert report.notes == ["memory and disk: not estimated, the model's sizes are not known (model.architecture)"]


def test_prompts_that_are_too_long() -> None:
    report = TrainingForecast()
    examine_lengths(report, [100, 200, 300, 5000], "training", LENGTHS)
    assert report.problems == []
    assert "of 100 to 5000 tokens, mean 1400; 25.0% over trainer.max_prompt_tokens=4096" in report.notes[0]
    examine_lengths(report, [5000, 6000], "training", LENGTHS)
    assert "every training prompt is longer than trainer.max_prompt_tokens (4096; the shortest has 5000)" in "".join(
        report.problems
    )


def test_measured_with_the_models_own_tokenizer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from rearank.training.lengths import prompt_lengths
    from rearank.training.local import load_tokenizer
    from rearank.training.verl.launch import _rows

    tokenizer = load_tokenizer(str(ASSETS), None)
    short, long = rows(2)
    long = replace(long, prompt=(Message("user", "ship " * 300),))
    lengths = prompt_lengths(tokenizer, [short, long], "training")
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ship " * 300}], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert lengths[1] == len(whole)
    job = TrainingJob(
        str(ASSETS), None, 64, [], [], NdcgReward(), tmp_path, NoTracking().open(tmp_path, "t", {}, "train"), 1
    )
    kept, _ = _rows(replace(job, train=[short, long]), Lengths(256, 64))
    assert [row.index for row in kept] == [0]
    assert "1 of 2 training windows left out" in caplog.text
    with pytest.raises(TrainingError, match=r"every training prompt .* is longer than trainer.max_prompt_tokens \(2\)"):
        _rows(replace(job, train=[short, long]), Lengths(2, 64))
    with pytest.raises(TrainingError, match="together exceed the model's context of 1024"):
        _rows(replace(job, train=[short]), Lengths(1000, 64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cluster(nodes=2), r"nodes=2 needs a Ray cluster over these machines: .*cluster\.address=auto"),
        (lambda: Cluster(gpus_per_node=0), "gpus_per_node must be at least 1"),
        (lambda: Cluster(seconds_to_sync=0), "seconds_to_sync must be above 0"),
        (lambda: VerlTrainer(cluster=Cluster(gpus_per_node=3), tensor_parallel=2), "tensor_parallel .2. must divide"),
        (lambda: VerlTrainer(cluster=Cluster(), rollout_memory=1.0), "rollout_memory must be above 0 and below 1"),
        (lambda: VerlTrainer(cluster=Cluster(), keep=0), "keep must be at least 1"),
        (
            lambda: VerlTrainer(cluster=Cluster(), lora_base="bfloat16"),
            "lora_base and layered_summon are about adapters",
        ),
    ],
)
def test_ranges(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_several_nodes_join_a_cluster() -> None:
    assert Cluster(address="auto", nodes=4).gpus == 32


def test_shards_become_one_model(tmp_path: Path) -> None:
    """A checkpoint of one rank: plain tensors under verl's names for its files."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rearank.training.verl.export import export, export_base, world_size

    shards = tmp_path / "actor"
    shards.mkdir()
    model = AutoModelForCausalLM.from_pretrained(str(ASSETS))
    changed = {name: tensor + 1e-3 for name, tensor in model.state_dict().items()}
    torch.save(changed, shards / "model_world_size_1_rank_0.pt")
    (shards / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 1}')
    AutoTokenizer.from_pretrained(str(ASSETS)).save_pretrained(shards / "huggingface")
    export(shards, str(ASSETS), None, tmp_path / "model")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(written[name], tensor) for name, tensor in changed.items()), "to the last bit of float32"
    export_base(str(ASSETS), None, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())

    (shards / "fsdp_config.json").write_text('{"world_size": 2}')
    with pytest.raises(TrainingError, match=r"rank_0\.pt: no such shard; checkpoints of several nodes need"):
        export(shards, str(ASSETS), None, tmp_path / "model")
    with pytest.raises(TrainingError, match="not a checkpoint of verl's"):
        world_size(tmp_path)
    (shards / "fsdp_config.json").write_text('{"world_size": 1}')
    torch.save({"something.else": torch.zeros(1)}, shards / "model_world_size_1_rank_0.pt")
    with pytest.raises(TrainingError, match="the shards are not this model's: missing"):
        export(shards, str(ASSETS), None, tmp_path / "model")
