"""Tokens a second of ``engine=transformers`` and of TRL's sampling, in turns with transformers' own ``generate``.

Tiny is the model that ships; the other has SmolLM2-135M's shape and random weights. The same prompts and, but for
rounding, the same tokens on both sides: answers of the engine are greedy, those of sampling drawn from one stream.
``generate`` gets the engine's batches. Figures are medians over the rounds with the smallest and the largest ratio:
compare ratios, as another process on the machine moves the seconds.

    python experiments/performance/decoding.py --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any

from common import Result

from rearank.engines.model import Model
from rearank.types import Message, Sampling

TINY = Model(name="tiny", path="pkg://rearank/training/assets/tiny").location
SMOL = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": 3,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Case:
    """A model with prompts of so many words, and tokens of an answer; ``sampled`` of them are sampled in groups."""

    name: str
    folder: str
    prompts: int
    length: int
    answer: int
    sampled: int
    group: int = 8

    def asked(self, tokenizer: Any) -> list[tuple[Message, ...]]:
        """Of words that the tokenizer knows: of others prompts would be equal, and computed once."""
        draw, known = Random(1), sorted(word for word in tokenizer.get_vocab() if word.strip("Ġ▁").isalpha())
        texts = (" ".join(draw.choices(known, k=self.length)) for _ in range(self.prompts))
        return [(Message("user", text),) for text in texts]


def smol(folder: Path) -> str:
    """Random weights beside tiny's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**SMOL)).save_pretrained(folder)
    return str(folder)


def compare(ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> dict[str, Any]:
    """Both ``rounds`` times, each round in the reverse order of the last; the work returns its tokens."""
    found: dict[str, list[tuple[float, float, int]]] = {"ours": [], "theirs": []}
    order = [("ours", ours), ("theirs", theirs)]
    for name, work in [*order, *(pair for turn in range(rounds) for pair in order[:: (-1) ** turn])]:
        began, spent = perf_counter(), process_time()
        tokens = work()
        found[name].append((perf_counter() - began, process_time() - spent, tokens))
    rows = {name: row[1:] for name, row in found.items()}  # the first warms up
    ratios = [b[0] / b[2] / (a[0] / a[2]) for a, b in zip(rows["ours"], rows["theirs"], strict=True)]
    cpu = [b[1] / b[2] / (a[1] / a[2]) for a, b in zip(rows["ours"], rows["theirs"], strict=True)]
    speed = {name: median(tokens / seconds for seconds, _, tokens in row) for name, row in rows.items()}
    return {"ratio": median(ratios), "spread": (min(ratios), max(ratios)), "cpu": median(cpu), "speed": speed}


def engine_against_generate(case: Case, rounds: int) -> dict[str, Any]:
    from rearank.engines.transformers import TransformersEngine

    engine = TransformersEngine(case.folder, device="cpu")
    model, tokenizer = engine._model, engine.chat.tokenizer
    asked, sampling = case.asked(tokenizer), Sampling(max_tokens=case.answer)

    async def all_at_once() -> int:
        found = await asyncio.gather(*(engine.complete(messages, sampling) for messages in asked))
        return sum(one.completion_tokens for one in found)

    prompts = sorted((engine.chat.encode(messages) for messages in asked), key=len)
    assert len(set(map(tuple, prompts))) == len(prompts)

    def theirs() -> int:
        return sum(
            generated(model, tokenizer, prompts[start : start + 128], case.answer, do_sample=False)
            for start in range(0, len(prompts), 128)
        )

    try:
        return compare(lambda: asyncio.run(all_at_once()), theirs, rounds)
    finally:
        asyncio.run(engine.aclose())


def sampling_against_generate(case: Case, rounds: int) -> dict[str, Any]:
    import torch

    from rearank.engines.transformers import TransformersEngine
    from rearank.training.trl.answers import sampled

    engine = TransformersEngine(case.folder, device="cpu")
    tokenizer, model = engine.chat.tokenizer, engine._model
    prompts = [engine.chat.encode(one) for one in case.asked(tokenizer)[: case.sampled] for _ in range(case.group)]

    def ours() -> int:
        torch.manual_seed(1)
        with torch.no_grad():
            return sum(map(len, sampled(model, prompts, case.answer, frozenset({tokenizer.eos_token_id}), 1.0, 1.0)))

    def theirs() -> int:
        torch.manual_seed(1)
        return generated(model, tokenizer, prompts, case.answer, do_sample=True, temperature=1.0, top_k=0)

    return compare(ours, theirs, rounds)


def generated(model: Any, tokenizer: Any, prompts: list[list[int]], most: int, **settings: Any) -> int:
    """Tokens of all answers up to their ends."""
    import torch

    width, pad, end = max(map(len, prompts)), tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        made = model.generate(
            ids, attention_mask=mask, max_new_tokens=most, pad_token_id=pad, eos_token_id=end, **settings
        )
    rows = [row[width:].tolist() for row in made]
    return sum(row.index(end) + 1 if end in row else len(row) for row in rows)


def run(rounds: int = 3) -> list[Result]:
    found: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            Case("tiny", TINY, 256, 40, 64, 8),
            Case("SmolLM2-135M's shape", smol(Path(folder) / "smol"), 8, 120, 24, 1),
        ]
        for case in cases:
            for what, measure in (
                (f"engine, {case.prompts} prompts", engine_against_generate),
                (f"sampling, {case.sampled} prompts, {case.group} answers each", sampling_against_generate),
            ):
                data = measure(case, rounds)
                low, high = data["spread"]
                speed = data["speed"]
                line = (
                    f"{case.name}, {what}: tokens/s over generate's ({speed['ours']:,.0f} / {speed['theirs']:,.0f}; "
                    f"{low:.2f} to {high:.2f}; CPU {data['cpu']:.2f})"
                )
                print(f"{line}: {data['ratio']:.2f}", flush=True)
                found.append(Result("decoding", line, data["ratio"], "x", "at least 1", data["ratio"] >= 1))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    run(parser.parse_args().rounds)
