"""Choices of precision, kernels and routing, each in a real run of two ranks or with adapters. Minutes each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from tests.cluster.runs import SMALL, curves, run
from tests.data.rearank_rows import rows as miniature
from tests.data.rearank_rows import write_parquet, write_qrels
from tests.shipped import ASSETS

from rearank.training.rows import TrainingRow, read_rows
from rearank.training.verl.export import sharded_over

pytestmark = [pytest.mark.full, pytest.mark.slow, pytest.mark.timeout(1500)]
BLOCK = 32
GROUP = 4


def rows_of(folder: Path) -> list[TrainingRow]:
    """What was trained on."""
    return read_rows(folder / "training" / "rows" / "train.parquet")


def untied(folder: Path) -> str:
    """The tiny model with an output layer of its own, as most models of 7B have."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(ASSETS)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS).save_pretrained(folder)
    return str(folder)


def test_fused_kernels_where_the_output_layer_is_sharded(tmp_path: Path) -> None:
    """What two ranks compute without holding the logits is what they compute with them, step after step."""
    model = (f"model.path={untied(tmp_path / 'untied')}", "cluster.gpus_per_node=2", "algorithm.minibatches=2")
    run(tmp_path, SMALL, *model, "name=fused", "trainer.fused_kernels=true")
    run(tmp_path, SMALL, *model, "name=plain")
    fused, plain = (curves(tmp_path / name) for name in ("fused", "plain"))
    assert [line["step"] for line in fused] == [line["step"] for line in plain] == [0, 1, 2]
    compared = {"train/loss", "train/entropy", "train/grad_norm", "val/ndcg@10"}
    for ours, reference in zip(fused, plain, strict=True):
        assert (names := compared & ours.keys()) == compared & reference.keys()
        assert {name: ours[name] for name in names} == pytest.approx(
            {name: reference[name] for name in names}, rel=1e-3
        )


def test_adapters_over_a_base_in_bfloat16(tmp_path: Path) -> None:
    """They are trained in float32: steps far below bfloat16's spacing add up."""
    import torch

    adapters = ("trainer.lora={_target_: rearank.training.base.Lora, rank: 4}", "trainer.lora_base=bfloat16")
    run(tmp_path, SMALL, *adapters, "trainer.layered_summon=true", "algorithm.learning_rate=1e-5")
    shard = tmp_path / "run" / "training" / "checkpoints" / "global_step_2" / "actor" / "model_world_size_1_rank_0.pt"
    weights = torch.load(shard, weights_only=False)
    kinds = {("lora_" in name, value.dtype) for name, value in weights.items() if value.is_floating_point()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    largest = max(float(abs(value.to_local()).max()) for name, value in weights.items() if "lora_B" in name)
    assert 0 < largest < 1e-3, "it moved, by less than bfloat16 could follow from where lora_A stands"


def test_each_machine_holds_a_whole_copy(two_nodes: str, tmp_path: Path) -> None:
    """HSDP on two machines of two ranks: what it trains is what one rank trains, but for the order of sums."""
    import torch
    from safetensors.torch import load_file

    where = (f"cluster.address={two_nodes}", "cluster.nodes=2", "cluster.gpus_per_node=2")
    run(tmp_path, SMALL, *where, "cluster.shard_within_node=true", "name=four")
    run(tmp_path, SMALL, "cluster.gpus_per_node=1", "name=one")
    checkpoint = tmp_path / "four" / "training" / "checkpoints" / "global_step_2" / "actor"
    assert sharded_over(checkpoint) == 2
    assert len(list(checkpoint.glob("model_world_size_4_rank_*.pt"))) == 4
    four, one = (load_file(tmp_path / name / "training" / "model" / "model.safetensors") for name in ("four", "one"))
    assert four.keys() == one.keys()
    assert all(torch.allclose(four[name], one[name], atol=2e-3) for name in four)


def test_rows_that_a_dataset_holds(tmp_path: Path) -> None:
    """The authors' rows, prompts and reward as they are, in small."""
    some, qrels = miniature(tmp_path / "cache", queries=16, sets=2)
    held = (f"dataset.path={write_parquet(tmp_path / 'held.parquet', some)}", "dataset.prompt=compact")
    held += (f"dataset.qrels=[{write_qrels(tmp_path / 'held.qrels', qrels)}]",)
    held += ("~dataset@validation", "prepare.validation_share=0.25", "reward=rearank_authors")
    # Without what shapes windows of a collection, which these rows are already.
    mine = tuple(setting for setting in SMALL if not setting.startswith(("dataset.", "validation.")))
    run(tmp_path, mine, "dataset=rearank_12k", *held)
    prompts = [[asdict(message) for message in row.prompt] for row in rows_of(tmp_path / "run")]
    assert prompts
    assert all(prompt in [row["prompt"] for row in some] for prompt in prompts)
    rewards = [line["train/reward/total"] for line in curves(tmp_path / "run") if "train/loss" in line]
    assert len(rewards) == 2
    assert all(reward <= 1 for reward in rewards)


def test_a_group_reads_its_prompt_once(tmp_path: Path) -> None:
    """Two rollout engines, blocks of 32 tokens: every answer but a group's first finds the prompt's whole blocks."""
    block = f"+trainer.verl.actor_rollout_ref.rollout.engine_kwargs.vllm.block_size={BLOCK}"
    run(tmp_path, SMALL, "cluster.gpus_per_node=2", "augmentation.size=10", "model.max_tokens=128", block)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    prompts = [[asdict(message) for message in row.prompt] for row in rows_of(tmp_path / "run")]
    whole = {"add_generation_prompt": True, "return_dict": False}
    lengths = {len(tokenizer.apply_chat_template(prompt, **whole)) for prompt in prompts}
    assert min(lengths) >= 4 * BLOCK, "prompts of four blocks or more"
    # The least that any mixture of these prompts can share.
    least = min((GROUP - 1) * ((length - 1) // BLOCK) * BLOCK / (GROUP * length) for length in lengths)
    shares = [line["rollout/prefill_shared"] for line in curves(tmp_path / "run") if "train/loss" in line]
    assert all(share >= least for share in shares), (shares, least)
