"""Augmentation: 179 queries x 50 windows of 20 from the first 100, written as parquet rows."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from common import Result, seconds, words

from rearank.augmentation import MultiSample, WindowFilter
from rearank.prompts import CompactPrompt
from rearank.types import Candidates, JudgedWindow, Passage, Query

QUERIES, WINDOWS, SIZE, DEPTH = 179, 50, 20, 100


def judged_candidates(seed: int = 0) -> list[tuple[Candidates, dict[str, int]]]:
    """Passages of about the length of MS MARCO's, a fifth of them judged relevant."""
    draw = random.Random(seed)
    made = []
    for number in range(QUERIES):
        passages = tuple(Passage(f"{number}-{i}", words(56, 20_000, draw.random)) for i in range(DEPTH))
        grades = {passage.id: draw.choice((1, 2, 3)) for passage in passages if draw.random() < 0.2}
        made.append((Candidates(Query(str(number), words(6, 20_000, draw.random)), passages), grades))
    return made


def run() -> list[Result]:
    from rearank.training.rows import write_rows

    source = judged_candidates()
    # Nothing is filtered out: all 8,950 windows are written.
    sample = MultiSample(WINDOWS, SIZE, DEPTH, filter=WindowFilter(minimum=0.0, min_relevant=0))
    prompt = CompactPrompt(max_characters=400)  # conf/prompt/compact.yaml

    def draw_all() -> list[JudgedWindow]:
        return [window for candidates, grades in source for window in sample.augment(candidates, grades).windows]

    drawing, windows = seconds(draw_all)
    assert len(windows) == QUERIES * WINDOWS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        total, _ = seconds(lambda: write_rows(path, draw_all(), prompt, "performance", "train"))
        size = path.stat().st_size / 2**20
    return [
        Result("augmentation", "8,950 windows of 20 drawn", drawing, "s"),
        Result("augmentation", "drawn, rendered and written as parquet", total, "s", "under 2", total < 2),
        Result("augmentation", "the parquet file", size, "MiB"),
    ]
