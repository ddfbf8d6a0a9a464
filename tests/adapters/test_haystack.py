"""The component in Haystack's pipelines, and in the files that they are saved to."""

from __future__ import annotations

import asyncio

import pytest
from tests.adapters.lists import TEXTS
from tests.adapters.real import real, run_example

from rearank.config import ConfigError
from rearank.engines import EngineError

haystack = real("haystack")
from rearank.adapters import haystack as adapter  # noqa: E402

DOCUMENTS = [haystack.Document(content=text, meta={"place": i}, score=0.1) for i, text in enumerate(TEXTS)]


def ranker(**arguments: object) -> adapter.RearankComponent:
    chosen = {"overrides": ["engine.behaviour=reverse", "strategy.size=7", "strategy.step=3"], **arguments}
    return adapter.RearankComponent("tiny", engine="scripted", **chosen)  # type: ignore[arg-type]


def places(documents: list[object]) -> list[int]:
    return [document.meta["place"] for document in documents]  # type: ignore[attr-defined]


def test_in_a_pipeline_that_was_saved() -> None:
    pipeline = haystack.Pipeline()
    pipeline.add_component("ranker", ranker(top_k=3))
    again = haystack.Pipeline.loads(pipeline.dumps(), allowed_modules=[adapter.__name__])
    for one in (pipeline, again):
        asked = {"ranker": {"query": "which", "documents": DOCUMENTS}}
        found = one.run(asked)["ranker"]["documents"]
        assert places(found) == [6, 5, 4]
        assert [document.score for document in found] == [1.0, 1 / 2, 1 / 3]
        asked["ranker"]["top_k"] = 1
        assert places(one.run(asked)["ranker"]["documents"]) == [6]
        one.get_component("ranker").close()
    assert again.get_component("ranker").to_dict() == pipeline.get_component("ranker").to_dict()
    assert DOCUMENTS[0].score == 0.1, "what was given stays as it was"


def test_it_awaits() -> None:
    made = ranker()
    assert places(asyncio.run(made.run_async("which", DOCUMENTS))["documents"]) == list(range(6, -1, -1))
    assert made.run("which", []) == {"documents": []}
    made.close()
    made.close()
    assert len(made.run("which", DOCUMENTS, top_k=2)["documents"]) == 2, "it is loaded again"
    made.close()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k"):
        ranker(top_k=0)
    made = ranker(title_key="head")
    with pytest.raises(ValueError, match="top_k"):
        made.run("which", DOCUMENTS, top_k=0)
    with pytest.raises(ValueError, match=r"document 0 .* has no content"):
        made.run("which", [haystack.Document(meta={})])
    assert made._passages([haystack.Document(content="x", meta={"head": "T"})]) == [{"text": "x", "title": "T"}]
    with pytest.raises(ConfigError, match="tinny"):
        adapter.RearankComponent("tinny").warm_up()
    failing = ranker(overrides=["engine.behaviour=reverse", "engine.failing=1.0"])
    with pytest.raises(EngineError):
        failing.run("which", DOCUMENTS)
    failing.close()
    made.close()


@pytest.mark.slow
def test_the_docstrings_example_runs() -> None:
    assert run_example(adapter)["best"].content in ("old bread", "hot soup")
