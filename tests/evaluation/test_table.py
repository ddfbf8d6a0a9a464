"""Markdown tables of results."""

from __future__ import annotations

import csv
import io

import pytest

from rearank.evaluation import paired_test, render_csv, render_latex, render_table, summary_row


def test_a_table_is_aligned_markdown() -> None:
    got = render_table(
        [{"system": "BM25", "nDCG@10": 0.7261, "p": None}, {"system": "a|b\nc", "nDCG@10": 1, "p": 1e-24}]
    )
    assert got.splitlines() == [
        "| system | nDCG@10 |       p |",
        "| ------ | ------: | ------: |",
        "| BM25   |  0.7261 |         |",
        "| a\\|b c |       1 | 1.0e-24 |",
    ]


def test_odd_tables() -> None:
    assert render_table([]) == ""
    assert render_table([{"x": 0.0}, {"y": float("inf")}]).splitlines()[2:] == ["| 0.0000 |     |", "|        | inf |"]


def test_a_row_says_how_sure_it_is() -> None:
    base = {str(i): 0.5 + i % 7 / 20 for i in range(50)}
    better = {q: v + 0.05 + 0.01 * (int(q) % 3) for q, v in base.items()}
    alone, compared = summary_row("base", base), summary_row("better", better, base)
    assert alone["nDCG@10"] == pytest.approx(sum(base.values()) / 50)
    assert "p (t-test)" not in alone
    assert compared["wins/ties/losses"] == "50/0/0"
    assert str(compared["difference"]).startswith("+0.05")
    low, high = (float(x) for x in str(alone["95% interval"]).split(" to "))
    assert low < float(str(alone["nDCG@10"])) < high
    with pytest.raises(ValueError, match="at least one value"):
        summary_row("none", {})


def test_a_table_for_a_program_keeps_every_digit() -> None:
    rows = [{"system": 'a "b", c', "nDCG@10": 0.1 + 0.2, "p": None}, {"system": "two\nlines", "nDCG@10": 1e-30, "p": 1}]
    text = render_csv(rows)
    assert text.startswith("system,nDCG@10,p\n")
    back = list(csv.DictReader(io.StringIO(text)))
    assert [(row["system"], float(row["nDCG@10"]), row["p"]) for row in back] == [
        ('a "b", c', 0.1 + 0.2, ""),
        ("two\nlines", 1e-30, "1"),
    ]
    assert render_csv([]) == render_latex([]) == ""


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", " =", "\t=", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_name_is_no_formula_in_a_spreadsheet(sign: str) -> None:
    name = f"{sign}1+cmd|' /C calc'!A0"
    text = render_csv([{"system": name, name: "x"}])
    head, row = csv.reader(io.StringIO(text, newline=""))
    assert (head, row) == (["system", f"'{name}"], [f"'{name}", "x"])


def test_a_lone_carriage_return_starts_no_row() -> None:
    rows = list(csv.reader(io.StringIO(render_csv([{"system": "a\r=1+1", "x": 1}]), newline="")))
    assert rows == [["system", "x"], ["a =1+1", "1"]]


def test_numbers_stay_numbers_in_a_spreadsheet() -> None:
    row = {
        "a": "+0.0210",
        "b": "-0.0100 to 0.0200",
        "c": -0.5,
        "d": "-1e-05",
        "e": None,
        "f": "",
        "g": "a=b",
        "h": "1/2",
    }
    assert next(csv.DictReader(io.StringIO(render_csv([row])))) == {
        **{"a": "+0.0210", "b": "-0.0100 to 0.0200", "c": "-0.5", "d": "-1e-05", "e": "", "f": "", "g": "a=b"},
        **{"h": "1/2"},
    }


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_mean_of_what_is_not_finite_is_an_error(odd: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        summary_row("odd", {"a": 0.5, "b": odd, "c": 0.1})
    with pytest.raises(ValueError, match="query 'b' has a value that is not finite"):
        paired_test({"a": 0.5, "b": 0.2, "c": 0.1}, {"a": 0.5, "b": odd, "c": 0.1})


def test_a_table_for_a_paper() -> None:
    got = render_latex(
        [{"system": "A_1 & 50% #{x}", "nDCG@10": 0.5, "difference": "+0.0100"}, {"system": r"a\b ~<|>^$"}]
    )
    assert got.splitlines() == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"system & nDCG@10 & difference \\",
        r"\midrule",
        r"A\_1 \& 50\% \#\{x\} & 0.5000 & +0.0100 \\",
        r"a\textbackslash{}b \textasciitilde{}\textless{}\textbar{}\textgreater{}\textasciicircum{}\$ &  &  \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
