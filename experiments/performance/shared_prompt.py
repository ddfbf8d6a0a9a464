"""A prompt computed once for its answers, in turns with each answer by itself: an update, a whole step, the memory.

An update is forward and backward over all answers, with log-probabilities and entropies of their tokens; the plain path
makes logits for the answers alone, too. The bound is the ratio of floating-point operations by count. A step is
``trainer=trl``'s with its sampling, as a run logs it. Every ratio is one round's, of two times taken one after the
other. On a GPU if there is one; ``--cases real`` there takes real lengths. ``--into FILE.md`` puts the tables in place
of those at the file's end. Models have random weights, which take as long as trained ones; ``--smollm2 FOLDER`` takes
the real one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from common import Result, seconds

from rearank.algorithms import PolicyGradient
from rearank.evaluation import Cell, render_table
from rearank.rewards import NdcgReward
from rearank.tracking import NoTracking
from rearank.training.base import TrainingJob
from rearank.training.guard import Guard
from rearank.training.local import load_tokenizer
from rearank.training.rows import TrainingRow, chats
from rearank.training.trl import TrlTrainer
from rearank.types import JudgedWindow, Message, Passage, Query, Window

TINY = Path(__file__).resolve().parents[2] / "src" / "rearank" / "training" / "assets" / "tiny"
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """Lengths in tokens, answers a prompt, prompts; ``update`` and ``step``: the bars, where there are any."""

    model: str
    prompt: int
    answer: int
    group: int
    prompts: int = 1
    update: float | None = None
    step: float | None = None
    micro: int | None = None
    """Answers in a pass; ``None``: all of an update's."""

    @property
    def lengths(self) -> str:
        return f"{self.prompt:,}, {self.answer}, {self.group}, {self.prompts}"


CASES = {
    "tiny": Case("tiny", 110, 32, 8, prompts=8, update=2.5),
    "smollm2": Case("smollm2", 400, 60, 8, update=2.7, step=2.2),
    "long": Case("small_qwen3", 2_000, 100, 16, update=5.0),
    "real": Case("qwen2_half_b", 2_500, 850, 32, micro=4),
}
USUAL = ("tiny", "smollm2", "long")


