"""The sections ``prepare`` and ``evaluation`` of the config."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preparation:
    """How training and validation windows are made of the dataset.

    Args:
        depth: candidates retrieved a query.
        validation_share: training queries held out for validation where ``validation`` names no dataset.
        validation_windows: at most so many, spread over the queries; 0 for no validation.
    """

    depth: int = 100
    validation_share: float = 0.1
    validation_windows: int = 128

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"depth is the number of candidates a query and must be at least 2, not {self.depth}")
        if not 0 <= self.validation_share < 1:
            raise ValueError(f"validation_share must lie in [0, 1), not {self.validation_share}")
        if self.validation_windows < 0:
            raise ValueError(f"validation_windows must not be negative, not {self.validation_windows}")


@dataclass(frozen=True)
class Evaluation:
    """How a model is measured.

    Args:
        trained: also evaluate the checkpoint trained in this run's folder, where there is one.
        samples: besides the greedy answers, so many sampled rankings of the untrained model, averaged.
        sample_temperature: of those.
        max_concurrent_queries: queries under way at once; ``null`` for all.
        max_failed: share of queries that may fail before the run counts as failed.
    """

    trained: bool = True
    samples: int = 0
    sample_temperature: float = 1.0
    max_concurrent_queries: int | None = 256
    max_failed: float = 0.0

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"samples must not be negative, not {self.samples}")
        if self.sample_temperature <= 0:
            raise ValueError(f"sample_temperature must be above 0, not {self.sample_temperature}")
        if self.max_concurrent_queries is not None and self.max_concurrent_queries < 1:
            raise ValueError(f"max_concurrent_queries must be at least 1 or null, not {self.max_concurrent_queries}")
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"max_failed is a share and must lie in [0, 1], not {self.max_failed}")
