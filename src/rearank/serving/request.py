"""A request's body -> checked values. Everything in it is untrusted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from sys import getsizeof
from typing import Any, NoReturn

from rearank.serving.encoding import as_json
from rearank.serving.limits import Serving
from rearank.types import Passage

_KNOWN = frozenset(
    ("query", "documents", "top_n", "top_k", "return_documents", "return_reasoning", "model", "rank_fields", "priority")
)
_MOST_WARNINGS = 10
# A string, closed or not, or a mark that a value begins or follows with.
_VALUE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{,]', re.S)


class RequestError(Exception):
    """A request that is answered with ``status`` and a message for its sender."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class RerankRequest:
    """What is to be reranked: ``passages`` what the model sees; ``documents`` as JSON where they are to be sent back.

    Nothing else of the body is kept: what a caller sends beside is held by nobody while the model works.
    """

    query: str
    documents: tuple[bytes, ...]
    passages: tuple[Passage, ...]
    top_n: int | None = None
    return_documents: bool = False
    return_reasoning: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that its texts take in memory."""
        texts = (text for passage in self.passages for text in (passage.text, passage.title))
        return getsizeof(self.query) + sum(map(getsizeof, texts)) + sum(map(getsizeof, self.documents))


def parse_request(body: bytes | bytearray, settings: Serving, models: frozenset[str]) -> RerankRequest:
    """Read a body of Cohere's or Jina's shape.

    Keys that mean nothing here are named in ``warnings``, so that none is dropped in silence.

    Raises:
        RequestError: 400 for what is no JSON object, 404 for a model that isn't served, 413 for too much, 422 for a
            value that can't be; the message names the key.
    """
    check_values(body, settings.max_values)
    return read_fields(_object(body), settings, models)


def read_fields(fields: Mapping[str, Any], settings: Serving, models: frozenset[str]) -> RerankRequest:
    """As ``parse_request``, of an object that came some other way: its values are as untrusted."""
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError(422, "model: a string is needed, or nothing")
    if model is not None and model not in models:
        raise RequestError(404, f"model: {_shown(model)} is not served here; this server's is {' or '.join(models)}")
    query = fields.get("query")
    if not isinstance(query, str) or not query.strip():
        raise RequestError(422, "query: a string with at least one word is needed")
    documents = fields.get("documents")
    if not isinstance(documents, list) or not documents:
        raise RequestError(422, "documents: a list of at least one string, or object with a string 'text', is needed")
    if len(documents) > settings.max_documents:
        raise RequestError(
            413, f"documents: {len(documents)} are more than the {settings.max_documents} served at once"
        )
    names = _rank_fields(fields.get("rank_fields"))
    return_documents = _flag(fields, "return_documents")
    passages = tuple(_passage(document, index, names) for index, document in enumerate(documents))
    characters = len(query) + sum(len(passage.text) + len(passage.title) for passage in passages)
    if characters > settings.max_characters:
        raise RequestError(
            413,
            f"query and documents: {characters} characters are more than the {settings.max_characters} served at once",
        )
    return RerankRequest(
        query,
        tuple(map(_sent_back, documents)) if return_documents else (),
        passages,
        _results(fields),
        return_documents,
        _flag(fields, "return_reasoning"),
        _unused(fields),
    )


def check_values(body: bytes | bytearray, most: int) -> None:
    """Raise ``RequestError`` 413 for a body of many small values: each takes much more memory than its characters.

    Commas and brackets within a text don't count; they are looked at only where they could matter.
    """
    if sum(map(body.count, (b"[", b"{", b",", b'"'))) > most and any(islice(_VALUE.finditer(body), most, None)):
        raise RequestError(
            413, f"the body holds more than the {most} strings, lists, objects and commas that this server takes"
        )


def _object(body: bytes | bytearray) -> dict[str, Any]:
    try:
        fields = json.loads(body.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers or nesting without end
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(400, f"the body is no JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise RequestError(400, "the body is no JSON object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _finite(digits: str) -> float:
    """A number as JSON writes it; what is beyond a float's range could not be sent back."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{_shown(digits)} is beyond the range of numbers here")
    return number


def _sent_back(document: Any) -> bytes:
    """A document as it will be sent back; raises ``RequestError`` for one that can be read but not be written again."""
    try:
        return as_json({"text": document} if isinstance(document, str) else document)
    except RecursionError:
        raise RequestError(400, "documents: one is nested too deeply to be sent back") from None


def _passage(document: Any, index: int, names: tuple[str, ...] | None) -> Passage:
    if isinstance(document, str):
        return Passage(str(index), document)
    if not isinstance(document, dict):
        raise RequestError(422, f"documents[{index}]: a string or an object with a string 'text' is needed")
    wanted = names or ("text",)
    for name in wanted:
        if not isinstance(document.get(name), str):
            raise RequestError(422, f"documents[{index}]: its {_shown(name)} is missing or no string")
    title = document.get("title")
    return Passage(
        str(index),
        "\n".join(document[name] for name in wanted),
        title if names is None and isinstance(title, str) else "",
    )


def _rank_fields(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise RequestError(422, "rank_fields: a list of at least one key of the documents is needed")
    if len(set(value)) < len(value):
        raise RequestError(422, "rank_fields: a key is named twice")
    return tuple(value)


def _results(fields: Mapping[str, Any]) -> int | None:
    """How many results are wanted: Cohere's and Jina's ``top_n``, others' ``top_k``."""
    wanted = {name: fields[name] for name in ("top_n", "top_k") if fields.get(name) is not None}
    for name, value in wanted.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestError(422, f"{name}: a whole number of at least 1 is needed")
    if len(set(wanted.values())) > 1:
        raise RequestError(422, "top_n and top_k mean the same and differ: send one of them")
    return next(iter(wanted.values()), None)


def _unused(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The first keys that mean nothing here, and how many there are more: a caller decides how many that is."""
    unused = sorted(name for name, value in fields.items() if name not in _KNOWN and value is not None)
    if fields.get("truncation") is True:  # Voyage's: long documents may be cut, as they are here
        unused.remove("truncation")
    lines = [f"{_shown(name)} means nothing to this server and was not used" for name in unused[:_MOST_WARNINGS]]
    if len(unused) > _MOST_WARNINGS:
        lines.append(f"{len(unused) - _MOST_WARNINGS} more keys mean nothing to this server and were not used")
    return tuple(lines)


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise RequestError(422, f"{name}: true or false is needed")
    return bool(value)


def _shown(value: str) -> str:
    """Untrusted text in a message: short, and in ASCII."""
    return ascii(value[:80])[:80]
