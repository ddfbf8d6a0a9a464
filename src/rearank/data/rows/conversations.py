"""Rows that are conversations: a prompt with its passages, and an answer, an order or grades to learn from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Literal, cast, get_args

from annotated_types import Ge

from rearank.checks import check_fields
from rearank.data.base import DataError
from rearank.data.files import shown
from rearank.data.rows.columns import check_named, grade_of, id_of, list_of, made_id, plain, text_of, value_of
from rearank.data.rows.tables import LeftOut, RowTable
from rearank.data.source import HeldRows, PromptedWindow
from rearank.parsing import ParsedRanking, ParseStatus, parse_ranking
from rearank.runs import CONTENT
from rearank.types import Message, Passage, Query, Role, Window, well_formed

_ROLES = get_args(Role)
# A passage begins a line with its identifier; a word may stand before it.
_SHOWN = re.compile(r"^[ \t]*(?:(?:passage|document|doc|text)[ \t]*)?\[(\d{1,4}|[A-Z])\]", re.MULTILINE | re.IGNORECASE)
_STATED = re.compile(r"\b(\d{1,4}) (?:passages|documents)\b")
_USABLE = (ParseStatus.OK, ParseStatus.PARTIAL)


@dataclass(frozen=True)
class ConversationColumns:
    """Names of a row's columns; dots lead into objects.

    The prompt is in ``messages``, or in ``user`` with a ``system`` message before it. The answer is the assistant's
    turn at the end of ``messages``, or in ``answer``.

    Args:
        messages: a list of objects with a role and a text.
        role: of a message.
        content: the text of a message.
        user: the prompt, where there are no ``messages``.
        system: a text that stands before ``user``.
        answer: an answer that isn't among the ``messages``.
        id: of the query; ``null``: it is made of the query's text.
        query: the query's text; ``null``: it is found in the prompt.
        order: the best order where there is no answer, as ``[3] > [1] > [2]``.
        grades: a list of the shown passages' grades, in their order; ``null``: they come from the order.
        relevant: a list of the ids of relevant passages, which have grade 1; it needs ``passages``.
        passages: a list of the ids of the shown passages, in their order; ``null``: as many as the prompt shows.
    """

    messages: str | None = "messages"
    role: str = "role"
    content: str = "content"
    user: str | None = None
    system: str | None = None
    answer: str | None = None
    id: str | None = None
    query: str | None = None
    order: str | None = None
    grades: str | None = None
    relevant: str | None = None
    passages: str | None = None

    def __post_init__(self) -> None:
        check_named(self, [("messages", "user")])
        if self.relevant is not None and (self.passages is None or self.grades is not None):
            raise ValueError("columns: relevant holds ids of passages, which need a name, too, and stands for grades")


@dataclass(frozen=True)
class ConversationRows:
    """A dataset of prompts that are shown as they are, with what their answers are judged by.

    The answer that comes with a row is what ``sft.targets=given`` learns; its order is the row's ``gold``, and where
    no column has grades, the best of n passages has grade n - 1 and the last, or one not named, 0.

    Args:
        name: of the dataset.
        path: a file (parquet, JSONL, JSON; also .gz), a folder of them, or a hub id.
        columns: what is where in a row.
        revision: a branch, tag or commit of the hub's; ``null`` for the newest.
        subset: of the hub's dataset; ``null`` for its default.
        split: of the hub's dataset, or of a folder whose files name it.
        roles: names of roles -> ``system``, ``user`` or ``assistant``, which are known by these names anyway.
        query_between: what stands before and behind the query in the prompt, where no column has it.
        letters: passages are labelled A, B, ... instead of 1, 2, ...
        prompt: the node of ``conf/prompt`` whose wording the rows show, ``null`` for none.
        max_rows: the first so many rows; ``null`` for all.
        on_bad_row: what happens to a row that can't be read, or whose answer names no order.
    """

    name: str
    path: str = field(metadata=CONTENT)
    columns: ConversationColumns = field(default_factory=ConversationColumns)
    revision: str | None = None
    subset: str | None = None
    split: str = "train"
    roles: Mapping[str, str] = field(default_factory=lambda: {"human": "user", "gpt": "assistant"})
    query_between: tuple[str, ...] = ()
    letters: bool = False
    prompt: str | None = None
    max_rows: Annotated[int, Ge(1)] | None = None
    on_bad_row: Literal["error", "skip"] = "error"

    def __post_init__(self) -> None:
        check_fields(self)
        if odd := [name for name, role in self.roles.items() if role not in _ROLES]:
            raise ValueError(f"roles: {odd[0]!r} must be {', '.join(_ROLES)}, not {self.roles[odd[0]]!r}")
        if self.columns.query is None and (len(self.query_between) != 2 or not all(self.query_between)):
            raise ValueError(
                "give columns.query a column, or query_between two texts, which stand before and behind the query in "
                "the prompt: benchmark queries among the rows are found by the query's text"
            )

    def preflight(self) -> list[str]:
        """What of the rows' place isn't there."""
        return self._table.preflight()

    def rows(self) -> HeldRows:
        """Every row."""
        windows: list[PromptedWindow] = []
        left_out = LeftOut()
        texts: dict[str, str] = {}
        for where, row in islice(self._table.read(), self.max_rows):
            try:
                if isinstance(row, DataError):
                    raise row
                window = self._window(row, where)
                query = window.window.query
                if texts.setdefault(query.id, query.text) != query.text:
                    raise DataError(f"{where}: query {shown(query.id)} has another text in a row before")
            except DataError as error:
                left_out.add(error, self.on_bad_row)
                continue
            if max(window.relevance) > 0:
                windows.append(window)
            else:
                left_out.counts["no relevant passage"] += 1
        left_out.say(self.path, len(windows), "rows")
        return HeldRows(tuple(windows), dict(left_out.counts))

    @property
    def _table(self) -> RowTable:
        return RowTable(self.path, self.revision, self.subset, self.split)

    def _window(self, row: Mapping[str, Any], where: str) -> PromptedWindow:
        prompt, answer = self._turns(row, where)
        query = self._query(row, prompt, where)
        ids = self._ids(row, prompt, where)
        gold = self._gold(row, answer, len(ids), where)
        relevance, ideal = self._grades(row, ids, gold, where)
        passages = tuple(Passage(one, "") for one in ids)
        return PromptedWindow(Window(query, passages), relevance, ideal, gold, prompt=prompt, completion=answer)

    def _turns(self, row: Mapping[str, Any], where: str) -> tuple[tuple[Message, ...], str | None]:
        """The prompt, and the answer if there is one."""
        columns = self.columns
        if columns.messages is not None:
            turns = [self._message(turn, where) for turn in list_of(row, columns.messages, where, "messages")]
        else:
            turns = [Message("user", text_of(row, cast(str, columns.user), where, "user"))]
            system = None if columns.system is None else value_of(row, columns.system, where, "system")
            if system is not None and not isinstance(system, str):
                raise DataError(f"{where}: column {columns.system!r} is {shown(system)}, and a text is expected")
            turns = [Message("system", well_formed(system)), *turns] if system else turns
        answer = None if columns.answer is None else text_of(row, columns.answer, where, "answer")
        if answer is None and turns and turns[-1].role == "assistant":
            answer = turns.pop().content
        if not turns or turns[-1].role != "user":
            raise DataError(f"{where}: the prompt must end with a turn of the user, before the assistant's answer")
        return tuple(turns), answer

    def _message(self, turn: Any, where: str) -> Message:
        columns = self.columns
        role, content = (
            (turn.get(columns.role), turn.get(columns.content)) if isinstance(turn, Mapping) else (None,) * 2
        )
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{where}: a message under {columns.messages!r} needs a text under {columns.role!r} and one under "
                f"{columns.content!r}; set dataset.columns.role=... and .content=..."
            )
        known = self.roles.get(role, role)
        if known not in _ROLES:
            raise DataError(
                f"{where}: role {shown(role)} is none of {', '.join((*_ROLES, *self.roles))}; say what it is: "
                "+dataset.roles.NAME=user"
            )
        return Message(cast(Role, known), well_formed(content))

    def _query(self, row: Mapping[str, Any], prompt: Sequence[Message], where: str) -> Query:
        columns = self.columns
        if columns.query is not None:
            text = text_of(row, columns.query, where, "query")
        else:
            text = self._query_in(prompt, where)
        return Query(made_id(text) if columns.id is None else id_of(row, columns.id, where, "id"), text)

    def _query_in(self, prompt: Sequence[Message], where: str) -> str:
        """What stands between the two texts, where they occur last; without the full stop that ends the sentence."""
        before, behind = self.query_between
        for turn in reversed(prompt):
            end = turn.content.rfind(behind)
            start = turn.content.rfind(before, 0, max(end, 0))
            if start >= 0:
                text = turn.content[start + len(before) : end].strip().removesuffix(".").strip()
                if text:
                    return text
        raise DataError(
            f"{where}: no query between {before!r} and {behind!r} in the prompt; set dataset.query_between=[...] to "
            "what stands before and behind it, or dataset.columns.query to its column"
        )

    def _ids(self, row: Mapping[str, Any], prompt: Sequence[Message], where: str) -> list[str]:
        """Of the passages in the order shown; made ones say which prompt and which place."""
        column = self.columns.passages
        if column is not None:
            ids = [plain(one, where, "passage") for one in list_of(row, column, where, "passages")]
            if len(set(ids)) < len(ids):
                raise DataError(f"{where}: a passage id occurs twice under {column!r}")
            shown_here = _size(prompt, self.letters)
            if shown_here >= 2 and shown_here != len(ids):
                raise DataError(f"{where}: {len(ids)} passage ids under {column!r}, and the prompt shows {shown_here}")
        else:
            made = made_id(*(turn.content for turn in prompt))
            ids = [f"{made}.{place + 1}" for place in range(_size(prompt, self.letters))]
        if len(ids) < 2:
            raise DataError(
                f"{where}: {len(ids)} passages, and a list to rank has at least two; a passage begins a line of the "
                "prompt with [1] or [A] (dataset.letters=true), or set dataset.columns.passages to a list of ids"
            )
        return ids

    def _gold(self, row: Mapping[str, Any], answer: str | None, size: int, where: str) -> tuple[int, ...] | None:
        """The positions that the order names, best first; ``None`` where grades alone are given."""
        columns = self.columns
        if columns.order is not None:
            text = text_of(row, columns.order, where, "order")
            read = parse_ranking(text, size, tags=False, letters=self.letters)
        elif answer is not None:
            read = _read(answer, size, self.letters)
        elif columns.grades is None and columns.relevant is None:
            raise DataError(f"{where}: the conversation ends without an answer; set dataset.columns.answer or .order")
        else:
            return None
        if read.status not in _USABLE:
            raise DataError(f"{where}: the answer names no order of the {size} passages ({read.status.value})")
        return read.permutation.order[: read.named]

    def _grades(
        self, row: Mapping[str, Any], ids: Sequence[str], gold: Sequence[int] | None, where: str
    ) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
        """In the order shown, and the query's ideal ones where a passage that isn't shown may be relevant."""
        columns = self.columns
        if columns.grades is not None:
            given = list_of(row, columns.grades, where, "grades")
            if len(given) != len(ids):
                raise DataError(f"{where}: {len(given)} grades under {columns.grades!r} for {len(ids)} passages")
            return tuple(grade_of(grade, where, columns.grades) for grade in given), None
        if columns.relevant is not None:
            relevant = {plain(one, where, "passage") for one in list_of(row, columns.relevant, where, "relevant")}
            return tuple(int(one in relevant) for one in ids), (1,) * len(relevant)
        by_place = dict.fromkeys(range(len(ids)), 0)
        by_place.update({position: len(ids) - 1 - place for place, position in enumerate(gold or ())})
        return tuple(by_place.values()), None


def _size(prompt: Sequence[Message], letters: bool) -> int:
    """How many passages are shown: as many lines as begin with 1, 2, ... in turn, or fewer where the prompt says so.

    A passage's own text may go on counting where the last identifier ends; the number in words stops it.
    """
    text = "\n".join(turn.content for turn in prompt)
    count, first = 0, len(text)
    for found in _SHOWN.finditer(text):
        label = found[1].upper()
        if label == (chr(ord("A") + count) if letters else str(count + 1)):
            first = found.start() if count == 0 else first
            count += 1
    stated = _STATED.search(text[:first])
    return min(count, int(stated[1])) if stated else count


def _read(answer: str, size: int, letters: bool) -> ParsedRanking:
    """With tags, where the answer has them."""
    read = parse_ranking(answer, size, letters=letters)
    if read.status is ParseStatus.NO_ANSWER_TAG:
        return parse_ranking(answer, size, tags=False, letters=letters)
    return read
