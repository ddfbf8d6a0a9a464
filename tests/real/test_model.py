"""The real model answers as itself: end token, template, length of prompts, cuts by tokens, its own name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.real.texts import ask, prompts, windows

from rearank.engines import Engine, TransformersNode
from rearank.engines.chat import Chat, load_chat
from rearank.engines.model import Model
from rearank.training.lengths import prompt_lengths
from rearank.training.rows import read_rows, write_rows
from rearank.types import JudgedWindow, Message, Sampling, Window

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture(scope="module")
def engine(real: Model) -> Engine:
    return TransformersNode(device="cpu").create(real.location)


@pytest.fixture(scope="module")
def chat(real: Model) -> Chat:
    return load_chat(real.location, None)


def test_it_is_the_file_that_the_tests_were_written_for(real: Model) -> None:
    made = json.loads((Path(real.location) / "gguf.json").read_text())
    assert (made["sha256"], made["weights"], made["notices"]) == (SHA256, "Q4_1", [])


def test_its_name_is_its_own(real: Model) -> None:
    assert real.preflight() == []
    assert "set model.name=smollm2_q4_1" in replace(real, name="smollm2").preflight()[0]
    sizes = real.sizes
    assert sizes is not None
    assert (sizes.parameters, sizes.context) == (134_515_008, 8192)


def test_it_knows_a_capital_and_ends(engine: Engine) -> None:
    (said,) = ask(engine, [([Message("user", "What is the capital of France?")], Sampling(max_tokens=60))])
    assert "Paris" in said.text
    assert said.finish == "stop"
    assert "<|" not in said.text


def test_a_prompt_is_as_long_as_it_was_measured(engine: Engine, chat: Chat, tmp_path: Path) -> None:
    """By the trainers, on their rows, and by the engine, which reports it."""
    for prompt in prompts():
        judged = [JudgedWindow(window, (1, 0, 0, 0, 0)) for window in windows()]
        write_rows(tmp_path / "rows.parquet", judged, prompt, "real", "train")
        measured = prompt_lengths(chat.tokenizer, read_rows(tmp_path / "rows.parquet"), "training")
        calls = [(prompt.render(window, chat.tokenizer), Sampling(max_tokens=1)) for window in windows()]
        assert [said.prompt_tokens for said in ask(engine, calls)] == measured
        assert [len(chat.encode(messages)) for messages, _ in calls] == measured


@pytest.mark.parametrize("most", [1, 7, 20])
def test_a_passage_is_cut_to_its_tokens(chat: Chat, most: int) -> None:
    prompt = replace(prompts()[0], max_tokens=most)
    for window in windows():
        content = prompt.render(window, chat.tokenizer)[0].content
        for number, passage in enumerate(window.passages, start=1):
            line = content.partition(f"[{number}] ")[2].partition(f"\n[{number + 1}] ")[0].partition("\nThink about")[0]
            assert chat.tokenizer.tokenize(line) == chat.tokenizer.tokenize(prompt.cut(passage))[:most]


@pytest.mark.parametrize("context", [900, 200])
def test_a_prompt_too_long_keeps_its_ends(chat: Chat, context: int) -> None:
    window = windows()[0]
    long = Window(window.query, tuple(replace(p, text=p.text * 30) for p in window.passages))
    small: Any = replace(chat, context=context)
    for prompt in prompts():
        messages = replace(prompt, max_characters=4000).render(long)
        tokens, cut = small.prompt(messages, Sampling(max_tokens=100))
        assert cut
        assert context - 140 < len(tokens) <= context - 100
        text = chat.tokenizer.decode(tokens)
        assert text.startswith("<|im_start|>system\n")
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_white_space_and_numbers_are_tokens_as_in_training(chat: Chat) -> None:
    """Digits alone and blank lines whole, as the file's splitting has it; the text comes back as it was."""
    text = windows()[0].passages[4].text
    assert chat.tokenizer.tokenize("\n\n1. 2,50 in 1995") == [
        "ĊĊ", "1", ".", "Ġ", "2", ",", "5", "0", "Ġin", "Ġ", "1", "9", "9", "5",
    ]  # fmt: skip
    assert chat.tokenizer.decode(chat.tokenizer(text)["input_ids"]) == text
