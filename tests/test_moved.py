"""Names that have moved: old configs, folders and programs that use them go on working."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from rearank.config import build
from rearank.moved import MOVED, current


def _found(name: str) -> object:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        place, _, attribute = name.rpartition(".")
        if error.name != name and not name.startswith(f"{error.name}."):
            raise
        return getattr(import_module(place), attribute)


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_every_entry_leads_to_something(new: str) -> None:
    try:
        assert _found(new) is not None
    except ImportError as error:
        if "rearank's extra" not in str(error):
            raise
        pytest.skip(str(error))  # the module is there, and asks for a package that isn't
    assert current(new) == new  # an entry leads there in one step


def test_an_old_target_builds_todays_class() -> None:
    from rearank.engines.openai.node import OpenAINode

    node = build({"_target_": "rearank.engines.openai_node.OpenAINode", "base_url": "http://localhost:8000/v1"})
    assert type(node) is OpenAINode


@pytest.mark.parametrize(
    ("module", "name", "new"),
    [
        ("rearank.engines.openai_node", "OpenAINode", "rearank.engines.openai.node"),
        ("rearank.engines.openai", "OpenAIEngine", "rearank.engines.openai.engine"),  # a package stands in its place
        ("rearank.engines.vllm", "VllmEngine", "rearank.engines.vllm.engine"),
        ("rearank.tracking.base", "TrackingNode", "rearank.tracking.run_trackers"),  # a module that is still there
        ("rearank.tasks.environment", "commit", "rearank.runs.environment"),
        ("rearank.tasks.train", "TrainTask", "rearank.tasks.pipeline"),
        ("rearank.tasks.evaluate", "EvaluateTask", "rearank.tasks.pipeline"),
        ("rearank.data.rearank_rows", "RearankRows", "rearank.data.rows.rearank_rows"),
        ("rearank.training.algorithm", "PolicyGradient", "rearank.algorithms"),
        ("rearank.report.folder", "read_folder", "rearank.runs.reader"),
    ],
)
def test_an_old_import_works_and_says_where_the_name_is_now(module: str, name: str, new: str) -> None:
    with pytest.deprecated_call(match=rf"it is {new}\.{name} now"):
        found = getattr(import_module(module), name)
    assert found is getattr(import_module(new), name)


def test_a_name_that_never_was_is_missing_as_ever() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = import_module("rearank.engines.openai").Nothing


def test_the_packages_of_engines_load_no_library() -> None:
    heavy = "torch", "transformers", "vllm", "openai", "httpx"
    code = f"import sys, rearank.engines; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
