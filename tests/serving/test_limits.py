"""The section ``serve``: ranges, the key, the socket."""

from __future__ import annotations

import pytest

from rearank.serving import Serving, ServingError
from rearank.serving.server import address_of, bind


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("host", ""),
        ("port", -1),
        ("port", 65536),
        ("max_documents", 0),
        ("max_bytes", 0),
        ("max_values", 0),
        ("max_held_bytes", 15_999_999),
        ("max_concurrent", 0),
        ("max_waiting", -1),
        ("max_connections", 0),
        ("header_seconds", 0.0),
        ("origins", ("app.example.org",)),
        ("origins", ("https://app.example.org/page",)),
        ("timeout_seconds", 0.0),
        ("shutdown_seconds", -1),
    ],
)
def test_what_is_out_of_range_is_named(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        Serving(**{key: value})  # type: ignore[arg-type]


def test_preflight_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_SERVE_KEY", raising=False)
    [missing] = Serving(key_variable="TEST_SERVE_KEY").preflight()
    assert "serve.key_variable=TEST_SERVE_KEY: this environment variable is not set" in missing
    for pasted in ("sk-4bC-d3F/gH+=", "0123456789abcdef", "s3cret key"):
        with pytest.raises(ValueError, match="key_variable must be the name") as refused:
            Serving(key_variable=pasted)
        assert pasted not in str(refused.value)
    for pasted in ("sk_live_51HxYzAbC", "AKIAIOSFODNN7EXAMPLE"):
        [missing] = Serving(key_variable=pasted).preflight()
        assert missing.startswith("serve.key_variable=(not shown")
        assert pasted not in missing
    monkeypatch.setenv("TEST_SERVE_KEY", "k")
    assert Serving(key_variable="TEST_SERVE_KEY").preflight() == []
    monkeypatch.setattr("rearank.checks.find_spec", lambda name: None)
    assert [line.split()[2] for line in Serving().preflight()] == ["fastapi", "uvicorn"]
    assert "pip install 'rearank[serve]'" in Serving().preflight()[0]


def test_a_port_that_is_taken_is_named() -> None:
    with bind(Serving(port=0)) as place:
        place.listen()
        port = place.getsockname()[1]
        assert address_of(place) == f"http://127.0.0.1:{port}"
        with pytest.raises(ServingError, match=rf"serve.port={port}: can't listen there .*serve.port=0"):
            bind(Serving(port=port))
    with pytest.raises(ServingError, match=r"serve.host=no\.such\.host\.invalid"):
        bind(Serving(host="no.such.host.invalid"))
