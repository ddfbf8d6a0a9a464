"""What ``engine=openai`` checks before anything is asked: its settings, the package, the key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from rearank.config import ConfigError, build
from rearank.engines import EngineError, EngineNode, OpenAINode
from rearank.runs.declared import differences, plain
from rearank.serving.limits import Serving

KEY = "sk-secret"
TARGET = "rearank.engines.openai.node.OpenAINode"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"base_url": "localhost:8000/v1"}, "base_url must begin with http"),
        ({"base_url": "http:///v1"}, "base_url must begin with http"),
        ({"base_url": "http://host:port/v1"}, "write http://host:port/v1"),
        ({"max_concurrent_calls": 0}, "max_concurrent_calls must be at least 1"),
        ({"timeout_seconds": 0.0}, "timeout_seconds must be above 0"),
        ({"retries": -1}, "retries must not be negative"),
        ({"price_prompt": 1.0}, "belong together"),
        ({"price_prompt": -1.0, "price_completion": 1.0}, "price_prompt must not be negative"),
        ({"budget": 5.0}, "set price_prompt and price_completion"),
        ({"extra_body": {"temperature": 1}}, "extra_body can't set temperature"),
        ({"max_tokens_field": "max_token"}, "did you mean max_tokens?"),
        ({"extra_body": [1]}, "extra_body"),
    ],
)
def test_settings_that_can_not_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=r"^engine.*") as caught:
        build({"_target_": TARGET, **wrong}, "engine")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": f"http://me:{KEY}@host/v1"},
        {"base_url": f"https://{KEY}@host/v1"},
        {"base_url": f"https://host/v1?api_key={KEY}"},
        {"base_url": f"https://host/v1#{KEY}"},
        {"key_variable": KEY},
    ],
)
def test_a_key_where_none_belongs_is_refused_and_not_repeated(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
        OpenAINode(**wrong)
    assert KEY not in str(caught.value)
    assert ".hydra" in str(caught.value)


def test_whose_key_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "MINE"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(OpenAINode(), EngineNode)
    assert OpenAINode().preflight() == ["engine=openai needs a key: set the environment variable OPENAI_API_KEY"]
    mine = OpenAINode(base_url="http://host/v1", key_variable="MINE")
    assert mine.preflight() == ["engine=openai needs a key: set the environment variable MINE"]
    with pytest.raises(EngineError, match="set the environment variable MINE"):
        mine.create("m")
    assert OpenAINode(base_url="http://host/v1").preflight() == []
    monkeypatch.setenv("MINE", "sk-“typographic”")
    (said,) = mine.preflight()
    assert said == "the environment variable MINE holds characters that no key has"
    monkeypatch.setenv("MINE", f"{KEY}\n")  # as files hold it
    assert mine.preflight() == []


@pytest.mark.parametrize(
    "key", ["hf_abcDEFghiJKLmnoPQRstuVWX", "AKIA4X7EXAMPLE1234QR", "0a" * 20, "a1" * 16, "gsk_abc123"]
)
def test_a_key_in_place_of_its_variable_s_name_is_not_repeated(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not it could be a variable's name."""
    for make in (lambda: OpenAINode(key_variable=key), lambda: Serving(key_variable=key)):
        try:
            said = " ".join(make().preflight())
        except ValueError as refused:
            said = str(refused)
        assert "variable" in said
        assert key not in said
        assert key[:6] not in said


def test_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearank.checks.find_spec", lambda name: None)
    (said,) = OpenAINode(base_url="http://host/v1").preflight()
    assert "pip install 'rearank[api]'" in said


def test_nothing_is_imported_before_the_first_call() -> None:
    code = (
        "import sys; from rearank.engines import OpenAINode; OpenAINode(base_url='http://host/v1').create('m')\n"
        "assert not {'openai', 'httpx', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_patience_and_budget_change_no_result_and_the_model_served_does() -> None:
    patient = OpenAINode(
        max_concurrent_calls=1, connect_seconds=1, timeout_seconds=1, retries=1, first_wait=2, longest_wait=3
    )
    costly = OpenAINode(price_prompt=1.0, price_completion=1.0)
    assert differences(plain(OpenAINode()), plain(patient)) == []
    assert differences(plain(costly), plain(replace(costly, budget=1.0, key_variable="MINE"))) == []
    assert differences(plain(OpenAINode()), plain(OpenAINode(served_model="other"))) == [
        'served_model: null -> "other"'
    ]
