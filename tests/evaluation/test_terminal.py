"""Tables fit a terminal of 100 columns; what is left out is named, and where it is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rearank.evaluation import render_table
from rearank.evaluation.terminal import WIDTH, for_terminal

ROW = {
    "system": "ideal order of the candidates",
    "nDCG@10": 0.8834,
    "95% interval": "0.8578 to 0.9107",
    "judged@10": 1.0,
    "queries": 43,
    "difference": "+0.1375",
    "p (t-test)": 0.0017,
    "p (randomisation)": 0.0072,
    "wins/ties/losses": "8/0/0",
}
cells = st.text("abc |\\é-:", max_size=60)


def test_what_matters_least_goes_first_and_is_named() -> None:
    text = f"before\n\n{render_table([ROW])}\n\nafter"
    head, rule, row, note = for_terminal(text, "table.md").split("\n")[2:6]
    assert len(head) == len(rule) == len(row) <= WIDTH
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "system",
        "nDCG@10",
        "95% interval",
        "difference",
        "p (randomisation)",
    ]
    assert "+0.1375" in row
    assert note == "(without judged@10, queries, p (t-test), wins/ties/losses: table.md has them)"
    assert for_terminal(text, "table.md").startswith("before\n\n| system")
    assert for_terminal(text, "table.md").endswith(")\n\nafter")


def test_what_fits_is_left_alone() -> None:
    text = f"x\n{render_table([{'system': 'a', 'nDCG@10': 0.5}])}\ny | z"
    assert for_terminal(text, "table.md") == text


def test_a_long_label_keeps_both_ends() -> None:
    row = for_terminal(render_table([{"system": "begins" + "x" * 200 + "ends", "nDCG@10": 0.5}]), "f").split("\n")[2]
    assert len(row) == WIDTH
    assert row.startswith("| begins")
    assert "ends | " in row
    assert "0.5000" in row


three = st.lists(cells, min_size=3, max_size=3)


@given(st.lists(three, min_size=1, max_size=3), three)
def test_any_table_fits_and_keeps_its_rows(rows: list[list[str]], names: list[str]) -> None:
    keys = [f"{name}{number}" for number, name in enumerate(names)]
    text = render_table([dict(zip(keys, row, strict=True)) for row in rows])
    lines = for_terminal(text, "f", 50).split("\n")
    table = [line for line in lines if not line.startswith("(without")]
    assert len(table) == len(rows) + 2
    assert all(len(line) <= 50 for line in table)
