"""Tokens that normalisers bring to life, lone characters, seams of a prompt; the parser's marks in no output."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rearank.marks import MARK, answers_in
from rearank.neutral import Reserved, joined, neutralise, reserved_of
from rearank.parsing import ParseStatus, parse_ranking
from rearank.prompts import ChatPrompt, CompactPrompt
from rearank.types import Passage, Query, Window

pytest.importorskip("tokenizers")
NORMALISED = ["<end of turn>", "<|im_end|>", "<x y>", "\u2581<pre>", "[Cd]", "\u00df\u00df", "\u20ac"]
EXACT = ["<|im_start|>", "] x", "<t> ", "\n(2", "y\n[2]", "a b"]


def tokenizer(normalizer: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if normalizer is not None:
        raw.normalizer = normalizer
    raw.add_special_tokens([AddedToken(text, normalized=True) for text in NORMALISED])
    raw.add_special_tokens([AddedToken(text, normalized=False) for text in EXACT])
    return raw


def made() -> dict[str, Any]:
    from tokenizers import Regex, normalizers

    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    return {
        "none": tokenizer(None),
        "nmt": tokenizer(normalizers.Nmt()),
        "bert": tokenizer(normalizers.BertNormalizer()),
        "underlined": tokenizer(normalizers.Replace(" ", "\u2581")),
        "folding": tokenizer(normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), spaces])),
        "accents": tokenizer(
            normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
        ),
        "any": tokenizer(normalizers.Replace(Regex(r"\s+"), " ")),
    }


TOKENIZERS = made()
KINDS = pytest.mark.parametrize("kind", sorted(TOKENIZERS))
SPACE = "\ufffd \u0085 \u2581 \u200b \u00a0 \u3000 \u2028 \ufeff \u00ad \u0301 \x00 \x1c \ufe0f".split(" ")
PIECES = st.sampled_from(
    [
        *NORMALISED,
        *EXACT,
        *SPACE,
        *(
            " ",
            "  ",
            "\n",
            "\t",
            "\u00a0 ",
            " \u200b ",
            "<end",
            "of",
            "turn>",
            "<x",
            "y>",
            "<|",
            "im_",
            "end|>",
            "<pre>",
        ),
        *("x", "y", "t", "a", "b", "<", ">", "[", "]", "(", "(2", "\uff1c", "\u00b7", "[2]", "C", "d", "\u1e9e"),
    ]
)
JOINED = st.lists(PIECES, max_size=10).map("".join)
SPREAD = st.tuples(st.sampled_from(NORMALISED), st.sampled_from([*SPACE, " ", "\n", "  ", "\u00a0 ", " \u200b "])).map(
    lambda two: f"x {two[0].replace(' ', two[1])} {two[1].join(two[0])} {two[0][:1]}{two[1]}{two[0][1:]}"
)
TEXTS = st.one_of(JOINED, SPREAD, st.text())


def live(raw: Any, text: str) -> list[str]:
    added = raw.get_added_tokens_decoder()
    encoded = raw.encode(text, add_special_tokens=False)
    return [token for i, token in zip(encoded.ids, encoded.tokens, strict=True) if i in added]


@KINDS
@settings(max_examples=250, deadline=None)
@given(TEXTS)
@example("<end\ufffdof\ufffdturn>")
@example("<end\u2581of\u2581turn>")
@example("<end \u200b of\u00a0 turn>")
@example("<|\ufffdim_\u0085end|>")
@example("a \u20ac b \u200b c")
def test_no_text_makes_a_special_token_under_any_normaliser(kind: str, text: str) -> None:
    raw = TOKENIZERS[kind]
    reserved = reserved_of(raw)
    safe = neutralise(text, reserved)
    assert not live(raw, safe), ascii(safe)
    assert neutralise(safe, reserved) == safe


PROMPTS: list[CompactPrompt | ChatPrompt] = [
    CompactPrompt(final="Rank.", opening="{query}"),
    CompactPrompt(final="Rank.", white_space="keep", passage="[{i}] <{passage}> "),
    ChatPrompt(final="{query}", passage="[{i}]{passage}", received="Got {passage}: [{i}]", white_space="keep"),
]


@KINDS
@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS)
@example("x", "y")
@example("t", "t")
def test_no_prompt_holds_a_special_token_from_a_text_or_across_its_ends(kind: str, query: str, text: str) -> None:
    raw = TOKENIZERS[kind]
    for prompt in PROMPTS:
        window = Window(Query("q", query), (Passage("a", text), Passage("b", f"y{text}", text)))
        for message in prompt.render(window, raw):
            assert not live(raw, message.content), ascii(message.content)


def test_the_properties_could_fail() -> None:
    assert live(TOKENIZERS["nmt"], "<end\ufffdof\ufffdturn>")
    assert live(TOKENIZERS["bert"], "<|\ufffdim_end|>")
    assert live(TOKENIZERS["underlined"], "<end\u2581of\u2581turn>")
    assert live(TOKENIZERS["folding"], "<end \u00a0of\u200bturn>")
    assert live(TOKENIZERS["none"], "[1] x")


def test_a_lone_character_goes_and_the_text_does_not_grow() -> None:
    reserved = Reserved((), ("\u00a7", "\u200b", "\ufb03"))
    assert neutralise("OK \u00a7 x\u200by", reserved) == "OK  xy"
    assert neutralise("OK K x", Reserved((), ("K",))) == "O  x", "its normaliser may write it either way"
    assert neutralise("office", reserved) == "of\u00b7fice", "as NFKC writes it"
    assert neutralise("\ufb03", reserved) == ""
    assert neutralise("a [b", Reserved((" [",))) == "a \u00b7[b", "its white space alone isn't the token"


def test_white_space_counts_in_tokens_without_any() -> None:
    reserved = Reserved((), ("<s>", "<a b>"))
    text = "if a < s > b, vector< s >"
    assert neutralise(text, reserved) == text
    assert neutralise("<a  b> <ab> <s>", reserved) == "\u2039a  b> \u2039ab> \u2039s>"


def test_seams() -> None:
    reserved = Reserved(("] x", "y\n", "aa"))
    assert joined(["[1] ", "x", "\n[2] ", "y", "\nz"], reserved) == "[1] \u00b7x\n[2] y\u00b7\nz"
    assert joined(["] x", "", ""], reserved) == "] x", "the prompt's own words stay"
    assert joined(["", "a", "", "a", ""], reserved) == "a\u00b7a"


LEFT = st.sampled_from(list("<[\u25c1\uff1c\uff3b\u3010"))
INSIDE = st.sampled_from(
    [
        *("|", "/", "\uff5c", "|/", "end_", "end_of_", "start_of_", "begin_", "seed:", "my_", "\ufdfa_", " ", "\u200b"),
        *("think", "Thinking", "thought", "thoughts", "reason", "analysis", "answer", "Answer", "\u017fcratchpad"),
        *("unused94>", "unused95>", "thought", "inner_prefix|", "inner_suffix|", "channel|", "|channel>thought"),
        *("|channel|>final<|message|", "3", "-1", "\u22121", ",", "\uff1e", "\uff13", "\u0663", '"', "user_"),
    ]
)
RIGHT = st.sampled_from([">", "]", "\u25b7", "\u3011", "\uff3d", "|>", ""])
MARKS = st.lists(
    st.one_of(
        st.tuples(LEFT, st.lists(INSIDE, max_size=4).map("".join), RIGHT).map("".join),
        st.sampled_from(["x", " ", "List", "\u00e9", "_"]),
        st.text(max_size=2),
    ),
    max_size=6,
).map("".join)
IDENTIFIERS = re.compile(r"[\[\uff3b\u3010]([^\[\]\uff3b\uff3d\u3010\u3011]*)[\]\uff3d\u3011]")


@settings(max_examples=1500, deadline=None)
@given(MARKS, st.booleans())
@example("\u2039|/think\u25b7 \u25c1|/think\u25b7 [|/thinking] [\uff5c/analysis] <end_of_start_of_thoughts\u25b7", True)
@example("<unused94>thought <unused95> [|inner_prefix|> \u25c1channel|>", True)
@example("\u3010-1\uff1e\U0001d7ef\u3011 [3, -1] [-1 > 3]", True)
@example("<\ufdfa\ufdfa_think>", True)
def test_nothing_that_the_parser_reads_is_left(text: str, known: bool) -> None:
    reserved = Reserved(("<|im_end|>",)) if known else None
    safe = neutralise(text, reserved)
    assert neutralise(safe, reserved) == safe
    assert parse_ranking(f"{safe}</think>[2] > [1]", 2, tags=False).status is not ParseStatus.UNCLOSED_THINK
    for mark in MARK.finditer(safe):
        assert re.fullmatch(r"<[A-Z][a-z]+>", mark[0]), "a type's parameter, which the parser reads as no mark"
        assert re.match(r"[A-Za-z0-9_]", safe[mark.start() - 1 : mark.start()])
    assert not list(answers_in(f"{safe}</answer>"))
    assert "</answer>" not in safe.lower()
    assert parse_ranking(f"<answer>{safe} [2]</answer>", 2).permutation.order == (1, 0)


@pytest.mark.parametrize("text", ["[3, -1]", "[-1 > 3]", "\u3010-1\uff1e\U0001d7ef\u3011", "[\u22121, 3]"])
def test_a_negative_beside_an_identifier(text: str) -> None:
    assert neutralise(text) == f"({text[1:-1]})"
    assert neutralise("a[-1] [-1, -2] [-10]") == "a[-1] [-1, -2] [-10]"


def test_types_parameters_stay() -> None:
    code = "List<Answer> x = new ArrayList<Answer>(); Map<String, Thought> m; Opt<Reason>; <user_answer>3</user_answer>"
    for reserved in (None, Reserved(("<|im_end|>",))):
        assert neutralise(code, reserved) == code
    assert neutralise("<Answer> \u00e9<Answer> x\u200b<Answer> x<answer> x</Answer> x<Think>") == (
        "\u2039Answer> \u00e9\u2039Answer> x\u200b\u2039Answer> x\u2039answer> x\u2039/Answer> x<Think>"
    )
    assert neutralise("List<Answer>", Reserved(("<Answer>",))) == "List\u2039Answer>"


def test_time_is_linear() -> None:
    reserved = reserved_of(TOKENIZERS["nmt"])
    for piece in ("<end\ufffd", "\u200b<", "\u00a7", "List<Answer>", "[3, -"):
        times = []
        for count in (4_000, 16_000):
            began = time.process_time()
            neutralise(piece * count, reserved)
            times.append(time.process_time() - began)
        assert times[1] < 10 * times[0] + 0.1
