"""Tokenizers whose unknown token also ends, pads or parts what the model reads: no text brings it about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rearank.engines.chat import Chat
from rearank.neutral import Reserved, Reserving, joined, neutralise, plain_unknown, reserved_of, without_tokens
from rearank.prompts import ChatPrompt, CompactPrompt
from rearank.training.lengths import rows_that_fit
from rearank.training.rows import TrainingRow
from rearank.types import JudgedWindow, Passage, Query, Sampling, Window
from tests.engines.test_frame import CHATML

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")
END = "<|end|>"
WORDS = ["x", "a", "user", "assistant", "Query", "the", "\u2581", "1", "2", "[", "]", ":", "<", ">", "|", "\u2581x"]
KINDS = ("WordLevel", "WordPiece", "Unigram", "characters", "normalised bytes")


def wrapped(raw: Any, **tokens: str) -> Any:
    """A tokenizer of chat form whose special tokens are those of the template and ``<s>``."""
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    raw.add_special_tokens([AddedToken(text, normalized=False) for text in ("<|start|>", END, "<s>")])
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=END, chat_template=CHATML, **tokens)


@cache
def by_bytes(missing: frozenset[int], normaliser: str | None = None) -> Any:
    """A byte-level vocabulary without these bytes; each of them is the end token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    from rearank.neutral.reserved import _SIGNS

    signs = [END, *(sign for byte, sign in _SIGNS.items() if byte not in missing)]
    raw = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(signs)}, merges=[], unk_token=END))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normaliser is not None:
        raw.normalizer = getattr(normalizers, normaliser)()
    return wrapped(raw, unk_token=END)


@cache
def by_pieces(kind: str) -> Any:
    """A vocabulary of few words, or characters; all else is the token that pads."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    if kind == "normalised bytes":
        return by_bytes(frozenset([4, 0xCC]), "NFD")
    numbers = {word: i for i, word in enumerate(["<pad>", *WORDS, *(f"##{word}" for word in "xa1")])}
    if kind == "Unigram":
        raw = Tokenizer(models.Unigram([(word, -1.0 - i) for word, i in numbers.items()], unk_id=0))
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
    elif kind == "characters":
        raw = Tokenizer(models.BPE(numbers, [], unk_token="<pad>"))
    else:
        raw = Tokenizer(getattr(models, kind)(numbers, unk_token="<pad>"))
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return wrapped(raw, unk_token="<pad>", pad_token="<pad>")


PIECES = st.sampled_from([*WORDS, " ", "\n", "\x04", "\u00e9", "\u2039", "\u00b7", END, "<s>", "<|", "<pad>", "\uff1c"])
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=10).map("".join))
BYTES = st.frozensets(st.integers(0, 255), max_size=60)
MANY = frozenset(range(128, 256))
PROMPTS = (
    CompactPrompt(system="Rank by {query}", final="Rank {num}: \u00e9\x04"),
    ChatPrompt(system="s", opening="{query}", received="Got {passage}", final="{query}", white_space="keep"),
)


def ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def controls(tokenizer: Any, tokens: Sequence[int]) -> list[int]:
    return [token for token in tokens if token in tokenizer.added_tokens_decoder]


def check_text(tokenizer: Any, text: str) -> None:
    reserved = reserved_of(tokenizer)
    safe = neutralise(text, reserved)
    assert not controls(tokenizer, ids(tokenizer, safe)), ascii(safe)
    assert neutralise(safe, reserved) == safe


def check_prompts(tokenizer: Any, query: str, text: str) -> None:
    """Each prompt, whole and cut, and the trainers' rows have the control tokens of one with plain words."""
    chat = Chat(tokenizer, frozenset([tokenizer.eos_token_id]), 20_000, "truncate", "", "")
    windows = {
        "plain": Window(Query("q", "x"), (Passage("a", "x"), Passage("b", "x"))),
        "hostile": Window(Query("q", query), (Passage("a", text, text), Passage("b", "x"))),
    }
    for prompt in PROMPTS:
        for name, window in windows.items():
            messages = prompt.render(window, tokenizer)
            tokens, _ = chat.prompt(messages, Sampling(16))
            cut, _ = replace(chat, context=360).prompt(messages, Sampling(16))
            row = TrainingRow(0, "s", "train", prompt.render(window), JudgedWindow(window, (0, 1)), prompt.wording)
            (kept,) = rows_that_fit(tokenizer, [row], "training", None, "")
            trained = chat.encode(kept.prompt)
            found = [controls(tokenizer, some) for some in (tokens, cut, trained)]
            if name == "plain":
                plain = found[0]
                assert found[1] == plain
            assert found == [plain] * 3, (name, prompt)


