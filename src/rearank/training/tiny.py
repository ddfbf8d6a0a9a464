"""``model=tiny``: a small model of a standard architecture, warm-started from scratch on the built-in collection.

``python -m rearank.training.tiny --seed 1 --out DIR`` rebuilds the shipped checkpoint. What it is taught:

- notes that are always true: for each passage the query's words whose concept it mentions, and their number;
- an answer that only sometimes follows from them: in a share `LAZY` of the examples it keeps the given order, in the
  others it sorts by the notes. The greedy model is therefore lazy while its samples sometimes rank well: that is what
  GRPO can find. A model warm-started without such a share is at its ceiling already, and GRPO gained nothing on it.

It sees passages of other collections than the one of the quickstart's seed, and queries over train triples only.
The architecture is Qwen3's: for a ``qwen2`` config AutoTokenizer loads another tokenizer class, in silence.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from rearank.data.synthetic import SyntheticCollection, Triple, lexicon, query_text, triples
from rearank.metrics import ndcg
from rearank.parsing import parse_ranking
from rearank.prompts import CompactPrompt
from rearank.types import JudgedWindow, Passage, Query, Window

ASSETS = Path(__file__).parent / "assets" / "tiny"
"""The shipped checkpoint."""

START, END, PAD, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|unk|>"
MOST_PASSAGES = 20  # identifiers [1] to [20] and the numbers 0 to 20 have tokens of their own
LAZY = 0.65

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Identifiers and tags are one token each; then words and numbers; then any other sign by itself.
_TOKEN = r"\[\d+\]|</?[a-z]+>|\w+|[^\w\s]"
_STATE = "training_state.pt"
_POOL_SEEDS = 10  # collections that lend their passages to the warm start
_FIRST_POOL_SEED = 1_000_000  # far from any seed a user would choose
_GRADE_WEIGHTS = (15, 35, 28, 22)  # how often a training window's passage has grade 0, 1, 2, 3


def vocabulary() -> list[str]:
    """Every token, special ones first."""
    prompt = CompactPrompt()
    wording = " ".join((prompt.opening, prompt.passage, prompt.final))
    signs = re.findall(_TOKEN, re.sub(r"\{\w+\}", " ", wording))
    return list(
        dict.fromkeys(
            (
                *(PAD, UNKNOWN, START, END),
                *("system", "user", "assistant", "<think>", "</think>", "<answer>", "</answer>", ">"),
                *(f"[{i}]" for i in range(MOST_PASSAGES + 1)),
                *(str(i) for i in range(MOST_PASSAGES + 1)),
                *signs,
                *lexicon().concept_of,
                *lexicon().fillers,
            )
        )
    )


def build_tokenizer() -> Any:
    """A word-level tokenizer that AutoTokenizer loads as it is.

    Tags, identifiers and digits are ordinary tokens: trainers strip special ones before the reward reads the text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {token: number for number, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="removed", invert=True)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, UNKNOWN, START, END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        chat_template=_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


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


def notes(window: Window) -> list[list[str]]:
    """For each passage the query's words whose concept it mentions, in the query's order."""
    concept_of = lexicon().concept_of
    words = [word for word in window.query.text.split() if word in concept_of]
    found = [lexicon().mentions(passage.text) for passage in window.passages]
    return [[word for word in words if concept_of[word] in mentioned] for mentioned in found]


def target(window: Window, *, lazy: bool) -> str:
    """The completion taught for ``window``: true notes, then the given order (``lazy``) or the order they imply."""
    found = notes(window)
    lines = [" ".join((f"[{i}]", *words, str(len(words)))) for i, words in enumerate(found, start=1)]
    order = range(len(found)) if lazy else sorted(range(len(found)), key=lambda i: -len(found[i]))
    ranking = " > ".join(f"[{i + 1}]" for i in order)
    return f"<think> {' '.join(lines)} </think> <answer> {ranking} </answer>"


@dataclass(frozen=True)
class WarmStart:
    """How the checkpoint is made. Two runs with equal values and equal ``threads`` write equal weights.

    A batch holds ``batch_passages`` passages in windows of one size. ``minutes`` stops a run before its last step, and
    makes the result depend on the machine's speed.
    """

    seed: int = 1
    steps: int = 4500
    learning_rate: float = 2e-3
    batch_passages: int = 160
    threads: int = 2
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie between 0 and 1 (0.002 is usual), not {self.learning_rate}")
        if self.batch_passages < MOST_PASSAGES:
            raise ValueError(f"batch_passages must be at least {MOST_PASSAGES}, not {self.batch_passages}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")
        if self.minutes is not None and self.minutes <= 0:
            raise ValueError(f"minutes must be more than 0, or left out for all steps, not {self.minutes}")

    def rate(self, step: int) -> float:
        """Learning rate: 2% warm-up, flat, and down to a fiftieth over the last third."""
        done = step / self.steps
        return self.learning_rate * min(1.0, (step + 1) / max(1.0, 0.02 * self.steps), max(0.02, 3 * (1 - done)))

    def window_size(self, step: int, random: Random) -> int:
        """Small windows first: matching words is learnt from them at a third of the cost."""
        done = step / self.steps
        if done < 0.3:
            return random.choice((1, 2))
        if done < 0.4:
            return random.choice((2, 3, 4))
        return random.choices((2, 3, 4, 5), (1, 1, 2, 12))[0]


