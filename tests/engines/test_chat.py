"""A model's side of a conversation: the thinking switch, the reasoning a template opens, the tokenizer for others."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.engines.models import CHAT, save_tiny_model

from rearank.engines import EngineError, TransformersNode
from rearank.engines.chat import Chat, load_chat, opening
from rearank.engines.tokens import SpareTokenizer, decoded
from rearank.engines.transformers import TransformersEngine
from rearank.parsing import ParseStatus, parse_ranking
from rearank.ranking import Failure
from rearank.types import Message, Sampling

# As Qwen3's: off writes an empty reasoning, on (and not said) leaves it to the model.
SWITCH = CHAT + "{% if enable_thinking is defined and enable_thinking is false %}w1 w1 {% endif %}"
# As DeepSeek-R1's: the reasoning is opened for the model, always.
OPENS = CHAT + "{% if add_generation_prompt %}<think>\n{% endif %}"
ASKED = (Message("user", "w3 w4"),)


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("switched"), chat=SWITCH)


def test_the_switch_reaches_the_template(switched: Path) -> None:
    on, off, unsaid = (load_chat(switched, None, thinking=thinking) for thinking in (True, False, None))
    assert off.encode(ASKED) == [*on.encode(ASKED), *on.tokenizer("w1 w1")["input_ids"]]
    assert unsaid.encode(ASKED) == on.encode(ASKED)


def test_the_switch_is_part_of_the_identity_where_it_is_used(switched: Path) -> None:
    identities = [
        TransformersNode(device="cpu").create(str(switched), thinking=thinking).identity
        for thinking in (None, True, False)
    ]
    assert "thinking" not in identities[0], "stores made before there was a switch stay valid"
    assert identities[1:] == [{**identities[0], "thinking": thinking} for thinking in (True, False)]


def test_a_template_without_the_switch_is_named_with_the_remedy(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    for thinking in (True, False):
        with pytest.raises(EngineError, match=r"no thinking switch.*set model\.thinking=null"):
            TransformersEngine(folder, thinking=thinking)
    assert load_chat(folder, None).opened == ""


def test_a_reasoning_that_the_template_opened_is_part_of_the_answer(tmp_path: Path) -> None:
    """Cut at the token limit it must not read as a reply, whatever numbers are in it."""
    chat = load_chat(save_tiny_model(tmp_path, chat=OPENS), None)
    assert chat.opened == "<think>\n"
    tokens = chat.tokenizer("w1 w2")["input_ids"]
    assert chat.text(tokens) == "<think>\nw1 w2"
    cut = chat.opened + "[2] is about ships > [1]"
    assert parse_ranking(cut, 2, tags=False).status is ParseStatus.UNCLOSED_THINK
    assert parse_ranking(cut, 2, tags=False).named == 0
    # And whole, with or without the opening, it reads the same.
    whole = "[1] is good </think> <answer> [2] > [1] </answer>"
    for text in (whole, chat.opened + whole):
        parsed = parse_ranking(text, 2)
        assert (parsed.status, parsed.permutation.order) == (ParseStatus.OK, (1, 0))
        assert parsed.think is not None
        assert parsed.think.strip() == "[1] is good"


def marking_tokenizer() -> Any:
    """Of words; the marks of its reasoning are special tokens, as Mistral's are."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "[THINK]", "[/THINK]", "[INST]", "one", "two", "[1]", "[2]"]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=["[THINK]", "[/THINK]", "[INST]"],
        chat_template="{{ messages[0].content }}{% if add_generation_prompt %}[THINK]{% endif %}",
    )


def test_special_tokens_that_mark_a_reasoning_are_kept() -> None:
    """Decoding leaves special tokens out."""
    tokenizer = marking_tokenizer()
    tokens = tokenizer("[THINK] one [/THINK] two [INST] </s>")["input_ids"]
    assert decoded(tokenizer, tokens) == "[THINK]one[/THINK]two"
    assert decoded(tokenizer, []) == ""
    assert opening(tokenizer) == "[THINK]"
    chat = Chat(tokenizer, frozenset({1}), 64, "refuse", "", "", opened=opening(tokenizer))
    assert chat.text(tokens[1:]) == "[THINK]one[/THINK]two"


def test_a_template_that_quotes_the_text_gives_one_line() -> None:
    class Refusing:
        def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
            raise ValueError(f"no such text:\n{turns[0]['content']}\nTraceback")

    chat = Chat(Refusing(), frozenset({1}), 64, "refuse", "", "")
    with pytest.raises(EngineError) as caught:
        chat.prompt((Message("user", "a\nERROR forged line\n" * 99),), Sampling())
    assert "refuses this prompt: no such text: a ERROR forged line" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(Failure("q\nERROR forged", EngineError("a\nb"))) == "query q ERROR forged: EngineError: a b"


def test_an_engine_hands_over_what_the_template_opened(tmp_path: Path) -> None:
    engine = TransformersEngine(save_tiny_model(tmp_path, chat=OPENS))
    assert asyncio.run(engine.complete(ASKED, Sampling(max_tokens=3))).text.startswith("<think>\n")


def test_the_tokenizer_for_others_is_a_copy_that_threads_may_share(switched: Path) -> None:
    original = load_chat(switched, None).tokenizer
    spare = SpareTokenizer(original)
    text = " ".join(["w5 w6 w7"] * 50)
    expected = original.encode(text, add_special_tokens=False)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: spare.encode(text, add_special_tokens=False), range(40)))
        assert all(tokens == expected for tokens in found)
    assert spare.decode(expected[:2]) == original.decode(expected[:2])
    assert spare._spare() is not original
