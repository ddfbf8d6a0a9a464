"""Parameters are counted exactly; what a training takes grows and shrinks as it must; remedies name keys that exist."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from rearank.config import build
from rearank.engines.model import Architecture, Model
from rearank.training.memory import MemoryPlan, Workload, describe, estimate, main, models, recommend, table

CONF = Path(__file__).resolve().parents[2] / "conf"
# What the hub says of each checkpoint, or the sum over its tensors.
PUBLISHED = {
    "smollm2": 134_515_008,
    "qwen05b": 494_032_768,
    "qwen15b": 1_543_714_304,
    "qwen3b": 3_085_938_688,
    "qwen7b": 7_615_616_512,
    "rearank7b": 7_615_616_512,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "llama8b": 8_030_261_248,
    "rankzephyr7b": 7_241_732_096,
    "qwen3_32b": 32_762_123_264,
    "reasonrank32b": 32_763_876_352,
}
SMALL: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
KINDS = [
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {"head_dim": 16}),
    ("qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("mistral", {"head_dim": 24}),
]
needs_models = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def node(name: str) -> Model:
    loaded = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    assert isinstance(loaded, DictConfig)
    loaded.pop("defaults", None)  # what it chooses in other groups
    built: Model = build(loaded, "model")
    return built


def sizes(name: str) -> Architecture:
    found = node(name).sizes
    assert found is not None
    return found


QWEN7B = sizes("qwen7b")


def saved_config(folder: Path, kind: str, changes: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, **{**SMALL, **changes})
    config.save_pretrained(folder)
    return config


def count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_nodes_have_the_published_number_of_parameters(name: str) -> None:
    assert sizes(name).parameters == PUBLISHED[name]


def test_every_node_knows_its_sizes() -> None:
    different = [name for name in PUBLISHED if name != "rearank7b"]  # it has qwen7b's
    assert [model.name for model, _ in models(CONF / "model")] == sorted(
        ["tiny", *different], key=lambda name: (sizes(name).parameters, name)
    )


@needs_models
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_the_count_is_the_real_models(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    config = saved_config(tmp_path, kind, changes)
    architecture = Architecture.from_folder(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        assert architecture.parameters == count(model)
        assert architecture.layer_parameters == count(model.model.layers[0])
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert architecture.adapter_parameters(3) == trained
        config.num_labels = 1
        assert architecture.value_parameters == count(AutoModelForTokenClassification.from_config(config))


@needs_models
@pytest.mark.slow
def test_the_count_of_the_model_that_ships() -> None:
    from transformers import AutoModelForCausalLM

    model = node("tiny")
    found = model.sizes
    assert found is not None
    assert found.parameters == count(AutoModelForCausalLM.from_pretrained(model.location))


@needs_models
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes"), [KINDS[0], KINDS[3], KINDS[4]])
def test_what_a_layer_saves_is_what_torch_saves(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    # As many key heads as heads: on a CPU transformers copies shared ones, flash-attention does not.
    changes = {**changes, "hidden_size": 96, "intermediate_size": 256, "num_key_value_heads": 6}
    config = saved_config(tmp_path, kind, changes)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").train()
    tokens = 64
    hidden = torch.randn(1, tokens, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(tokens)[None]
    rotation = model.model.rotary_emb(hidden, positions)
    elsewhere = {t.untyped_storage().data_ptr() for t in (hidden, *rotation, *model.parameters())}
    saved: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in elsewhere:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model.layers[0](
            hidden, position_embeddings=rotation, attention_mask=None, position_ids=positions
        )
    assert output.shape == hidden.shape
    # The norms' and the attention's sums, a few numbers a token, are not counted.
    expected = Architecture.from_folder(tmp_path).saved_by_a_layer()
    assert expected == pytest.approx(sum(saved.values()) / tokens, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, r"config\.json: no key hidden_size"),
        ({"vocab_size": "many"}, r"config\.json: vocab_size must be a whole number, not 'many'"),
        ({"model_type": "mamba"}, r"config\.json: model_type 'mamba' is none of qwen2, qwen3, llama, mistral"),
        ({"num_key_value_heads": 4}, r"config\.json: kv_heads \(4\) must divide heads \(6\)"),
        ({"num_hidden_layers": 0}, r"config\.json: layers must be at least 1, not 0"),
    ],
)
def test_a_config_that_does_not_say_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config = {"model_type": "qwen2", **SMALL, **change}
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    with pytest.raises(ValueError, match=message):
        Architecture.from_folder(tmp_path)


def test_a_config_that_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json: can't be read \(No such file or directory\)"):
        Architecture.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is not JSON"):
        Architecture.from_folder(tmp_path)


def test_a_folders_config_wins_over_the_node(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SMALL}))
    model = Model("m", str(tmp_path), architecture=QWEN7B)
    found = model.sizes
    assert found is not None
    assert (found.layers, found.head_dim) == (3, 8)
    assert replace(model, path="owner/name").sizes == QWEN7B
    assert Model("m", "owner/name").sizes is None
    with pytest.raises(ValueError, match="architecture must be a node"):
        Model("m", "owner/name", architecture={"layers": 3})


architectures = st.sampled_from([sizes(name) for name in (*PUBLISHED, "tiny")])
workloads = st.builds(
    Workload,
    gpus=st.sampled_from([1, 2, 4, 8, 16, 24]),
    prompt_tokens=st.integers(1, 8192),
    answer_tokens=st.integers(1, 4096),
    tokens_per_pass=st.integers(1024, 65536),
    lora_rank=st.none() | st.integers(1, 128),
    lora_base=st.sampled_from(["float32", "bfloat16"]),
    critic=st.booleans(),
    offload=st.sampled_from(["none", "optimizer", "all"]),
    rollout_memory=st.floats(0.1, 0.9),
    temperature=st.sampled_from([0.7, 1.0]),
    gradient_checkpointing=st.booleans(),
    fused_kernels=st.booleans(),
    liger=st.booleans(),
    whole_gradients=st.booleans(),
    flash_attention=st.booleans(),
)


def assert_never_more(less: MemoryPlan, more: MemoryPlan) -> None:
    for phase in less.phases:
        assert less.gib(phase) <= more.gib(phase) + 1e-9, phase


@given(architectures, workloads, st.integers(2, 8))
def test_more_gpus_never_need_more_of_one(a: Architecture, work: Workload, times: int) -> None:
    fewer, more = estimate(a, work), estimate(a, replace(work, gpus=work.gpus * times))
    assert_never_more(more, fewer)
    assert more.kv_tokens == fewer.kv_tokens


@given(architectures, workloads, st.integers(1, 8192))
def test_more_tokens_need_more(a: Architecture, work: Workload, tokens: int) -> None:
    fewer, more = estimate(a, work), estimate(a, replace(work, tokens_per_pass=work.tokens_per_pass + tokens))
    assert_never_more(fewer, more)
    assert fewer.gib("update in a layer") < more.gib("update in a layer")


@given(architectures, workloads, st.integers(1, 64))
def test_adapters_never_need_more_to_train(a: Architecture, work: Workload, rank: int) -> None:
    # A trained share above a third is no saving: such ranks exist for the tiny model only.
    assume(a.adapter_parameters(rank) < a.parameters / 4)
    full, lora = (estimate(a, replace(work, lora_rank=r)) for r in (None, rank))
    for phase in full.training:
        if not (phase == "log-probabilities" or phase.startswith("critic")) or work.offload == "none":
            assert lora.gib(phase) <= full.gib(phase), phase
    if work.offload == "none":
        # vLLM holds the adapters besides, at least where its weights alone are more than its share.
        extra = 2 * a.adapter_parameters(rank) / 2**30
        assert lora.peak <= full.peak + extra


@given(architectures, workloads)
def test_offloading_never_needs_more(a: Architecture, work: Workload) -> None:
    none, optimizer, everything = (estimate(a, replace(work, offload=o)) for o in ("none", "optimizer", "all"))
    assert_never_more(optimizer, none)
    assert_never_more(everything, optimizer)
    assert none.host_peak <= optimizer.host_peak <= everything.host_peak


@given(architectures, workloads, st.sampled_from([2, 4, 8]))
def test_wider_engines_hold_more(a: Architecture, work: Workload, size: int) -> None:
    one, wide = estimate(a, work), estimate(a, replace(work, tensor_parallel=size))
    assert wide.kv_tokens >= one.kv_tokens
    assert_never_more(wide, one)


@given(architectures, workloads)
def test_keeping_every_layers_values_takes_more(a: Architecture, work: Workload) -> None:
    kept, computed_again = (estimate(a, replace(work, gradient_checkpointing=c)) for c in (False, True))
    for phase in ("update in a layer", "update at the logits"):
        assert computed_again.gib(phase) < kept.gib(phase)
    assert kept.rollouts == computed_again.rollouts


@given(architectures, workloads, st.sampled_from([1, 2, 4, 8]), st.integers(2, 4))
def test_machines_that_hold_all_weights_are_like_one(a: Architecture, work: Workload, gpus: int, nodes: int) -> None:
    one = replace(work, gpus=gpus)
    copied = estimate(a, replace(one, gpus=nodes * gpus, shards=gpus))
    assert copied.phases == estimate(a, one).phases
    assert_never_more(estimate(a, replace(one, gpus=nodes * gpus)), copied)
    alone = estimate(a, one).host
    for phase, parts in copied.host.items():
        assert parts == pytest.approx({name: nodes * gib for name, gib in alone[phase].items()})


@given(architectures, workloads)
def test_what_saves_memory_never_takes_more(a: Architecture, work: Workload) -> None:
    for saving, wasteful in (
        ({"liger": True}, {"liger": False}),
        ({"lora_base": "bfloat16"}, {"lora_base": "float32"}),
        ({"whole_gradients": False}, {"whole_gradients": True}),
    ):
        assert_never_more(estimate(a, replace(work, **saving)), estimate(a, replace(work, **wasteful)))


def test_fused_kernels_save_the_logits_of_a_long_pass() -> None:
    plain, fused = (estimate(QWEN7B, Workload(tokens_per_pass=32768, fused_kernels=f)) for f in (False, True))
    for phase in ("log-probabilities", "update at the logits"):
        saved = plain.phases[phase]["logits"] - fused.phases[phase]["logits"]
        assert saved > 5, phase
        assert plain.gib(phase) - fused.gib(phase) == pytest.approx(saved)


def test_a_base_in_half_precision_halves_the_frozen_weights_alone() -> None:
    whole, half = (estimate(QWEN7B, Workload(gpus=1, lora_rank=32, lora_base=b)) for b in ("float32", "bfloat16"))
    for part in ("gradients", "optimiser", "step"):
        assert half.phases["optimiser step"][part] == whole.phases["optimiser step"][part], "adapters stay float32"
    saved = whole.gib("optimiser step") - half.gib("optimiser step")
    assert saved == pytest.approx(2 * QWEN7B.parameters / 2**30)
    assert half.host_peak < whole.host_peak
    assert sum(half.host["loading"].values()) == pytest.approx(sum(whole.host["loading"].values()) / 2)
    everything = Workload(lora_base="bfloat16")
    assert estimate(QWEN7B, everything).phases == estimate(QWEN7B, replace(everything, lora_base="float32")).phases


def test_tied_embeddings_are_loaded_by_every_process() -> None:
    tied = sizes("qwen3b")
    loaded = estimate(tied, Workload(gpus=8)).host["loading"]["loaded by each process"]
    assert loaded == pytest.approx(8 * 4 * tied.parameters / 2**30)


def test_gradients_kept_whole_are_told_apart() -> None:
    plan = estimate(QWEN7B, Workload(whole_gradients=True))
    assert plan.phases["update in a layer"]["whole gradients"] == pytest.approx(4 * PUBLISHED["qwen7b"] / 2**30)
    assert "whole gradients" not in plan.phases["log-probabilities"]


@settings(deadline=None)
@given(architectures, workloads)
def test_a_plan_fits_or_says_why(a: Architecture, work: Workload) -> None:
    plan = estimate(a, work)
    assert plan.fits == (not plan.problems())
    assert plan.peak == max(plan.gib(phase) for phase in plan.phases)
    assert all(gib >= 0 for parts in plan.phases.values() for gib in parts.values())
    if plan.fits:
        assert plan.peak <= plan.capacity < work.gpu_gib
        assert plan.kv_answers >= 1


def test_seven_billion_on_eight_gpus() -> None:
    plan = estimate(QWEN7B, Workload(gpus=8))
    assert plan.fits
    state = {name: plan.phases["optimiser step"][name] for name in ("weights", "gradients", "optimiser", "step")}
    per_gpu = PUBLISHED["qwen7b"] / 8 / 2**30
    assert state == {
        "weights": pytest.approx(4 * per_gpu),
        "gradients": pytest.approx(4 * per_gpu),
        "optimiser": pytest.approx(8 * per_gpu),
        "step": pytest.approx(4 * per_gpu),
    }
    # One bfloat16 copy of tokens x vocabulary, and of every weight; 56 KiB of keys and values a token.
    assert plan.phases["update at the logits"]["logits"] == pytest.approx(2 * 16384 * 152064 / 2**30)
    generation = plan.phases["generation"]
    assert generation["vllm weights"] == pytest.approx(2 * 8 * per_gpu)
    assert plan.kv_tokens == int(generation["kv cache"] * 2**30 / 57344)
    vllm = sum(generation[name] for name in ("vllm weights", "vllm activations", "cuda graphs", "kv cache"))
    assert vllm == pytest.approx(0.6 * 79)
    # One process loads all weights beside the reference; from then on that alone stays.
    whole = pytest.approx(4 * 8 * per_gpu)
    assert plan.host == {
        "loading": {"loaded by one process": whole, "reference": whole},
        "training": {"reference": whole},
    }
    assert "gradients" not in generation


def test_seven_billion_on_one_gpu_needs_adapters() -> None:
    plan = estimate(QWEN7B, Workload(gpus=1))
    assert not plan.fits
    training = next(problem for problem in plan.problems() if problem.startswith("optimiser step takes 144.9 GiB"))
    assert "'trainer.lora={_target_: rearank.training.base.Lora, rank: 32}'" in training
    assert "cluster.gpus_per_node=2;" in training
    assert "a smaller model (model=...)" in training
    assert recommend(QWEN7B, Workload(gpus=1, lora_rank=32)).fits
    assert not recommend(QWEN7B, Workload(gpus=1)).fits


def test_a_critic_is_a_second_model() -> None:
    without, critic = (estimate(QWEN7B, Workload(critic=c)) for c in (False, True))
    assert set(critic.training) - set(without.training) == {"critic update", "critic step"}
    assert critic.gib("generation") - without.gib("generation") == pytest.approx(
        12 * QWEN7B.value_parameters / 8 / 2**30
    )
    # Beside adapters it is what takes most, since all its weights are trained.
    lora = estimate(QWEN7B, Workload(gpus=2, critic=True, lora_rank=32))
    assert max(lora.training, key=lora.gib) == "critic step"


def test_the_logits_without_flash_attention_or_at_another_temperature() -> None:
    def logits(**changes: Any) -> float:
        return estimate(QWEN7B, Workload(**changes)).phases["update at the logits"]["logits"]

    assert logits(temperature=0.7) == pytest.approx(2 * logits())
    assert logits(flash_attention=False) == pytest.approx(4 * logits())
    # In slices of 512 tokens, whatever the pass; beside them the output layer's gradient from one slice.
    slices = (20 * 512 * 152064 + 2 * 152064 * 3584) / 2**30
    assert logits(fused_kernels=True) == logits(fused_kernels=True, tokens_per_pass=65536) == pytest.approx(slices)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokens_per_pass": 4096}, ["trainer.tokens_per_pass=5120", "model.max_tokens", "trainer.max_prompt_tokens"]),
        ({"tensor_parallel": 3}, ["trainer.tensor_parallel=1 or 2 or 4"]),
        ({"prompt_tokens": 31000, "tokens_per_pass": 40000}, ["model.max_tokens", "trainer.max_prompt_tokens"]),
        ({"rollout_memory": 0.9}, ["trainer.rollout_memory=0.7", "trainer.offload=all"]),
        ({"rollout_memory": 0.15}, ["trainer.rollout_memory=0.25", "trainer.tensor_parallel=2"]),
        ({"tokens_per_pass": 200_000}, ["trainer.tokens_per_pass="]),
        (
            {"tokens_per_pass": 24576, "gradient_checkpointing": False},
            ["trainer.gradient_checkpointing=true", "trainer.tokens_per_pass=8192"],
        ),
        ({"gpus": 16, "shards": 4, "gpu_gib": 40.0}, ["cluster.shard_within_node=false"]),
        ({"gpus": 1, "lora_rank": 32, "rollout_memory": 0.6}, ["trainer.rollout_memory=0.5", "trainer.offload=all"]),
        ({"gpus": 1, "offload": "all"}, ["trainer.lora={", "cluster.gpus_per_node=2"]),
        ({"gpus": 2, "critic": True}, ["cluster.gpus_per_node=4"]),
        ({"gpus": 1, "gpu_gib": 42.0}, ["rank: 32}' trainer.tokens_per_pass=5120, or cluster.gpus_per_node=8"]),
        ({"gpus": 1, "gpu_gib": 15.0}, ["cluster.nodes", "a smaller model (model=...)"]),
    ],
)
def test_every_problem_has_a_remedy_that_helps(changes: dict[str, Any], named: list[str]) -> None:
    plan = estimate(QWEN7B, Workload(**changes))
    assert not plan.fits
    text = "\n".join(plan.problems())
    assert [name for name in named if name not in text] == []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["name=test", "output_dir=outputs/test"])
    for key in re.findall(r"\b(?:trainer|cluster|model)\.\w+", text):
        group, _, name = key.partition(".")
        section = config[group]
        assert isinstance(section, DictConfig)
        assert name in section, key


def test_recommended_settings_are_overrides() -> None:
    plan = recommend(QWEN7B, Workload(lora_rank=16))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [setting.strip("'") for setting in plan.settings()]
        trainer = compose("config", ["name=test", "output_dir=outputs/test", *given]).trainer
    assert trainer.lora.rank == 16
    work = plan.workload
    assert (trainer.offload, trainer.tokens_per_pass) == (work.offload, work.tokens_per_pass)
    assert (trainer.rollout_memory, trainer.tensor_parallel) == (work.rollout_memory, work.tensor_parallel)
    assert trainer.gradient_checkpointing is work.gradient_checkpointing


@settings(deadline=None)
@given(architectures, st.sampled_from([1, 2, 8]), st.sampled_from([24.0, 44.0, 79.0, 139.0]), st.booleans())
def test_what_is_recommended_fits_if_anything_does(a: Architecture, gpus: int, gib: float, lora: bool) -> None:
    rank = 8 if lora else None
    plan = recommend(a, Workload(gpus, prompt_tokens=512, answer_tokens=256, lora_rank=rank, gpu_gib=gib))
    least = replace(plan.workload, offload="all", tokens_per_pass=1024, rollout_memory=0.5)
    assert plan.fits or not estimate(a, least).fits


@settings(deadline=None, max_examples=40)
@given(architectures, workloads, st.sampled_from([24.0, 44.0, 79.0, 139.0]))
def test_speed_is_not_bought_with_the_last_of_the_memory(a: Architecture, work: Workload, gib: float) -> None:
    work = replace(work, gpu_gib=gib)
    plan = recommend(a, work)
    bold = not plan.workload.gradient_checkpointing or plan.workload.tokens_per_pass > max(16384, work.whole_answer)
    if plan.fits and bold:
        assert max(map(plan.gib, plan.training)) <= 0.9 * plan.capacity
    assert plan.workload.rollout_memory <= 0.7


@given(st.booleans(), st.sampled_from([4096, 8192, 20000]), st.sampled_from([0.3, 0.75, 0.85]))
def test_what_is_fixed_stays(checkpointing: bool, tokens: int, share: float) -> None:
    fixed: dict[str, Any] = {
        "gradient_checkpointing": checkpointing,
        "tokens_per_pass": tokens,
        "rollout_memory": share,
    }
    chosen = recommend(QWEN7B, Workload(), fixed).workload
    assert {name: getattr(chosen, name) for name in fixed} == fixed


def test_a_share_of_ones_own_does_not_slow_training_down() -> None:
    chosen = recommend(QWEN7B, Workload(), {"rollout_memory": 0.75}).workload
    assert not chosen.gradient_checkpointing


def test_the_papers_run_computes_no_layer_twice() -> None:
    within = recommend(QWEN7B, Workload(gpus=8)).workload
    assert (within.gradient_checkpointing, within.offload, within.tensor_parallel) == (False, "none", 1)
    # Split over two machines every pass gathers across them: then long passes are what counts.
    across = recommend(QWEN7B, Workload(gpus=16)).workload
    assert (across.gradient_checkpointing, across.tokens_per_pass) == (True, 32768)
    copied = recommend(QWEN7B, Workload(gpus=16, shards=8)).workload
    assert not copied.gradient_checkpointing
    # torch's own attention compares each token with all of its pass.
    slow = recommend(QWEN7B, Workload(gpus=16, flash_attention=False)).workload
    assert slow.tokens_per_pass == 5120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 0}, "gpus must be at least 1"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"shards": 3}, r"shards \(3\) must divide gpus \(8\)"),
        ({"offload": "some"}, "offload must be 'none' or 'optimizer' or 'all', not 'some'"),
        ({"rollout_memory": 1.0}, "rollout_memory must be above 0 and below 1"),
        ({"gpu_gib": 0.0}, "gpu_gib must be above 0"),
    ],
)
def test_a_workload_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workload(**changes)


def test_parts_are_told_in_their_order() -> None:
    assert describe({"weights": 3.54, "critic": 0.01, "optimiser": 7.1}) == "weights 3.5, optimiser 7.1"


def test_the_written_table_is_what_the_config_gives(root: Path, tmp_path: Path) -> None:
    written = (root / "experiments" / "performance" / "memory.md").read_text()
    assert written.count("\n| qwen7b") == 4
    again = tmp_path / "memory.md"
    again.write_text(written.replace("| qwen7b", "| an older name"))
    main(["--models", str(CONF / "model"), "--into", str(again)])
    assert again.read_text() == written, "conf or the estimate changed: write the table anew (its header says how)"


def test_another_folder_of_models_needs_a_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "qwen7b.yaml").write_text((CONF / "model" / "qwen7b.yaml").read_text())
    with pytest.raises(SystemExit):
        main(["--models", str(folder)])
    assert "verl.yaml: can't be read (No such file or directory); set --prompt-tokens" in capsys.readouterr().err
    main(["--models", str(folder), "--prompt-tokens", "100"])
    assert "| qwen7b" in capsys.readouterr().out


def test_a_folder_without_models_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--models", str(tmp_path)])
    assert "holds no model whose sizes are known" in capsys.readouterr().err


def test_prompts_leave_the_context_room_for_an_answer() -> None:
    assert "| yes" in table([(node("tiny"), sizes("tiny"))], 3072, gpus=[1])


def test_nothing_heavy_is_imported() -> None:
    script = (
        "import sys, rearank.training.memory as m\n"
        "assert not {'torch', 'transformers', 'verl', 'ray', 'vllm', 'omegaconf', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
