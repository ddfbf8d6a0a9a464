"""An evaluation over the API engine, killed again and again: the same result, and nothing is paid for twice."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.pipeline import ROOT, environment
from tests.engines.fault_server import fault_server, logged

from rearank.data.synthetic import SyntheticCollection
from rearank.data.trec import write_run

pytestmark = pytest.mark.slow

KILLS = 10
AT_ONCE = 4
QUERIES = 14
KEY = "sk-this-is-a-secret-0123456789"
SETTINGS = (
    "task=evaluate",
    "experiment=quickstart",
    "engine=openai",
    "engine.served_model=small",
    "engine.key_variable=MY_KEY",
    "engine.first_wait=0.01",
    f"engine.max_concurrent_calls={AT_ONCE}",
    f"evaluation.max_concurrent_queries={AT_ONCE}",  # of which each has one call under way
    "evaluation.samples=0",
    f"benchmark.collection.query_count={QUERIES}",
    "retriever=run_file",
    "tracking=none",
    "name=run",
)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first stage as a run file, which spares every one of the many runs BM25."""
    collection = SyntheticCollection(split="test", query_count=QUERIES)
    others = [passage.id for passage in collection.iter_passages()]
    drawn, ranked = random.Random(1), {}
    for query, grades in collection.qrels().items():
        ids = dict.fromkeys([*sorted(grades)[:12], *drawn.sample(others, 20)])
        ranked[query] = drawn.sample(list(ids), len(ids))[:20]
    path = tmp_path_factory.mktemp("first") / "run.trec"
    write_run(path, ranked)
    return path


def start(outputs: Path, first: Path, url: str, *overrides: str, key: str = KEY) -> subprocess.Popen[str]:
    places = (f"paths.outputs={outputs}", f"retriever.path={first}", f"engine.base_url={url}")
    command = [sys.executable, str(ROOT / "run.py"), *SETTINGS, *places, *overrides]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env={**environment(), "MY_KEY": key}, **pipes)


def finished(process: subprocess.Popen[str], status: int = 0) -> str:
    """What it said; it ended by itself, as expected."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == status, said[-3000:]
    return said


def stored(outputs: Path) -> set[str]:
    """The prompts whose answers are on disk."""
    path = outputs / "run" / "completions.sqlite"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            return {str(row[0]) for row in db.execute("select messages from completions")}
    except sqlite3.OperationalError:  # killed before the file was made
        return set()


def results(outputs: Path) -> dict[str, bytes]:
    """Every ranking, every figure, the tables: all that does not say when and where it was made."""
    folder = outputs / "run" / "evaluation" / "synthetic"
    kinds = ("*/run.trec", "*/metrics.json", "table.md")
    return {str(path.relative_to(folder)): path.read_bytes() for kind in kinds for path in folder.glob(kind)}


def shown(outputs: Path, secret: str) -> list[Path]:
    """The files that hold ``secret``."""
    return [path for path in outputs.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.fixture
def two_servers(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """One for the undisturbed run, and one that fails now and then for the disturbed one."""
    with (
        fault_server(tmp_path / "calm.jsonl", "--delay", "0.01", "--key", KEY) as calm,
        fault_server(tmp_path / "log.jsonl", "--delay", "0.02", "--share", "0.05", "--key", KEY) as rough,
    ):
        yield calm, rough


def test_ten_kills_change_nothing_and_cost_nothing(
    tmp_path: Path, first: Path, two_servers: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    log, undisturbed, disturbed = tmp_path / "log.jsonl", tmp_path / "undisturbed", tmp_path / "disturbed"
    disturbed.mkdir()
    finished(start(undisturbed, first, two_servers[0]))
    moments = random.Random(4)
    kept: set[str] = set()
    asked, lost = 0, 0
    for _ in range(KILLS):
        process = start(disturbed, first, two_servers[1])
        moment = asked + moments.randint(2, 12)
        while log.read_bytes().count(b'"received"') < moment:
            assert process.poll() is None, finished(process)
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        calls = logged(log)[asked:]
        asked += len(calls)
        assert not {call["messages"] for call in calls} & kept, "what is on disk is not asked again"
        now = stored(disturbed)
        assert now >= kept
        under_way = {call["messages"] for call in calls} - now
        assert len(under_way) <= AT_ONCE
        lost += len(under_way)
        kept = now
    finished(start(disturbed, first, two_servers[1]))
    assert not {call["messages"] for call in logged(log)[asked:]} & kept
    assert results(disturbed) == results(undisturbed)
    assert {"base/run.trec", "base/metrics.json", "runfile/run.trec", "table.md"} <= set(results(disturbed))
    answers = Counter(line["call"] for line in logged(log, "answered") if line["fault"] == "ok")
    calm = {line["call"] for line in logged(tmp_path / "calm.jsonl")}
    assert set(answers) == calm, "the same questions, all answered"
    twice = sum(answers.values()) - len(answers)
    assert twice <= lost <= AT_ONCE * KILLS, "no call is repeated but those that a kill left without an answer"
    assert {line["fault"] for line in logged(log)} > {"ok"}, "and some of it had to be repeated for other reasons"
    assert shown(tmp_path, KEY) == []
    with capsys.disabled():
        print(f"\n{KILLS} kills: {len(answers)} calls, {lost} under way at a kill, {twice} of them answered twice")


def test_a_refused_key_and_a_budget_end_the_run_in_order(tmp_path: Path, first: Path) -> None:
    log, wrong = tmp_path / "log.jsonl", KEY[::-1]
    price = ("engine.price_prompt=100", "engine.price_completion=100")  # a cent a call, about
    with fault_server(log, "--key", KEY) as url:
        said = finished(start(tmp_path, first, url, key=wrong), status=1)
        assert "rearank: " in said
        assert "refuses the key (HTTP 401" in said
        assert "set the environment variable MY_KEY to a valid key" in said
        assert len(logged(log)) <= AT_ONCE
        said += finished(start(tmp_path, first, url, *price, "engine.budget=0.2"), status=1)
        assert "the budget is spent: $0.2" in said
        assert "the same command with a larger engine.budget goes on from here" in said
        assert "Traceback" not in said
        paid = [line for line in logged(log, "answered") if line["fault"] == "ok"]
        assert len(stored(tmp_path)) == len(paid)
        assert 15 < len(paid) < 40
        said += finished(start(tmp_path, first, url, *price, "engine.budget=20"))
        answers = Counter(line["call"] for line in logged(log, "answered") if line["fault"] == "ok")
    assert set(answers.values()) == {1}
    assert len(stored(tmp_path)) == len(answers) > len(paid)
    for secret in (KEY, wrong):
        assert secret not in said
        assert shown(tmp_path, secret) == []
