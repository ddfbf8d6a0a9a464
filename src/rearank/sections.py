"""Sections of the config that belong to no package: ``prepare``, ``distill``, ``evaluation``, ``compare``..."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval

from rearank.checks import check_fields
from rearank.evaluation import check_measures
from rearank.runs import CONTENT, INCIDENTAL, SELECTS
from rearank.training.traces import file_of


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
class Distill:
    """What ``task=distill`` asks a teacher, and which of its answers it keeps.

    The teacher is the command's model. An answer is kept that can be read whole, ranks well by the judgements, and
    agrees with the teacher's other answers. Of several the one with the best order is, and of equal ones the first.

    Args:
        windows: at most so many training windows are asked about, spread over the queries; ``null`` for all.
        samples: answers to a window; several need a temperature.
        temperature: of the answers; ``null`` for the model's own.
        min_ndcg: what the order's nDCG@10 must reach, against the window's own best order; ``null`` doesn't look at the
            judgements.
        min_gain: what it must have above the given order's; 0: is at least as good; ``null`` doesn't look at it.
        min_agreement: what the samples' orders must have of one another, mean Kendall's tau from -1 to 1; ``null``
            doesn't look at it.
        max_concurrent: windows under way at once; ``null`` for all.
        max_failed: share of calls that may fail before the task counts as failed.
        max_unread: share of answers that may be unread; above it the task stops, after its first answers where these
            show it; ``null`` allows all.
    """

    windows: Annotated[int, Ge(1)] | None = None
    samples: Annotated[int, Interval(ge=1, le=1000)] = 1
    temperature: Annotated[float, Ge(0)] | None = None
    min_ndcg: Annotated[float, Interval(ge=0, le=1)] | None = 0.8
    min_gain: Annotated[float, Interval(ge=-1, le=1)] | None = 0.0
    min_agreement: Annotated[float, Interval(ge=-1, le=1)] | None = None
    max_concurrent: Annotated[int, Ge(1)] | None = field(default=512, metadata=INCIDENTAL)
    max_failed: Annotated[float, Interval(ge=0, le=1)] = field(default=0.0, metadata=INCIDENTAL)
    max_unread: Annotated[float, Interval(ge=0, le=1)] | None = field(default=0.9, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_agreement is not None and self.samples == 1:
            raise ValueError("min_agreement compares a window's answers with one another; set samples=4, say")


@dataclass(frozen=True)
class Own:
    """What ``experiment=own`` makes a reranker of, and when it goes out.

    Args:
        collection: a folder in BEIR's layout: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``.
        run: a TREC run with the lists to rerank, of training and held-out queries; ``null`` for BM25's.
        split: of the judgements.
        held_out_split: another one, to be measured on; ``null`` for a share of the queries of ``split``.
        held_out: that share.
        judged_by: a TREC run of a teacher's in place of judgements: its order is what is learnt and measured.
        teacher: the folder of a run of ``task=distill`` with the same settings, whose reasoning the cold start learns.
        alpha: what the gate's p-values must be below.
        export: the trained model as ``task=export`` does: where it passes the ``gate``, ``always`` or ``never``.
    """

    collection: str | None = None
    run: str | None = None
    split: str = "train"
    held_out_split: str | None = None
    held_out: Annotated[float, Interval(gt=0, lt=1)] = 0.3
    judged_by: str | None = None
    teacher: str | None = field(default=None, metadata=CONTENT)
    alpha: Annotated[float, Interval(gt=0, lt=1)] = 0.05
    export: Literal["gate", "always", "never"] = "gate"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.teacher is not None:
            object.__setattr__(self, "teacher", str(file_of(Path(self.teacher))))


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
    max_concurrent_queries: Annotated[int, Ge(1)] | None = field(default=512, metadata=INCIDENTAL)
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
        runs: output folders (or any folder below one), whose ``metrics.json`` are taken, those that ``task=rerank``
            wrote, and TREC run files, which are judged; each ``path`` or ``label=path``.
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


@dataclass(frozen=True)
class RerankColumns:
    """Names of the fields of a JSONL object or a parquet row, and of the passages in it.

    Args:
        id: of the query; a row without it has its line's (or row's) number.
        query: its text, or an object with the text under ``text`` below.
        passages: a list of texts, or of objects.
        passage_id: of such an object; one without it has its place in the list, from 0.
        text: of such an object.
        title: of such an object; it may lack it.
    """

    id: str = "id"
    query: str = "query"
    passages: str = "passages"
    passage_id: str = "id"
    text: str = "text"
    title: str = "title"


@dataclass(frozen=True)
class Machine:
    """What a GPU, some of them or an API does in a second and what it costs, for ``task=preflight``. You give it all.

    Args:
        source: where the figures are from: a page and its date, or what you measured.
        prompt_speed: tokens of prompts a second that it reads; needs ``answer_speed``.
        answer_speed: tokens of answers a second that it writes, all calls under way together.
        speed: tokens of prompts and answers together a second, in place of the two above.
        call_seconds: what one call takes under that load; a list's windows wait for each other.
        count: of them at work.
        dollars_an_hour: for one of them.
        price_prompt: US dollars per million tokens of prompts; needs ``price_answer``.
        price_answer: of answers.
    """

    source: str
    prompt_speed: float | None = None
    answer_speed: float | None = None
    speed: float | None = None
    call_seconds: float | None = None
    count: int = 1
    dollars_an_hour: float | None = None
    price_prompt: float | None = None
    price_answer: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source.strip():
            raise ValueError("source must say where the figures are from")
        for name, value in vars(self).items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            if name != "source" and value is not None and not (number and value > 0):
                raise ValueError(f"{name} must be a number above 0, not {value!r}")
        if (self.prompt_speed is None) != (self.answer_speed is None):
            raise ValueError("prompt_speed and answer_speed belong together; set both, or neither (speed)")
        if (self.price_prompt is None) != (self.price_answer is None):
            raise ValueError("price_prompt and price_answer belong together; set both, or neither")
        if (self.speed is None) == (self.prompt_speed is None) and (self.speed or self.price_prompt is None):
            raise ValueError("set prompt_speed and answer_speed, or speed alone, or the prices of an API")
        if self.dollars_an_hour is not None and self.speed is None and self.prompt_speed is None:
            raise ValueError("dollars_an_hour needs a speed")


@dataclass(frozen=True)
class RerankCost:
    """What ``task=preflight`` says of the cost of reranking; it changes no result.

    Args:
        lists: so many lists of the input are rendered, and their prompts' tokens counted; 0 counts none.
        answer_tokens: of an answer, on average, reasoning included; ``null``: at most ``model.max_tokens``.
        machines: by name; see ``Machine``.
    """

    lists: Annotated[int, Ge(0)] = 50
    answer_tokens: Annotated[float, Gt(0)] | None = None
    machines: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        known = [one.name for one in fields(Machine)]
        for name, given in self.machines.items():
            if not isinstance(given, dict):
                raise ValueError(f"machines.{name}: must be a mapping of {', '.join(known)}")
            if unknown := [key for key in given if key not in known]:
                raise ValueError(f"machines.{name}: no such key: {unknown[0]}; there are {', '.join(known)}")
            if "source" not in given:
                raise ValueError(f"machines.{name}: source is missing: say where the figures are from")
            try:
                Machine(**given)
            except ValueError as error:
                raise ValueError(f"machines.{name}: {error}") from None

    @property
    def fleet(self) -> dict[str, Machine]:
        """``machines`` as they are used."""
        return {name: Machine(**given) for name, given in self.machines.items()}


STANDARD = "-"
"""As a file's name: standard input, or standard output."""


