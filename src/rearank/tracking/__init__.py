"""Where figures go while a run is under way: always a JSONL file, and W&B as well where ``tracking=wandb``.

``names`` every figure that is logged, with its meaning · ``base`` what a tracker is · ``jsonl`` files, always written ·
``wandb_runs`` Weights & Biases, offline first · ``run_trackers`` those of one run.
"""

from __future__ import annotations

from collections.abc import Sequence

from rearank.tracking.base import Artefact, Tracker
from rearank.tracking.jsonl import JsonlTracker, NoTracking, Trackers, read_jsonl
from rearank.tracking.run_trackers import TrackingNode
from rearank.tracking.wandb_runs import WandbTracking
from rearank.types import Message

__all__ = [
    "Artefact",
    "JsonlTracker",
    "NoTracking",
    "Tracker",
    "Trackers",
    "TrackingNode",
    "WandbTracking",
    "read_jsonl",
    "transcript",
]


def transcript(messages: Sequence[Message]) -> str:
    """A prompt as one text, for tables of rollouts."""
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)
