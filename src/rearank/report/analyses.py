"""The tables and figures that ``task=analyse`` left, for the page."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

from rearank.report.folder import RunFolder


def analyses(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """One part for each run and benchmark that was analysed; figures are ``data:`` URIs, SVG where there is one."""
    found = []
    for run in runs:
        for benchmark, part in run.analysis.get("benchmarks", {}).items():
            tables = [
                {"title": _title(name), "rows": [{key: _cell(value) for key, value in row.items()} for row in rows]}
                for name, rows in part.get("tables", {}).items()
                if rows
            ]
            folder = run.path / "analysis" / benchmark / "figures"
            drawn = {path.stem: path for ending in ("png", "svg") for path in sorted(folder.glob(f"*.{ending}"))}
            figures = [
                {"title": _title(name), "source": _uri(path.suffix, path.read_bytes())}
                for name, path in sorted(drawn.items())
            ]
            found.append({"run": run.label, "benchmark": benchmark, "tables": tables, "figures": figures})
    return found


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("ndcg", "nDCG")


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _uri(ending: str, content: bytes) -> str:
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[ending]
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
