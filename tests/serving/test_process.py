"""``task=serve`` as a process of its own, called by Cohere's client; how it starts and how it ends."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.end_to_end.pipeline import ROOT, environment

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, on import
    cohere: Any = pytest.importorskip("cohere")

pytestmark = pytest.mark.slow

SCRIPTED = ("engine=scripted", "engine.behaviour=reverse")
RUN = f"runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')"
DOCUMENTS = ["one", "two", "three"]
PASSAGES = [
    "bread meal every old mug rare sweets quiet pudding under",
    "cook late common bread dessert new new soup new biscuit old",
    "simple grey near soup again bread cook every late quick early old",
    "cook warm cook first again small small cook",
    "cup loaf old soon old cook dessert small sweets bright bright dark",
    "soup old early new early simple new sweets heavy small bread every",
]


class Server:
    """The process, what it said, and where it listens."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def said(self) -> str:
        return self.log.read_text()

    def address(self) -> str:
        deadline = time.monotonic() + 120
        while (found := re.search(r"serving \S+ at (http://\S+)/v1/rerank", self.said())) is None:
            assert self.process.poll() is None, self.said()[-3000:]
            assert time.monotonic() < deadline, self.said()[-3000:]
            time.sleep(0.02)
        return found.group(1)

    def stop(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=60)


@contextmanager
def started(
    folder: Path, *overrides: str, first: tuple[str, ...] = (str(ROOT / "run.py"),), **variables: str
) -> Iterator[Server]:
    """``python run.py task=serve``; it is gone afterwards."""
    command = [sys.executable, *first, "task=serve", "model=tiny", "prompt=compact", "tracking=none"]
    settings = ["strategy.size=5", "strategy.step=2", "serve.port=0", f"paths.outputs={folder}", "name=serve"]
    with (folder / "said.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *settings, *overrides],
            cwd=folder,
            env={**environment(), **variables},
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        yield Server(process, folder / "said.log")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_coheres_clients_get_a_ranking(tmp_path: Path) -> None:
    with (
        started(tmp_path, *SCRIPTED, "serve.key_variable=MY_KEY", MY_KEY="k3y") as server,
        httpx.Client(timeout=30) as http,
    ):
        address = server.address()
        first = cohere.Client("k3y", base_url=address, httpx_client=http).rerank(
            query="q", documents=[*DOCUMENTS[:2], {"text": "three"}], model="tiny", top_n=2, return_documents=True
        )
        assert [(item.index, item.relevance_score, item.document.text) for item in first.results] == [
            (2, 1.0, "three"),
            (1, 0.5, "two"),
        ]
        assert first.meta.api_version.version == "1"
        second = cohere.ClientV2("k3y", base_url=address, httpx_client=http)
        answer = second.rerank(model="tiny", query="q", documents=DOCUMENTS, max_tokens_per_doc=10)
        assert [item.index for item in answer.results] == [2, 1, 0]
        assert answer.meta.api_version.version == "2"
        assert answer.meta.tokens.output_tokens > 0
        assert "max_tokens_per_doc" in answer.meta.warnings[0]
        for path in ("/v1", "/v2"):
            other = cohere.ClientV2("k3y", base_url=address + path, httpx_client=http)
            if path == "/v1":
                old = cohere.Client("k3y", base_url=address + path, httpx_client=http)
                assert old.rerank(query="q", documents=DOCUMENTS, model="tiny").results[0].index == 2
            assert other.rerank(model="tiny", query="q", documents=DOCUMENTS).results[0].index == 2
        with pytest.raises(cohere.NotFoundError, match="POST to /v1/rerank"):
            cohere.ClientV2("k3y", base_url=f"{address}/api", httpx_client=http).rerank(
                model="tiny", query="q", documents=DOCUMENTS
            )
        with pytest.raises(cohere.UnprocessableEntityError, match="query"):
            second.rerank(model="tiny", query=" ", documents=DOCUMENTS)
        with pytest.raises(cohere.NotFoundError, match="not served here"):
            second.rerank(model="rerank-v3.5", query="q", documents=DOCUMENTS)
        with pytest.raises(cohere.UnauthorizedError, match="valid key"):
            cohere.ClientV2("wrong", base_url=address, httpx_client=http).rerank(
                model="tiny", query="q", documents=DOCUMENTS
            )
        assert server.stop(signal.SIGINT) == 0
    assert server.said().rstrip().endswith("stopped")
    kept = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "key_variable: MY_KEY" in kept
    assert "k3y" not in kept


def test_the_shipped_model_is_warm_when_it_says_so_and_shows_its_reasoning(tmp_path: Path) -> None:
    with started(tmp_path, "engine=transformers") as server, httpx.Client(timeout=120) as http:
        address = server.address()
        assert http.get(f"{address}/health").json()["engine"] == "transformers"
        client = cohere.ClientV2("none", base_url=address, httpx_client=http)
        with ThreadPoolExecutor(3) as threads:
            asked = [
                threads.submit(client.rerank, model="tiny", query="cook sweets bread", documents=PASSAGES[:count])
                for count in (6, 5, 1)
            ]
            for future, count in zip(asked, (6, 5, 1), strict=True):
                assert sorted(item.index for item in future.result().results) == list(range(count))
        body = {"query": "cook sweets bread", "documents": PASSAGES, "return_reasoning": True}
        answer = http.post(f"{address}/v1/rerank", json=body).json()
        assert answer["reasoning"][0]["documents"] == [1, 2, 3, 4, 5]
        assert all(window["status"] == "ok" for window in answer["reasoning"])
        assert all("[1] " in window["think"] for window in answer["reasoning"])
        assert server.stop(signal.SIGTERM) == 0
    assert "stopped" in server.said()


def test_a_stop_lets_the_request_under_way_finish(tmp_path: Path) -> None:
    slow = ("engine=scripted", "engine.behaviour=reverse", "engine.seconds=1.0", "engine.sigma=0.0")
    with started(tmp_path, *slow, "serve.shutdown_seconds=30") as server, ThreadPoolExecutor(1) as threads:
        address = server.address()
        under_way = threads.submit(
            httpx.post, f"{address}/v1/rerank", json={"query": "q", "documents": DOCUMENTS}, timeout=60
        )
        time.sleep(0.3)
        assert server.stop(signal.SIGINT) == 0
        assert under_way.result().status_code == 200
    assert "stopped" in server.said()


def test_idle_connections_leave_files_and_the_log_alone(tmp_path: Path) -> None:
    few = f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); {RUN}"
    with started(tmp_path, *SCRIPTED, first=("-c", few)) as server, ExitStack() as kept:
        address = server.address()
        host, port = address.removeprefix("http://").split(":")
        for _ in range(300):
            kept.enter_context(socket.create_connection((host, int(port)), timeout=30))
        asked = {"query": "q", "documents": DOCUMENTS}
        assert httpx.post(f"{address}/v1/rerank", json=asked, timeout=30).status_code == 200
        assert len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())) < 190
        assert server.stop(signal.SIGTERM) == 0
    assert "Traceback" not in server.said()
    assert len(server.said()) < 5000


def test_what_keeps_it_from_starting_is_said(tmp_path: Path) -> None:
    with started(tmp_path, "engine=scripted") as server:  # the oracle, which has no judgements here
        assert server.process.wait(timeout=60) == 1
        assert "rearank: the scripted oracle needs judgements" in server.said()
        assert "Traceback" not in server.said()
