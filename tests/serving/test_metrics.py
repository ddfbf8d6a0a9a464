"""Request ids, counts for Prometheus, and what a reply says of documents that weren't read whole."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rerankers import tiny
from tests.serving.servers import QUESTION, served

from rearank import Reranker
from rearank.engines import ScriptedEngine, ScriptedNode
from rearank.prompts import CompactPrompt
from rearank.serving.metrics import Metrics
from rearank.types import Completion, Message, Passage, Sampling, Window

SAMPLE = re.compile(r'(rearank_\w+)(?:\{(\w+)="((?:[^"\\\n]|\\.)*)"\})? (\d+(?:\.\d+)?)')


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with served(ScriptedNode("reverse")) as found:
        yield found


def samples(text: str) -> dict[tuple[str, str | None], float]:
    """By name and label value; every line is one or a comment."""
    lines = [line for line in text.removesuffix("\n").split("\n") if not line.startswith(("# HELP ", "# TYPE "))]
    found = [SAMPLE.fullmatch(line) for line in lines]
    assert all(found), lines
    return {(one.group(1), one.group(3)): float(one.group(4)) for one in found if one is not None}


def test_a_request_has_an_id_in_the_answer_and_in_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    mine = client.post("/v1/rerank", json=QUESTION, headers={"X-Request-Id": "trace-7/a"})
    assert mine.headers["X-Request-Id"] == mine.json()["id"] == "trace-7/a"
    assert "trace-7/a: 3 documents, 1 windows" in caplog.text
    made = [client.post("/v1/rerank", json=QUESTION) for _ in range(2)]
    assert made[0].headers["X-Request-Id"] == made[0].json()["id"] != made[1].json()["id"]
    assert client.post("/v1/rerank", json={"query": "q"}, headers={"X-Request-Id": "b"}).headers["X-Request-Id"] == "b"
    assert client.get("/nowhere", headers={"X-Request-Id": "c"}).headers["X-Request-Id"] == "c"


@pytest.mark.parametrize("hostile", ["a b", "x" * 129, "\x1b[31m", "a\tb", 'a"b', ""])
def test_an_id_that_could_not_stand_in_a_log_is_replaced(client: httpx.Client, hostile: str) -> None:
    answer = client.post("/v1/rerank", json=QUESTION, headers={"X-Request-Id": hostile})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["X-Request-Id"])


def test_a_failure_is_found_by_its_id(caplog: pytest.LogCaptureFixture) -> None:
    sent = {"X-Request-Id": "mine"}
    with served(ScriptedNode("reverse", failing=1.0)) as client:
        failed = client.post("/v1/rerank", json=QUESTION, headers=sent)
    assert failed.headers["X-Request-Id"] == "mine"
    assert failed.json()["message"].endswith("says why under mine")
    assert "request mine failed" in caplog.text
    caplog.clear()
    with served(ScriptedNode("reverse", seconds=1000.0), timeout_seconds=0.1) as client:
        assert client.post("/v1/rerank", json=QUESTION, headers=sent).status_code == 504
    assert "request mine: answered 504" in caplog.text


def test_what_prometheus_reads(client: httpx.Client) -> None:
    before = samples(client.get("/metrics").text)
    assert before["rearank_requests_under_way", None] == before["rearank_request_seconds_count", None] == 0
    answers = [client.post("/v1/rerank", json=QUESTION).json() for _ in range(2)]
    client.post("/v1/rerank", json={"query": "q"})
    client.post("/v2/rerank", content=b"{")
    client.get("/health")
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.text)
    statuses = {label: count for (name, label), count in found.items() if name == "rearank_requests_total"}
    assert statuses == {"200": 2, "400": 1, "422": 1}
    assert found["rearank_request_seconds_count", None] == found["rearank_request_seconds_bucket", "+Inf"] == 4
    assert found["rearank_windows_total", "ok"] == 2
    assert found["rearank_documents_total", None] == 6
    assert found["rearank_tokens_total", "prompt"] == sum(one["usage"]["prompt_tokens"] for one in answers)
    assert found["rearank_model_info", "tiny"] == 1


def test_counts_are_for_those_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_SERVE_KEY", "k3y")
    with served(ScriptedNode("reverse"), key_variable="TEST_SERVE_KEY") as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"Authorization": "Bearer k3y"}).status_code == 200


@given(st.lists(st.tuples(st.sampled_from([200, 422, 429, 504]), st.floats(0, 2000))), st.text())
def test_any_counts_are_written_as_they_are_read(answered: list[tuple[int, float]], model: str) -> None:
    metrics = Metrics(model, lambda: 0)
    for status, seconds in answered:
        metrics.answered(status, seconds)
    found = samples(metrics.text())
    [label] = [label for name, label in found if name == "rearank_model_info"]
    assert re.sub(r"\\(.)", lambda one: "\n" if one[1] == "n" else one[1], str(label)) == model
    for status, count in Counter(status for status, _ in answered).items():
        assert found["rearank_requests_total", str(status)] == count
    buckets = {label: count for (name, label), count in found.items() if name.endswith("_bucket") and label}
    for label, count in buckets.items():
        assert count == sum(seconds <= float(label) for _, seconds in answered)
    assert found["rearank_request_seconds_sum", None] == pytest.approx(
        sum(seconds for _, seconds in answered), abs=1e-5
    )


def test_a_web_page_of_a_listed_origin_sees_the_id() -> None:
    with served(ScriptedNode("reverse"), origins=("https://app.example",)) as client:
        page = {"Origin": "https://app.example"}
        asked = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        preflight = client.options("/v1/rerank", headers=asked)
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        answer = client.post("/v1/rerank", json=QUESTION, headers=page)
        assert answer.headers["Access-Control-Expose-Headers"].lower() == "x-request-id"
        other = {**asked, "Origin": "https://evil.example"}
        assert "Access-Control-Allow-Origin" not in client.options("/v1/rerank", headers=other).headers
    with served(ScriptedNode("reverse")) as client:
        assert "Access-Control-Allow-Origin" not in client.options("/v1/rerank", headers=asked).headers


class Cutting(ScriptedEngine):
    """Its context holds no prompt whole, and its answers end at their limit."""

    async def complete_window(self, window: Window, messages: Any, sampling: Sampling) -> Completion:
        whole = await super().complete_window(window, messages, sampling)
        return replace(whole, prompt_truncated=True, finish="length")


def test_long_documents_are_told_from_cut_prompts_and_cut_answers() -> None:
    """tiny's prompt shows 400 characters of a document."""
    documents = ["short", "word " * 79, "word " * 500, {"text": "x" * 390, "title": "a title of ours"}]
    with served(ScriptedNode("reverse")) as client:
        meta = client.post("/v1/rerank", json={"query": "q", "documents": documents}).json()["meta"]
        assert meta["shortened_documents"] == [2, 3]
        assert meta["warnings"] == ["2 documents are longer than this model's prompt shows: it read their beginnings"]
        short = client.post("/v1/rerank", json={"query": "q", "documents": documents[:2]}).json()["meta"]
        assert short.keys().isdisjoint({"shortened_documents", "warnings"})
        assert "rearank_shortened_documents_total 2\n" in client.get("/metrics").text
    with served(Cutting("reverse")) as client:
        asked = {"query": "q", "documents": ["a", "b"], "return_reasoning": True}
        answer = client.post("/v1/rerank", json=asked).json()
    assert [warning.partition(" were")[0].partition(" ended")[0] for warning in answer["meta"]["warnings"]] == [
        "1 of 1 prompts",
        "1 of 1 answers of the model",
    ]
    assert (answer["reasoning"][0]["prompt_truncated"], answer["reasoning"][0]["cut"]) == (True, True)


