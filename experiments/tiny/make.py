"""Makes the checkpoint behind ``model=tiny``: warm-started from scratch on the built-in collection.

``python -m experiments.tiny.make --seed 1 --out DIR`` in the project's folder; what is taught is in ``lessons.py``. The
architecture is Qwen3's: for a ``qwen2`` config AutoTokenizer loads another tokenizer class, without a warning.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.tiny.lessons import (
    END,
    WarmStart,
    WarmStartData,
    build_tokenizer,
    dev_windows,
    prompt_text,
    target,
)

from rearank.metrics import ndcg
from rearank.parsing import parse_ranking
from rearank.types import JudgedWindow, Window

_STATE = "training_state.pt"


def build_model(tokenizer: Any) -> Any:
    """The untrained network: 0.4M parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,  # vLLM has no kernels for 24
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def _tensors(tokenizer: Any, batch: Sequence[tuple[Window, str]]) -> tuple[Any, Any]:
    """Token ids, padded right, and labels: -100 outside the completion."""
    import torch

    prompts = tokenizer([prompt_text(tokenizer, window) for window, _ in batch], add_special_tokens=False)["input_ids"]
    answers = tokenizer([text + END for _, text in batch], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(batch), width), int(tokenizer.pad_token_id))
    labels = torch.full((len(batch), width), -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def _loss(model: Any, ids: Any, labels: Any) -> Any:
    import torch

    # Padding is on the right and attention looks left, so that no mask is needed.
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    taught = wanted != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[taught]), wanted[taught])


@dataclass(frozen=True)
class Probe:
    """What a model does on dev windows of five.

    ``notes``: share of passages whose note is right; ``kept``: share of answers that keep the given order;
    ``canonical``: share that rank each passage once; nDCG of the given order, the model's and the best.
    """

    notes: float
    kept: float
    canonical: float
    given: float
    ranked: float
    best: float


def complete(model: Any, tokenizer: Any, windows: Sequence[Window], *, temperature: float = 0.0) -> list[str]:
    """The model's answers, greedy or sampled from torch's global generator."""
    import torch

    batch = tokenizer([prompt_text(tokenizer, w) for w in windows], padding=True, return_tensors="pt")
    chosen = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    was_training = model.training
    model.eval()
    with torch.no_grad():
        ids = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=12 * max(len(w) for w in windows),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **chosen,
        )
    model.train(was_training)
    width = batch["input_ids"].shape[1]
    return [str(text) for text in tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)]


def probe(model: Any, tokenizer: Any, windows: Sequence[JudgedWindow], *, temperature: float = 0.0) -> Probe:
    """Measure ``model`` on ``windows``."""
    texts = complete(model, tokenizer, [judged.window for judged in windows], temperature=temperature)
    right = passages = kept = canonical = 0
    given = ranked = best = 0.0
    for judged, text in zip(windows, texts, strict=True):
        size = len(judged.window)
        parsed = parse_ranking(text, size)
        wanted = target(judged.window, lazy=True).partition("</think>")[0]
        found, true = _by_passage(parsed.think or "", size), _by_passage(wanted, size)
        right += sum(a == b for a, b in zip(found, true, strict=True))
        passages += size
        kept += parsed.permutation.order == tuple(range(size))
        canonical += parsed.is_canonical
        given += ndcg(judged.relevance, judged.relevance)
        ranked += ndcg(parsed.permutation.apply(judged.relevance), judged.relevance)
        best += ndcg(sorted(judged.relevance, reverse=True), judged.relevance)
    n = len(windows)
    return Probe(right / passages, kept / n, canonical / n, given / n, ranked / n, best / n)


def _by_passage(think: str, size: int) -> list[str]:
    """The note of each passage; empty where there is none."""
    found = {}
    for part in think.split("[")[1:]:
        number, _, words = part.partition("]")
        found[number] = " ".join(words.split())
    return [found.get(str(i), "") for i in range(1, size + 1)]


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer so that ``folder`` never holds half a file."""
    scratch = folder.with_name(folder.name + ".partial")
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    folder.mkdir(parents=True, exist_ok=True)
    for file in scratch.iterdir():
        file.replace(folder / file.name)
    scratch.rmdir()


def _state_path(out: Path) -> Path:
    return out.with_name(f"{out.name}-{_STATE}")


def _steps_left(config: WarmStart, start: int) -> Iterator[int]:
    deadline = None if config.minutes is None else time.monotonic() + 60 * config.minutes
    for step in range(start, config.steps):
        if deadline is not None and time.monotonic() > deadline:
            return
        yield step


def train(config: WarmStart, out: Path, log: Callable[[str], None] = print, save_seconds: float = 100) -> Probe:
    """Warm-start a model and write it to ``out``; an interrupted run continues from its last save.

    Every ``save_seconds`` the checkpoint is written, with the optimiser's state in a file next to ``out`` that is
    removed when the last step is done. Returns the greedy probe of the final model.
    """
    import torch

    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    tokenizer, data, dev = build_tokenizer(), WarmStartData(config.seed), dev_windows(80)
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    settings = {k: v for k, v in asdict(config).items() if k != "minutes"}
    start, state_path = 0, _state_path(out)
    if state_path.is_file():
        state = torch.load(state_path, weights_only=True)
        if state["settings"] == settings:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            start = int(state["step"])
            log(f"continuing at step {start} of {config.steps}")

    def write(step: int) -> None:
        save(model, tokenizer, out)
        scratch = state_path.with_suffix(".partial")
        torch.save(
            {"settings": settings, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
            scratch,
        )
        scratch.replace(state_path)

    began = logged = saved = time.monotonic()
    step, recent = start, []
    for step in _steps_left(config, start):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        loss = _loss(model, *_tensors(tokenizer, data.batch(step, config)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(float(loss.detach()))
        now = time.monotonic()
        if now - logged > 4:
            log(f"step {step + 1}/{config.steps} loss {sum(recent) / len(recent):.4f} at {now - began:.0f} s")
            logged, recent = now, []
        if now - saved > save_seconds:
            write(step + 1)
            log(f"step {step + 1}: saved; dev windows, greedy: {_line(probe(model, tokenizer, dev))}")
            saved = time.monotonic()
    write(step + 1)
    final = probe(model, tokenizer, dev)
    log(f"step {step + 1} of {config.steps}; greedy:  {_line(final)}")
    log(f"sampled: {_line(probe(model, tokenizer, dev, temperature=1.0))}")
    if step + 1 == config.steps:
        state_path.unlink()
    return final


def _line(measured: Probe) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in asdict(measured).items())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    defaults = WarmStart()
    parser = argparse.ArgumentParser(prog="python -m experiments.tiny.make", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="length of the schedule")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, wherever the schedule then is")
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parsed = parser.parse_args(arguments)
    try:
        config = WarmStart(seed=parsed.seed, steps=parsed.steps, threads=parsed.threads, minutes=parsed.minutes)
    except ValueError as error:
        parser.error(str(error))
    parsed.out.parent.mkdir(parents=True, exist_ok=True)
    print(json.dumps(asdict(config)))
    train(config, parsed.out, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
