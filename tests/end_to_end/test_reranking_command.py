"""``python run.py task=rerank``: killed again and again to the same bytes, and as a part of a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.end_to_end.pipeline import ROOT, calls, environment, lines

pytestmark = pytest.mark.slow

QUERIES, PASSAGES = 40, 30
KILLS = 3


def command(folder: Path, *overrides: str) -> list[str]:
    """Two windows a query, each of which takes a moment."""
    return [
        *(sys.executable, str(ROOT / "run.py"), "task=rerank", "experiment=quickstart", "name=run"),
        *("engine=scripted", "engine.behaviour=random", "engine.seconds=0.05", "strategy=sliding_window"),
        *("rerank.max_concurrent_queries=2", f"paths.outputs={folder}", f"rerank.input={folder}/in.jsonl"),
        *overrides,
    ]


def finished(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(folder, *overrides), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ({"query": f"query {n}", "passages": [f"text {n} {m}" for m in range(PASSAGES)]} for n in range(QUERIES))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_killed_again_and_again_it_writes_the_same_bytes(folder: Path) -> None:
    finished(folder, f"rerank.output={folder}/whole.jsonl", "name=whole", "engine.seconds=0")
    output, store = folder / "out.jsonl", folder / "run" / "completions.sqlite"
    for kill in range(1, KILLS + 1):
        process = subprocess.Popen(
            command(folder, f"rerank.output={output}"), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while calls(store) < kill * 2 * QUERIES // (KILLS + 1):
            assert process.poll() is None, "it ended by itself"
            assert time.monotonic() < deadline, "the moment to stop it never came"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        assert not output.exists()
    finished(folder, f"rerank.output={output}")
    assert output.read_bytes() == (folder / "whole.jsonl").read_bytes()
    [cost] = lines(folder / "run" / "rerank" / "cost.jsonl")
    assert 0 < cost["calls_paid_now"] < 2 * QUERIES // KILLS, "what was recorded is not asked again"
    assert sorted(path.name for path in folder.glob("*out*")) == ["out.jsonl"]
    assert "is there already: 40 queries" in finished(folder, f"rerank.output={output}").stdout


def piped(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    more = ("rerank.input=-", "rerank.output=-", "name=pipe", *overrides)
    return subprocess.Popen(
        command(folder, *more), cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
    )


def test_standard_output_has_the_results_alone(folder: Path) -> None:
    """What is said, by whatever logger, goes to standard error; each line comes when its turn has come."""
    finished(folder, f"rerank.output={folder}/whole.jsonl", "engine.seconds=0")
    given = (folder / "in.jsonl").read_bytes().splitlines(keepends=True)
    with piped(folder, "rerank.max_concurrent_queries=1") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"".join(given[:3]))
        first = process.stdout.read(9)
        assert first == b'{"id": "1', "while the input is still open"
        rest, said = process.communicate(b"".join(given[3:]), timeout=120)
    assert process.returncode == 0, said
    assert first + rest == (folder / "whole.jsonl").read_bytes()
    assert b"standard output: 40 queries, 80 windows" in said


def test_a_reader_that_ends_early_is_no_failure_of_ours(folder: Path) -> None:
    unread, pipe = os.pipe()
    os.close(unread)
    try:
        done = subprocess.run(
            command(folder, "rerank.output=-"),
            cwd=ROOT,
            env=environment(),
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    finally:
        os.close(pipe)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr


def test_ctrl_c_ends_it_while_it_waits_for_its_input(folder: Path) -> None:
    with piped(folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write((folder / "in.jsonl").read_bytes().splitlines(keepends=True)[0])
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert b"interrupted; the same command goes on from here" in process.stderr.read()
