"""The entry point: ``python run.py --help``. Composes the config, builds the task, runs it."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run the task that ``config`` describes; its score is for sweepers."""
    from rearank.cli import run_task

    return run_task(config)


if __name__ == "__main__":
    from rearank.cli import guarded

    sys.exit(guarded(main))
