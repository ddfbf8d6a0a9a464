"""The tables and figures that ``task=analyse`` left, for the page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rearank.runs.reader import Arm, RunFolder


def analyses(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One part for each run and benchmark that was analysed; figures are ``data:`` URIs, SVG where there is one.

    Of the seeds of a sweep's arm only the first one's figures are there: all of them would fill the page.
    """
    found = []
    drawn: set[tuple[Arm, str]] = set()
    for run in runs:
        for benchmark, part in run.analysis.get("benchmarks", {}).items():
            part_of_page = {"run": run.label, "benchmark": benchmark, "tables": _tables(part), "figures": []}
            if run.arm is None or (run.arm, benchmark) not in drawn:
                part_of_page["figures"] = _figures(run.path / "analysis" / benchmark / "figures")
            if run.arm is not None:
                drawn.add((run.arm, benchmark))
            found.append(part_of_page)
    return found


def _tables(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    titles = part.get("titles", {})  # older files have none
    return [
        {
            **_heading(name, titles.get(name, {})),
            "rows": [{key: _cell(value) for key, value in row.items()} for row in rows],
        }
        for name, rows in part.get("tables", {}).items()
        if rows
    ]


def _figures(folder: Path) -> list[dict[str, str]]:
    found = {path.stem: path for ending in ("png", "svg") for path in sorted(folder.glob(f"*.{ending}"))}
    return [
        {"title": _title(name), "source": _uri(path.suffix, path.read_bytes())} for name, path in sorted(found.items())
    ]


def _heading(name: str, titles: Mapping[str, str]) -> dict[str, str]:
    return {"title": str(titles.get("title") or _title(name)), "note": str(titles.get("note") or "")}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("ndcg", "nDCG")


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _uri(ending: str, content: bytes) -> str:
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[ending]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