class WarmStartData:
    """Training windows, each drawn from the seed and the step alone: a resumed run sees what it would have seen."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._triples = triples("train")
        self._buckets: dict[Triple, list[list[Passage]]] = {}

    @cached_property
    def _pool(self) -> list[tuple[frozenset[str], Passage]]:
        first = _FIRST_POOL_SEED + self._seed * _POOL_SEEDS
        return [
            (lexicon().mentions(passage.text), passage)
            for seed in range(first, first + _POOL_SEEDS)
            for passage in SyntheticCollection(seed=seed, split="train").iter_passages()
        ]

    @cached_property
    def _by_topic(self) -> dict[str, list[tuple[frozenset[str], Passage]]]:
        topic_of = {pair[0]: name for name, pairs in lexicon().topics.items() for pair in pairs}
        grouped: dict[str, list[tuple[frozenset[str], Passage]]] = {name: [] for name in lexicon().topics}
        for found, passage in self._pool:
            if found:
                grouped[topic_of[min(found)]].append((found, passage))
        return grouped

    def _graded(self, triple: Triple) -> list[list[Passage]]:
        """Passages of the triple's topic by grade."""
        if triple not in self._buckets:
            topic = next(name for name, pairs in lexicon().topics.items() if any(p[0] == triple[0] for p in pairs))
            buckets: list[list[Passage]] = [[] for _ in range(len(triple) + 1)]
            for found, passage in self._by_topic[topic]:
                buckets[len(found.intersection(triple))].append(passage)
            self._buckets[triple] = buckets
        return self._buckets[triple]

    def window(self, size: int, random: Random) -> Window:
        triple = random.choice(self._triples)
        buckets = self._graded(triple)
        grades = random.choices(range(len(buckets)), _GRADE_WEIGHTS, k=size)
        passages = [
            random.choice(buckets[grade]) if grade or random.random() < 0.7 else random.choice(self._pool)[1]
            for grade in grades
        ]
        return Window(Query("train", query_text(triple, random)), tuple(passages))

    def batch(self, step: int, config: WarmStart) -> list[tuple[Window, str]]:
        """Windows of one size with their targets."""
        random = Random(f"{self._seed} step {step}")
        size = config.window_size(step, random)
        windows = [self.window(size, random) for _ in range(config.batch_passages // size)]
        return [(window, target(window, lazy=random.random() < LAZY)) for window in windows]


def prompt_text(tokenizer: Any, window: Window) -> str:
    """``window`` as the model reads it."""
    messages = [asdict(message) for message in CompactPrompt().render(window)]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


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


def dev_windows(count: int, seed: int = 1, size: int = 5) -> list[JudgedWindow]:
    """Windows of dev queries over the built-in collection; every passage mentions at least one concept."""
    collection = SyntheticCollection(seed=seed, split="dev")
    queries, qrels = list(collection.queries().values()), collection.qrels()
    windows = []
    for number in range(count):
        random = Random(f"dev window {number}")
        query = queries[number % len(queries)]
        ids = random.sample(sorted(qrels[query.id]), size)
        passages = collection.passages(ids)
        grades = tuple(qrels[query.id][i] for i in ids)
        windows.append(JudgedWindow(Window(query, tuple(passages[i] for i in ids)), grades))
    return windows


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
        said, truth = _by_passage(parsed.think or "", size), _by_passage(wanted, size)
        right += sum(a == b for a, b in zip(said, truth, strict=True))
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


def load(folder: str | Path = ASSETS) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint, through the auto classes any other tool would use."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def _state_path(out: Path) -> Path:
    return out.with_name(f"{out.name}-{_STATE}")


def _steps_left(config: WarmStart, start: int) -> Iterator[int]:
    deadline = None if config.minutes is None else time.monotonic() + 60 * config.minutes
    for step in range(start, config.steps):
        if deadline is not None and time.monotonic() > deadline:
            return
        yield step


def train(config: WarmStart, out: Path, say: Callable[[str], None] = print, save_seconds: float = 100) -> Probe:
    """Warm-start a model and write it to ``out``; an interrupted run continues from its last save.

    Every ``save_seconds`` the checkpoint is written, with the optimiser's state in a file beside ``out`` that goes when
    the last step is done. Returns the greedy probe of the final model.
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
            say(f"continuing at step {start} of {config.steps}")

    def write(step: int) -> None:
        save(model, tokenizer, out)
        scratch = state_path.with_suffix(".partial")
        torch.save(
            {"settings": settings, "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()},
            scratch,
        )
        scratch.replace(state_path)

    began = said = saved = time.monotonic()
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
        if now - said > 4:
            say(f"step {step + 1}/{config.steps} loss {sum(recent) / len(recent):.4f} at {now - began:.0f} s")
            said, recent = now, []
        if now - saved > save_seconds:
            write(step + 1)
            say(f"step {step + 1}: saved; dev windows, greedy: {_line(probe(model, tokenizer, dev))}")
            saved = time.monotonic()
    write(step + 1)
    final = probe(model, tokenizer, dev)
    say(f"step {step + 1} of {config.steps}; greedy:  {_line(final)}")
    say(f"sampled: {_line(probe(model, tokenizer, dev, temperature=1.0))}")
    if step + 1 == config.steps:
        state_path.unlink()
    return final


def _line(measured: Probe) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in asdict(measured).items())


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    defaults = WarmStart()
    parser = argparse.ArgumentParser(prog="python -m rearank.training.tiny", description=(__doc__ or "").split("\n")[0])
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
