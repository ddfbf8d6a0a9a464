"""``engine.base_url`` as a list: who gets a call, what happens where a server fails, dies and comes back."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engines.canned_server import canned_server, chat
from tests.engines.fault_server import fault_server, logged

from rearank.config import ConfigError, build
from rearank.engines import CompletionStore, EngineError, OpenAINode, RecordingEngine
from rearank.engines.openai.engine import OpenAIEngine, ServerError
from rearank.engines.openai.retries import Kind, Trouble
from rearank.engines.openai.server import Server
from rearank.engines.openai.servers import Servers
from rearank.types import Completion, Message, Sampling

TARGET = "rearank.engines.openai.node.OpenAINode"
ROOT = Path(__file__).resolve().parents[2]
GOOD = chat("<answer>[2] > [1]</answer>")


def node(*urls: str, **settings: Any) -> OpenAINode:
    return OpenAINode(base_url=urls, **{"first_wait": 0.05, "longest_wait": 0.2, "retries": 4, **settings})


def engine(*urls: str, **settings: Any) -> OpenAIEngine:
    made = node(*urls, **settings).create("small")
    assert isinstance(made, OpenAIEngine)
    return made


async def gathered(made: Any, texts: list[str], sampling: Sampling | None = None) -> list[Any]:
    calls = [made.complete((Message("user", text),), sampling or Sampling()) for text in texts]
    return await asyncio.gather(*calls, return_exceptions=True)


def ask(made: Any, *texts: str) -> list[Any]:
    async def main() -> list[Any]:
        try:
            return await gathered(made, list(texts))
        finally:
            await made.aclose()

    return asyncio.run(main())


@contextmanager
def process(log: Path, port: int = 0, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A chat server that a test can kill, and its port."""
    command = [sys.executable, "-m", "tests.engines.fault_server", "--port", str(port), "--log", str(log), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, int(running.stdout.readline())
        finally:
            running.kill()


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_list_and_a_string_of_the_command_line() -> None:
    built = build({"_target_": TARGET, "base_url": ["http://a:1/v1/", "http://b/v1"]}, "engine")
    assert (built.base_url, built.urls) == (("http://a:1/v1/", "http://b/v1"), ("http://a:1/v1", "http://b/v1"))
    assert build({"_target_": TARGET, "base_url": "http://a/v1/"}, "engine").urls == ("http://a/v1",)
    assert build({"_target_": TARGET}, "engine").urls == ("https://api.openai.com/v1",)
    assert built.variable is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([], "or a list of some"),
        ([None], "or a list of some"),
        ([""], "or a list of some"),
        (["http://a/v1", 7], "or a list of some"),
        ({"a": "http://a/v1"}, "or a list of some"),
        (7, "or a list of some"),
        (["http://a/v1", "http://a/v1/"], "the same server twice"),
        (["http://a/v1", "b:8000"], "must begin with http"),
        (["http://a/v1", "http://me:sk-secret@b/v1"], "no user, password, key"),
    ],
)
def test_lists_that_can_not_be(wrong: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=r"^engine.*base_url") as caught:
        build({"_target_": TARGET, "base_url": wrong}, "engine")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_each_call_goes_where_the_fewest_are_under_way() -> None:
    """One of two servers is slow: 4 calls stay there, and the other one gets all that come meanwhile."""
    held = threading.Event()

    def slow(*_: Any) -> tuple[int, Any]:
        held.wait(20)
        return 200, GOOD

    with canned_server(slow) as one, canned_server(lambda *_: (200, GOOD)) as two:
        made = engine(one.url, two.url, max_concurrent_calls=8)

        async def main() -> list[Any]:
            calls = asyncio.gather(*(gathered(made, [str(number)]) for number in range(60)))
            while len(two.requests) < 52:
                await asyncio.sleep(0.01)
            at_slow = len(one.requests)
            held.set()
            found = await calls
            await made.aclose()
            assert at_slow <= 8  # every place may end up there, and no more
            return [answer for (answer,) in found]

        assert all(isinstance(one, Completion) for one in asyncio.run(main()))


