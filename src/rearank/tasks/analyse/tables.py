"""The answers of an analysis as tables, figures and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rearank.analysis import (
    HARMLESS,
    Analyse,
    Answer,
    Asked,
    Attacked,
    Point,
    attack_row,
    bin_rows,
    compared_with_reasoning,
    correlation_row,
    faithfulness_row,
    ideal,
    ndcg_rows,
    position_row,
    rank_rows,
    tau_rows,
    window_points,
    without_zeros,
)
from rearank.analysis.drawing import draw_attack, draw_faithfulness, draw_length, draw_position
from rearank.evaluation import Cell, heading, render_table, write_tables

Row = dict[str, Cell]
_IDEAL = "ideal order, ties as given"
_TITLES = {
    "length": (
        "Length: tokens against quality",
        "Spearman's rho with a 95% interval over queries; `query` is a whole ranking (its answers' mean "
        "length and its {measure}), `window` an answer and the change of its window's nDCG@10.",
    ),
    "faithfulness": (
        "Faithfulness: does the answer follow from the reasoning",
        "An order is read from a chain or from notes only; what follows `coverage` is about the answers where one was. "
        "tau-b is 1 where the answer follows the reasoning, about 0 where they have nothing to do with one another; "
        "tied notes keep it below 1 even where no pair is contradicted. `tau-b of given order` is what keeping the "
        "order would give.",
    ),
    "position": (
        "Position bias: the same passages in shuffled orders",
        "`consistency` is the mean Kendall tau of every two resulting orders (1: places play no part); `slope` the "
        "ranks a passage falls for each place it starts lower (0: no bias, 1: order kept). Where grades tie, the "
        "ideal order depends on the places, too: its row is the yardstick.",
    ),
    "position_ndcg": ("Position bias: nDCG@10 of the windows", "Best and worst are of each window's shuffles."),
    "attack": (
        "Passages that ask to be ranked first",
        "One passage of the window's lowest grade carries the text; `gain` is in ranks, `success` the share brought to "
        "rank 1 that wasn't there before. `harmless` is the control: an attack works as far as it does more (`over "
        "control`, in ranks).",
    ),
}


@dataclass
class SystemAnswers:
    """Everything one system was asked on one benchmark; a ``None`` was not asked."""

    label: str
    points: list[Point] | None = None
    answers: list[Answer] | None = None
    asked: list[Asked] | None = None
    attacked: dict[tuple[str, str], list[Attacked]] | None = None
    """(``yes`` or ``no``: neutralised; attack) -> windows."""


@dataclass
class AnalysisTables:
    """One benchmark's tables, by name, and the rows behind the figures."""

    benchmark: str
    measure: str
    settings: Analyse
    letters: bool = False
    tables: dict[str, list[Row]] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Figure's series -> system -> rows."""

    def add(self, system: SystemAnswers) -> None:
        """Compute ``system``'s rows of every table."""
        if system.points is not None and "length" in self.settings.what:
            self._length(system)
        if system.answers and "faithfulness" in self.settings.what:
            found = [compared_with_reasoning(answer, letters=self.letters) for answer in system.answers]
            self._row("faithfulness", system.label, faithfulness_row(found, seed=self.settings.seed))
            self._curve("tau", system.label, tau_rows(found))
        if system.asked:
            if "position" not in self.tables:
                self._position(_IDEAL, [ideal(one) for one in system.asked])
            self._position(system.label, system.asked)
        attacked = system.attacked or {}
        for (neutralised, attack), windows in attacked.items():
            control = attacked.get((neutralised, HARMLESS), ())
            row = attack_row(windows, control, seed=self.settings.seed)
            self._row("attack", system.label, {"attack": attack, "neutralise": neutralised, **row})

    def write(self, folder: Path, *, figures: bool = True) -> str:
        """CSV, LaTeX and figures into ``folder``; the tables as Markdown."""
        parts, titles = [], self.titles()
        for name, rows in self.tables.items():
            write_tables(folder / name, rows)
            parts += [f"### {titles[name]['title']}", titles[name]["note"], render_table(rows)]
        for name, series in self.curves.items():
            write_tables(folder / f"curve_{name}", [{"system": s, **r} for s, rows in series.items() for r in rows])
        if figures:
            self._draw(folder / "figures")
        return "\n\n".join([f"## {self.benchmark}", *parts])

    def as_json(self) -> dict[str, Any]:
        """All rows, and what each table is called and says."""
        return {"measure": self.measure, "titles": self.titles(), "tables": self.tables, "curves": self.curves}

    def titles(self) -> dict[str, dict[str, str]]:
        """table -> its ``title``, and a ``note`` that says how to read it."""
        titles = {name: _TITLES[name] for name in self.tables}
        measure = heading(self.measure)
        return {name: {"title": t, "note": note.replace("{measure}", measure)} for name, (t, note) in titles.items()}

    def _length(self, system: SystemAnswers) -> None:
        windows = window_points(system.answers or ())
        seed, bins = self.settings.seed, self.settings.bins
        for unit, points in (("query", system.points or []), ("window", windows)):
            kept = without_zeros(points) if self.settings.drop_zeros and unit == "query" else points
            row: Row = {"unit": unit, **correlation_row(kept, seed=seed), "zeros left out": len(points) - len(kept)}
            self._row("length", system.label, row)
            self._curve(f"length_{unit}", system.label, bin_rows(kept, bins, seed=seed))

    def _position(self, label: str, asked: Sequence[Asked]) -> None:
        seed = self.settings.seed
        self._row("position", label, position_row(asked, seed=seed))
        self._curve("ideal_ranks" if label == _IDEAL else "ranks", label, rank_rows(asked, seed=seed))
        rows = ndcg_rows(asked, seed=seed)
        self._curve("ideal_ndcg" if label == _IDEAL else "ndcg", label, rows)
        for row in rows:
            self._row("position_ndcg", label, row)

    def _row(self, table: str, label: str, row: Mapping[str, Cell]) -> None:
        self.tables.setdefault(table, []).append({"system": label, **row})

    def _curve(self, name: str, label: str, rows: Sequence[Mapping[str, Cell]]) -> None:
        self.curves.setdefault(name, {})[label] = list(rows)

    def _draw(self, folder: Path) -> None:
        if "length" in self.tables:
            draw_length(folder, self.curves["length_query"], self.curves["length_window"], heading(self.measure))
        if "faithfulness" in self.tables:
            draw_faithfulness(folder, self.curves["tau"], {str(r["system"]): r for r in self.tables["faithfulness"]})
        if "position" in self.tables:
            draw_position(folder, self.curves["ranks"], self.curves["ndcg"], self.curves["ideal_ranks"])
        if "attack" in self.tables:
            draw_attack(folder, self.tables["attack"])
