"""``key=value`` as a user writes it -> as Hydra's grammar reads it.

Hydra's grammar gives ``=``, commas, ``~``, brackets and every letter outside ASCII a meaning of its own, or none.
Checkpoints, sweep folders and names hold them all the time: what the grammar can't read is put in quotes here where
that leaves one meaning, and named with its quoted forms where it leaves several.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rearank.config import ConfigError

_ARGUMENT = re.compile(r"([+~]{0,2}[^\s=+~'\"\[\]{}()-][^\s='\"\[\]{}()]*)=(.*)", re.DOTALL)
_FUNCTION = re.compile(r"\s*(int|str|bool|float|choice|range|interval|tag|sort|shuffle|glob|extend_list)\s*\(")
_LABELLED = re.compile(r"([^/=,]+)=(.+)", re.DOTALL)
_WITH_VALUE = frozenset(("-c", "--cfg", "-p", "--package", "-i", "--info", "--experimental-rerun"))
_WITH_PLACE = frozenset(("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"))
_MULTIRUN = frozenset(("-m", "--multirun"))
_PAIRS = {"[": "]", "{": "}", "(": ")"}


class ArgumentError(ConfigError):
    """An argument that has no single meaning; the message shows the forms that have one."""


def accepted(arguments: Sequence[str]) -> list[str]:
    """``arguments`` of a command line, with quotes where Hydra needs them, and options first: its parser wants them so.

    Raises:
        ArgumentError: for a value that could mean two things, or that nothing can be made of.
    """
    several = not _MULTIRUN.isdisjoint(arguments)
    options, values, before = [], [], ""
    for argument in arguments:
        if argument.startswith("-") or before in _WITH_VALUE | _WITH_PLACE:
            options.append(argument)
        else:
            values.append(_accepted(argument, several))
        before = argument
    return options + values


def written(key: str, values: Iterable[str] | str) -> str:
    """``key=value``, the value in Hydra's quotes and all of it in the shell's; several are swept over."""
    texts = [values] if isinstance(values, str) else list(values)
    return shlex.quote(f"{key}={','.join(map(_in_quotes, texts))}")


def _accepted(argument: str, several: bool) -> str:
    match = _ARGUMENT.fullmatch(argument)
    if match is None:
        return argument  # Hydra names it
    key, value = match.groups()
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{key}: its value is not valid UTF-8; write it in UTF-8") from None
    if _is_read(argument):
        # A comma is a sweep's; without one it can only be part of a path, which is there.
        whole = not several and "," in value and value[0] not in "['\"{" and _is_there(value)
        return f"{key}={_in_quotes(value)}" if whole else argument
    text = value.strip()
    if text.startswith("["):
        return f"{key}={_list(key, text)}"
    if not text or text[0] in "'\"{" or "${" in text or _FUNCTION.match(text):
        raise ArgumentError(f"{key}: {_shown(key, text)} can't be read; as plain text it is {_form(key, text)}")
    if "," not in text or not several or _is_there(text):
        return f"{key}={_in_quotes(text)}"
    pieces = text.split(",")
    if any("=" in piece and "/" not in piece for piece in pieces[1:]) and not all(map(_is_there, pieces)):
        raise ArgumentError(
            f"{key}: {_shown(key, text)} may be one value or several to sweep over; for one write "
            f"{_form(key, text)}, for several {_form(key, pieces)}"
        )
    return f"{key}={','.join(map(_in_quotes, pieces))}"


def _list(key: str, text: str) -> str:
    """A list whose elements are paths or labelled paths: a path with commas in it is recognised where it is there."""
    pieces = _split(text[1:-1]) if text.endswith("]") else None
    if pieces is None:
        raise ArgumentError(
            f"{key}: {_shown(key, text)} can't be read: its brackets or quotes don't match; write "
            + shlex.quote(f'{key}=["a","b"]')
        )
    elements: list[str] = []
    start = 0
    while start < len(pieces):
        ends = range(len(pieces), start + 1, -1)
        end = next((end for end in ends if _is_there(",".join(pieces[start:end]).strip())), start + 1)
        element = ",".join(pieces[start:end]).strip()
        alone = end == start + 1
        tail = alone and start and "=" in element and "/" not in element and "=" in pieces[start - 1]
        if tail and not _is_there(element):
            whole, parts = [text[1:-1].strip()], [piece.strip() for piece in pieces]
            forms = [shlex.quote(f"{key}=[{','.join(map(_in_quotes, one))}]") for one in (whole, parts)]
            raise ArgumentError(
                f"{key}: {_shown(key, text)} may be one path with a comma or several, and there is no such path; "
                f"for one write {forms[0]}, for several {forms[1]}"
            )
        elements.append(element if alone and _is_read(f"x=[{element}]") else _in_quotes(element))
        start = end
    made = f"[{','.join(elements)}]"
    if not _is_read(f"x={made}"):
        raise ArgumentError(f"{key}: {_shown(key, text)} can't be read; as plain text it is {_form(key, text)}")
    return made


def _split(text: str) -> list[str] | None:
    """At the commas outside of brackets and quotes; ``None`` where these don't match."""
    pieces, awaited, last = [""], [""], ""
    for letter in text:
        if awaited[-1] in ("'", '"'):
            if letter == awaited[-1] and last != "\\":
                awaited.pop()
        elif letter in _PAIRS or (letter in "'\"" and not pieces[-1].strip()):
            awaited.append(_PAIRS.get(letter, letter))
        elif letter == awaited[-1]:
            awaited.pop()
        elif letter in _PAIRS.values():
            return None
        elif letter == "," and len(awaited) == 1:
            pieces.append("")
            continue
        pieces[-1] += letter
        last = letter
    return pieces if len(awaited) == 1 else None


def _is_read(argument: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return True


def _is_there(text: str) -> bool:
    """Whether it is a path that exists, after its label where it has one."""
    labelled = _LABELLED.fullmatch(text)
    for path in (text, labelled.group(2) if labelled else ""):
        try:
            if path and Path(_at_home(path)).exists():
                return True
        except (OSError, ValueError):  # too long for a path, a null byte
            continue
    return False


def _at_home(path: str) -> str:
    return str(Path(path).expanduser()) if path.startswith("~/") else path


def _in_quotes(text: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    labelled = _LABELLED.fullmatch(text)
    if labelled and labelled.group(2).startswith("~/"):
        text = f"{labelled.group(1)}={_at_home(labelled.group(2))}"
    return str(QuotedString(text=_at_home(text.strip()), quote=Quote.double).with_quotes())


def _shown(key: str, text: Any) -> str:
    return "its value" if _is_secret(key) else repr(text[:200])


def _form(key: str, values: Iterable[str] | str) -> str:
    return written(key, "..." if _is_secret(key) else values)


def _is_secret(key: str) -> bool:
    """Whether a key may be pasted there: it would go to logs."""
    return re.search(r"(key|token|secret|password)(_variable)?$", key, re.IGNORECASE) is not None
