"""Sections of the config that belong to no room: ``prepare``, ``evaluation`` and ``compare``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rearank.evaluation import check_measures
from rearank.runs import INCIDENTAL, SELECTS


@dataclass(frozen=True)
class Preparation:
    """How training and validation windows are made of the dataset.

    Args:
        depth: candidates retrieved a query.
        queries: at most so many training queries, drawn by the seed from those that are not held out (how many
            annotated queries are enough); ``null`` for all.
        validation_share: training queries held out for validation where ``validation`` names no dataset.
        validation_windows: at most so many, spread over the queries; 0 for no validation.
    """

    depth: int = 100
    queries: int | None = None
    validation_share: float = 0.1
    validation_windows: int = 128

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"depth is the number of candidates a query and must be at least 2, not {self.depth}")
        if self.queries is not None and self.queries < 1:
            raise ValueError(f"queries must be at least 1, or null for all of them, not {self.queries}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must lie in [0, 1), not {self.validation_share}")
        if self.validation_windows < 0:
            raise ValueError(f"validation_windows must not be negative, not {self.validation_windows}")


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured.

    Args:
        base: the model as it is; ``False`` leaves it out, where other jobs of a study measure it.
        trained: also evaluate the checkpoint trained in this run's folder, where there is one.
        steps: and the checkpoints it left after so many steps, to see on the benchmark how fast it learns.
        samples: besides the greedy answers, so many sampled rankings of the untrained model, averaged.
        sample_temperature: of those.
        max_concurrent_queries: queries under way at once; ``null`` for all.
        max_failed: share of queries that may fail before the run counts as failed.
        depth: candidates reranked a query, for every benchmark; ``null`` for each benchmark's own.
        kept_depth: first-stage candidates kept a query. Those below ``depth`` are not reranked and follow in their
            order, so that recall and MAP are those of the whole list; ``null`` for ``depth``.
        measures: trec_eval's names for every benchmark, the main one first; ``null`` for each benchmark's own.
    """

    base: bool = field(default=True, metadata=SELECTS)
    trained: bool = field(default=True, metadata=SELECTS)
    steps: tuple[int, ...] = field(default=(), metadata=SELECTS)
    samples: int = 0
    sample_temperature: float = 1.0
    max_concurrent_queries: int | None = field(default=256, metadata=INCIDENTAL)
    max_failed: float = field(default=0.0, metadata=INCIDENTAL)
    depth: int | None = field(default=None, metadata=SELECTS)
    kept_depth: int | None = None
    measures: tuple[str, ...] | None = field(default=None, metadata=SELECTS)

    def __post_init__(self) -> None:
        if any(step < 1 for step in self.steps):
            raise ValueError(f"steps are of a training and must be at least 1, not {list(self.steps)}")
        if self.samples < 0:
            raise ValueError(f"samples must not be negative, not {self.samples}")
        if self.sample_temperature <= 0:
            raise ValueError(f"sample_temperature must be above 0, not {self.sample_temperature}")
        if self.max_concurrent_queries is not None and self.max_concurrent_queries < 1:
            raise ValueError(f"max_concurrent_queries must be at least 1 or null, not {self.max_concurrent_queries}")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed is a share and must lie in [0, 1], not {self.max_failed}")
        for name in ("depth", "kept_depth"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is a number of candidates and must be at least 1 or null, not {value}")
        if self.measures is not None:
            check_measures(self.measures)


@dataclass(frozen=True)
class Compare:
    """What ``task=compare`` sets against one another.

    Args:
        runs: output folders (or any folder below one), whose ``metrics.json`` are taken, and TREC run files; each
            ``path`` or ``label=path``.
        qrels: judgements for the run files, a TREC or BEIR file; ``null`` for the benchmark's (``benchmark=dl19``).
        measures: trec_eval's names, the main one first.
        baseline: the label that all others are compared with; ``null`` for every pair.
        missing: what a judged query that a run file lacks counts: ``zero`` or ``skip``.
        relevant_from: with ``qrels``, the lowest grade that measures without grades call relevant (2 in TREC DL).
        permutations: of the randomisation test.
        moved: how many of the queries that moved most are listed a comparison.
        ideal: include the ideal order of the candidates, which is no system.
        seed: of the sign flips and the intervals.
    """

    runs: tuple[str, ...] = ()
    qrels: str | None = None
    measures: tuple[str, ...] = ("ndcg_cut_10",)
    baseline: str | None = None
    missing: Literal["zero", "skip"] = "zero"
    relevant_from: int = 1
    permutations: int = 10_000
    moved: int = 10
    ideal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_measures(self.measures)
        if self.relevant_from < 1:
            raise ValueError(f"relevant_from is a grade and must be at least 1, not {self.relevant_from}")
        if self.permutations < 1:
            raise ValueError(f"permutations must be at least 1, not {self.permutations}")
        if self.moved < 0:
            raise ValueError(f"moved must not be negative, not {self.moved}")
        if self.missing not in ("zero", "skip"):
            raise ValueError(f"missing must be 'zero' or 'skip', not {self.missing!r}")
