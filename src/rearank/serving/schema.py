"""The request's shape for ``/openapi.json``; ``request`` is what checks it."""

from __future__ import annotations

from typing import Any

_STRING, _FLAG = {"type": "string"}, {"type": "boolean", "default": False}
_OBJECT = {"type": "object", "properties": {"text": _STRING, "title": _STRING}, "required": ["text"]}
_PROPERTIES = {
    "query": _STRING,
    "documents": {"type": "array", "minItems": 1, "items": {"anyOf": [_STRING, _OBJECT]}},
    "top_n": {"type": "integer", "minimum": 1},
    "return_documents": _FLAG,
    "return_reasoning": _FLAG,
    "rank_fields": {"type": "array", "items": _STRING},
    "model": _STRING,
}
_BODY = {"type": "object", "required": ["query", "documents"], "properties": _PROPERTIES}

TOOL_SCHEMA: dict[str, Any] = {
    **_BODY,
    "properties": {name: _PROPERTIES[name] for name in ("query", "documents", "top_n", "return_documents")},
}
"""Of the tools of ``rearank.adapters.mcp``: the reasoning is a tool of its own."""

RERANK_SCHEMA: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": _BODY}}},
}
