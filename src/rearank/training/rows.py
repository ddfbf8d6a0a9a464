"""Training rows: judged windows as parquet in verl's schema, which both trainers read.

Columns: ``data_source`` · ``prompt`` (messages) · ``ability`` · ``reward_model`` (``style``, and as ``ground_truth``
the grades in window order with the query's ideal ones, and ``gold``, a teacher's order, in files where a row has one) ·
``extra_info`` (``index``, ``split``, ``query_id``, ``query``, ``passage_ids`` in window order) · ``completion`` (an
answer to learn from, in files where a row has one).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from rearank.data import PromptedWindow
from rearank.neutral import reserved_of, without_tokens
from rearank.prompts import Prompt, Tokenizer
from rearank.types import JudgedWindow, Message, Passage, Query, Window

ABILITY = "rerank"
VERSION = "1"
_VERSION_KEY = b"rearank.rows"
_WORDING_KEY = b"rearank.wording"
_ROLES = ("system", "user", "assistant")


class RowError(ValueError):
    """A row that can't be trained on; the message names the file and the row's index."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One prompt and what its answers are judged by; the window's passages carry ids, their text is in ``prompt``."""

    index: int
    data_source: str
    split: str
    prompt: tuple[Message, ...]
    judged: JudgedWindow
    wording: str | None = None
    """The prompt's own words, where all other text in it was neutralised; ``None`` for a prompt that is verbatim."""
    completion: str | None = None
    """An answer to learn from, as the model would write it: a teacher's, or one that came with the dataset."""


