"""The end of a sweep: its table, its report, and what failed in it."""

from __future__ import annotations

import sys
from pathlib import Path

from rearank.config import build
from rearank.runs.layout import SWEEP, read_json
from rearank.runs.sweeps import Sweep
from rearank.tasks.report import report_of_sweep
from rearank.tasks.sweep.collect import CollectError, collect, failure_lines, track_sweep


def close_sweep(folder: Path) -> int:
    """The table of all jobs and what failed, on screen and in the sweep's folder; the exit status of the command."""
    sweep = Sweep.read(folder)
    jobs = sweep.jobs()
    finished = [job.folder for job in jobs if job.status == "finished"]
    try:
        summary = collect(sweep)
        if summary["arms"]:
            track_sweep(sweep, summary, build(read_json(folder / SWEEP)["tracking"], "tracking"))
    except CollectError as error:
        print(f"no table: {error}", file=sys.stderr)
    report_of_sweep(folder, finished)
    for line in failure_lines(jobs):
        print(line, file=sys.stderr)
    return 1 if any(job.failed for job in jobs) else 0
