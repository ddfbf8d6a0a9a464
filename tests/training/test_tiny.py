"""The tiny model: its tokenizer, its targets, and a warm start small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from experiments.tiny import lessons, make
from tests.shipped import ASSETS, load

from rearank.data.synthetic import lexicon, triples
from rearank.parsing import ParseStatus, parse_ranking
from rearank.types import Passage, Query, Window

pytest.importorskip("torch")

WINDOW = Window(
    Query("q", "ship storm port"),
    (
        Passage("a", "old storm storm storm near tempest"),
        Passage("b", "vessel tempest old harbor"),
        Passage("c", "green army"),
        Passage("d", "ship harbor near ship"),
    ),
)
SMALL = lessons.WarmStart(steps=4, batch_passages=20, threads=1)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return lessons.build_tokenizer()


def test_notes_are_true_and_the_answer_sorts_by_them_or_is_lazy() -> None:
    notes = "<think> [1] storm 1 [2] ship storm port 3 [3] 0 [4] ship port 2 </think>"
    assert lessons.target(WINDOW, lazy=False) == f"{notes} <answer> [2] > [4] > [1] > [3] </answer>"
    assert lessons.target(WINDOW, lazy=True) == f"{notes} <answer> [1] > [2] > [3] > [4] </answer>"


@pytest.mark.parametrize("lazy", [True, False])
def test_a_completion_survives_the_tokenizer_and_the_parser(tokenizer: Any, lazy: bool) -> None:
    text = lessons.target(WINDOW, lazy=lazy)
    ids = tokenizer(text + lessons.END)["input_ids"]
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    assert decoded == text
    parsed = parse_ranking(decoded, len(WINDOW))
    assert parsed.status is ParseStatus.OK
    assert parsed.is_canonical


def test_the_prompt_has_no_unknown_word_and_one_token_a_word(tokenizer: Any) -> None:
    for judged in lessons.dev_windows(20):
        text = lessons.prompt_text(tokenizer, judged.window)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) < 120


def test_only_chat_marks_are_special(tokenizer: Any) -> None:
    assert set(tokenizer.all_special_tokens) == {lessons.END, lessons.PAD, lessons.UNKNOWN} | (
        {lessons.START} & set(tokenizer.all_special_tokens)
    )
    for token in ("<think>", "</think>", "<answer>", "</answer>", "[1]", "[20]", ">", "3", *lexicon().fillers):
        assert tokenizer.convert_tokens_to_ids(token) != tokenizer.unk_token_id
        assert tokenizer.decode(tokenizer(token)["input_ids"], skip_special_tokens=True) == token


def test_text_of_other_collections_is_read_as_unknown_words(tokenizer: Any) -> None:
    ids = tokenizer("Ångström's (3) measured ship")["input_ids"]
    assert ids[-1] == tokenizer.convert_tokens_to_ids("ship")
    assert tokenizer.unk_token_id in ids


def test_the_warm_start_meets_train_triples_only_and_is_fixed_by_seed_and_step() -> None:
    known = {frozenset(triple) for triple in triples("train")}
    config = lessons.WarmStart(batch_passages=40)
    batches = [lessons.WarmStartData(1).batch(step, config) for step in (0, 3000)]
    assert batches == [lessons.WarmStartData(1).batch(step, config) for step in (0, 3000)]
    for window, _ in (example for batch in batches for example in batch):
        assert frozenset(lexicon().mentions(window.query.text)) in known
    assert {len(window) for window, _ in batches[0]} <= {1, 2}


def test_labels_cover_the_completion_and_its_end_only(tokenizer: Any) -> None:
    text = lessons.target(WINDOW, lazy=True)
    ids, labels = make._tensors(tokenizer, [(WINDOW, text)])
    taught = ids[0][labels[0] != -100].tolist()
    assert tokenizer.decode(taught) == f"{text} {lessons.END}"


@pytest.mark.parametrize("field", [{"steps": 0}, {"learning_rate": 0.0}, {"threads": 0}, {"minutes": 0.0}])
def test_a_value_out_of_range_is_named(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        lessons.WarmStart(**field)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny") / "model"
    make.train(SMALL, out, log=lambda line: None)
    return out


@pytest.mark.slow
def test_auto_classes_load_what_was_saved(trained: Path, tokenizer: Any) -> None:
    model, loaded = load(trained)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.eos_token, loaded.pad_token) == (lessons.END, lessons.PAD)
    text = lessons.prompt_text(tokenizer, WINDOW)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert model.config.model_type == "qwen3"
    assert model.config.eos_token_id == loaded.eos_token_id
    assert not list(trained.parent.glob("*.pt")), "a finished run leaves no state behind"


@pytest.mark.slow
def test_an_interrupted_run_continues_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"

    class StopError(Exception):
        pass

    def interrupt(line: str) -> None:
        if "saved" in line:
            raise StopError

    with pytest.raises(StopError):
        make.train(SMALL, out, log=interrupt, save_seconds=0)
    lines: list[str] = []
    make.train(SMALL, out, log=lines.append)
    assert lines[0].startswith("continuing at step 1")
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_schedule_starts_small_and_ends_small() -> None:
    config = lessons.WarmStart(steps=1000)
    assert config.rate(0) < config.rate(20) == config.learning_rate == config.rate(600)
    assert config.rate(999) < 0.05 * config.learning_rate
    assert config.window_size(900, Random(0)) >= 2


class TestShipped:
    """The checkpoint in the package."""

    def test_it_is_small_and_of_a_standard_kind(self) -> None:
        weights = ASSETS / "model.safetensors"
        assert weights.stat().st_size < 4_000_000
        config = json.loads((ASSETS / "config.json").read_text())
        assert config["architectures"] == ["Qwen3ForCausalLM"]

    def test_its_tokenizer_is_what_this_code_builds(self, tokenizer: Any) -> None:
        from transformers import AutoTokenizer

        assert AutoTokenizer.from_pretrained(ASSETS).get_vocab() == tokenizer.get_vocab()

    @pytest.mark.slow
    def test_it_is_lazy_when_greedy_and_notes_are_true(self) -> None:
        import torch

        model, tokenizer = load()
        windows = lessons.dev_windows(80)
        greedy = make.probe(model, tokenizer, windows)
        assert greedy.notes > 0.9
        assert greedy.kept > 0.9
        assert greedy.canonical == 1.0
        torch.manual_seed(1)
        sampled = make.probe(model, tokenizer, windows, temperature=1.0)
        assert 0.4 < sampled.kept < 0.85
        assert sampled.ranked > sampled.given
