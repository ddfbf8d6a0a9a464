"""``rerank.runner=ray`` with each engine: what one process writes is written on Ray, byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.runs import run
from tests.engines.canned_server import Canned, canned_server, chat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

QUERIES, PASSAGES = 24, 8
SETTINGS = (
    *("task=rerank", "experiment=quickstart", "tracking=none", "name=run"),
    *("strategy=sliding_window", "strategy.size=5", "strategy.step=3"),  # two windows a query
)
ON_RAY = ("rerank.runner=ray", "rerank.actors=2", "rerank.block=4", "cluster.cpus=4")
PRICES = ("engine.price_prompt=1.0", "engine.price_completion=1.0", "engine.budget=1.0")
IN_PROCESS = {
    "transformers": ("engine=transformers", "engine.device=cpu"),
    "vllm": ("engine=vllm", "engine.kv_cache_gib=0.5"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("given") / "in.jsonl"
    rows = (
        {"id": f"q{n}", "query": f"water {n}", "passages": [f"water text {n} {p}" for p in range(PASSAGES)]}
        for n in range(QUERIES)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextmanager
def reversing_server() -> Iterator[Canned]:
    """An API whose model names a window's passages from the last to the first."""

    def respond(request: dict[str, Any], _: int) -> tuple[int, Any]:
        asked = request["messages"][-1]["content"]
        places = sorted({int(one) for one in re.findall(r"\[(\d+)\]", asked)}, reverse=True)
        order = " > ".join(f"[{place}]" for place in places)
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": 9}
        return 200, chat(f"<think>last first</think><answer>{order}</answer>", usage=usage)

    with canned_server(respond) as server:
        yield server


def written(folder: Path, given: Path, *overrides: str) -> bytes:
    """What the command writes."""
    folder.mkdir()
    run(folder, SETTINGS, f"rerank.input={given}", f"rerank.output={folder}/out.jsonl", *overrides)
    return (folder / "out.jsonl").read_bytes()


def cost(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run/rerank/cost.jsonl").read_text().splitlines()[-1])
    return found


def test_an_api(given: Path, tmp_path: Path) -> None:
    with reversing_server() as server:
        api = ("engine=openai", f"engine.base_url={server.url}", *PRICES)
        alone = written(tmp_path / "alone", given, *api)
        asked = sorted(json.dumps(one["messages"]) for one in server.requests)
        server.requests.clear()
        assert written(tmp_path / "ray", given, *api, *ON_RAY) == alone
        assert sorted(json.dumps(one["messages"]) for one in server.requests) == asked
    assert len(asked) == 2 * QUERIES
    first, second = cost(tmp_path / "alone"), cost(tmp_path / "ray")
    assert first["cost_paid_now"] == pytest.approx(second["cost_paid_now"])
    assert first["cost_paid_now"] > 0
    assert first["calls_paid_now"] == second["calls_paid_now"] == 2 * QUERIES


@pytest.mark.parametrize("engine", [pytest.param("transformers"), pytest.param("vllm", marks=pytest.mark.full)])
def test_an_engine_in_the_actor(engine: str, given: Path, tmp_path: Path) -> None:
    chosen = ("model=tiny", *IN_PROCESS[engine])
    alone = written(tmp_path / "alone", given, *chosen)
    assert written(tmp_path / "ray", given, *chosen, *ON_RAY) == alone
    assert cost(tmp_path / "ray")["calls_paid_now"] == 2 * QUERIES
