"""What is compared: the strategies as they ship, on oracles of three qualities and on the trained small model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rearank.config import build
from rearank.data import JudgedCandidates, Source
from rearank.data.bm25 import Bm25
from rearank.data.synthetic import SyntheticCollection
from rearank.data.trec import TrecFiles
from rearank.prompts import Prompt
from rearank.ranking import SelfConsistency

ROOT = Path(__file__).resolve().parents[2]
NOISES = {"good": 0.4, "medium": 0.7, "poor": 1.2}
"""Standard deviation of an oracle's error about a grade of 0 or 1."""
SEEDS = (1, 2, 3)
DRAWN = 0.7
"""The temperature of self-consistency's samples; everything else is greedy."""


@dataclass(frozen=True)
class Arm:
    """A strategy with its settings, and the prompt it is used with."""

    label: str
    strategy: str
    prompt: str = "compact"
    settings: Mapping[str, Any] = field(default_factory=dict)
    inside: str | None = None
    """Of self-consistency: the strategy inside."""
    inside_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def temperature(self) -> float:
        """Above 0 only where samples must differ."""
        return DRAWN if self.inside is not None else 0.0

    def build(self) -> Any:
        """The strategy itself, from its shipped node."""
        node = {**_node("strategy", self.strategy), **self.settings}
        if self.inside is not None:
            node.pop("defaults", None)
            node["strategy"] = {**_node("strategy", self.inside), **self.inside_settings}
        return build(node)

    def build_prompt(self) -> Prompt:
        """The prompt, from its shipped node."""
        prompt: Prompt = build(_node("prompt", self.prompt))
        return prompt

    @property
    def described(self) -> dict[str, Any]:
        """All that a result depends on."""
        built = self.build()
        inner = f" of {built.strategy}" if isinstance(built, SelfConsistency) else ""
        return {"strategy": f"{built}{inner}", "prompt": repr(self.build_prompt()), "temperature": self.temperature}


def _node(group: str, name: str) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text())
    return node


ORACLE_ARMS = (
    Arm("sliding_window", "sliding_window"),
    Arm("several_passes (3)", "several_passes"),
    Arm("full_list", "full_list"),
    Arm("top_down", "top_down"),
    Arm("setwise (19 children)", "setwise", "setwise"),
    Arm("setwise (3 children)", "setwise", "setwise", {"children": 3}),
    Arm("pairwise (both orders)", "pairwise", "pairwise"),
    Arm("pointwise (yes/no)", "pointwise", "pointwise"),
    Arm("tournament (2)", "tournament"),
    Arm("tournament (5)", "tournament", settings={"tournaments": 5}),
    Arm("self_consistency (5 x sliding_window)", "self_consistency", inside="sliding_window"),
    Arm("self_consistency (5 x top_down)", "self_consistency", inside="top_down"),
)
"""On lists of 100, in windows of 20; the settings are the shipped ones."""

_SMALL = {"size": 5, "step": 2}
TINY_ARMS = (
    Arm("sliding_window", "sliding_window", settings=_SMALL),
    Arm("several_passes (3)", "several_passes", settings=_SMALL),
    Arm("full_list", "full_list"),
    Arm("top_down", "top_down", settings={"size": 5, "k": 2}),
    Arm("setwise (4 children)", "setwise", settings={"children": 4}),
    Arm("setwise (4 children), its own prompt", "setwise", "setwise", {"children": 4}),
    Arm("pairwise (both orders)", "pairwise"),
    Arm("pairwise (both orders), its own prompt", "pairwise", "pairwise"),
    Arm("pointwise (yes/no)", "pointwise", "pointwise"),
    Arm("tournament (2)", "tournament", settings={"size": 5, "keep": 2}),
    Arm("tournament (5)", "tournament", settings={"size": 5, "keep": 2, "tournaments": 5}),
    Arm("self_consistency (5 x sliding_window)", "self_consistency", inside="sliding_window", inside_settings=_SMALL),
    Arm("self_consistency (5 x top_down)", "self_consistency", inside="top_down", inside_settings={"size": 5, "k": 2}),
)
"""On lists of 20, in the windows of 5 and with the prompt that the small model was trained with, unless named."""


def oracle_lists(cache: Path) -> tuple[str, list[JudgedCandidates]]:
    """Vaswani's 93 queries with their BM25 top 100 where the collection is here, else the built-in one's."""
    folder = Path(os.environ.get("REARANK_TEST_DATA", ROOT.parent / "shared" / "data")) / "vaswani"
    if not folder.is_dir():
        return "the built-in collection", built_in_lists(cache, 100)
    files = TrecFiles(*(str(folder / name) for name in ("doc-text.trec", "query-text.trec", "qrels")))
    return "Vaswani", Source("vaswani", files, Bm25(cache_dir=str(cache))).judged(100)


def built_in_lists(cache: Path, depth: int) -> list[JudgedCandidates]:
    """The quickstart's 320 test queries."""
    collection = SyntheticCollection(seed=1, split="test", passage_count=2000)
    return Source("synthetic", collection, Bm25(cache_dir=str(cache))).judged(depth)


def spread(items: Sequence[JudgedCandidates], count: int) -> list[JudgedCandidates]:
    """``count`` of ``items``, evenly spaced."""
    return [items[i * len(items) // count] for i in range(min(count, len(items)))]
