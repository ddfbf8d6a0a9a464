"""What a request is answered with: Cohere's fields, Jina's and Voyage's, which don't contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rearank.reranker import RerankResult, WindowTrace
from rearank.serving.encoding import as_json
from rearank.serving.request import RerankRequest


def render(request_id: str, version: str, model: str, request: RerankRequest, result: RerankResult) -> bytes:
    """The answer's body.

    ``relevance_score`` is 1 / rank: it falls with the rank and says nothing else.
    """
    kept = result.passages[: request.top_n]
    ranked = placed = [as_json({"index": item.index, "relevance_score": item.score}) for item in kept]
    if request.return_documents:
        ranked = [
            b'%b,"document":%b}' % (entry[:-1], request.documents[item.index])
            for entry, item in zip(ranked, kept, strict=True)
        ]
    tokens = {"input_tokens": result.prompt_tokens, "output_tokens": result.completion_tokens}
    meta: dict[str, Any] = {"api_version": {"version": version}, "tokens": tokens}
    if result.shortened:
        meta["shortened_documents"] = result.shortened
    if warnings := [*request.warnings, *_unread(result), *_not_read(result)]:
        meta["warnings"] = warnings
    head = as_json({"id": request_id, "model": model, "object": "list"})
    answer: dict[str, Any] = {
        "meta": meta,
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "total_tokens": result.prompt_tokens + result.completion_tokens,
        },
    }
    if request.return_reasoning:
        answer["reasoning"] = [_window(window) for window in result.windows]
    # Voyage's clients read ``data``, and their documents by its indexes.
    lists = b'"results":[%b],"data":[%b]' % (b",".join(ranked), b",".join(placed))
    return b"%b,%b,%b" % (head[:-1], lists, as_json(answer)[1:])


def _unread(result: RerankResult) -> list[str]:
    """A caller must be able to tell a ranking from an answer that could not be parsed."""
    lost = sum(count for status, count in result.statuses.items() if status != "ok")
    read = ", ".join(f"{count} {status}" for status, count in result.statuses.items())
    return [f"{lost} of {result.calls} answers of the model were not in order ({read})"] if lost else []


def _not_read(result: RerankResult) -> Iterator[str]:
    """What the model did not see: of a document that is longer than a prompt shows, of a prompt beyond its context."""
    if count := len(result.shortened):
        yield f"{count} documents are longer than this model's prompt shows: it read their beginnings"
    if cut := sum(window.prompt_truncated for window in result.windows):
        yield f"{cut} of {result.calls} prompts were cut to fit the model's context: some documents there were not read"
    if ended := sum(window.cut for window in result.windows):
        yield f"{ended} of {result.calls} answers of the model ended at its limit of tokens"


def _window(window: WindowTrace) -> dict[str, Any]:
    return {
        "documents": window.shown,
        "order": window.ordered,
        "status": window.status.value if window.status is not None else None,
        "think": window.think,
        "answer": window.answer,
        "prompt_tokens": window.prompt_tokens,
        "completion_tokens": window.completion_tokens,
        "seconds": window.seconds,
        "cut": window.cut,
        "prompt_truncated": window.prompt_truncated,
    }
