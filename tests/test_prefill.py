"""An answer whose beginning the prompt gives: rendered whole, continued by engines, read and recorded as one text."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir

from rearank import Reranker
from rearank.choices import as_trained, choose
from rearank.config import ConfigError
from rearank.engines import CompletionStore, EngineError, OpenAINode, PromptRanker, RecordingEngine
from rearank.engines.base import turns
from rearank.engines.chat import PrefillError, load_chat, split_prefill
from rearank.engines.openai.engine import OpenAIEngine, ServerError
from rearank.engines.openai.overflow import Request, TooLong, fitted
from rearank.engines.transformers import TransformersEngine
from rearank.parsing import ParseStatus
from rearank.prompts import ChatPrompt, CompactPrompt
from rearank.ranking import AbortRunError, Failure, SlidingWindow, rerank_all
from rearank.report.replay import RecordedAnswers, Replayed, replay
from rearank.tasks.preflight import PreflightError, preflight
from rearank.types import Candidates, Message, Passage, Query, Sampling, Window
from tests.engines.fault_server import fault_server, logged
from tests.engines.models import CHAT, save_tiny_model
from tests.shipped import ASSETS
from tests.test_models import run_of

CONF = Path(__file__).resolve().parent.parent / "conf"
OFF = "<think> </think> <answer>"
DIRECT = sorted(path.stem for path in (CONF / "prompt").glob("*_direct.yaml"))
QUERY = Query("q", "cook sweets bread")
PASSAGES = ("bread meal every old mug", "cook late common bread dessert", "cook warm cook")
WINDOW = Window(QUERY, tuple(Passage(str(i), text) for i, text in enumerate(PASSAGES)))
ASKED = (Message("user", "w3 w4"),)
# As DeepSeek-R1's: the reasoning is taken out of the assistant's messages, and opened where it is its turn.
CUTS = (
    "{% for m in messages %}<|start|> {{ m.role }} "
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|> assistant {% endif %}"
)
OPENS = CHAT + "{% if add_generation_prompt %}<think>\n{% endif %}"
SWITCH = CHAT + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"


def begun(text: str, messages: Sequence[Message] = ASKED) -> tuple[Message, ...]:
    return (*messages, Message("assistant", text))


@pytest.fixture(scope="module")
def tiny() -> TransformersEngine:
    return TransformersEngine(ASSETS, device="cpu")


def test_the_nodes_are_another_and_a_prefill() -> None:
    assert DIRECT == ["compact_direct", "rearank_direct"]
    for name in DIRECT:
        nodes = [choose(("prompt",), {"prompt": one}).nodes["prompt"] for one in (name, name.removesuffix("_direct"))]
        assert nodes[0] == {**nodes[1], "prefill": OFF}
        assert "prefill" not in nodes[1], "a key more would make another run of every one that there is"


@pytest.mark.parametrize("form", [CompactPrompt(), ChatPrompt(received="Received passage [{i}].")])
def test_the_beginning_is_the_last_message(form: CompactPrompt | ChatPrompt) -> None:
    plain = form.render(WINDOW)
    assert split_prefill(plain) == (plain, "")
    assert replace(form, prefill="<think> {num} [1]").render(WINDOW) == begun("<think> {num} [1]", plain)


@pytest.mark.parametrize("text", [" <answer>", "<answer> ", "\n"])
def test_white_space_around_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="prefill must not begin or end with white space"):
        CompactPrompt(prefill=text)


def test_what_the_tiny_model_reads_is_what_a_server_would_render() -> None:
    chat = load_chat(ASSETS, None)
    for text in (OFF, "<answer> [2] >", "x"):
        messages = begun(text, CompactPrompt().render(WINDOW))
        rendered = chat.render(messages)
        assert rendered.endswith(f"<|im_start|>assistant\n{text}")
        assert rendered == chat.tokenizer.apply_chat_template(
            turns(messages), tokenize=False, continue_final_message=True, add_generation_prompt=False
        )
        assert chat.encode(messages) == chat.tokenizer(rendered, add_special_tokens=False)["input_ids"]


def test_a_template_that_takes_the_reasoning_out_of_messages_leaves_it_whole(tmp_path: Path) -> None:
    chat = load_chat(save_tiny_model(tmp_path, chat=CUTS), None)
    with pytest.raises(ValueError, match="continue_final_message"):
        chat.tokenizer.apply_chat_template(turns(begun(OFF)), tokenize=False, continue_final_message=True)
    assert chat.render(begun(OFF)) == chat.render(ASKED) + OFF


def test_a_think_that_the_template_opened_is_not_written_twice(tmp_path: Path) -> None:
    chat = load_chat(save_tiny_model(tmp_path, chat=OPENS), None)
    assert chat.render(begun(OFF)) == chat.render(ASKED) + " </think> <answer>"
    assert chat.render(begun(OFF)).count("<think>") == 1
    assert chat.text(chat.tokenizer("w1 w2")["input_ids"], begun(OFF)).startswith("<think>\n </think> <answer>")


@pytest.mark.parametrize(
    ("template", "thinking", "text", "said"),
    [
        (OPENS, None, "<answer>", r"opens <think> itself, and prompt\.prefill='<answer>' would be a part"),
        (SWITCH, False, OFF, r"writes an empty reasoning itself.*set model\.thinking=null, or a prompt\.prefill"),
    ],
)
def test_a_beginning_that_contradicts_the_template_stops_the_run(
    tmp_path: Path, template: str, thinking: bool | None, text: str, said: str
) -> None:
    engine = TransformersEngine(save_tiny_model(tmp_path, chat=template), device="cpu", thinking=thinking)
    with pytest.raises(PrefillError, match=said) as refusal:
        asyncio.run(engine.complete(begun(text), Sampling(max_tokens=2)))
    assert isinstance(refusal.value, AbortRunError)
    assert isinstance(refusal.value, EngineError)


def test_the_remedies_are_remedies(tmp_path: Path) -> None:
    chat = load_chat(save_tiny_model(tmp_path, chat=SWITCH), None, thinking=False)
    assert chat.render(begun("<answer>")).endswith("</think>\n\n<answer>")
    assert load_chat(tmp_path, None).render(begun(OFF)).endswith(OFF)


def test_an_answer_begun_with_its_own_words_goes_on_as_it_did(tiny: TransformersEngine) -> None:
    """The model can't tell who wrote them, so what is read and recorded is the same text, cut anywhere."""
    messages = CompactPrompt().render(WINDOW)
    alone = asyncio.run(tiny.complete(messages, Sampling(max_tokens=96)))
    words = alone.text.split(" ")
    assert len(words) > 12
    for count in (1, 2, len(words) // 2, len(words) - 1):
        beginning = " ".join(words[:count])
        again = asyncio.run(tiny.complete(begun(beginning, messages), Sampling(max_tokens=96)))
        assert again.text == alone.text
        taken = again.prompt_tokens - alone.prompt_tokens
        assert taken == len(tiny.chat.tokenizer(beginning, add_special_tokens=False)["input_ids"])
        assert again.completion_tokens == alone.completion_tokens - taken, "what the model itself wrote"


def test_a_prompt_that_is_cut_keeps_the_beginning(tmp_path: Path) -> None:
    chat = load_chat(save_tiny_model(tmp_path, context=64), None)
    long, text = (Message("user", "w1 " * 100),), "w2 " * 9 + "w2"
    tokens, cut = chat.prompt(begun(text, long), Sampling(max_tokens=16))
    assert cut
    assert len(tokens) <= 48
    assert chat.tokenizer.decode(tokens).endswith(f"assistant {text}")


def test_a_prompt_that_a_server_finds_too_long_keeps_the_beginning() -> None:
    asked = (Message("user", "a" * 1000), Message("user", "b" * 50))
    for said in (TooLong(), TooLong(400, 500), TooLong(400)):
        found = fitted(Request(begun(OFF, asked), 100), said)
        assert found is not None
        assert found.messages[2:] == (Message("assistant", OFF),)
        assert found.messages[1] == asked[1]
        assert 0 < len(found.messages[0].content) < 900
    nothing_left = Request(begun("x" * 1000, asked[1:]), 10)
    assert fitted(nothing_left, TooLong(100, 1000)) is None


def test_a_server_is_told_to_go_on_and_its_answer_is_the_rest(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    plain = (Message("user", "[1] one\n[2] two"),)
    with fault_server(log) as url:

        async def both() -> list[Any]:
            engine = OpenAINode(base_url=url, extra_body={"top_k": 20}).create("small")
            try:
                return [await engine.complete(messages, Sampling()) for messages in (begun(OFF, plain), plain)]
            finally:
                await engine.aclose()

        first, second = asyncio.run(both())
    told, untold = (line["request"] for line in logged(log))
    assert (told.pop("continue_final_message"), told.pop("add_generation_prompt")) == (True, False)
    assert told == untold
    assert first.text.startswith(f"{OFF}<think>by rule"), "the server that doesn't know shows what it was given"
    assert second.text.startswith("<think>by rule")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (None, "api.openai.com"),
        ("https://api.openai.com/v1", "api.openai.com"),
        ("https://mine.openai.azure.com/openai/v1", "mine.openai.azure.com"),
        ("https://api.deepseek.com/v1", "api.deepseek.com"),
    ],
)
def test_servers_that_never_go_on_are_refused(monkeypatch: pytest.MonkeyPatch, url: str | None, host: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-sent")
    node = OpenAINode(base_url=url, key_variable="OPENAI_API_KEY")
    (refusal,) = node.prefill_misfits(OFF)
    assert refusal.startswith(f"{host} continues no answer that is begun for it (prompt.prefill='<think> ")
    assert node.prefill_misfits("") == []
    engine = node.create("some-model")
    assert isinstance(engine, OpenAIEngine)
    with pytest.raises(ServerError, match=r"prompt\.prefill"):  # at once: nothing is sent
        asyncio.run(engine.complete(begun(OFF), Sampling()))
    asyncio.run(engine.aclose())


def test_other_servers_are_not() -> None:
    for url in ("http://localhost:8000/v1", "https://notopenai.com/v1", "https://openai.com.example.org/v1"):
        assert OpenAINode(base_url=url).prefill_misfits(OFF) == []


@pytest.mark.parametrize(
    ("prompt", "own", "counts_as"),
    [
        ("compact_direct", "compact", "compact"),
        ("compact_direct", "rearank", "compact_direct"),
        ("compact_direct", "compact_direct", "compact_direct"),
        ("compact_direct", None, "compact_direct"),
        ("compact", "compact_direct", "compact"),
        ("rearank_direct", "rearank", "rearank"),
        ("setwise", "compact", "setwise"),
        ("someone_elses", "compact", "someone_elses"),
        (None, "compact", None),
    ],
)
def test_a_prefill_alone_makes_no_other_prompt(prompt: str | None, own: str | None, counts_as: str | None) -> None:
    assert as_trained(prompt, own) == counts_as


def checked(*overrides: str) -> str:
    """What preflight finds missing."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            preflight(run_of(*overrides))
    except PreflightError as error:
        return str(error)
    return ""


def test_the_command_takes_a_models_own_prompt_with_a_prefill() -> None:
    dry = ("task=evaluate", "engine=none", "benchmark=synthetic", "tracking=none", "model=tiny")
    assert checked(*dry, "prompt=compact_direct") == ""
    assert "trained with prompt=compact and prompt=rearank_direct is" in checked(*dry, "prompt=rearank_direct")


@pytest.mark.parametrize("task", ["prepare", "train", "sft", "pipeline", "preflight"])
def test_training_refuses_it(task: str) -> None:
    said = checked("experiment=quickstart", f"task={task}", "prompt=compact_direct", "tracking=none")
    assert f"prompt.prefill={OFF!r} begins them; choose a prompt without prefill (prompt=compact" in said
    assert "prompt.prefill" not in checked("experiment=quickstart", f"task={task}", "tracking=none")


def test_the_command_refuses_it_for_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-sent")
    given = ("task=evaluate", "engine=openai", "benchmark=synthetic", "tracking=none", "model=qwen7b")
    assert "api.openai.com continues no answer" in checked(*given, "prompt=compact_direct")
    assert "continues no answer" not in checked(*given, "prompt=compact")
    assert "continues no answer" not in checked(
        *given, "prompt=compact_direct", "engine.base_url=http://localhost:1/v1"
    )


def test_the_library_takes_it_by_name_and_as_an_object() -> None:
    pytest.importorskip("torch")
    own = Reranker("tiny", engine="transformers").parts.prompt
    assert isinstance(own, CompactPrompt)
    assert Reranker("tiny", prompt=replace(own, prefill="<answer>"), engine="transformers").parts.model.name == "tiny"
    with pytest.raises(ConfigError, match="goes with prompt=compact and another CompactPrompt is given"):
        Reranker("tiny", prompt=replace(own, prefill="<answer>", max_characters=7), engine="transformers")
    with Reranker("tiny", prompt="compact_direct", engine="transformers") as direct:
        assert direct.parts.prompt == replace(own, prefill=OFF)
        result = direct.rerank(QUERY.text, PASSAGES)
    assert [window.text.startswith(f"{OFF} ") for window in result.windows] == [True]
    assert result.windows[0].think == " "


def test_what_is_recorded_and_replayed_is_the_whole_answer(tiny: TransformersEngine, tmp_path: Path) -> None:
    """Begun with a whole reasoning of the model's own, each answer is complete; the report's replay reads the same."""
    messages = CompactPrompt().render(WINDOW)
    whole = asyncio.run(tiny.complete(messages, Sampling(max_tokens=96))).text
    reasoned = whole.partition("<answer>")[0] + "<answer>"
    assert len(reasoned) > 40
    prompt: Any = CompactPrompt(prefill=reasoned)
    work = [Candidates(QUERY, WINDOW.passages)]
    store = CompletionStore(tmp_path / "completions.sqlite")
    recording = RecordingEngine(tiny, store)
    strategy, drawn = SlidingWindow(5, 2), Sampling(max_tokens=40)
    ranker = PromptRanker(recording, prompt, drawn, recording)
    ranking = asyncio.run(rerank_all(work, strategy, lambda _: ranker))["q"]
    assert not isinstance(ranking, Failure)
    assert ranker.account.statuses == {ParseStatus.OK: 1}
    told: list[Replayed] = []
    replay(work, strategy, prompt, RecordedAnswers(recording.identity, store), (drawn,), told.append)
    assert [one.complete for one in told] == [True]
    assert told[0].windows[0].text == whole
    assert Counter(window.status for window in told[0].windows) == ranker.account.statuses
    store.close()
    with sqlite3.connect(store.path) as db:
        row = db.execute("select text, parse_status, permutation from completions").fetchone()
    assert row[0] == told[0].windows[0].text
    assert row[1] == ParseStatus.OK.value
    assert json.loads(row[2]) == [int(passage) for passage in ranking.passage_ids]
