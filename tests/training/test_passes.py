"""How many answers TRL's trainers take in a pass: by the memory there is, and all of them where they fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests import shipped

from rearank.engines.model import Architecture
from rearank.training.base import Lora
from rearank.training.trl.passes import PassMemory

SMOLLM = Architecture(30, 576, 1536, 9, 3, 64, 49152, 8192, tied_embeddings=True)
SMALL = PassMemory(SMOLLM, bytes=4, tokens=2000, graded=400)


def test_a_small_model_with_a_large_vocabulary_does_not_take_a_whole_step_at_once() -> None:
    """32 answers of 400 tokens were killed at 24 GiB."""
    assert 32 * SMALL.each > 24
    assert SMALL.most(32, free=24.0) == 4
    assert SMALL.held + 4 * SMALL.each < 24
    assert [SMALL.most(32, free) for free in (1.0, 64.0, 1000.0)] == [1, 8, 32]
    assert SMALL.most(12, free=64.0) == 12, "any divisor will do"


@pytest.mark.parametrize(
    ("layers", "intermediate", "vocabulary", "answer", "measured"),
    [(2, 256, 49152, 64, 0.154), (16, 768, 1000, 64, 0.0636), (8, 768, 400, 600, 0.168)],
)
def test_the_estimate_is_near_what_was_measured(
    layers: int, intermediate: int, vocabulary: int, answer: int, measured: float
) -> None:
    """Peaks of a process on a CPU, in float32, with passes of 2, 8 and 16 answers: GiB an answer."""
    hidden = 128 if layers == 2 else 256
    sizes = Architecture(layers, hidden, intermediate, hidden // 64, 1, 64, vocabulary, 1024, True, qk_norm=True)
    assert PassMemory(sizes, 4, 89 + answer, answer).each == pytest.approx(measured, rel=0.15)


def test_the_tiny_models_step_stays_one_pass_wherever_it_runs() -> None:
    tiny = PassMemory(Architecture.from_folder(shipped.ASSETS), bytes=4, tokens=300, graded=96)
    assert tiny.most(64, free=0.1) == 64


def test_what_saves_memory_lets_a_pass_grow() -> None:
    assert replace(SMALL, checkpointing=True).each < SMALL.each
    assert replace(SMALL, lora=Lora(rank=8)).held < SMALL.held < replace(SMALL, reference=True).held
