"""What passes of TRL's trainers take of the memory there is, how many answers they go over, and what a step costs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import shipped

from rearank.engines.model import Architecture
from rearank.training.base import Lora
from rearank.training.cost import StepCost
from rearank.training.footprint import total
from rearank.training.trl.passes import Passes, PassMemory, fitting

SMOLLM = Architecture(30, 576, 1536, 9, 3, 64, 49152, 8192, tied_embeddings=True)
TINY = Architecture.from_folder(shipped.ASSETS)
SMALL = PassMemory(SMOLLM, prompt=1600, answer=400)
# Peaks of a process on a CPU in float32, in GiB: a pass with TRL's fused output layer over so many answers.
MEASURED: list[tuple[Architecture, int, int, int, float]] = [
    (SMOLLM, 400, 60, 1, 1.2197),
    (SMOLLM, 400, 60, 4, 4.5207),
    (Architecture(2, 128, 256, 2, 1, 64, 49152, 8192, True, qk_norm=True), 89, 64, 16, 2.5273),
    (Architecture(2, 128, 256, 2, 1, 64, 49152, 8192, True, qk_norm=True), 89, 64, 40, 4.285),
    (Architecture(16, 256, 768, 4, 1, 64, 1000, 8192, True, qk_norm=True), 89, 64, 16, 0.9715),
]


@pytest.mark.parametrize(("a", "prompt", "answer", "answers", "measured"), MEASURED)
def test_the_estimate_is_near_what_was_measured(
    a: Architecture, prompt: int, answer: int, answers: int, measured: float
) -> None:
    assert total(PassMemory(a, prompt, answer).of_pass(answers)) == pytest.approx(measured, rel=0.12)


_PASS = """
import ctypes, json, sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

kind, sizes, prompt, answer, answers, checkpointing = json.loads(sys.argv[1])
torch.set_num_threads(1)
config = AutoConfig.for_model(kind, tie_word_embeddings=True, **sizes)
model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").train()
if checkpointing:
    model.gradient_checkpointing_enable()
add_fused_lm_head(model, outputs=("log_probs", "entropy"))


def pass_over(answers, prompt, answer):
    ids = torch.randint(0, config.vocab_size, (answers, prompt + answer))
    mask = torch.ones_like(ids)
    mask[:, :3] = 0
    labels = ids.clone()
    labels[:, :-answer] = -100
    model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs.sum().backward()


