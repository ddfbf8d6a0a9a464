"""The API engine against a server that misbehaves: what is mended, what fails a call, what stops the run."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engines.canned_server import canned_server
from tests.engines.fault_server import fault_server, logged

from rearank.engines import BudgetError, CompletionStore, EngineError, OpenAINode, PromptRanker, RecordingEngine
from rearank.engines.openai.engine import OpenAIEngine, ServerError
from rearank.prompts import CompactPrompt
from rearank.ranking import AbortRunError, Failure, SlidingWindow, rerank_all
from rearank.types import Candidates, Completion, Message, Passage, Query, Sampling

QUICK: dict[str, Any] = {"first_wait": 0.01, "longest_wait": 0.05}
PRICED: dict[str, Any] = {"price_prompt": 1e6, "price_completion": 2e6}  # a dollar a word, two for one of the answer


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "log.jsonl"


@pytest.fixture(scope="module")
def url(log: Path) -> Iterator[str]:
    with fault_server(log) as found:
        yield found


def engine(url: str, **settings: Any) -> OpenAIEngine:
    made = OpenAINode(base_url=url, **{**QUICK, **settings}).create("small")
    assert isinstance(made, OpenAIEngine)
    return made


def ask(made: OpenAIEngine, *texts: str, sampling: Sampling | None = None) -> list[Completion | BaseException]:
    """All at once, then the engine is closed."""

    async def main() -> list[Completion | BaseException]:
        calls = [made.complete((Message("user", text),), sampling or Sampling()) for text in texts]
        try:
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await made.aclose()

    return asyncio.run(main())


def answer(made: OpenAIEngine, text: str, sampling: Sampling | None = None) -> Completion:
    (found,) = ask(made, text, sampling=sampling)
    assert isinstance(found, Completion), found
    return found


def failure(made: OpenAIEngine, text: str) -> BaseException:
    (found,) = ask(made, text)
    assert isinstance(found, EngineError)
    return found


def test_an_answer_and_what_was_asked(url: str, log: Path) -> None:
    drawn = Sampling(max_tokens=77, temperature=0.5, top_p=0.9, sample=3)
    made = engine(url, extra_body={"top_k": 20})
    found = answer(made, "[1] one\n[2] two\n[3] three", drawn)
    assert found.text.startswith("<think>by rule")
    assert (found.prompt_tokens, found.completion_tokens, found.finish, found.cost) == (6, 10, "stop", 0.0)
    asked = logged(log)[-1]["request"]
    seed = asked.pop("seed")
    assert asked == {"model": "small", "max_tokens": 77, "temperature": 0.5, "top_p": 0.9, "top_k": 20}
    assert 0 <= seed < 2**31
    ask(engine(url), "[1] one\n[2] two\n[3] three", sampling=Sampling(temperature=0.5, sample=4))
    assert logged(log)[-1]["request"]["seed"] != seed


def test_what_reasoning_models_of_openai_want(url: str, log: Path) -> None:
    made = OpenAINode(base_url=url, max_tokens_field="max_completion_tokens", send_temperature=False, send_seed=False)
    ask(made.create("small", thinking=False), "[1] a", sampling=Sampling(temperature=1.0))  # type: ignore[arg-type]
    switch = {"chat_template_kwargs": {"enable_thinking": False}}
    assert logged(log)[-1]["request"] == {"model": "small", "max_completion_tokens": 2048, **switch}


@pytest.mark.parametrize(
    "faults",
    ["429", "429=30ms", "500", "503 503 503", "cut", "malformed", "empty", "drop", "429 500 cut malformed empty drop"],
)
def test_what_is_mended_by_asking_again(url: str, log: Path, faults: str) -> None:
    made = engine(url)
    assert answer(made, f"[1] a\n[2] b [[faults: {faults}]]").text.endswith("</answer>")
    assert made.retried == len(faults.split())
    call = logged(log)[-1]["call"]
    assert [line["fault"] for line in logged(log) if line["call"] == call] == [*faults.split(), "ok"]


def test_a_slow_answer_is_asked_for_again(url: str, log: Path) -> None:
    made = engine(url, timeout_seconds=0.3)
    assert answer(made, "[1] a [[faults: slow=5]]").text
    assert made.retried == 1
    said = str(failure(engine(url, timeout_seconds=0.2, retries=1), "[1] b [[faults: slow=5 slow=5]]"))
    assert "no answer in time (engine.timeout_seconds=0.2) (tried 2 times)" in said


def test_a_call_that_can_not_be_mended_fails_alone(url: str) -> None:
    made = engine(url, retries=2)
    found = ask(made, "[1] a [[faults: 500 500 500 500]]", "[1] b", "[1] c [[faults: 400]]", "[1] d [[faults: filter]]")
    assert isinstance(found[1], Completion)
    for place, said in ((0, "HTTP 500: the server stumbled (tried 3 times)"), (2, "HTTP 400"), (3, "content filter")):
        assert isinstance(found[place], EngineError)
        assert not isinstance(found[place], AbortRunError)
        assert said in str(found[place])
    assert made.retried == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "name the environment variable that holds the key (engine.key_variable=...)"),
        ("402", "no credit left"),
        ("429quota", "no credit left (HTTP 429: You exceeded your current quota)"),
        ("400field", "set engine.max_tokens_field=max_completion_tokens"),
        ("wrong", "'small' was asked for and 'another-model' answers"),
    ],
)
def test_what_stops_the_run(url: str, log: Path, fault: str, said: str) -> None:
    made = engine(url, max_concurrent_calls=1)
    before = len(logged(log))
    found = ask(made, f"[1] a [[faults: {fault}]]", "[1] b", "[1] c")
    assert all(isinstance(error, ServerError) and said in str(error) for error in found)
    assert len(logged(log)) == before + 1, "nothing is asked after that"


def test_an_unknown_model_and_what_there_is_instead(url: str) -> None:
    with canned_server(lambda *_: (404, {"error": {"message": "no such model"}})) as server:
        server.models = ["a", "b"]
        found = str(failure(engine(server.url), "[1] a"))
    assert "has no model 'small' (HTTP 404: no such model): it serves a, b; set model.path or engine.served" in found
    assert "does engine.base_url lack its /v1?" in str(failure(engine(url.removesuffix("/v1") + "/v2"), "[1] a"))


def test_a_dated_snapshot_and_an_alias_are_the_model(url: str) -> None:
    assert answer(engine(url), "[1] a [[faults: wrong=small-2024-08-06]]").text
    assert answer(engine(url, accept_model="mine"), "[1] a [[faults: wrong=mine]]").text
    assert isinstance(failure(engine(url), "[1] a [[faults: wrong=small-mini]]"), ServerError)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        found = failure(engine(nobody, retries=1), "[1] a")
    assert isinstance(found, ServerError)
    assert "nobody answers there: start the server, or set engine.base_url" in str(found)


def test_reasoning_sent_apart_comes_back_into_the_text(url: str) -> None:
    apart, whole = (answer(engine(url), f"[1] a\n[2] b [[faults: {f}]]").text for f in ("reasoning", "length"))
    assert apart.startswith("<think>by rule")
    assert apart.endswith("</answer>")
    assert whole.count("<think>") == 1


def test_an_answer_cut_at_the_limit_says_so(url: str) -> None:
    assert answer(engine(url), "[1] a [[faults: length]]").finish == "length"


@pytest.mark.parametrize("wording", ["openai", "vllm", "silent"])
def test_a_prompt_that_is_too_long(tmp_path: Path, wording: str) -> None:
    log = tmp_path / "log.jsonl"
    text = "begin " + "word " * 1000 + "end"
    with fault_server(log, "--context", "200", "--wording", wording) as url:
        made = engine(url)
        found = answer(made, text, Sampling(max_tokens=50))
        assert found.prompt_truncated
        assert made.truncated == 1
        assert 100 <= found.prompt_tokens <= 150
        # What fits is neither cut nor asked twice.
        assert not answer(engine(url), "short", Sampling(max_tokens=50)).prompt_truncated
        refusing = failure(engine(url, overflow="refuse"), "word " * 3000)
        assert "set engine.overflow=truncate" in str(refusing)
        assert not isinstance(refusing, AbortRunError)
    assert [line["fault"] for line in logged(log)][-1] == "long"


def test_an_answer_longer_than_the_context_allows_is_asked_for_shorter(tmp_path: Path) -> None:
    with fault_server(tmp_path / "log", "--context", "200") as url:
        found = answer(engine(url), "word " * 60, Sampling(max_tokens=4000))
    assert (found.prompt_truncated, found.prompt_tokens) == (False, 60)
    assert logged(tmp_path / "log")[-1]["request"]["max_tokens"] == 140


def test_no_more_calls_at_once_than_allowed(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with fault_server(log, "--delay", "0.01") as url:
        ask(engine(url, max_concurrent_calls=3), *(f"[1] {i}" for i in range(20)))
    now, most = 0, 0
    for line in map(json.loads, log.read_text().splitlines()):
        now += 1 if line["event"] == "received" else -1
        most = max(most, now)
    assert most == 3


def test_an_engine_serves_one_loop_after_another(url: str) -> None:
    made = engine(url)
    texts = [asyncio.run(made.complete((Message("user", f"[1] {i}"),), Sampling())).text for i in range(3)]
    assert len(set(texts)) == 3
    asyncio.run(made.aclose())
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(made.complete((Message("user", "[1] a"),), Sampling()))


def test_what_names_an_answer(url: str, tmp_path: Path) -> None:
    node = OpenAINode(base_url=url)
    same = [node.create("m"), OpenAINode(base_url="http://elsewhere/v1", served_model="m").create("hub/m")]
    assert same[0].identity == same[1].identity
    (tmp_path / "config.json").write_text("{}")
    others = [
        node.create("n"),
        node.create("m", revision="abc"),
        node.create("m", thinking=True),
        OpenAINode(base_url=url, extra_body={"reasoning_effort": "low"}).create("m"),
        OpenAINode(base_url=url, served_model="m").create(str(tmp_path)),  # another checkpoint under the same name
    ]
    names = {json.dumps(dict(made.identity), sort_keys=True) for made in (*same, *others)}
    assert len(names) == 6
    assert not any("elsewhere" in name or "127.0.0.1" in name for name in names)


PASSAGES = tuple(Passage(f"d{i}", f"text {i}") for i in range(12))


def rerank(url: str, store: CompletionStore, **settings: Any) -> tuple[OpenAIEngine, Any]:
    """Five queries, 5 windows each; the engine, and the rankings or what stopped them."""
    made = engine(url, **PRICED, **settings)
    recording = RecordingEngine(made, store)
    lists = [Candidates(Query(str(q), f"query {q}"), PASSAGES) for q in range(5)]

    async def main() -> Any:
        try:
            return await rerank_all(
                lists, SlidingWindow(4, 2), lambda _: PromptRanker(recording, CompactPrompt(), recorder=recording)
            )
        except AbortRunError as error:
            return error
        finally:
            await recording.aclose()

    return made, asyncio.run(main())


def test_a_run_stops_at_its_budget_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    log, store = tmp_path / "log.jsonl", CompletionStore(tmp_path / "c.sqlite")
    with fault_server(log, "--delay", "0.005") as url:
        first, stopped = rerank(url, store, budget=300.0, max_concurrent_calls=3)
        assert isinstance(stopped, BudgetError)
        assert "the same command with a larger engine.budget goes on" in str(stopped)
        spent, most = store.cost(), max(row[0] for row in store._db.execute("select cost from completions"))
        assert f"${spent:.4f} of engine.budget=300" in str(stopped) or spent >= 300
        assert 300 <= spent < 300 + 3 * most, "the calls under way are the only ones above it"
        assert spent == first.budget.spent
        assert len(logged(log)) == len(store), "what was paid for is kept"
        # Again with the same budget: nothing is asked. With a larger one: the rest is, and no more.
        asked = len(logged(log))
        assert isinstance(rerank(url, store, budget=300.0)[1], BudgetError)
        assert len(logged(log)) == asked
        last, rankings = rerank(url, store, budget=1e6)
        assert not any(isinstance(result, Failure) for result in rankings.values())
        assert len(logged(log)) == len(store) == 25
        assert last.budget.earlier == spent
        assert last.budget.spent == pytest.approx(store.cost())
        with fault_server(tmp_path / "other.jsonl") as other:
            fresh = CompletionStore(tmp_path / "fresh.sqlite")
            assert rerank(other, fresh)[1] == rankings
            assert fresh.cost() == pytest.approx(store.cost())
            fresh.close()
    store.close()


def test_answers_that_were_of_no_use_are_paid_for_all_the_same(url: str) -> None:
    made = engine(url, **PRICED)
    found = answer(made, "[1] a [[faults: empty empty]]")
    once = found.prompt_tokens + 2 * found.completion_tokens
    assert found.cost == pytest.approx(3 * once)
    assert made.budget.spent == pytest.approx(found.cost)


def test_closing_does_not_wait_for_calls_that_wait(tmp_path: Path) -> None:
    log, store = tmp_path / "log.jsonl", CompletionStore(tmp_path / "c.sqlite")
    with fault_server(log, "--delay", "0.2") as url:
        recording = RecordingEngine(engine(url, max_concurrent_calls=2), store)

        async def main() -> None:
            calls = [
                asyncio.create_task(recording.complete((Message("user", f"[1] {i}"),), Sampling())) for i in range(9)
            ]
            while not log.read_text():
                await asyncio.sleep(0.01)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await recording.aclose()

        asyncio.run(main())
    assert len(logged(log)) == len(store) == 2
    store.close()


KEY = "sk-this-is-a-secret-0123456789"


def test_the_key_is_sent_and_shown_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    monkeypatch.setenv("OTHER_KEY", KEY + "x")
    with fault_server(tmp_path / "log", "--key", KEY) as url:
        made = engine(url, key_variable="MY_KEY")
        assert KEY not in json.dumps(dict(made.identity)) + repr(made.node) + repr(made)
        assert answer(made, "[1] a").text
        refused = failure(engine(url, key_variable="OTHER_KEY"), "[1] a")
        assert isinstance(refused, ServerError)
        assert "set the environment variable OTHER_KEY to a valid key" in str(refused)
        assert "***" in str(refused), "the server repeated it"
        assert KEY not in str(refused)
        # OpenAI's key is nobody else's business.
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert isinstance(failure(engine(url), "[1] a"), ServerError)
    assert KEY not in caplog.text
