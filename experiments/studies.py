"""The paper's studies and ours, one entry each: which sweep it is, what its arms are called, what it is compared with.

What an arm sets stands in ``conf/experiment/<name>.yaml`` (the paper's size) and ``conf/experiment/small/<name>.yaml``
(two CPU cores); what came out in ``experiments/<name>/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


@dataclass(frozen=True)
class Study:
    """A study.

    Args:
        name: of its folder, and of its two experiments.
        title: a few words.
        question: one line.
        baseline: the arm that all others are compared with.
        labels: arm -> what tables call it; the order is the tables'.
        trains: whether its arms are trainings, so that there are curves and an early checkpoint.
        across: where this maps arms to numbers, the figure shows nDCG@10 against them.
        axis: what those numbers are.
        curves: whether validation curves may be compared: arms that make other validation windows may not.
        lengths: whether the figure shows the answers' lengths, too.
        place: another folder than that of its name.
    """

    name: str
    title: str
    question: str
    baseline: str
    labels: Mapping[str, str]
    trains: bool = True
    across: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    axis: str = ""
    curves: bool = True
    lengths: bool = False
    place: Path | None = None

    @property
    def folder(self) -> Path:
        """Its README, ``results.json`` and figure."""
        return self.place or HERE / self.name

    def sweep(self, outputs: Path) -> Path:
        """Where the small sweep lies."""
        return outputs / f"{self.name}-small-sweep"


@dataclass(frozen=True)
class Effect:
    """One of the paper's effects: ``arm`` against ``other``, on ``benchmark``.

    ``paper`` quotes its difference on TREC-DL, BEIR and BRIGHT in points of nDCG@10, or says what it says;
    ``direction`` is +1, 0 or -1.
    """

    what: str
    paper: str
    direction: int
    study: str
    arm: str
    other: str
    benchmark: str = "synthetic"


STUDIES = (
    Study(
        "rewards",
        "Reward variants",
        "What should GRPO be paid for?",
        "normalised",
        {
            "normalised": "normalised (the paper's)",
            "absolute": "absolute nDCG@10",
            "difference": "difference",
            "multiview": "multiview (ReasonRank's)",
            "exact": "exact (Rank-R1's)",
            "normalised_centred": "normalised, advantages only centred",
            "absolute_centred": "absolute, advantages only centred",
        },
        lengths=True,
    ),
    Study(
        "filter",
        "The data filter",
        "Does it help to drop windows of low nDCG@10, and low by which order?",
        "none",
        {
            "none": "no filter",
            "initial": "initial nDCG@10 of 0.4 or more",
            "best": "best reachable nDCG@10 of 0.4 or more",
        },
        curves=False,
    ),
    Study(
        "sft",
        "SFT against RL",
        "Does fine-tuning on the ideal orders do what RL does, and does it help RL as a start?",
        "rl",
        {
            "rl": "RL (GRPO)",
            "untrained": "untrained",
            "sft": "SFT on orders",
            "sft_then_rl": "SFT on orders, then RL",
            "sft_notes": "SFT on notes and orders",
            "sft_notes_then_rl": "SFT on notes and orders, then RL",
        },
        lengths=True,
    ),
    Study(
        "reasoning",
        "Reasoning on and off",
        "How much of the trained model's quality needs its reasoning?",
        "trained_on",
        {
            "trained_on": "trained, reasons",
            "trained_without": "trained without reasoning (SFT on orders, then RL)",
            "trained_begun": "trained, its answer begun with empty reasoning",
            "untrained_on": "untrained, reasons",
            "untrained_begun": "untrained, its answer begun with empty reasoning",
        },
        trains=False,
    ),
    Study(
        "augmentation",
        "Augmentation",
        "How many windows a query, in which order, and how many annotated queries?",
        "queries_179",
        {
            "queries_179": "179 queries, 50 windows each",
            "queries_90": "90 queries, 50 windows",
            "queries_45": "45 queries, 50 windows",
            "queries_20": "20 queries, 50 windows",
            "queries_10": "10 queries, 50 windows",
            "queries_179_one_window": "179 queries, 1 window",
            "queries_10_one_window": "10 queries, 1 window",
            "first_stage_order": "179 queries, 50 windows in first-stage order",
        },
        across={
            "50 windows a query": {f"queries_{n}": float(n) for n in (10, 20, 45, 90, 179)},
            "1 window a query": {"queries_10_one_window": 10.0, "queries_179_one_window": 179.0},
        },
        axis="annotated queries",
        curves=False,
    ),
    Study(
        "length",
        "Reasoning length",
        "Do longer reasonings rank better?",
        "trained",
        {"trained": "trained"},
        trains=False,
    ),
    Study(
        "passes",
        "Repeated passes",
        "Does reranking the reranked list again help?",
        "on_1",
        {
            **{f"on_{n}": f"reasoning, {n} pass{'es' if n > 1 else ''}" for n in range(1, 5)},
            **{f"off_{n}": f"no reasoning, {n} pass{'es' if n > 1 else ''}" for n in range(1, 5)},
        },
        trains=False,
        across={
            "reasoning": {f"on_{n}": float(n) for n in range(1, 5)},
            "no reasoning": {f"off_{n}": float(n) for n in range(1, 5)},
        },
        axis="passes",
    ),
    Study(
        "window",
        "Window size and step",
        "Which windows should slide over the list?",
        "size_5_step_2",
        {
            "size_5_step_2": "5, step 2 (as trained)",
            "size_5_step_1": "5, step 1",
            "size_5_step_3": "5, step 3",
            "size_5_step_5": "5, step 5 (no overlap)",
            "size_3_step_1": "3, step 1",
            "size_4_step_2": "4, step 2",
            "size_6_step_3": "6, step 3",
            "size_8_step_4": "8, step 4",
            "size_10_step_5": "10, step 5",
        },
        trains=False,
    ),
    Study(
        "optimisation",
        "Group size, KL and clip",
        "How much do the settings that the paper leaves open matter?",
        "group_8",
        {
            "group_8": "groups of 8, no KL, one update a step",
            "group_2": "groups of 2 (32 windows)",
            "group_16": "groups of 16 (4 windows)",
            "group_32": "groups of 32 (2 windows)",
            "kl_0.01": "KL 0.01",
            "kl_0.1": "KL 0.1",
            "clip_0.1": "4 updates on each of 5 steps' answers, clip 0.1",
            "clip_0.2": "4 updates on each of 5 steps' answers, clip 0.2",
            "clip_0.4": "4 updates on each of 5 steps' answers, clip 0.4",
        },
    ),
    Study(
        "transfer",
        "Transfer",
        "Does what was learnt on one collection hold on another?",
        "terse",
        {"terse": "trained on terse", "essay": "trained on essays", "untrained": "untrained"},
        curves=False,
    ),
)
"""In the order in which they are run: those that train nothing measure what ``rewards`` and ``sft`` trained."""

EFFECTS = (
    Effect("RL against no training", "+6.1 / +3.2 / +2.3", 1, "sft", "rl", "untrained"),
    Effect("RL against SFT on the ideal orders", "+5.3 / +3.9 / +3.0", 1, "sft", "rl", "sft"),
    Effect("RL after SFT on orders against that SFT alone", "not in the paper", 1, "sft", "sft_then_rl", "sft"),
    Effect(
        "RL after SFT on notes against that SFT alone", "not in the paper", 1, "sft", "sft_notes_then_rl", "sft_notes"
    ),
    Effect("normalised reward against absolute", "+1.1 / +1.4 / +1.0", 1, "rewards", "normalised", "absolute"),
    Effect("normalised reward against difference", "+0.5 / +0.6 / +0.5", 1, "rewards", "normalised", "difference"),
    Effect("filter by the initial nDCG@10 against none", "+0.7 / +1.0 / +0.8", 1, "filter", "initial", "none"),
    Effect(
        "filter by the best reachable one against none", "the same (which was run is open)", 1, "filter", "best", "none"
    ),
    Effect(
        "reasoning on against off, one trained model",
        "+3.8 / +1.7 / +1.3",
        1,
        "reasoning",
        "trained_on",
        "trained_begun",
    ),
    Effect(
        "reasoning on against off, untrained (the paper: its prompt against RankGPT's)",
        "+0.4 / +1.3 / +0.4",
        1,
        "reasoning",
        "untrained_on",
        "untrained_begun",
    ),
    Effect("a second pass, with reasoning", "about 0 (Figure 7)", 0, "passes", "on_2", "on_1"),
)
"""Where the paper names a number or a direction. Figure 6 is no difference of two arms: see the study ``length``."""


def named(name: str) -> Study:
    """Raises ``KeyError`` naming what there is."""
    found = {study.name: study for study in STUDIES}
    if name not in found:
        raise KeyError(f"there is no study {name!r}; there are {', '.join(found)}")
    return found[name]
