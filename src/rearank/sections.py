"""Sections of the config that belong to no package: ``prepare``, ``evaluation`` and ``compare``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from rearank.checks import check_fields
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
        overlap: what happens to a training query that is also measured on, by the benchmark or the validation dataset:
            an ``error``, ``drop`` it from training, or ``allow`` it with a warning.
    """

    depth: Annotated[int, Ge(2)] = 100
    queries: Annotated[int, Ge(1)] | None = None
    validation_share: Annotated[float, Interval(ge=0, lt=1)] = 0.1
    validation_windows: Annotated[int, Ge(0)] = 128
    # Of the three only ``drop`` changes the rows: the pipeline then makes them depend on the benchmark.
    overlap: Literal["error", "drop", "allow"] = field(default="error", metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)


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
        max_unread: share of a row's answers that may be unread. Above it a row is marked, and that of a trained or
            released model ends the run, after its first answers where these show it; ``null`` allows all.
        depth: candidates reranked a query, for every benchmark; ``null`` for each benchmark's own.
        kept_depth: first-stage candidates kept a query. Those below ``depth`` are not reranked and follow in their
            order, so that recall and MAP are those of the whole list; ``null`` for ``depth``.
        measures: trec_eval's names or ir_measures' for every benchmark, the main one first; ``null`` for each
            benchmark's own.
        ties: how a first stage's list is ordered for its own row: by ``rank``, or by ``trec_eval``, which reads scores
            as 32-bit numbers and orders equal ones by passage id. What is reranked keeps its order.
    """

    base: bool = field(default=True, metadata=SELECTS)
    trained: bool = field(default=True, metadata=SELECTS)
    steps: tuple[Annotated[int, Ge(1)], ...] = field(default=(), metadata=SELECTS)
    samples: Annotated[int, Ge(0)] = 0
    sample_temperature: Annotated[float, Gt(0)] = 1.0
    max_concurrent_queries: Annotated[int, Ge(1)] | None = field(default=256, metadata=INCIDENTAL)
    max_failed: Annotated[float, Interval(ge=0, le=1)] = field(default=0.0, metadata=INCIDENTAL)
    max_unread: Annotated[float, Interval(ge=0, le=1)] | None = field(default=0.9, metadata=INCIDENTAL)
    depth: Annotated[int, Ge(1)] | None = field(default=None, metadata=SELECTS)
    kept_depth: Annotated[int, Ge(1)] | None = None
    measures: tuple[str, ...] | None = field(default=None, metadata=SELECTS)
    ties: Literal["rank", "trec_eval"] = "rank"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.measures is not None:
            object.__setattr__(self, "measures", check_measures(self.measures))


@dataclass(frozen=True)
class Compare:
    """What ``task=compare`` sets against one another.

    Args:
        runs: output folders (or any folder below one), whose ``metrics.json`` are taken, and TREC run files; each
            ``path`` or ``label=path``.
        qrels: judgements for the run files, a TREC or BEIR file; ``null`` for the benchmark's (``benchmark=dl19``).
        measures: trec_eval's names or ir_measures', the main one first.
        baseline: the label that all others are compared with; ``null`` for every pair.
        missing: what a judged query that a run file lacks counts: ``zero`` or ``skip``.
        relevant_from: with ``qrels``, the lowest grade that measures without grades call relevant (2 in TREC DL).
        ties: how a run file is ordered: by score and then ``rank``, or as ``trec_eval`` does (``evaluation.ties``).
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
    relevant_from: Annotated[int, Ge(1)] = 1
    ties: Literal["rank", "trec_eval"] = "rank"
    permutations: Annotated[int, Ge(1)] = 10_000
    moved: Annotated[int, Ge(0)] = 10
    ideal: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "measures", check_measures(self.measures))