def field(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


libc = ctypes.CDLL("libc.so.6")
libc.mallopt(-3, 65536), libc.mallopt(-1, 65536)  # every large tensor is mapped, and given back at once
pass_over(1, 8, 8)  # gradients are there, as in every pass but the first
libc.malloc_trim(0)
before = field("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
pass_over(answers, prompt, answer)
print(field("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "a", "prompt", "answer", "answers", "checkpointing"),
    [
        ("qwen3", TINY, 110, 96, 32, False),
        ("llama", SMOLLM, 200, 60, 2, False),
        ("llama", SMOLLM, 200, 60, 2, True),
    ],
)
def test_the_estimate_is_near_a_real_pass(
    kind: str, a: Architecture, prompt: int, answer: int, answers: int, checkpointing: bool
) -> None:
    pytest.importorskip("trl")
    config: dict[str, Any] = {
        "vocab_size": a.vocabulary,
        "hidden_size": a.hidden,
        "intermediate_size": a.intermediate,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
    }
    given = json.dumps([kind, config, prompt, answer, answers, checkpointing])
    done = subprocess.run([sys.executable, "-c", _PASS, given], capture_output=True, text=True, check=True)
    estimated = total(PassMemory(a, prompt, answer, checkpointing=checkpointing).of_pass(answers))
    assert float(done.stdout.split()[-1]) == pytest.approx(estimated, rel=0.15)


@pytest.mark.parametrize(("answers", "measured"), [(2, 1.1317), (4, 1.4065), (8, 2.1625), (16, 4.2087)])
def test_the_estimate_is_near_what_shared_prompts_took(answers: int, measured: float) -> None:
    """As ``MEASURED``, with groups of 8 and prompts of 400 tokens computed once: a cache with its graph."""
    assert total(PassMemory(SMOLLM, 400, 60, group=8).of_pass(answers)) == pytest.approx(measured, rel=0.12)


def test_a_small_model_with_a_large_vocabulary_does_not_take_a_whole_step_at_once() -> None:
    """32 answers of 400 tokens were killed at 24 GiB."""
    assert total(SMALL.of_pass(32)) > 24
    assert SMALL.most(32, free=24.0) == 4
    assert total(SMALL.peak(4)) < 24
    assert [SMALL.most(32, free) for free in (1.0, 64.0, 1000.0)] == [None, 16, 32]
    assert SMALL.most(12, free=64.0) == 12, "any divisor will do"


def test_the_tiny_models_step_stays_one_pass_wherever_it_runs() -> None:
    assert PassMemory(TINY, 204, 96).most(64, free=0.1) == 64


def test_what_saves_memory_lets_a_pass_grow() -> None:
    assert total(replace(SMALL, checkpointing=True).of_pass(4)) < total(SMALL.of_pass(4))
    lora, plain, kl = (total(replace(SMALL, **more).state) for more in ({"lora": Lora(8)}, {}, {"reference": True}))
    assert lora < plain < kl


def test_weights_that_are_trained_are_float32_on_a_gpu_too() -> None:
    whole, adapted = (replace(SMALL, gpu=True, lora=lora) for lora in (None, Lora(8)))
    size = SMOLLM.parameters / 2**30
    assert total(whole.state) == pytest.approx(16 * size)
    assert adapted.state["weights"] == pytest.approx(2 * size + 4 * SMOLLM.adapter_parameters(8) / 2**30)
    assert whole.of_pass(1)["bfloat16 weights"] == pytest.approx(2 * size), "autocast's copies"


def test_shared_prompts_are_kept_once_and_answers_copy_their_cache() -> None:
    """At long prompts and large groups a pass takes less; a group of one has nothing to share."""
    plain = PassMemory(SMOLLM, prompt=2500, answer=100)
    shared = replace(plain, group=16)
    once, each = (total(m.of_pass(16)) for m in (shared, plain))
    assert once < each / 2
    layers = 30 * 2.05 * SMOLLM.saved_by_a_layer() / 2**30
    parts = shared.of_pass(16)
    assert parts["activations"] == pytest.approx(16 * 100 * layers)
    assert parts["prompts"] == pytest.approx(2500 * (layers + 30 * 2 * 192 * 4 / 2**30)), "one prompt, and a gradient"
    assert parts["copies of keys and values"] == pytest.approx(30 * 2 * 576 * 4 * 16 * 2600 / 2**30)
    assert shared.of_pass(4)["prompts"] == parts["prompts"], "a pass smaller than a group has its prompt whole"
    assert shared.of_pass(32)["prompts"] == pytest.approx(2 * parts["prompts"])
    assert replace(shared, checkpointing=True).of_pass(16) == replace(plain, checkpointing=True).of_pass(16)


@given(st.integers(1, 64), st.floats(0.5, 500.0), st.none() | st.booleans(), st.sampled_from([1, 4, 8]))
def test_what_is_chosen_divides_the_answers_and_fits(
    answers: int, free: float, checkpointing: bool | None, group: int
) -> None:
    memory = replace(SMALL, group=group)
    chosen = fitting(memory, answers, free, None, checkpointing)
    assert answers % chosen.micro_batch == 0
    if checkpointing is not None:
        assert chosen.checkpointing == checkpointing
    found = replace(memory, checkpointing=chosen.checkpointing).most(answers, free)
    assert found in (chosen.micro_batch, None)
    if found is None:
        assert chosen.micro_batch == 1


def test_checkpointing_is_taken_where_nothing_fits_without_it() -> None:
    long = PassMemory(SMOLLM, prompt=6000, answer=2000)
    needed = total(long.state) + total(long.of_pass(1))
    assert fitting(long, 8, 2 * needed, None, None) == Passes(1, checkpointing=False)
    assert fitting(long, 8, needed, None, None).checkpointing
    assert not fitting(long, 8, needed, None, False).checkpointing, "a setting is kept"
    assert fitting(long, 8, 2 * needed, 4, None) == Passes(4, checkpointing=True)
    assert fitting(long, 8, None, None, None) == Passes(8, checkpointing=False), "nothing is known"


def test_a_step_costs_its_prompts_once_where_they_are_shared() -> None:
    cost = StepCost(SMOLLM, prompts=4, group=32, prompt=2500, answer=850)
    assert (cost.tokens(shared=False), cost.tokens(shared=True)) == (4 * 32 * 3350, 4 * (2500 + 32 * 850))
    assert cost.repeated == pytest.approx(31 * 2500 / (32 * 3350))
    alone = replace(cost, group=1)
    assert alone.operations(shared=True) == alone.operations(shared=False)
    assert alone.repeated == 0
    assert "72% of them" in cost.describe(shared=False)


def test_operations_are_those_of_the_textbook() -> None:
    """Six a parameter and token where sequences are short; passes without gradients take two."""
    cost = StepCost(SMOLLM, prompts=1, group=2, prompt=1, answer=100)
    parameters = SMOLLM.layers * SMOLLM.layer_parameters + SMOLLM.embedding_parameters
    assert cost.operations(shared=False) == pytest.approx(6 * parameters * 202, rel=0.02)
    more = replace(cost, passes=2).operations(shared=False)
    assert more == pytest.approx(5 / 3 * cost.operations(shared=False))
    assert cost.operations(shared=False) < replace(cost, again=True).operations(shared=False) < more
