"""Others' texts in a model card: names, commands and settings stay what they say, and no part of them is markup.

A dataset, a benchmark, a model and a folder are named by users, and a card is read by the hub's renderer and its parser
of YAML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

_MARKUP = re.compile(r"[&<>|`*\[\]\\~$#]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|://|(?<=www)\.|@(?=\w)")
_TICKS = re.compile(r"`+")
_LONGEST = 300  # characters of a name


def plain(text: object) -> str:
    """One line without characters that nobody sees, and no longer than a name is."""
    line = " ".join(str(text).split())
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def inline(text: object) -> str:
    """``plain`` as Markdown that is read as nothing but this text, in a table's cell, too.

    Words of ours must stand before it: what a line begins with may be markup whatever it is.
    """
    return _MARKUP.sub(lambda found: "".join(f"&#{ord(one)};" for one in found[0]), plain(text))


def fenced(text: str, language: str = "") -> str:
    """A block of code that no line of ``text`` can end."""
    visible = "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)
    ticks = "`" * max(3, 1 + max(map(len, _TICKS.findall(visible)), default=0))
    return f"{ticks}{language}\n{visible.rstrip()}\n{ticks}"


def as_yaml(value: Mapping[str, Any]) -> str:
    """Keys in their order, a line for each value that is a text."""
    found: str = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=float("inf"))
    return found
