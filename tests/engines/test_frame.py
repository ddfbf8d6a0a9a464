"""Special and added tokens of a finished prompt: the template's and the messages' own, also behind a cut."""

from __future__ import annotations

from typing import Any

import pytest

from rearank.engines import EngineError
from rearank.engines.chat import Chat
from rearank.prompts import ChatPrompt, CompactPrompt, Prompt
from rearank.types import Message, Passage, Query, Sampling, Window

pytest.importorskip("tokenizers")
CHATML = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def chat_of(*added: str, context: int = 300, template: str = CHATML) -> Chat:
    """A model that reads bytes, with these special tokens besides those of its template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, normalized=False) for text in ("<|start|>", "<|end|>", *added)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", chat_template=template)
    return Chat(tokenizer, frozenset([tokenizer.eos_token_id]), context, "truncate", "", "")


def specials(chat: Chat, tokens: list[int]) -> list[str]:
    known: dict[int, Any] = chat.tokenizer.added_tokens_decoder
    return [known[token].content for token in tokens if token in known]


def asked(chat: Chat, text: str, final: str = "Rank.", **settings: Any) -> tuple[Message, ...]:
    prompt = CompactPrompt(opening="Query: {query}", final=final, **settings)
    return prompt.render(Window(Query("q", "q"), (Passage("a", text), Passage("b", "b"))), chat.tokenizer)


FRAME = ["<|start|>", "<|end|>", "<|start|>"]


@pytest.mark.parametrize(
    "token",
    [" \u2026 ", "b \u2026", "\u2026 b", "bbb", "\u2026"],
)
def test_a_cut_makes_no_token(token: str) -> None:
    """The mark of the cut is a token itself, or one together with the text beside it."""
    chat = chat_of(token)
    tokens, shortened = chat.prompt(asked(chat, "b" * 900), Sampling(16))
    assert shortened
    assert specials(chat, tokens) == FRAME


def test_a_token_that_no_mark_avoids_fails_the_call() -> None:
    chat = chat_of(" \u2026 ", " ... ", " (...) ")
    with pytest.raises(
        EngineError, match=r"where this prompt is cut to fit, the model's token ' \(...\) ' arises; shor"
    ):
        chat.prompt(asked(chat, "b" * 900), Sampling(16))


def test_the_first_mark_stays_where_it_makes_none() -> None:
    chat = chat_of("<s>")
    tokens, shortened = chat.prompt(asked(chat, "b" * 900), Sampling(16))
    assert shortened
    assert "b \u2026 b" in chat.tokenizer.decode(tokens)


@pytest.mark.parametrize("token", ["user\nq", "z<|end|>", "z<|"])
def test_a_text_that_makes_or_hides_a_token_where_it_meets_the_template_fails_the_call(token: str) -> None:
    chat = chat_of(token)
    for content in ("q is what", "jazz"):
        messages = (Message("user", content),)
        if specials(chat, chat.encode(messages)) == FRAME:
            assert chat.prompt(messages, Sampling(16))[1] is False
            continue
        with pytest.raises(EngineError, match=r"template together make or hide .*; let other words stand"):
            chat.prompt(messages, Sampling(16))
    assert any(specials(chat, chat.encode((Message("user", text),))) != FRAME for text in ("q is what", "jazz"))


def test_tokens_of_the_prompts_own_words_and_of_verbatim_texts_stay() -> None:
    chat = chat_of("<think>", context=2000)
    tokens, _ = chat.prompt(asked(chat, "<think> a", "Write <think> first."), Sampling(16))
    assert specials(chat, tokens) == ["<|start|>", "<think>", "<|end|>", "<|start|>"]
    tokens, _ = chat.prompt(asked(chat, "<think> a", "Write <think> first.", neutralise=False), Sampling(16))
    assert specials(chat, tokens) == ["<|start|>", "<think>", "<think>", "<|end|>", "<|start|>"]
    tokens, shortened = chat_of("<think>").prompt(asked(chat, "b" * 900, "Write <think> first."), Sampling(16))
    assert shortened
    assert specials(chat, tokens) == ["<|start|>", "<think>", "<|end|>", "<|start|>"]


@pytest.mark.parametrize("token", ["z<|end|>", "z<|", "system\nz", "assistant\nz"])
@pytest.mark.parametrize(
    "prompt",
    [
        CompactPrompt(system="{query}", opening="x", final="Rank."),
        ChatPrompt(opening="x", acknowledgement="{query}", final="Rank."),
        ChatPrompt(opening="x", received="{passage}", passage="{i}", final="Rank."),
    ],
)
def test_a_foreign_text_in_a_turn_of_the_system_or_the_assistant_is_held_to_the_same(
    prompt: Prompt, token: str
) -> None:
    chat, plain = chat_of(token, context=2000), chat_of(context=2000)
    texts = Window(Query("q", "zz"), (Passage("a", "zz"), Passage("b", "zz")))
    messages = prompt.render(texts, chat.tokenizer)
    if specials(chat, chat.encode(messages)) == specials(plain, plain.encode(messages)):
        assert chat.prompt(messages, Sampling(16))[1] is False
        return
    with pytest.raises(EngineError, match=r"template together make or hide .*; let other words stand"):
        chat.prompt(messages, Sampling(16))


def test_the_tokens_of_the_prompts_own_system_and_assistant_words_stay() -> None:
    chat = chat_of("<s>", context=2000)
    prompt = ChatPrompt(system="<s> a <|end|>", acknowledgement="<s>", final="Rank.", prefill="<s> b")
    texts = Window(Query("q", "<s>"), (Passage("a", "<s>"), Passage("b", "x")))
    tokens, _ = chat.prompt(prompt.render(texts, chat.tokenizer), Sampling(16))
    assert specials(chat, tokens) == [
        *("<|start|>", "<s>", "<|end|>", "<|end|>"),  # system
        *("<|start|>", "<|end|>"),
        *("<|start|>", "<s>", "<|end|>"),
        *("<|start|>", "<|end|>") * 3,
        *("<|start|>", "<s>"),
    ]


def test_a_template_that_looks_for_words_of_the_system_finds_them() -> None:
    template = CHATML + "{% if '/quick' in messages[0].content %}<t>{% endif %}"
    chat = chat_of("<t>", context=2000, template=template)
    tokens, _ = chat.prompt(asked(chat, "x", system="Be /quick"), Sampling(16))
    assert specials(chat, tokens)[-1] == "<t>"
