"""What a run's folder holds: the names that more than one module uses, and how a file appears whole or not at all.

To keep a file of your own in a stage's folder, write it where the stage does its work: ``tasks.prepare._write`` (and
name it in ``_MADE`` there, so that a sweep's jobs get it), ``tasks.train._run_training``,
``tasks.evaluate.scores.score_and_write``. A training that was finished before is not done again for it: set
``rerun=true`` once.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PREPARED, SFT, TRAINING, EVALUATION, ANALYSIS = "prepared", "sft", "training", "evaluation", "analysis"
RERANKED, DISTILLED, SHORT_ANALYSIS, EXPORTED = "rerank", "distilled", "analysis-short", "export"
"""Folders of the stages."""
SETTINGS, ENVIRONMENT = "settings.json", "environment.json"
"""In a stage's folder: what its result follows from, and what it was made with."""
SUMMARY, RESULT, METRICS, ENGINE = "summary.json", "result.json", "metrics.json", "engine.json"
ANALYSED = "analysis.json"
RUN, PARTIAL_RUN, QUERIES = "run.trec", "run.partial.trec", "queries.json"
COST, TRACES, COMMANDS = "cost.jsonl", "traces.jsonl", "commands.jsonl"
TRAIN_ROWS, VALIDATION_ROWS = "train.parquet", "validation.parquet"
VALIDATION_LISTS = "validation-lists.jsonl"
"""Whole candidate lists of the held-out queries, where ``trainer.validate_on=lists``."""
TEACHER, GATE = "teacher.jsonl", "gate.json"
"""A teacher's answers to training windows; whether a model of one's own may go out."""
CARD, MANIFEST = "README.md", "rearank.json"
"""Of an exported model."""
SEAL = "sealed.json"
"""The files of a finished stage as they were left."""
STORE, PAGE = "completions.sqlite", "report.html"
JOB, SWEEP, FAILURE, SHARED = "job.json", "sweep.json", "failure.txt", "shared"
"""Of a sweep: how a job ended, what is swept, a failed job's traceback, and what jobs share."""

_FILES = {".json", ".jsonl", ".parquet", ".sqlite", ".csv", ".md", ".tex", ".html"}
_ASIDE = re.compile(r"\.\d+$")


def misplaced(folder: Path) -> list[str]:
    """A line for each folder or broken link that stands in a run's folder where a file of that name is written.

    Those among a system's results are left out: ``task=evaluate`` moves them aside with what is beside them.
    """
    found = (path for pattern in ("*", "*/*", f"{EVALUATION}/*/*") for path in folder.glob(pattern))
    return [
        f"{path}: a folder, or a link that leads nowhere, stands where a file is needed; move it away and run the same "
        "command again"
        for path in sorted(set(found))
        if path.suffix in _FILES and not path.is_file() and not set_aside(path.parent)
    ]


def set_aside(path: Path) -> bool:
    """Whether this is what other settings or code made, moved aside: ``training.1``."""
    return _ASIDE.search(path.name) is not None


def free_name(path: Path) -> Path:
    """``<path>.1``, or the first number that isn't taken."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return aside


def write_json(path: Path, value: Any) -> None:
    """The file appears whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The file's object; empty where there is none, and for one cut short by a kill."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
