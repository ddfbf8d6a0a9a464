"""``trainer.shared_prompt`` in verl's engine on a CPU, in turns with verl's own path: log-probabilities and updates.

Needs the cluster's packages: ``.venv-cluster/bin/python experiments/performance/shared_prompt_verl.py`` (``make
.venv-cluster/.installed`` makes them) prints a table. One rank, the settings of ``trainer=verl_cpu`` and the same
batches on both paths; each ratio is one round's, of two times taken one after the other. The bound is the number of
tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rearank.evaluation import Cell, render_table

ROOT = Path(__file__).resolve().parents[2]
_SMALL = {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768, "head_dim": 64}


@dataclass(frozen=True)
class Case:
    """Lengths in tokens, answers a prompt, prompts, and tokens of a pass (``trainer.tokens_per_pass``)."""

    model: str
    prompt: int
    answer: int
    group: int
    prompts: int
    budget: int = 1024

    @property
    def bound(self) -> float:
        """Tokens with a prompt for each answer, of those with one for all."""
        return self.group * (self.prompt + self.answer) / (self.prompt - 1 + self.group * self.answer)


CASES = (Case("tiny", 110, 32, 8, 8), Case("tiny", 400, 60, 8, 2), Case("small", 400, 60, 8, 1))


def model_of(name: str, folder: Path) -> str:
    """The built-in model, or one of about 5M parameters with its vocabulary and random weights."""
    tiny = ROOT / "src" / "rearank" / "training" / "assets" / "tiny"
    if name == "tiny":
        return str(tiny)
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny, layer_types=["full_attention"] * 6, **_SMALL)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return str(folder)


def measured(case: Case, rounds: int) -> dict[str, Cell]:
    """A line of the table."""
    from tests.cluster.shared_engine import found

    groups = [[(case.prompt, [case.answer] * case.group)] * case.prompts]
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(case.model, Path(folder) / "model")
        # The first round is not counted: it warms up.
        (one,) = found(Path(folder), groups=groups, budget=case.budget, model=model, repeats=rounds + 1)
    line: dict[str, Cell] = {
        "model": case.model,
        "prompt, answer, group, prompts": f"{case.prompt}, {case.answer}, {case.group}, {case.prompts}",
    }
    times: dict[str, Any] = {name: seconds[1:] for name, seconds in one["seconds"].items()}
    for what in ("log-probabilities", "update"):
        plain, shared = times[f"plain {what}"], times[f"shared {what}"]
        ratios = sorted(before / after for before, after in zip(plain, shared, strict=True))
        line[f"{what}, s"] = f"{median(plain):.2f} -> {median(shared):.2f}"
        line[f"{what}, times"] = f"{median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
    return {**line, "bound": f"{case.bound:.1f}", "gradients apart": f"{one['apart']['gradient']:.0e}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    sys.path.insert(0, str(ROOT))  # the engine is built as its tests build it
    print(render_table([measured(case, parser.parse_args().rounds) for case in CASES]))


if __name__ == "__main__":
    main()
