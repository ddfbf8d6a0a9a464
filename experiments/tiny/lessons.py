"""What the tiny model is taught: its words, true notes on passages, and an answer that is often lazy about them.

The notes are always true: for each passage the query's words whose concept it mentions, and their number. The answer
only sometimes follows from them: in a share ``LAZY`` of the examples it keeps the given order, in the others it sorts
by the notes. The greedy model is therefore lazy while its samples sometimes rank well: that is what GRPO can find. A
model warm-started without such a share is at its ceiling already, and GRPO gained nothing on it.

The passages are of other collections than the one of the quickstart's seed, and the queries over train triples only.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from rearank.checks import check_fields
from rearank.data.synthetic import SyntheticCollection, Triple, lexicon, query_text, triples
from rearank.prompts import CompactPrompt
from rearank.types import JudgedWindow, Passage, Query, Window

START, END, PAD, UNKNOWN = "<|im_start|>", "<|im_end|>", "<|pad|>", "<|unk|>"
MOST_PASSAGES = 20  # identifiers [1] to [20] and the numbers 0 to 20 have tokens of their own
LAZY = 0.65

_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Identifiers and tags are one token each; then words and numbers; then any other sign by itself.
_TOKEN = r"\[\d+\]|</?[a-z]+>|\w+|[^\w\s]"
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
    steps: Annotated[int, Ge(1)] = 4500
    learning_rate: Annotated[float, Gt(0), Lt(1)] = 2e-3
    batch_passages: Annotated[int, Ge(MOST_PASSAGES)] = 160
    threads: Annotated[int, Ge(1)] = 2
    minutes: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

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
