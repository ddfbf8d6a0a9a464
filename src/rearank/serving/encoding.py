"""JSON as it goes over the line."""

from __future__ import annotations

import json
from typing import Any


def as_json(content: Any) -> bytes:
    """``content`` as short as JSON can be; raises ``RecursionError`` for what is nested too deeply."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # What is sent back may hold lone surrogates, which only escapes can carry: Python's are JSON's.
    return text.encode("utf-8", "backslashreplace")