def test_an_idle_choice_is_shared_evenly() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(canned_server(lambda *_: (200, GOOD))) for _ in range(3)]
        ask(engine(*(one.url for one in servers), max_concurrent_calls=1), *map(str, range(30)))
        assert [len(one.requests) for one in servers] == [10, 10, 10]


def test_a_failure_is_asked_again_elsewhere_at_once_and_counts_as_a_retry() -> None:
    with canned_server(lambda *_: (500, {})) as bad, canned_server(lambda *_: (200, GOOD)) as good:
        made = engine(bad.url, good.url, first_wait=30.0, longest_wait=60.0, retries=1)
        began = time.perf_counter()
        (found,) = ask(made, "one")
        assert isinstance(found, Completion)
        assert (len(bad.requests), len(good.requests), made.retried) == (1, 1, 1)
        assert time.perf_counter() - began < 25  # no wait of 15 to 30 seconds came between
        assert bad.requests == good.requests  # the same request: the same seed, the same answer


def test_without_retries_a_failure_fails_its_call() -> None:
    with canned_server(lambda *_: (500, {})) as bad, canned_server(lambda *_: (200, GOOD)) as good:
        found = ask(
            engine(bad.url, good.url, retries=0, max_concurrent_calls=1, first_wait=30.0, longest_wait=60.0),
            *map(str, range(6)),
        )
        assert [isinstance(one, EngineError) for one in found] == [True] + [False] * 5
        assert bad.url in str(found[0])
        assert (len(bad.requests), len(good.requests)) == (1, 5)  # it rests and is not asked again meanwhile


def test_a_server_that_is_busy_rests_as_long_as_it_asks() -> None:
    def busy(_: Any, number: int) -> tuple[int, Any]:
        return (429, {"error": {"message": "slow down"}}) if number == 0 else (200, GOOD)

    with canned_server(busy) as one, canned_server(lambda *_: (200, GOOD)) as two:
        made = engine(one.url, two.url, max_concurrent_calls=1, first_wait=0.01, longest_wait=0.02)

        async def main() -> list[Any]:
            found = []
            while len(one.requests) < 3:
                found += await gathered(made, ["x"])
                await asyncio.sleep(0.005)
            await made.aclose()
            return found

        assert all(isinstance(one, Completion) for one in asyncio.run(asyncio.wait_for(main(), 20)))


def test_all_fail_and_the_call_says_how_often_it_was_tried() -> None:
    with canned_server(lambda *_: (500, {})) as one, canned_server(lambda *_: (503, {})) as two:
        (found,) = ask(engine(one.url, two.url), "x")
        assert "(tried 5 times)" in str(found)
        assert len(one.requests) + len(two.requests) == 5
        assert min(len(one.requests), len(two.requests)) >= 1


def test_nobody_there_at_any_address_stops_the_run() -> None:
    (found,) = ask(engine(url_of(free_port()), url_of(free_port())), "x")
    assert isinstance(found, ServerError)
    assert "nobody answers there" in str(found)


def test_a_server_without_the_model_stops_the_run_and_is_named() -> None:
    lacks = {"error": {"message": "The model `small` does not exist", "code": "model_not_found"}}
    with canned_server(lambda *_: (404, lacks)) as bad, canned_server(lambda *_: (200, GOOD)) as good:
        bad.models = ["other"]
        found = ask(engine(bad.url, good.url), *map(str, range(8)))
        stopped = [one for one in found if isinstance(one, ServerError)]
        assert stopped
        assert f"{bad.url} has no model 'small'" in str(stopped[0])


