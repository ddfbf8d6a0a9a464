"""Conversations as rows: the prompt is shown as it is, the answer's order is what is learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.rearank_rows import write_jsonl, write_parquet

from rearank.data import DataError, HoldsRows, JudgedSource, PromptedWindow
from rearank.data.rows.conversations import ConversationColumns, ConversationRows
from rearank.types import Message

Row = dict[str, Any]
SYSTEM = "You are RankLLM, an intelligent assistant."
BETWEEN = ("Search Query: ", "Rank the")
SHAREGPT = ConversationColumns("conversations", "from", "value")
ALPACA = ConversationColumns(None, user="instruction", system="system", answer="output")
RL = ConversationColumns(
    "prompt",
    order="reward_model.ground_truth",
    passages="extra_info.initial_list",
    relevant="extra_info.relevant_docids",
)


def asked(texts: list[str], query: str = "what do bees eat", letters: bool = False) -> str:
    labels = [chr(65 + n) if letters else str(n + 1) for n in range(len(texts))]
    passages = "\n".join(f"[{label}] {text}" for label, text in zip(labels, texts, strict=True))
    number = len(texts)
    return (
        f"I will provide you with {number} passages, each indicated by a numerical identifier []. Rank the passages "
        f"based on their relevance to the search query: {query}.\n{passages}\nSearch Query: {query}.\nRank the "
        f"{number} passages above based on their relevance to the search query. The format is [] > [], e.g., [2] > [1]."
    )


TEXTS = ["A bee can fly.", "Bees eat nectar.", "Wasps eat fruit."]
ZEPHYR: Row = {
    "id": "1",
    "conversations": [
        {"from": "system", "value": SYSTEM},
        {"from": "human", "value": asked(TEXTS)},
        {"from": "gpt", "value": "[2] > [3] > [1]"},
    ],
}
REASONED = "<think> Is [1] better than [3]? No. </think> <answer> [2] > [3] > [1] </answer>"


def dataset(path: Path, columns: ConversationColumns = SHAREGPT, **more: Any) -> ConversationRows:
    return ConversationRows("mini", str(path), columns, **{"query_between": BETWEEN, **more})


def only(tmp_path: Path, row: Row, columns: ConversationColumns = SHAREGPT, **more: Any) -> PromptedWindow:
    (window,) = dataset(write_jsonl(tmp_path / "r.jsonl", [row]), columns, **more).rows().windows
    return window


def check_bees(window: PromptedWindow, completion: str | None) -> None:
    assert window.prompt == (Message("system", SYSTEM), Message("user", asked(TEXTS)))
    assert window.completion == completion
    assert window.window.query.text == "what do bees eat"
    assert len(window.window.passages) == 3
    assert window.gold == (1, 2, 0)


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
def test_rankzephyrs_conversations(name: str, tmp_path: Path) -> None:
    write = write_parquet if name.endswith("parquet") else write_jsonl
    source = dataset(write(tmp_path / name, [ZEPHYR]))
    assert isinstance(source, HoldsRows)
    assert not isinstance(source, JudgedSource), "prompts are made already"
    assert source.preflight() == []
    (window,) = source.rows().windows
    check_bees(window, "[2] > [3] > [1]")
    assert window.relevance == (0, 2, 1), "by place"
    assert window.ideal is None


def test_reasonranks_fine_tuning_rows_in_a_json_array(tmp_path: Path) -> None:
    path = tmp_path / "reasonrank_sft-data.json"
    row = {"system": SYSTEM, "instruction": asked(TEXTS), "input": "", "output": REASONED}
    path.write_text(json.dumps([row, {**row, "system": ""}], indent=2))
    first, second = dataset(path, ALPACA).rows().windows
    check_bees(first, REASONED)
    assert first.relevance == (0, 2, 1), "identifiers in the reasoning aren't the order"
    assert [turn.role for turn in second.prompt] == ["user"]
    assert first.window.query == second.window.query, "the same text"
    assert {p.id for p in first.window.passages}.isdisjoint(p.id for p in second.window.passages)


def test_reasonranks_reinforcement_learning_rows(tmp_path: Path) -> None:
    row = {
        "data_source": "ranking",
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked(TEXTS)}],
        "reward_model": {"style": "rule", "ground_truth": "[2] > [3] > [1]"},
        "extra_info": {
            "initial_list": ["d1", "d2", "d3"],
            "final_list": ["d2", "d3", "d1"],
            "relevant_docids": ["d3", "d9"],
        },
    }
    (window,) = dataset(write_parquet(tmp_path / "train.parquet", [row]), RL).rows().windows
    check_bees(window, None)
    assert [p.id for p in window.window.passages] == ["d1", "d2", "d3"]
    assert window.relevance == (0, 0, 1)
    assert window.ideal == (1, 1), "a relevant passage that isn't shown counts, as in their reward"


def test_letters_and_roles_of_a_users_own(tmp_path: Path) -> None:
    turns = [{"from": "user", "value": asked(TEXTS, letters=True)}, {"from": "bot", "value": "[B] > [C] > [A]"}]
    window = only(tmp_path, {"conversations": turns}, letters=True, roles={"bot": "assistant"})
    assert window.gold == (1, 2, 0)
    with pytest.raises(DataError, match=r"role 'bot' is none of system, user, assistant, human, gpt; say what it is"):
        only(tmp_path, {"conversations": turns}, letters=True)
    with pytest.raises(ValueError, match="roles: 'bot' must be system, user, assistant, not 'robot'"):
        dataset(tmp_path, roles={"bot": "robot"})


def test_a_passage_a_turn_as_rankgpt_asks(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "I will provide you with 2 passages."}, {"from": "gpt", "value": "Go on."}]
    for number, text in enumerate(TEXTS[:2], start=1):
        turns += [{"from": "human", "value": f"[{number}] {text}"}, {"from": "gpt", "value": f"Received [{number}]."}]
    turns += [
        {"from": "human", "value": "Search Query: bees. Rank the 2 passages."},
        {"from": "gpt", "value": "[2] > [1]"},
    ]
    window = only(tmp_path, {"conversations": turns})
    assert len(window.prompt) == 7
    assert (window.window.query.text, window.gold, window.completion) == ("bees", (1, 0), "[2] > [1]")


def test_columns_for_the_query_and_the_grades(tmp_path: Path) -> None:
    row = {**ZEPHYR, "qid": 5, "topic": "bees", "labels": [0, 3, 1]}
    columns = replace(SHAREGPT, id="qid", query="topic", grades="labels")
    window = only(tmp_path, row, columns, query_between=())
    assert (window.window.query.id, window.window.query.text) == ("5", "bees")
    assert window.relevance == (0, 3, 1)
    assert window.gold == (1, 2, 0)
    row["conversations"] = row["conversations"][:2]
    window = only(tmp_path, row, columns, query_between=())
    assert (window.gold, window.completion, window.gold_order) == (None, None, (1, 2, 0))


def test_a_window_is_as_large_as_the_prompt_shows(tmp_path: Path) -> None:
    """Identifiers in a passage, at its lines' beginnings too, aren't counted."""
    texts = ["see [7]\n[2] Smith 1999\n[3] Jones", "two\n[9] nine", "three [4]\n[4] the next number", "[1]"]
    row = {"conversations": [{"from": "human", "value": asked(texts)}, {"from": "gpt", "value": "[4] > [1]"}]}
    window = only(tmp_path, row)
    assert len(window.window.passages) == 4
    assert window.gold == (3, 0)
    assert window.relevance == (2, 0, 0, 3), "what the answer doesn't name is worth nothing"


def changed(**change: Any) -> Row:
    """The row with other texts: ``human``, ``gpt``."""
    turns = [{**turn, "value": change.get(turn["from"], turn["value"])} for turn in ZEPHYR["conversations"]]
    return {**ZEPHYR, "conversations": turns}


FAULTS: Mapping[str, tuple[Row, str]] = {
    "no order": (changed(gpt="They are all fine."), "the answer names no order of the 3 passages (empty)"),
    "beyond": (changed(gpt="[2] > [4] > [1]"), "names no order of the 3 passages (out_of_range)"),
    "zero": (changed(gpt="[0] > [2]"), "(out_of_range)"),
    "twice": (changed(gpt="[2] > [2] > [1]"), "(duplicates)"),
    "unfinished": (changed(gpt="<think> [2] > [1]"), "(unclosed_think)"),
    "no query": (changed(human=asked(TEXTS).replace("Search Query", "Query")), "no query between 'Search Query: ' and"),
    "one passage": (changed(human=asked(TEXTS[:1])), "1 passages, and a list to rank has at least two"),
    "no passage": (changed(human="Search Query: bees. Rank the passages."), "0 passages"),
    "no column": ({"id": 1, "messages": []}, "no column 'conversations'; there is id, messages: set dataset.columns.m"),
    "no list": ({"conversations": "text"}, "column 'conversations' is 'text', and a list is expected"),
    "no turn": ({"conversations": []}, "the prompt must end with a turn of the user"),
    "an answer alone": ({"conversations": ZEPHYR["conversations"][2:]}, "the prompt must end with a turn of the user"),
    "no answer": ({"conversations": ZEPHYR["conversations"][:2]}, "the conversation ends without an answer"),
    "no role": ({"conversations": [{"value": "x"}]}, "needs a text under 'from' and one under 'value'"),
    "no object": ({"conversations": ["x"]}, "needs a text under 'from' and one under 'value'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_row_is_named_with_its_remedy_or_skipped_and_counted(fault: str, tmp_path: Path) -> None:
    row, message = FAULTS[fault]
    path = write_jsonl(tmp_path / "r.jsonl", [ZEPHYR, row, ZEPHYR])
    with pytest.raises(DataError) as caught:
        dataset(path).rows()
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    held = dataset(path, on_bad_row="skip").rows()
    assert (len(held.windows), held.left_out) == (2, {"bad row": 1})


def test_columns_beside_the_prompt_must_fit_it(tmp_path: Path) -> None:
    row = {**ZEPHYR, "labels": [1, 0], "ids": ["a", "b", "a"], "query": "bees", "good": []}
    with pytest.raises(DataError, match="2 grades under 'labels' for 3 passages"):
        only(tmp_path, row, replace(SHAREGPT, grades="labels"))
    with pytest.raises(DataError, match="a passage id occurs twice under 'ids'"):
        only(tmp_path, row, replace(SHAREGPT, passages="ids"))
    path = write_jsonl(tmp_path / "r.jsonl", [{**row, "ids": ["a", "b", "c"]}, ZEPHYR])
    some = replace(SHAREGPT, passages="ids", relevant="good")
    with pytest.raises(DataError, match="no rows to train on; no relevant passage: 1, bad row: 1"):
        dataset(path, some, on_bad_row="skip").rows()
    other = [{**row, "id": "1"}, {**row, "id": "1", "query": "wasps"}]
    with pytest.raises(DataError, match="query '1' has another text in a row before"):
        dataset(write_jsonl(tmp_path / "r.jsonl", other), replace(SHAREGPT, id="id", query="query")).rows()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": "instruction"}, "give one of messages, user a name; messages and user are given one"),
        ({"messages": None}, "none is given one"),
        ({"relevant": "good"}, "relevant holds ids of passages"),
    ],
)
def test_column_maps_that_contradict_themselves(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConversationColumns(**columns)


@pytest.mark.parametrize("between", [(), ("Search Query: ",), ("", "Rank")])
def test_the_query_must_be_somewhere(between: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"give columns\.query a column, or query_between two texts"):
        dataset(tmp_path, query_between=between)


PIECES = (
    "nectar",
    "wings.",
    "[1]",
    "[2] > [1]",
    "\n[3] ",
    "Search Query: ",
    "Rank the",
    "<answer>",
    "</think>",
    "\ud800",
    "5",
)


@given(
    texts=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(" ".join), min_size=2, max_size=8),
    query=st.lists(st.sampled_from(("bees", "[2]", "7 wasps", "é", "u.s.")), min_size=1, max_size=3).map(" ".join),
    tags=st.booleans(),
    data=st.data(),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_any_texts(texts: list[str], query: str, tags: bool, data: st.DataObject, tmp_path: Path) -> None:
    order = data.draw(st.permutations(range(len(texts))))
    ranking = " > ".join(f"[{position + 1}]" for position in order)
    answer = (
        f"<think> {data.draw(st.sampled_from(PIECES[:4]))} </think> <answer> {ranking} </answer>" if tags else ranking
    )
    row = {"conversations": [{"from": "human", "value": asked(texts, query)}, {"from": "gpt", "value": answer}]}
    window = only(tmp_path, row)
    assert window.window.query.text == query
    assert window.gold == tuple(order)
    assert [window.relevance[position] for position in order] == list(range(len(texts)))[::-1]
    assert window.completion == answer
    assert "".join(turn.content for turn in window.prompt) == asked(texts, query).encode("utf-8", "replace").decode()
