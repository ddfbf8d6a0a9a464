"""The library's face: three lines, sync and async, what goes wrong named, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearank import Reranker
from rearank.config import ConfigError
from rearank.engines import EngineError, ScriptedEngine, ScriptedNode, VllmNode
from rearank.engines.model import Model
from rearank.parsing import ParseStatus
from rearank.prompts import ChatPrompt
from rearank.ranking import Failure, SlidingWindow
from rearank.types import Passage, Query
from tests.installed.wheels import wheel_of
from tests.rerankers import tiny

REVERSE = ScriptedNode("reverse")
TEXTS = ["one", "two", "three", "four"]


@pytest.fixture
def reverse() -> Iterator[Reranker]:
    """Turns every window around."""
    with tiny(REVERSE) as reranker:
        yield reranker


def test_passages_come_in_the_models_order_with_the_trace_of_each_window(reverse: Reranker) -> None:
    result = reverse.rerank("which number", TEXTS)
    assert result.texts == ("four", "three", "two", "one")
    assert result.indexes == (3, 2, 1, 0)
    assert [(item.rank, item.score) for item in result] == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    [window] = result.windows
    assert (window.shown, window.ordered) == ((0, 1, 2, 3), (3, 2, 1, 0))
    assert window.think == " The scripted engine's reverse order. "
    assert window.answer == " [4] > [3] > [2] > [1] "
    assert (window.status, window.cut, window.prompt_truncated) == (ParseStatus.OK, False, False)
    assert result.prompt_tokens > 10 < result.completion_tokens
    assert "1. [3] four" in str(result)
    assert "1 windows: 1 ok" in str(result)


def test_windows_of_a_longer_list_are_positions_in_the_list_given(reverse: Reranker) -> None:
    result = reverse.rerank("which number", [str(number) for number in range(8)])
    assert [window.shown for window in result.windows] == [(3, 4, 5, 6, 7), (1, 2, 7, 6, 5), (0, 5, 6, 7, 2)]
    assert result.windows[0].ordered == (7, 6, 5, 4, 3)
    assert result.indexes == (2, 7, 6, 5, 0, 1, 4, 3)
    assert sorted(item.index for item in result) == list(range(8))
    assert result.calls == 3


@pytest.mark.parametrize("strategy", ["setwise", "pairwise", "pointwise"])
def test_every_strategys_windows_are_traced(strategy: str) -> None:
    with Reranker("qwen7b", strategy=strategy, prompt=strategy, engine=REVERSE) as reranker:
        result = reranker.rerank("which number", TEXTS)
    assert sorted(result.indexes) == [0, 1, 2, 3]
    assert result.statuses == {"ok": result.calls}
    assert {index for window in result.windows for index in window.shown} == {0, 1, 2, 3}
    assert all(sorted(window.shown) == sorted(window.ordered or ()) for window in result.windows)


def test_every_form_of_query_and_passage(reverse: Reranker) -> None:
    mixed = ["plain", {"text": "mapped", "title": "T", "id": 7, "url": "x"}, Passage("own", "passage")]
    result = reverse.rerank(Query("q9", "a question"), mixed)
    assert [item.passage for item in result] == [
        Passage("own", "passage"),
        Passage("7", "mapped", "T"),
        Passage("0", "plain"),
    ]
    assert result.query.id == "q9"


def test_lists_too_short_to_order_need_no_call(reverse: Reranker) -> None:
    assert (len(reverse.rerank("q", [])), reverse.rerank("q", []).calls) == (0, 0)
    assert (reverse.rerank("q", ["alone"]).indexes, reverse.rerank("q", ["alone"]).calls) == ((0,), 0)
    assert reverse.rerank("q", TEXTS, top=2).indexes == (3, 2)


@pytest.mark.parametrize(
    ("query", "passages", "top", "error", "message"),
    [
        (" ", ["a"], None, ValueError, "query is empty"),
        (7, ["a"], None, TypeError, "a query is a string"),
        ("q", "a passage", None, TypeError, r"write \[passage\]"),
        ("q", ["a", 7], None, TypeError, "passage 1: a string, a mapping"),
        ("q", [{"contents": "a"}], None, ValueError, "passage 0: its 'text' is missing.*contents"),
        ("q", [Passage("x", "a"), Passage("x", "b")], None, ValueError, "id occurs twice"),
        ("q", ["a"], 0, ValueError, "top is the number"),
    ],
)
def test_what_is_no_query_or_passage_is_named(
    reverse: Reranker, query: str, passages: list[str], top: int | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reverse.rerank(query, passages, top=top)


@settings(max_examples=40, deadline=None)
@given(st.text(), st.lists(st.text(), max_size=9), st.sampled_from(["random", "malformed"]))
def test_any_text_gives_a_permutation(query: str, texts: list[str], behaviour: str) -> None:
    engine = ScriptedEngine(behaviour)  # type: ignore[arg-type]
    prompt = ChatPrompt(opening="{query}", final="Rank.")
    model = Model(name="any", path="some/model")
    with Reranker(model, engine=engine, prompt=prompt, strategy=SlidingWindow(4, 2)) as reranker:
        result = reranker.rerank("q" + query + "\ud800", texts)
    assert sorted(result.indexes) == list(range(len(texts)))
    assert all(item.text == texts[item.index].encode("utf-8", "replace").decode() for item in result)


def test_it_works_inside_a_running_loop_and_from_several(reverse: Reranker) -> None:
    async def notebook() -> list[tuple[int, ...]]:
        blocking = reverse.rerank("q", TEXTS)  # asyncio.run() would fail here
        awaited = await asyncio.gather(*(reverse.arerank("q", TEXTS) for _ in range(5)))
        many = await reverse.arerank_many([("q", TEXTS)], show_progress=False)
        return [result.indexes for result in (blocking, *awaited, *many) if not isinstance(result, Failure)]

    # Each asyncio.run is another loop; the engine's stays the same.
    assert asyncio.run(notebook()) + asyncio.run(notebook()) == [(3, 2, 1, 0)] * 14


def test_many_queries_at_once_in_the_order_given(capsys: pytest.CaptureFixture[str]) -> None:
    slow = ScriptedNode("reverse", seconds=0.2, sigma=0.0)
    with tiny(slow, max_concurrent_queries=None) as reranker:
        results = reranker.rerank_many((f"query {n}", TEXTS[: n % 4 + 1]) for n in range(40))
    assert [result.query.text for result in results if not isinstance(result, Failure)] == [
        f"query {n}" for n in range(40)
    ]
    assert all(len(result) == n % 4 + 1 for n, result in enumerate(results) if not isinstance(result, Failure))


def test_a_failed_call_is_raised_never_hidden() -> None:
    with tiny(ScriptedNode("reverse", failing=1.0)) as reranker:
        with pytest.raises(EngineError, match="failed this call"):
            reranker.rerank("q", TEXTS)
        with pytest.raises(EngineError, match="failed this call") as caught:
            reranker.rerank_many([("q", TEXTS), ("r", TEXTS)], show_progress=False)
        assert "2 of 2 queries failed; this is query '0'" in caught.value.__notes__
        kept = reranker.rerank_many([("q", TEXTS), ("r", ["alone"])], failures="keep", show_progress=False)
    assert isinstance(kept[0], Failure)
    assert not isinstance(kept[1], Failure)
    with Reranker("tiny", engine="scripted") as oracle, pytest.raises(EngineError, match="needs judgements"):
        oracle.rerank("q", TEXTS)


def test_a_store_makes_a_repeated_call_free(tmp_path: Path) -> None:
    for paid in (1, 0):
        engine = ScriptedEngine("reverse")
        with tiny(engine, store=tmp_path / "store.sqlite") as reranker:
            first, second = reranker.rerank("q", TEXTS), reranker.rerank("q", TEXTS)
        assert engine.calls == paid
        assert first.windows == second.windows
        assert first.windows[0].status is ParseStatus.OK


def test_a_cancelled_caller_cancels_its_call_alone() -> None:
    async def caller(reranker: Reranker) -> tuple[int, ...]:
        task = asyncio.create_task(reranker.arerank("q", TEXTS))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return (await reranker.arerank("q", ["alone"])).indexes

    with tiny(ScriptedNode("reverse", seconds=1000.0)) as reranker:
        assert asyncio.run(caller(reranker)) == (0,)


def test_closing_ends_the_calls_under_way_and_the_thread() -> None:
    reranker = tiny(ScriptedNode("reverse", seconds=1000.0))
    raised: list[BaseException] = []

    def waits() -> None:
        try:
            reranker.rerank("q", TEXTS)
        except EngineError as error:
            raised.append(error)

    caller = threading.Thread(target=waits)
    caller.start()
    while not any(thread.name == "rearank-reranker" for thread in threading.enumerate()):
        caller.join(0.01)
    reranker.close()
    caller.join(10)
    reranker.close()
    assert "closed" in str(raised[0])
    assert not any(thread.name == "rearank-reranker" for thread in threading.enumerate())
    with pytest.raises(EngineError, match="closed; make another one"):
        reranker.rerank("q", TEXTS)
    with pytest.raises(EngineError, match="closed; make another one"):
        asyncio.run(reranker.arerank("q", TEXTS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "tinny"}, "model=tinny: there is no such model; did you mean tiny"),
        ({"model": "tiny", "prompt": "rankgpt"}, "tiny was trained with prompt=compact and prompt=rankgpt"),
        ({"model": "tiny", "prompt": ChatPrompt(opening="{query}")}, "goes with prompt=compact and another ChatPrompt"),
        ({"model": "tiny", "strategy": "pointwise"}, "prompt"),
        ({"model": "tiny", "prompt": REVERSE}, "prompt: ScriptedNode is not what this place takes"),
        ({"model": "tiny", "overrides": ["strategy.sise=5"]}, "strategy.sise"),
        ({"model": "tiny", "overrides": ["strategy.size=1"]}, "strategy: size must be at least 2"),
        ({"model": Model(name="gone", path="/no/such/folder")}, "there is no such folder"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_loaded(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reranker(**{"engine": "transformers", **arguments})  # type: ignore[arg-type]


def test_parts_are_the_models_own_unless_given() -> None:
    own = Reranker("tiny", engine=REVERSE).parts
    assert type(own.prompt).__name__ == "CompactPrompt"
    assert Reranker("tiny", engine=REVERSE, prompt=own.prompt).parts.prompt == own.prompt
    follows_any = replace(own.model, prompt=None)
    other = ChatPrompt(opening="{query}")
    assert Reranker(follows_any, engine=REVERSE, prompt=other).parts.prompt is other
    set_ = Reranker("tiny", engine=REVERSE, overrides=["strategy.size=5", "strategy.step=2", "model.max_tokens=64"])
    assert getattr(set_.parts.strategy, "size", None) == 5
    assert set_.model.sampling.max_tokens == 64


def test_an_engine_that_cannot_run_here_is_refused_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(VllmNode, "preflight", lambda self: ["engine=vllm needs an NVIDIA GPU"])
    with pytest.raises(EngineError, match="needs an NVIDIA GPU"):
        Reranker("tiny", engine="vllm")
    own = Model(name="own", path="pkg://rearank/training/assets/tiny", prompt="compact")  # one that chooses no engine
    assert Reranker(own).engine_name == "transformers"
    monkeypatch.setattr(VllmNode, "preflight", lambda self: [])
    assert Reranker(own).engine_name == "vllm"
    assert Reranker("tiny").engine_name == "transformers", "its own choice"


def test_from_pretrained_takes_the_prompt_from_the_node_that_describes_it(tmp_path: Path) -> None:
    known = Reranker.from_pretrained("le723z/Rearank-7B", revision="main", engine=REVERSE)
    assert (known.model.name, known.model.prompt, known.model.revision) == ("rearank7b", "rearank", "main")
    with pytest.raises(ConfigError, match="trained with prompt=rearank and prompt=compact"):
        Reranker.from_pretrained("le723z/Rearank-7B", prompt="compact", engine=REVERSE)
    with pytest.raises(ConfigError, match="say which prompt it was trained with"):
        Reranker.from_pretrained("somebody/reranker", engine=REVERSE)
    with pytest.raises(ConfigError, match="prompt=rearan: there is no such prompt; did you mean rearank"):
        Reranker.from_pretrained("somebody/reranker", prompt="rearan", engine=REVERSE)
    theirs = Reranker.from_pretrained("somebody/reranker", prompt="rankgpt", engine=REVERSE)
    assert (theirs.model.name, theirs.model.path) == ("reranker", "somebody/reranker")
    assert theirs.rerank("q", TEXTS).indexes == (3, 2, 1, 0)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json in this folder"):
        Reranker.from_pretrained(tmp_path / "mine", prompt="compact", engine="transformers")


def test_composing_leaves_a_hydra_application_alone() -> None:
    from hydra import compose, initialize_config_dir

    from rearank.choices import CONF

    with initialize_config_dir(str(CONF / "strategy"), version_base="1.3"):
        Reranker("tiny", engine="scripted")
        assert compose("sliding_window").size == 20


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rearank; print([m for m in ('torch', 'numpy', 'hydra', 'asyncio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


THREE_LINES = """
from rearank import Reranker
reranker = Reranker("tiny", engine={engine!r}, overrides={overrides!r})
result = reranker.rerank("cook sweets bread", [
    "bread meal every old mug rare sweets quiet pudding under",
    "simple grey near soup again bread cook every late quick early old",
    "cook warm cook first again small small cook",
])
print(result)
import json, rearank; print(json.dumps([rearank.__file__, result.statuses, sorted(result.indexes)]))
"""


@pytest.mark.slow
def test_the_shipped_model_answers_from_an_unpacked_wheel_and_the_program_ends_by_itself(
    root: Path, tmp_path: Path
) -> None:
    """The names of nodes work without a checkout; nobody calls close."""
    zipfile.ZipFile(wheel_of(root, tmp_path)).extractall(tmp_path / "installed")
    assert (tmp_path / "installed" / "rearank" / "conf" / "model" / "rearank7b.yaml").is_file()
    program = THREE_LINES.format(engine="transformers", overrides=["strategy.size=5", "strategy.step=2"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env={
            **{"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "installed")},
            **{"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    where, statuses, indexes = json.loads(done.stdout.splitlines()[-1])
    assert where.startswith(str(tmp_path / "installed"))
    assert statuses == {"ok": 1}
    assert indexes == [0, 1, 2]