def test_truncation_that_is_wished_for_is_no_unknown_key(client: httpx.Client) -> None:
    assert "warnings" not in client.post("/v1/rerank", json={**QUESTION, "truncation": True}).json()["meta"]
    refused = client.post("/v1/rerank", json={**QUESTION, "truncation": False}).json()["meta"]["warnings"]
    assert refused == ["'truncation' means nothing to this server and was not used"]


def test_data_are_the_results_without_their_documents(client: httpx.Client) -> None:
    answer = client.post("/v1/rerank", json={**QUESTION, "top_k": 2, "return_documents": True}).json()
    assert answer["data"] == [{k: one[k] for k in ("index", "relevance_score")} for one in answer["results"]]
    assert len(answer["data"]) == 2


def test_a_library_caller_is_told_which_passages_were_shortened() -> None:
    with tiny(ScriptedNode("reverse")) as reranker:
        passages = ["short", "word " * 500]
        assert reranker.rerank("q", passages).shortened == (1,)
        assert [
            one.shortened for one in reranker.rerank_many([("q", passages), ("r", ["a"])], show_progress=False)
        ] == [  # type: ignore[union-attr]
            (1,),
            (),
        ]


class Words:
    """A tokenizer whose tokens are words."""

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return list(range(len(text.split())))

    def decode(self, tokens: Any) -> str:
        return " ".join("w" for _ in tokens)

    def apply_chat_template(self, messages: list[Message], **_: Any) -> str:
        return ""


@given(
    st.text(alphabet="ab \n", max_size=30),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1, 6),
    st.sampled_from(["fold", "strip", "keep"]),
)
def test_what_is_not_shortened_is_read_whole(text: str, characters: int | None, words: int | None, white: Any) -> None:
    prompt = CompactPrompt(max_characters=characters, max_words=words, white_space=white)
    whole = CompactPrompt(white_space=white)
    passage = Passage("p", text)
    assert prompt.shortens(passage) == (prompt.cut(passage).split() != whole.cut(passage).split())
    if characters is None and words is None:
        assert not prompt.shortens(passage)


def test_tokens_shorten_too() -> None:
    prompt = CompactPrompt(max_tokens=3)
    assert prompt.shortens(Passage("p", "a b c d"), Words())  # type: ignore[arg-type]
    assert not prompt.shortens(Passage("p", "a b c"), Words())  # type: ignore[arg-type]


def test_a_prompt_of_ones_own_need_not_know() -> None:
    class Own:
        asks, tags, labels, max_tokens, prefill = "ranking", True, "numbers", None, ""

        def render(self, window: Any, tokenizer: Any = None) -> tuple[Message, ...]:
            return CompactPrompt().render(window, tokenizer)

    with tiny(ScriptedNode("reverse")) as known:
        parts = known.parts
    with Reranker(
        replace(parts.model, prompt=None),
        prompt=Own(),
        strategy=parts.strategy,
        engine=ScriptedNode("reverse"),  # type: ignore[arg-type]
    ) as reranker:
        assert reranker.rerank("q", ["a", "word " * 500]).shortened == ()
