"""Both trainers leave out a row whose finished prompt has a token of the model's that its words alone don't make."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engines.test_frame import chat_of, specials

from rearank.prompts import ChatPrompt, Prompt
from rearank.rewards import NdcgReward
from rearank.tracking import NoTracking
from rearank.training.base import TrainingError, TrainingJob
from rearank.training.rows import TrainingRow, read_rows, write_rows
from rearank.types import JudgedWindow, Passage, Query, Window

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")
pytest.importorskip("omegaconf")

PROMPT = ChatPrompt(opening="{query}", final="Rank.")
TEXTS = ["plain", "jazz", "<s> \x04 <|start|>", "fizz"]
Kept = Callable[[TrainingJob], tuple[Sequence[TrainingRow], Sequence[TrainingRow]]]


def by_verl(job: TrainingJob) -> tuple[Sequence[TrainingRow], Sequence[TrainingRow]]:
    from rearank.training.verl.launch import _rows
    from rearank.training.verl.settings import Lengths

    return _rows(job, Lengths(900, 64))


def by_trl(job: TrainingJob) -> tuple[Sequence[TrainingRow], Sequence[TrainingRow]]:
    from rearank.training.local import load_tokenizer
    from rearank.training.trl.fit import _rows
    from rearank.training.trl.node import TrlTrainer

    return _rows(job, TrlTrainer(device="cpu"), load_tokenizer(job.model, None))


BOTH = pytest.mark.parametrize("kept", [by_verl, by_trl])


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    """A model whose end token a text that ends in z hides."""
    chat_of("z<|end|>", "<s>").tokenizer.save_pretrained(tmp_path / "model")
    config = {"model_type": "llama", "max_position_embeddings": 1000}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    tracker = NoTracking().open(tmp_path, "t", {}, "train")
    return TrainingJob(str(tmp_path / "model"), None, 64, [], [], NdcgReward(), tmp_path, tracker, 1)


def rows(folder: Path, texts: Sequence[str], prompt: Prompt = PROMPT) -> list[TrainingRow]:
    windows = [
        JudgedWindow(Window(Query(f"q{i}", "what"), (Passage("a", "a"), Passage("b", text))), (0, 1))
        for i, text in enumerate(texts)
    ]
    write_rows(folder / "rows.parquet", windows, prompt, "made", "train")
    return read_rows(folder / "rows.parquet")


@BOTH
def test_a_row_with_a_stray_token_is_left_out_and_named(
    kept: Kept, job: TrainingJob, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train, held_out = kept(replace(job, train=rows(job.folder, TEXTS), validation=rows(job.folder, ["x"])))
    assert ([row.index for row in train], len(held_out)) == ([0, 2], 1)
    assert "2 of 4 training windows left out" in caplog.text
    assert "row 1 (query q1): 'z<|end|>'; row 3 (query q3): 'z<|end|>'; let other words stand" in caplog.text
    chat = chat_of("z<|end|>", "<s>")
    shapes = {tuple(specials(chat, chat.encode(row.prompt))) for row in train}
    assert shapes == {("<|start|>", "<|end|>") * 5 + ("<|start|>",)}


@BOTH
def test_none_left_is_an_error(kept: Kept, job: TrainingJob) -> None:
    with pytest.raises(TrainingError, match=r"every training row of made, prepared/train.parquet: .*row 0 .*rerun=tr"):
        kept(replace(job, train=rows(job.folder, ["jazz"] * 9)))


@BOTH
def test_verbatim_rows_stay(kept: Kept, job: TrainingJob) -> None:
    written = rows(job.folder, TEXTS, replace(PROMPT, neutralise=False))
    train, _ = kept(replace(job, train=written))
    assert list(train) == written


@BOTH
def test_a_model_of_unknown_context_is_checked_too(kept: Kept, job: TrainingJob) -> None:
    Path(job.model, "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 0}))
    train, _ = kept(replace(job, train=rows(job.folder, TEXTS)))
    assert [row.index for row in train] == [0, 2]


def test_what_is_measured_is_what_the_rows_hold(job: TrainingJob) -> None:
    from rearank.training.lengths import prompt_lengths

    chat: Any = chat_of("z<|end|>", "<s>")
    given = rows(job.folder, TEXTS)
    assert prompt_lengths(chat.tokenizer, given, "training") == [len(chat.encode(row.prompt)) for row in given]


def test_given_answers_end_no_turn_and_those_that_cannot_be_learnt_are_left_out(
    job: TrainingJob, caplog: pytest.LogCaptureFixture
) -> None:
    from rearank.training.local import load_tokenizer
    from rearank.training.sft import Sft
    from rearank.training.targets import learnable
    from rearank.training.verl.launch import _rows
    from rearank.training.verl.settings import Lengths

    texts = ["a", "b", "c", "d"]
    answers = [
        "<think> <|end|> </think> <answer> [2] > [1] </answer>",
        None,
        "long " * 200,
        "<answer> [1] > [2] </answer>",
    ]
    given = [replace(row, completion=one) for row, one in zip(rows(job.folder, texts), answers, strict=True)]
    sft, tokenizer = Sft(targets="given"), load_tokenizer(job.model, None)
    with caplog.at_level(logging.WARNING):
        kept = learnable(tokenizer, given, sft, "training", 64)
    assert (
        "of 4 training windows 1 without an answer and 1 with one of more than model.max_tokens=64 tokens"
        in caplog.text
    )
    assert [row.index for row in kept] == [0, 3]
    first = kept[0].completion or ""
    assert first == "<think> ‹|end|> </think> <answer> [2] > [1] </answer>"
    assert not {"<|end|>", "<s>"} & set(tokenizer.convert_ids_to_tokens(tokenizer(first)["input_ids"]))
    # A teacher is asked about training windows only; ideal answers need nothing.
    job = replace(job, train=given, validation=rows(job.folder, ["x"]))
    assert [len(some) for some in _rows(job, Lengths(900, 64), sft)] == [2, 0]
    assert [len(some) for some in _rows(job, Lengths(900, 64), Sft())] == [4, 1]
    with pytest.raises(TrainingError, match=r"no training window is left \(1 without an answer\); give a dataset"):
        learnable(tokenizer, given[1:2], sft, "training", 64)
    with pytest.raises(TrainingError, match="where dataset, augmentation, prepare and seed are those of task=distill"):
        learnable(tokenizer, given[1:2], Sft(targets="teacher"), "training", 64)
