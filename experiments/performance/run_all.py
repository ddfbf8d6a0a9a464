"""`make perf`: runs every benchmark of this folder, prints one table, writes outputs/performance/results.json.

A benchmark is a file here with a ``run() -> list[Result]``. ``run_all.py reward startup`` runs those two alone. The
exit status is 1 if a bar was missed or a benchmark failed.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from common import Result

from rearank.evaluation import Cell, render_table

HERE = Path(__file__).resolve().parent
OUTPUT = HERE.parents[1] / "outputs" / "performance" / "results.json"
NOT_BENCHMARKS = {"common", "run_all", "gpu_grpo", "never_idle_report"} | {
    "ray_serve",
    "rerank_ray",
    "scale",
    "shared_prompt_verl",
}


def main(chosen: list[str]) -> int:
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BENCHMARKS)
    if unknown := sorted(set(chosen) - set(names)):
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    results: list[Result] = []
    for name in chosen or names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        results += run_one(name)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    print(render_table([row(result) for result in results]))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    OUTPUT.write_text(json.dumps({"machine": machine, "results": [asdict(r) for r in results]}, indent=2) + "\n")
    return 0 if all(result.ok for result in results) else 1


def run_one(name: str) -> list[Result]:
    """The benchmark's figures; a failure is a row of its own and doesn't keep the others from running."""
    try:
        return list(importlib.import_module(name).run())
    except Exception as error:
        traceback.print_exc()
        what = f"failed: {type(error).__name__}: {error}"[:100]
        return [Result(name, what, float("nan"), "", "runs", False)]


def row(result: Result) -> dict[str, Cell]:
    value = f"{result.value:,.0f}" if result.value >= 100 else f"{result.value:.3g}"
    return {
        "benchmark": result.benchmark,
        "what": result.what,
        "value": f"{value} {result.unit}".rstrip(),
        "promised": result.bar,
        "": ("ok" if result.ok else "MISSED") if result.bar else "",
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
