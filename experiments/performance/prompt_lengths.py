"""How long checking prompts takes before a training: the paper's 12,000 windows of 20 passages.

They are neutralised, tokenised, held against the tokens that they may have, and measured.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from common import Result, seconds, words
from omegaconf import OmegaConf

from rearank.config import build
from rearank.training.rows import TrainingRow
from rearank.types import JudgedWindow, Passage, Query, Window

_ROWS, _SAMPLE, _BAR = 12_000, 1_500, 30.0


def tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of 8,000 entries, as fast and as slow as a real model's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|im_start|>", "<|im_end|>"]
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8_000, special_tokens=special, show_progress=False))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>")
    turn = "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    made.chat_template = "{% for message in messages %}" + turn + "{% endfor %}"
    return made


def run() -> list[Result]:
    """Seconds for 12,000 rows, from a sample of them."""
    from rearank.training.lengths import prompt_lengths, rows_that_fit

    rng = Random(1)
    texts = [words(120, 30_000, rng.random) for _ in range(2_000)]
    prompt = build(OmegaConf.load(Path(__file__).resolve().parents[2] / "conf" / "prompt" / "rearank.yaml"))
    window = Window(Query("q", "what is this about"), tuple(Passage(str(i), text) for i, text in enumerate(texts[:20])))
    first = TrainingRow(0, "d", "train", (), JudgedWindow(window, (1, *[0] * 19)), prompt.wording)
    rows = []
    for number in range(_SAMPLE):
        passages = tuple(Passage(str(i), rng.choice(texts)) for i in range(20))
        rows.append(replace(first, index=number, prompt=prompt.render(replace(window, passages=passages))))
    made = tokenizer(texts)
    took, _ = seconds(lambda: rows_that_fit(made, rows, "sampled", None, ""), repeats=2)
    lengths = prompt_lengths(made, rows[:100], "sampled")
    whole = took * _ROWS / _SAMPLE
    what = f"{_ROWS:,} prompts of {sum(lengths) / len(lengths):,.0f} tokens checked and measured"
    return [Result("prompt lengths", what, whole, "s", f"under {_BAR:.0f} s", whole < _BAR)]


if __name__ == "__main__":
    for result in run():
        print(result)
