"""One HTML file that needs nothing else: our styles and scripts, and the data as JSON that no text in it can leave.

The content security policy allows exactly this style and this script (by their hashes) and images in ``data:`` URIs;
everything else, the network included, is refused by the browser whatever a passage or an answer says.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

_SCRIPTS = ("dom.js", "charts.js", "results.js", "training.js", "queries.js", "windows.js", "more.js", "page.js")
_STYLE, _FRAME = "report.css", "report.html"
# Inside <script> only these could end the block or start a comment; U+2028/9 end lines in old JavaScript.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def render(title: str, blocks: Mapping[str, Any]) -> str:
    """The page.

    Args:
        title: of the page; any text.
        blocks: id -> JSON value; ``data`` is read at once, others when they are needed.

    Raises:
        ValueError: for a number that JSON doesn't have (NaN, infinity).
    """
    style, script = _asset(_STYLE), "\n".join(_asset(name) for name in _SCRIPTS)
    data = "\n".join(
        f'<script type="application/json" id="{escape(name)}">{as_json(value)}</script>'
        for name, value in blocks.items()
    )
    slots = {
        "title": escape(_SURROGATE.sub("\ufffd", title)),
        "policy": (
            f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "script": script,
        "data": data,
    }
    return _SLOT.sub(lambda slot: slots[slot.group(1)], _asset(_FRAME))


def as_json(value: Any) -> str:
    """JSON that may stand inside ``<script>``: no ``<``, ``>`` or ``&``, and valid Unicode."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _SURROGATE.sub("\ufffd", text.translate(_ESCAPES))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return files("rearank.report").joinpath("assets", name).read_text("utf-8")