@settings(max_examples=150, deadline=None)
@given(BYTES, TEXTS)
@example(frozenset([4]), "a\x04b")
@example(frozenset([0xE2]), "<s> \u2039s>")
@example(MANY, "caf\u00e9 \uff1c|end|> z\u00b7z")
@example(frozenset(b" <"), "a b <s>")
def test_no_text_spells_a_missing_byte(missing: frozenset[int], text: str) -> None:
    check_text(by_bytes(missing), text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(TEXTS)
@example("caf\u00e9 hello <s>")
def test_no_text_makes_an_unknown_piece(kind: str, text: str) -> None:
    check_text(by_pieces(kind), text)


@settings(max_examples=60, deadline=None)
@given(BYTES, TEXTS, TEXTS)
@example(frozenset([4]), "\x04", "a\x04b")
@example(MANY, "caf\u00e9", "\u2026")
def test_no_prompt_and_no_row_spells_a_missing_byte(missing: frozenset[int], query: str, text: str) -> None:
    check_prompts(by_bytes(missing - {32}), query, text)  # a cut's mark has spaces


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(TEXTS, TEXTS)
@example("rank", "Rank the query")
def test_no_prompt_and_no_row_has_an_unknown_piece(kind: str, query: str, text: str) -> None:
    check_prompts(by_pieces(kind), query, text)


def test_the_properties_could_fail() -> None:
    tokenizer = by_bytes(frozenset([4]))
    assert controls(tokenizer, ids(tokenizer, "a\x04b")) == [tokenizer.eos_token_id]
    for kind in KINDS:
        assert controls(by_pieces(kind), ids(by_pieces(kind), "x \u00e9 x")), kind


def test_innocent_text_stays() -> None:
    text = "caf\u00e9 a\u200bb \U0001f600 x[i] \x05"
    assert neutralise(text, reserved_of(by_bytes(frozenset([4, 0xF1])))) == text
    assert neutralise("na\u00efve \U0001f600 x\x04y", reserved_of(by_bytes(MANY | {4}))) == "naive   xy"
    assert neutralise("the \u00e9 the", reserved_of(by_pieces("WordLevel"))) == "the   the"


def test_an_unknown_token_that_is_nothing_else_may_stand_anywhere() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    def made(**tokens: str) -> Any:
        raw = Tokenizer(models.WordLevel({"<unk>": 0, "x": 1}, unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
        return wrapped(raw, unk_token="<unk>", **tokens)

    assert plain_unknown(made()) == "<unk>"
    assert neutralise("x hello", reserved_of(made())) == "x hello"
    assert plain_unknown(made(pad_token="<unk>")) is None
    assert neutralise("x hello", reserved_of(made(pad_token="<unk>"))) == "x  "
    assert plain_unknown(object()) is None


def test_a_vocabulary_that_spells_all_by_bytes_is_asked_nothing() -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    reserved = reserved_of(wrapped(raw, unk_token="<unk>", pad_token="<unk>"))
    assert reserved is not None
    assert (reserved.missing, reserved.pieces) == ((), None)
    whole = reserved_of(by_bytes(frozenset()))
    assert whole is not None
    assert (whole.missing, whole.pieces) == ((), None)


def test_it_is_stored() -> None:
    def again(reserved: Reserved | None) -> tuple[Mapping[str, Any], Reserved]:
        assert reserved is not None
        stored = json.loads(json.dumps(reserved.stored()))
        made = Reserving.of(stored)
        assert made is not None
        return stored, made.reserved

    by_byte = reserved_of(by_bytes(frozenset([4])))
    assert again(by_byte)[1] == by_byte
    assert again(reserved_of(by_pieces("WordLevel")))[0]["pieces"] is True
    assert set(again(Reserved(("<s>",)))[0]) == {"exact", "normalised"}, "as in results of before"


def test_own_words_keep_their_tokens_but_not_what_cannot_be_spelt() -> None:
    reserved = Reserved(("<s>",), missing=(4,))
    assert joined(["<s>\x04 ", "x", "\x04"], reserved) == "<s> x"
    assert without_tokens("<s> \x04x <t>", reserved, "<s> \x04") == "<s> x <t>"
    assert joined(["a", "a", ""], Reserved(("aa",), missing=(0xC2,))) == "a a", "no dot to part them"
