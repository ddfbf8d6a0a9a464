"""A row with any value in any place is read, or counted as a bad one; the rows beside it stay as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.test_conversations import ALPACA, REASONED, RL, SHAREGPT, SYSTEM, TEXTS, ZEPHYR, asked
from tests.data.test_conversations import dataset as conversations
from tests.data.test_row_tables import BGE, BGE_COLUMNS, OWN, TEVATRON
from tests.data.test_row_tables import dataset as graded

from rearank.data.rows.graded import GradedColumns, GradedRows

TEVATRONS = GradedColumns("query_id", "query", None, None, "positive_passages", "negative_passages", "docid")
RL_ROW: dict[str, Any] = {
    "prompt": [{"role": "user", "content": asked(TEXTS)}],
    "reward_model": {"ground_truth": "[2] > [3] > [1]"},
    "extra_info": {"initial_list": ["d1", "d2", "d3"], "relevant_docids": ["d3"]},
}
SHAPES = {
    "own": (OWN[0], lambda path: graded(path, on_bad_row="skip")),
    "tevatron": (TEVATRON[0], lambda path: graded(path, TEVATRONS, on_bad_row="skip")),
    "bge": (BGE[0], lambda path: graded(path, BGE_COLUMNS, on_bad_row="skip")),
    "zephyr": (ZEPHYR, lambda path: conversations(path, SHAREGPT, on_bad_row="skip")),
    "rl": (RL_ROW, lambda path: conversations(path, RL, on_bad_row="skip")),
    "sft": (
        {"system": SYSTEM, "instruction": asked(TEXTS), "output": REASONED},
        lambda path: conversations(path, ALPACA, on_bad_row="skip"),
    ),
}
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(
        ["", " ", "d1", "\ud800", "a\0b", "[1]", "[9] > [1]", "<answer>", "Rank the Search Query: ", "x" * 3000]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "text", "role", "x"]), inner),
    max_leaves=5,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*above, key)
        yield from places(one, (*above, key))


@pytest.mark.parametrize("shape", SHAPES)
def test_any_value_in_any_place(shape: str, tmp_path: Path) -> None:
    row, reader = SHAPES[shape]
    path = tmp_path / "rows.jsonl"

    @given(st.data())
    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def read(data: st.DataObject) -> None:
        spoilt = copy.deepcopy(row)
        *way, last = data.draw(st.sampled_from(list(places(row))))
        inside: Any = spoilt
        for key in way:
            inside = inside[key]
        inside[last] = data.draw(ODD)
        path.write_text(f"{json.dumps(row)}\n{json.dumps(spoilt)}\n")
        source = reader(path)
        found = source.judged(9) if isinstance(source, GradedRows) else source.rows().windows
        shown = str(found).encode()  # no half of a character is left in it
        assert b"[2] > [3] > [1]" in shown or b"nectar" in shown

    read()