@dataclass(frozen=True)
class Rerank:
    """What ``task=rerank`` reranks, and how the result is written. No judgements are needed.

    Args:
        input: a TREC run or topics, whose texts are those of the benchmark's collection (``benchmark=``); or rows with
            texts: RankLLM's JSONL, and JSONL or parquet of your own; ``-`` is standard input (no topics, no parquet).
        format: of the input; ``auto`` looks into it. ``topics`` are searched for with the benchmark's first stage
            (``retriever=``); with ``input: null`` these are the collection's own.
        queries: a file of topics for a TREC run; ``null`` for the collection's own.
        columns: of JSONL and parquet of your own.
        output: a file, which appears whole at the end, or ``-`` for standard output. One that is there and holds
            something else is kept as ``<output>.1``.
        output_format: ``auto`` goes by the output's name (.trec or .run, .jsonl, .parquet); for ``-`` by the input's.
        depth: the first passages of a list that are reranked; the others follow in their order. Topics get so many.
        texts: write titles and texts of the passages, too (JSONL, parquet).
        reasoning: write each window: what was shown, its order, status, reasoning and answer (JSONL, parquet).
        bad_rows: an ``error`` names the first; ``skip`` leaves them out, and ``<output>.skipped.jsonl`` has them.
        runner: ``local``, this process; ``ray``, actors on a Ray cluster (section ``cluster``), to the same bytes.
        actors: with ``ray``, how many, an engine each; ``null``: one for all GPUs that the engine takes (vLLM's
            ``tensor_parallel``), without GPUs one a machine.
        actor_cpus: cores of each.
        block: with ``ray``, queries of a shard, which is written once; where shards are there already, it is theirs.
        max_concurrent_queries: queries under way at once, with ``ray`` of each actor; ``null`` for all, which takes
            memory for all.
        max_failed: share of queries that may fail; within it they are left out and stand in the skipped file.
        max_unread: as ``evaluation.max_unread``: share of a released model's answers that may be unread.
        cost: for ``task=preflight``.
    """

    input: str | None = field(default=None, metadata=CONTENT)
    format: Literal["auto", "trec", "jsonl", "parquet", "topics"] = field(default="auto", metadata=INCIDENTAL)
    queries: str | None = field(default=None, metadata=CONTENT)
    columns: RerankColumns = field(default_factory=RerankColumns)
    output: str | None = field(default=None, metadata=INCIDENTAL)
    output_format: Literal["auto", "trec", "jsonl", "parquet"] = field(default="auto", metadata=INCIDENTAL)
    depth: Annotated[int, Ge(1)] = 100
    texts: bool = False
    reasoning: bool = False
    # An error stops what skipping goes on with: as far as both go they are the same.
    bad_rows: Literal["error", "skip"] = field(default="error", metadata=INCIDENTAL)
    runner: Literal["local", "ray"] = field(default="local", metadata=INCIDENTAL)
    actors: Annotated[int, Ge(1)] | None = field(default=None, metadata=INCIDENTAL)
    actor_cpus: Annotated[float, Gt(0)] = field(default=1.0, metadata=INCIDENTAL)
    block: Annotated[int, Ge(1)] = field(default=64, metadata=INCIDENTAL)
    max_concurrent_queries: Annotated[int, Ge(1)] | None = field(default=512, metadata=INCIDENTAL)
    max_failed: Annotated[float, Interval(ge=0, le=1)] = field(default=0.0, metadata=INCIDENTAL)
    max_unread: Annotated[float, Interval(ge=0, le=1)] | None = field(default=0.9, metadata=INCIDENTAL)
    cost: RerankCost = field(default_factory=RerankCost, metadata=INCIDENTAL)

    def __post_init__(self) -> None:
        check_fields(self)
