"""Topics: the queries of a collection, from TREC's tagged files, XML, TSV or JSONL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rearank.data.base import DataError
from rearank.data.files import (
    blocks,
    cells_of,
    field,
    format_of,
    plain_text,
    read_id,
    read_json_lines,
    read_lines,
    shown,
    unique,
)
from rearank.types import Query, well_formed

_RECORD = re.compile(r"<(top|topic|query)(?:\s[^<>]*)?>", re.I)
_NUMBER = re.compile(r"<(?:num|number|identifier|id|qid)>\s*+(?:Number:\s*+)?([^\s<]+)", re.I)
_ATTRIBUTE = re.compile(r"\b(?:number|num|id|qid)\s*=\s*[\"']([^\"'<>]*)[\"']", re.I)
# TREC's older files close no tag: a title ends where the next field begins.
_TEXTS = [
    re.compile(rf"<{tag}>\s*(?:Topic:)?(.*?)(?=<(?:/{tag}|desc|narr|question|query|/top)|\Z)", re.I | re.S)
    for tag in ("title", "query", "content")
]
_XML = " (or number=... and <query>, as in XML)"
_TAGGED = re.compile(r"<([a-z][\w-]*+)[^<>]*>", re.I)


def read_topics(path: str | Path) -> dict[str, Query]:
    """Queries from TREC topics or XML (the title or query is the text), TSV (id, text) or JSONL, told by content."""
    kind = format_of(path, "topics file")
    if kind == "sgml":
        rows = _tagged_topics(path)
    elif kind == "jsonl":
        rows = _jsonl_topics(path)
    else:
        rows = _tsv_topics(path)
    queries: dict[str, Query] = {}
    for number, identifier, text in rows:
        query = Query(read_id(identifier, f"{path}:{number}", "query"), well_formed(text))
        unique(queries, query.id, f"{path}:{number}", "query id")
        if not query.text:
            raise DataError(f"{path}:{number}: query {shown(query.id)} has no text; write one or remove the query")
        queries[query.id] = query
    if not queries:
        raise DataError(f"{path}:1: no query in it; give a file of topics")
    return queries


def _tagged_topics(path: str | Path) -> Iterator[tuple[int, str, str]]:
    first = next((found[1] for _, line in read_lines(path) if (found := _RECORD.search(line))), None)
    if first is None:
        raise DataError(f"{path}:1: no <top> or <topic> in it; wrap each query in <top>, with a <num> and a <title>")
    for number, attributes, block in blocks(path, first):
        named = _ATTRIBUTE.search(attributes) or _NUMBER.search(block)
        if named is None:
            raise DataError(f"{path}:{number}: a topic without <num> or <title>{_XML}; it has no number")
        yield number, named[1], " ".join(plain_text(_text(block, f"{path}:{number}")).split())


def _text(block: str, where: str) -> str:
    """What stands under the first of the tags for it; all there is where a topic has no fields."""
    for tag in _TEXTS:
        if found := tag.search(block):
            return found[1]
    if fields := dict.fromkeys(f"<{name.lower()}>" for name in _TAGGED.findall(block)):
        raise DataError(
            f"{where}: a topic without <num> or <title>{_XML}; it has {', '.join(fields)[:200]}: rename the one that "
            "is to be the query to <title>"
        )
    return block


def _tsv_topics(path: str | Path) -> Iterator[tuple[int, str, str]]:
    for number, cells in cells_of(path, separator="\t"):
        if len(cells) != 2:
            raise DataError(f"{path}:{number}: {len(cells)} columns where 2 are expected (query id, tab, text)")
        yield number, cells[0], cells[1].strip()


def _jsonl_topics(path: str | Path) -> Iterator[tuple[int, str, str]]:
    keys = ("_id", "id", "qid", "query_id")
    for number, row in read_json_lines(path):
        where = f"{path}:{number}"
        yield number, field(row, keys, where), field(row, ("text", "query", "title"), where).strip()
