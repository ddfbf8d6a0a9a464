"""The request's shape for ``/openapi.json``; ``request`` is what checks it."""

from __future__ import annotations

from typing import Any

_DOCUMENT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"text": {"type": "string"}, "title": {"type": "string"}},
            "required": ["text"],
        },
    ]
}

RERANK_SCHEMA: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["query", "documents"],
                    "properties": {
                        "query": {"type": "string"},
                        "documents": {"type": "array", "minItems": 1, "items": _DOCUMENT},
                        "top_n": {"type": "integer", "minimum": 1},
                        "return_documents": {"type": "boolean", "default": False},
                        "return_reasoning": {"type": "boolean", "default": False},
                        "rank_fields": {"type": "array", "items": {"type": "string"}},
                        "model": {"type": "string"},
                    },
                }
            }
        },
    }
}