def config_of(name: str) -> Any:
    """The model's sizes; the built-in model's are in its folder."""
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    shared = {"tie_word_embeddings": True, "max_position_embeddings": 8_192, "eos_token_id": 3, "pad_token_id": 0}
    if name == "smollm2":
        heads = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
        return LlamaConfig(vocab_size=49_152, hidden_size=576, intermediate_size=1_536, **heads, **shared)
    if name == "small_qwen3":
        heads = {"num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
        return Qwen3Config(vocab_size=2_048, hidden_size=256, intermediate_size=768, **heads, **shared)
    heads = {"num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
    return Qwen2Config(vocab_size=151_936, hidden_size=896, intermediate_size=4_864, **heads, **shared)


def write_model(name: str, folder: Path) -> Path:
    """A folder with random weights and the built-in tokenizer; the built-in model's own."""
    from transformers import AutoModelForCausalLM, set_seed

    if name == "tiny":
        return TINY
    set_seed(1)
    AutoModelForCausalLM.from_config(config_of(name)).save_pretrained(folder)
    for path in TINY.glob("*token*"):
        shutil.copy(path, folder)
    shutil.copy(TINY / "chat_template.jinja", folder)
    return folder


def operations(config: Any, case: Case) -> tuple[float, float]:
    """Floating-point operations of the update (plain, shared): products with weights, and causal attention."""
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    layer = config.hidden_size * (2 * heads * size + 2 * kv * size + 3 * config.intermediate_size)
    long, short, answers = case.prompt, case.answer, case.group * case.prompts

    def forward(tokens: int, pairs: float) -> float:
        """``pairs``: of a token with one that it sees."""
        body = config.num_hidden_layers * (2 * layer * tokens + 4 * heads * size * pairs)
        return body + 2 * config.hidden_size * config.vocab_size * answers * short

    plain = forward(answers * (long + short), answers * (long + short) ** 2 / 2)
    seen = case.prompts * long**2 / 2 + answers * short * (long + short / 2)
    return 3 * plain, 3 * forward(case.prompts * (long - 1) + answers * short, seen)


class Updates:
    """The same answers' update on both paths; prompts are of unequal lengths where there are several."""

    def __init__(self, case: Case, folder: Path, device: str, dtype: str, attention: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.manual_seed(1)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        self.case, self.model = case, loaded.to(device).train()
        ids = torch.randint(4, self.model.config.vocab_size, (case.prompts, case.group, case.prompt + case.answer))
        mask = torch.ones_like(ids)
        ids[:, 1:, : case.prompt] = ids[:, :1, : case.prompt]
        for number in range(1, case.prompts):
            mask[number, :, : number * case.prompt // (8 * case.prompts)] = 0
        self.ids, self.mask = ids.flatten(0, 1).to(device), mask.flatten(0, 1).to(device)
        self.weights = torch.randn(len(self.ids), case.answer, device=device)

    def plain(self, micro: int) -> Any:
        """Each answer with its prompt."""
        self.model.zero_grad()
        kept = self.case.answer + 1
        for start in range(0, len(self.ids), micro):
            part = slice(start, start + micro)
            logits = self.model(
                input_ids=self.ids[part], attention_mask=self.mask[part], use_cache=False, logits_to_keep=kept
            ).logits[:, :-1]
            self._learn(logits, part)
        return self._gradient()

    def shared(self, micro: int) -> Any:
        """Each prompt once."""
        from rearank.training.shared_prompt.batch import GroupedBatch
        from rearank.training.shared_prompt.cached import CachedPrompts

        self.model.zero_grad()
        block = max(micro, self.case.group)
        for first in range(0, len(self.ids), block):
            rows = slice(first, first + block)
            prompts = CachedPrompts(
                self.model, GroupedBatch.from_rows(self.ids[rows], self.mask[rows], self.case.answer)
            )
            for start in range(0, block, micro):
                arguments, _ = prompts.answers(start, start + micro, last=start + micro >= block)
                self._learn(self.model(**arguments).logits, slice(first + start, first + start + micro))
        return self._gradient()

    def _learn(self, logits: Any, part: slice) -> None:
        import torch

        logps = torch.log_softmax(logits.float(), -1)
        chosen = logps.gather(-1, self.ids[part, -self.case.answer :, None])[..., 0]
        entropy = -(logps.exp() * logps).sum(-1)
        (self.weights[part] * chosen + 0.01 * entropy).sum().backward()

    def _gradient(self) -> Any:
        import torch

        if self.ids.is_cuda:
            torch.cuda.synchronize()
        return torch.cat([p.grad.flatten().float() for p in self.model.parameters()])


def peak(work: Callable[[], object]) -> float:
    """MiB that ``work`` takes at its peak, of the GPU or of this process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / MIB

    def resident(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))

    ctypes.CDLL(None).malloc_trim(0)  # what was freed counts no more
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def step_seconds(case: Case, folder: Path, shared: bool) -> float:
    """Of one whole step of ``trainer=trl``: sampling, rewards, update."""
    tokenizer = load_tokenizer(str(folder), None)
    words = case.prompt - len(_tokens(tokenizer, 0))
    window = JudgedWindow(Window(Query("q", "ship"), (Passage("a", ""), Passage("b", ""))), (1, 0))
    rows = [TrainingRow(i, "made", "train", _prompt(words, i), window) for i in range(case.prompts)]
    algorithm = PolicyGradient(steps=1, prompts_per_step=case.prompts, group_size=case.group, kl=0.0, warmup_steps=0)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        guard = Guard(max_unread=None)  # random weights give no order
        tracker = NoTracking().open(place, "step", {}, "train")
        job = TrainingJob(str(folder), None, case.answer, rows, [], NdcgReward(), place, tracker, seed=1)
        TrlTrainer(micro_batch=case.micro, shared_prompt=shared, guard=guard).train(job, algorithm)
        lines = (json.loads(line) for line in (place / "train.jsonl").read_text().splitlines())
        return next(float(line["train/seconds"]) for line in lines if "train/seconds" in line)


def _prompt(words: int, number: int) -> tuple[Message, ...]:
    turn = ("ship storm port vessel tempest harbor " * (words // 6 + 1)).split()[number:][:words]
    return (Message("user", " ".join(turn)),)


def _tokens(tokenizer: Any, words: int) -> list[int]:
    row = TrainingRow(0, "", "", _prompt(words, 0), JudgedWindow(Window(Query("q", ""), ()), ()))
    text = tokenizer.apply_chat_template(chats([row])[0], tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def measured(
    name: str, case: Case, folder: Path, rounds: int, settings: Sequence[str]
) -> tuple[list[dict[str, Cell]], list[Result]]:
    """Rows of the table and figures of a case."""
    updates = Updates(case, folder, *settings)
    count = case.group * case.prompts
    micro = case.micro or count
    near = updates.plain(micro)
    far = float((updates.shared(micro) - near).norm() / near.norm())  # and both paths are warm
    times = [[seconds(partial(path, micro), 1)[0] for path in (updates.plain, updates.shared)] for _ in range(rounds)]
    ratios = [plain / shared for plain, shared in times]
    plain, shared = operations(updates.model.config, case)
    bound, ratio = plain / shared, median(ratios)
    row: dict[str, Cell] = {
        "of": f"update, {name}",
        "P, R, G, prompts": case.lengths,
        "plain, s": f"{median(t for t, _ in times):.3g}",
        "shared, s": f"{median(t for _, t in times):.3g}",
        "times as fast (rounds)": spread(ratios),
        "bar": f"{case.update}" if case.update else "",
        "bound": f"{bound:.1f}",
        "of the bound": f"{ratio / bound:.0%}",
        "GFLOP plain, shared": f"{plain / 1e9:,.0f}, {shared / 1e9:,.0f}",
        "gradients apart": f"{far:.0e}",
    }
    used = []
    for part in sorted({micro, max(1, case.group // 4)}, reverse=True):
        each, once = (peak(partial(path, part)) for path in (updates.plain, updates.shared))
        used.append(f"{each:,.0f}, {once:,.0f} ({part} a pass)")
    row["MiB plain, shared"] = "; ".join(used)
    bar = f"at least {case.update}" if case.update else ""
    figure = Result("shared_prompt", f"update, {name} at {case.lengths}", ratio, "x", bar, ratio >= (case.update or 0))
    return [row], [figure]


def stepped(name: str, case: Case, folder: Path, rounds: int) -> tuple[dict[str, Cell], Result]:
    """The same of whole steps."""
    times = [[step_seconds(case, folder, shared) for shared in (False, True)] for _ in range(rounds)]
    ratios = [plain / shared for plain, shared in times]
    row: dict[str, Cell] = {
        "of": f"whole step, {name}",
        "P, R, G, prompts": case.lengths,
        "plain, s": f"{median(t for t, _ in times):.3g}",
        "shared, s": f"{median(t for _, t in times):.3g}",
        "times as fast (rounds)": spread(ratios),
        "bar": f"{case.step}",
    }
    ratio = median(ratios)
    what = f"whole step, {name} at {case.lengths}"
    return row, Result("shared_prompt", what, ratio, "x", f"at least {case.step}", ratio >= (case.step or 0))


def run(
    cases: Sequence[str] = USUAL,
    rounds: int = 3,
    device: str = "auto",
    dtype: str = "float32",
    attention: str = "sdpa",
    smollm2: Path | None = None,
    into: Path | None = None,
) -> list[Result]:
    import torch

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    rows: list[dict[str, Cell]] = []
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        for label in cases:
            case = CASES[label]
            folder = smollm2 if label == "smollm2" and smollm2 else write_model(case.model, Path(name) / label)
            found, figures = measured(case.model, case, folder, rounds, (chosen, dtype, attention))
            rows, results = rows + found, results + figures
            if case.step is not None:
                row, figure = stepped(case.model, case, folder, rounds)
                rows, results = [*rows, row], [*results, figure]
            if into is not None:  # case by case, so that a run that is stopped leaves what it has
                into.write_text(f"{into.read_text().partition('| of ')[0]}{render_table(rows)}\n")
    print(render_table(rows))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=USUAL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="sdpa", help="as transformers names it")
    parser.add_argument("--smollm2", type=Path, help="the folder of SmolLM2-135M")
    parser.add_argument("--into", type=Path, help="a Markdown file: put the table in place of the one at its end")
    given = parser.parse_args()
    for result in run(**vars(given)):
        print(f"{result.what}: {result.value:.2f} {result.unit} {result.bar} {'' if result.ok else 'MISSED'}")