def write_rows(
    path: str | Path,
    windows: Sequence[JudgedWindow],
    prompt: Prompt,
    data_source: str,
    split: str,
    *,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Render ``windows`` and write them; the file appears whole or not at all.

    Args:
        path: the parquet file; its folder is made.
        windows: in the order in which the rows are numbered.
        prompt: the wording; a ``PromptedWindow`` has its own.
        data_source: where they come from; verl reports per source.
        split: ``train`` or ``validation``.
        tokenizer: needed by a prompt that cuts by tokens.

    Raises:
        OSError: where the file can't be written.
    """

    def shown(judged: JudgedWindow) -> tuple[Message, ...]:
        return judged.prompt if isinstance(judged, PromptedWindow) else prompt.render(judged.window, tokenizer)

    def wording(judged: JudgedWindow) -> str | None:
        return None if isinstance(judged, PromptedWindow) else getattr(prompt, "wording", None)

    save_rows(
        path,
        [
            TrainingRow(
                index, data_source, split, shown(judged), judged, wording(judged), getattr(judged, "completion", None)
            )
            for index, judged in enumerate(windows)
        ],
    )


def save_rows(path: str | Path, rows: Sequence[TrainingRow]) -> None:
    """Write rows; the file appears whole or not at all. Raises ``OSError`` where it can't be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    windows = [row.judged for row in rows]
    turns = [message for row in rows for message in row.prompt]
    messages = pa.StructArray.from_arrays(
        [pa.array([m.role for m in turns], pa.string()), pa.array([_valid(m.content) for m in turns], pa.string())],
        names=["role", "content"],
    )
    relevance = _lists([judged.relevance for judged in windows], pa.int32())
    ideal = _lists([judged.ideal if judged.ideal is not None else () for judged in windows], pa.int32())
    has_ideal = pa.array([judged.ideal is not None for judged in windows], pa.bool_())
    truths = {"relevance": relevance, "ideal": ideal, "has_ideal": has_ideal}
    if any(judged.gold is not None for judged in windows):  # an optional field: files without it stay as they were
        truths["gold"] = pa.array([judged.gold for judged in windows], pa.list_(pa.int32()))
    truth = pa.StructArray.from_arrays(list(truths.values()), names=list(truths))
    extra = pa.StructArray.from_arrays(
        [
            pa.array([row.index for row in rows], pa.int64()),
            pa.array([row.split for row in rows], pa.string()),
            pa.array([judged.window.query.id for judged in windows], pa.string()),
            pa.array([_valid(judged.window.query.text) for judged in windows], pa.string()),
            _lists([[passage.id for passage in judged.window.passages] for judged in windows], pa.string()),
        ],
        names=["index", "split", "query_id", "query", "passage_ids"],
    )
    style = pa.array(["rule"] * len(windows), pa.string())
    columns = {
        "data_source": pa.array([row.data_source for row in rows], pa.string()),
        "prompt": pa.ListArray.from_arrays(_offsets([row.prompt for row in rows]), messages),
        "ability": pa.array([ABILITY] * len(windows), pa.string()),
        "reward_model": pa.StructArray.from_arrays([style, truth], names=["style", "ground_truth"]),
        "extra_info": extra,
    }
    if any(row.completion is not None for row in rows):
        answers = [row.completion if row.completion is None else _valid(row.completion) for row in rows]
        columns["completion"] = pa.array(answers, pa.string())
    table = pa.table(columns).replace_schema_metadata({_VERSION_KEY: VERSION.encode(), **_words(rows)})
    scratch = path.with_name(path.name + ".partial")
    pq.write_table(table, scratch, compression="zstd", compression_level=1, use_dictionary=False)
    scratch.replace(path)


def read_rows(path: str | Path) -> list[TrainingRow]:
    """Every row of the file, checked.

    Raises:
        RowError: naming the file, the row's index and what is wrong with it.
        FileNotFoundError: where there is no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no training rows here; run task=prepare first")
    try:
        table = pq.read_table(path)
        records = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        cause = str(error).partition("\n")[0]
        raise RowError(
            f"{path}: not a parquet file, or a damaged one ({cause}); run task=prepare rerun=true"
        ) from error
    missing = {"data_source", "prompt", "reward_model", "extra_info"} - set(table.column_names)
    if missing:
        raise RowError(f"{path}: no column {', '.join(sorted(missing))}; rows come from task=prepare")
    version = (table.schema.metadata or {}).get(_VERSION_KEY, VERSION.encode()).decode()
    if version != VERSION:
        raise RowError(f"{path}: rows of version {version}, this rearank reads {VERSION}; run task=prepare again")
    if not table.num_rows:
        raise RowError(f"{path}: no row; loosen augmentation.filter, or give more judged queries")
    rows = []
    wording = (table.schema.metadata or {}).get(_WORDING_KEY)
    for number, record in enumerate(records):
        try:
            rows.append(replace(_row(record), wording=wording.decode() if wording is not None else None))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise RowError(f"{path}: row {number}: {reason}") from error
    return rows


def _row(record: Mapping[str, Any]) -> TrainingRow:
    extra, truth = record["extra_info"], record["reward_model"]["ground_truth"]
    if len(truth["relevance"]) < 2:
        raise ValueError(f"{len(truth['relevance'])} graded passages; a window to rank has at least 2")
    messages = tuple(Message(turn["role"], turn["content"]) for turn in record["prompt"])
    if not messages or any(m.role not in _ROLES or not isinstance(m.content, str) for m in messages):
        raise ValueError(f"prompt must be chat messages with a role of {', '.join(_ROLES)} and a text")
    if messages[-1].role == "assistant":
        raise ValueError("prompt ends with the assistant's turn, which leaves nothing to answer")
    return TrainingRow(
        index=int(extra["index"]),
        data_source=record["data_source"],
        split=extra["split"],
        prompt=messages,
        judged=judged_window(truth, extra),
        completion=record.get("completion"),
    )


def chats(rows: Sequence[TrainingRow]) -> list[list[dict[str, str]]]:
    """Each row's prompt as chat templates take it."""
    return [[asdict(message) for message in row.prompt] for row in rows]


def guarded(rows: Sequence[TrainingRow], tokenizer: Any) -> list[TrainingRow]:
    """The rows, with what their texts hold of the tokenizer's added tokens neutralised; verbatim prompts stay."""
    reserved = reserved_of(tokenizer)
    if reserved is None:
        return list(rows)
    return [
        row
        if row.wording is None
        else replace(
            row,
            prompt=tuple(replace(m, content=without_tokens(m.content, reserved, row.wording)) for m in row.prompt),
        )
        for row in rows
    ]


def judged_window(truth: Mapping[str, Any], extra: Mapping[str, Any]) -> JudgedWindow:
    """What an answer to a row is judged by, of its ``ground_truth`` and ``extra_info``; passages carry ids only."""
    passages = tuple(Passage(passage_id, "") for passage_id in extra["passage_ids"])
    ideal = tuple(int(grade) for grade in truth["ideal"]) if truth["has_ideal"] else None
    relevance = tuple(int(grade) for grade in truth["relevance"])
    gold = None if truth.get("gold") is None else tuple(int(position) for position in truth["gold"])
    return JudgedWindow(Window(Query(extra["query_id"], extra["query"]), passages), relevance, ideal, gold)


def _offsets(lists: Iterable[Sequence[Any]]) -> Any:
    import pyarrow as pa

    return pa.array([0, *accumulate(map(len, lists))], pa.int32())


def _lists(lists: Sequence[Sequence[Any]], kind: Any) -> Any:
    """A column of lists, built flat: a Python object for each inner value would take most of the time."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(_offsets(lists), pa.array([v for values in lists for v in values], kind))


def _words(rows: Sequence[TrainingRow]) -> dict[bytes, bytes]:
    """The wording as a file's metadata: rows of a file have one prompt."""
    wordings = {row.wording for row in rows}
    wording = wordings.pop() if len(wordings) == 1 else None
    return {} if wording is None else {_WORDING_KEY: wording.encode()}


def _valid(text: str) -> str:
    """Parquet stores valid Unicode only; a lone surrogate in a passage becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
