"""A group's answers go to one rollout engine: verl's own balancer and client, engines that only take notes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

GROUPS, ANSWERS, ENGINES = 8, 6, 4


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def engine() -> Any:
    """In a rollout server's place: remembers what it was asked. A local class, so that Ray sends it along."""

    class Engine:
        def __init__(self) -> None:
            self._asked: list[tuple[str, int]] = []

        async def generate(self, *, request_id: str, prompt_ids: list[int], **_: Any) -> Any:
            self._asked.append((request_id, prompt_ids[0]))
            await asyncio.sleep(0.05)  # others arrive meanwhile, as they do
            return SimpleNamespace(extra_fields={})  # verl's own type would have each engine import verl

        def asked(self) -> list[tuple[str, int]]:
            return self._asked

    return Engine


def ask(ray: Any, client_class: Any, *, full_determinism: bool = False) -> dict[str, list[tuple[str, int]]]:
    """Every answer of every group at once; what each engine was asked."""
    from verl.workers.rollout.router import get_router_handle

    from rearank.training.verl import rollouts

    servers = {f"engine-{i}": ray.remote(engine()).remote() for i in range(ENGINES)}
    rollout = {"name": "vllm", "full_determinism": full_determinism}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})
    client = client_class(config, get_router_handle(servers, full_determinism=full_determinism))

    async def answer(group: int, sample: int) -> None:
        rollouts._group.set(f"group-{group}")
        await client.generate(f"answer-{group}-{sample}", prompt_ids=[group], sampling_params={})

    async def every() -> None:
        await asyncio.gather(*(answer(group, sample) for group in range(GROUPS) for sample in range(ANSWERS)))

    asyncio.run(every())
    return {name: ray.get(server.asked.remote()) for name, server in servers.items()}


def engines_of(asked: dict[str, list[tuple[str, int]]]) -> dict[int, set[str]]:
    found = defaultdict(set)
    for engine, calls in asked.items():
        for _, group in calls:
            found[group].add(engine)
    return found


@pytest.mark.parametrize("full_determinism", [False, True])
def test_one_engine_a_group(ray: Any, full_determinism: bool) -> None:
    from rearank.training.verl.rollouts import GroupClient

    asked = ask(ray, GroupClient, full_determinism=full_determinism)
    assert all(len(engines) == 1 for engines in engines_of(asked).values())
    if not full_determinism:  # verl then hashes the id, which may leave an engine out
        assert {engine for engines in engines_of(asked).values() for engine in engines} == asked.keys(), "none is idle"
    names = [request for calls in asked.values() for request, _ in calls]
    assert len(set(names)) == GROUPS * ANSWERS, "what vLLM calls a request is unique"


def test_verl_by_itself_spreads_a_group(ray: Any) -> None:
    from verl.workers.rollout.llm_server import LLMServerClient

    spread = engines_of(ask(ray, LLMServerClient))
    assert any(len(engines) > 1 for engines in spread.values()), "verl keeps groups together: remove GroupClient"
