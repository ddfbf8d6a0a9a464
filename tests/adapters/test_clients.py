"""``/v1/rerank`` as others call it: their own clients, and the requests of programs as they go over the line.

Those were read from their sources: Dify's plugin openai_api_compatible (``models/rerank/rerank.py``) and Open WebUI's
``retrieval/models/external.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.adapters.real import real
from tests.serving.servers import served

from rearank.engines import ScriptedNode

cohere = real("cohere")
litellm = real("litellm")
parser = real("prometheus_client.parser")
voyageai = real("voyageai")

# They leave connections for the collector to close, and use what their own libraries deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

DOCUMENTS = ["one", "two", "three"]
KEY = "k3y"
ORDER = [(2, 1.0), (1, 1 / 2), (0, 1 / 3)]


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_SERVE_KEY", KEY)
        with served(ScriptedNode("reverse"), key_variable="TEST_SERVE_KEY") as client:
            yield client


@pytest.fixture
def address(http: httpx.Client) -> str:
    return str(http.base_url).rstrip("/")


def pairs(results: Any) -> list[tuple[int, float]]:
    return [(one["index"], one["relevance_score"]) for one in results]


def test_coheres_clients(address: str) -> None:
    with httpx.Client(timeout=30) as line:
        first = cohere.Client(KEY, base_url=address, httpx_client=line)
        answer = first.rerank(query="q", documents=DOCUMENTS, model="tiny", top_n=2, return_documents=True)
        assert [(one.index, one.relevance_score) for one in answer.results] == ORDER[:2]
        assert [one.document.text for one in answer.results] == ["three", "two"]
        second = cohere.ClientV2(KEY, base_url=address, httpx_client=line)
        answer = second.rerank(query="q", documents=DOCUMENTS, model="tiny")
        assert [(one.index, one.relevance_score) for one in answer.results] == ORDER


@pytest.mark.parametrize("path", ["", "/v1"])
def test_voyages_client(address: str, path: str) -> None:
    client = voyageai.Client(api_key=KEY, base_url=address + path)
    answer = client.rerank("q", DOCUMENTS, model="tiny")
    assert [(one.index, one.relevance_score, one.document) for one in answer.results] == [
        (index, score, DOCUMENTS[index]) for index, score in ORDER
    ]
    assert answer.total_tokens > 0
    assert [one.index for one in client.rerank("q", DOCUMENTS, model="tiny", top_k=1).results] == [2]
    with pytest.raises(voyageai.error.AuthenticationError):
        voyageai.Client(api_key="wrong", base_url=address + path).rerank("q", DOCUMENTS, model="tiny")


@pytest.mark.parametrize("provider", ["cohere", "jina_ai", "voyage", "hosted_vllm"])
def test_litellm_as_each_of_the_providers(address: str, provider: str) -> None:
    asked: dict[str, Any] = {"model": f"{provider}/tiny", "api_base": address, "api_key": KEY}
    answer = litellm.rerank(query="q", documents=DOCUMENTS, **asked)
    assert pairs(answer.results) == ORDER
    assert pairs(litellm.rerank(query="q", documents=DOCUMENTS, top_n=1, **asked).results) == ORDER[:1]


def test_jinas_request_over_http(http: httpx.Client) -> None:
    """https://jina.ai/reranker: ``top_n``, ``return_documents``; ``usage.total_tokens`` in the answer."""
    asked = {"model": "tiny", "query": "q", "top_n": 2, "documents": DOCUMENTS, "return_documents": True}
    answer = http.post("/v1/rerank", json=asked, headers={"Authorization": f"Bearer {KEY}"}).json()
    assert pairs(answer["results"]) == ORDER[:2]
    assert answer["results"][0]["document"] == {"text": "three"}
    assert answer["usage"]["total_tokens"] > 0
    assert answer["model"] == "tiny"
    assert "warnings" not in answer["meta"]


@pytest.mark.parametrize("endpoint", ["", "/v1"])
def test_difys_request_over_http(http: httpx.Client, endpoint: str) -> None:
    """Its endpoint_url and ``/rerank``; ``top_n`` is all documents. It saves a model whose answer is of status 200."""
    asked = {"model": "tiny", "query": "q", "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    answer = http.post(f"{endpoint}/rerank", json=asked, headers=headers)
    assert answer.status_code == 200
    assert pairs(answer.json()["results"]) == ORDER
    assert "warnings" not in answer.json()["meta"]


def test_open_webuis_request_over_http(http: httpx.Client) -> None:
    """It takes the scores in the order of the documents, and may say who asks."""
    asked = {"model": "tiny", "query": "q", "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    headers = {"Authorization": f"Bearer {KEY}", "X-OpenWebUI-User-Name": "a%20b", "X-OpenWebUI-User-Role": "user"}
    results = http.post("/v1/rerank", json=asked, headers=headers).json()["results"]
    assert [one["relevance_score"] for one in sorted(results, key=lambda one: one["index"])] == [1 / 3, 1 / 2, 1.0]


def test_prometheus_own_parser_reads_the_counts(http: httpx.Client) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    http.post("/v1/rerank", json={"query": "q", "documents": DOCUMENTS}, headers=headers)
    families = {
        one.name: one for one in parser.text_string_to_metric_families(http.get("/metrics", headers=headers).text)
    }
    assert families["rearank_request_seconds"].type == "histogram"
    assert families["rearank_requests"].type == "counter"
    [answered] = [one.value for one in families["rearank_requests"].samples if one.labels == {"status": "200"}]
    assert answered >= 1
    assert all(one.documentation for one in families.values())