def test_one_is_killed_under_load_and_no_call_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """200 calls at two processes; one is killed with calls under way, comes back on its port and gets calls again."""
    logs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    with process(logs[0], 0, "--delay", "0.02") as (one, port), process(logs[1], 0, "--delay", "0.02") as (_, other):
        made = engine(url_of(port), url_of(other), max_concurrent_calls=8)

        async def main() -> list[Any]:
            calls = asyncio.create_task(gathered(made, [f"[1] a\n[2] {number}" for number in range(200)]))
            while len(received(logs[0])) < 12:
                await asyncio.sleep(0.01)
            one.send_signal(signal.SIGKILL)
            await asyncio.to_thread(one.wait)
            found = await calls
            while not any("get its calls until" in line.getMessage() for line in caplog.records):
                found += await gathered(made, ["more"])
                await asyncio.sleep(0.02)
            before = len(received(logs[0]))
            with process(logs[0], port):
                while len(received(logs[0])) < before + 3:
                    found += await gathered(made, ["and more", "at once"])
                    await asyncio.sleep(0.01)
            await made.aclose()
            return found

        found = asyncio.run(asyncio.wait_for(main(), 60))
    assert [one for one in found if not isinstance(one, Completion)] == []
    assert 1 <= made.retried <= 30  # those that were under way there, and few that tried it meanwhile
    assert any("answers again" in line.getMessage() for line in caplog.records)


def received(log: Path) -> list[dict[str, Any]]:
    return logged(log) if log.exists() else []


def test_what_names_an_answer_is_the_same_whoever_gave_it(tmp_path: Path) -> None:
    with fault_server(tmp_path / "one.jsonl") as one, fault_server(tmp_path / "two.jsonl") as two:
        with closing(CompletionStore(tmp_path / "store.sqlite")) as store:
            told = ask(RecordingEngine(engine(one), store), "[1] a\n[2] b", "[1] c\n[2] d")
        with closing(CompletionStore(tmp_path / "store.sqlite")) as store:
            again = ask(RecordingEngine(engine(one, two), store), "[1] a\n[2] b")
        assert again[0].text == told[0].text
        assert (len(logged(tmp_path / "one.jsonl")), received(tmp_path / "two.jsonl")) == (2, [])
    assert json.dumps(engine(one).identity) == json.dumps(engine(one, two).identity)


def test_one_absent_server_of_several_is_a_warning_and_all_are_a_problem() -> None:
    nobody = [url_of(free_port()), url_of(free_port())]
    with canned_server(lambda *_: (200, GOOD)) as there:
        there.models = ["m"]
        problems, (warning,) = node(there.url, nobody[0], connect_seconds=2.0).examine_server("m")
        assert problems == []
        assert f"engine.base_url={nobody[0]}" in warning
        assert "left out until it answers" in warning
    problems, warnings = node(*nobody, connect_seconds=2.0).examine_server("m")
    assert [nobody[0] in problems[0], nobody[1] in problems[1], warnings] == [True, True, []]


def test_a_server_that_can_not_continue_an_answer_is_named() -> None:
    (said,) = OpenAINode(base_url=("http://a/v1", "https://api.deepseek.com/v1")).prefill_misfits("<think>")
    assert said.startswith("api.deepseek.com")


@settings(max_examples=25)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["good", "bad", "busy", "refused"]), st.integers(0, 5)), max_size=20),
)
def test_whatever_happens_the_next_is_one_of_the_least_asked(many: int, events: list[tuple[str, int]]) -> None:
    """Each event's request ends as it says while a number of others stay open; nobody answers at these addresses."""
    kinds = {"bad": (Kind.RETRY, None), "busy": (Kind.RETRY, 0.001), "refused": (Kind.FAIL, None)}
    restless = {"bad", "busy"}.isdisjoint(how for how, _ in events)

    async def main() -> None:
        servers = Servers(node(*node_urls(many), first_wait=0.001))
        failed: Server | None = None
        for how, open_too in events:
            with ExitStack() as under_way:
                asking: Counter[str] = Counter()
                for _ in range(open_too):
                    kept = servers.next(None)
                    under_way.enter_context(servers.asking(kept))
                    asking[kept.url] += 1
                    assert not restless or max(asking.values()) - min(asking[url] for url in node_urls(many)) <= 1
                elsewhere = failed is not None and servers.other_than(failed)
                server = servers.next(failed)
                assert not elsewhere or server is not failed
                failed = None
                try:
                    with servers.asking(server):
                        if how in kinds:
                            kind, wait = kinds[how]
                            raise Trouble(kind, how, wait=wait)
                except Trouble:
                    failed = server
        await servers.close()

    asyncio.run(main())


def node_urls(many: int) -> list[str]:
    return [f"http://127.0.0.1:{9 + at}/v1" for at in range(many)]
