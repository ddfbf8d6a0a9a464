"""From the command line to one of the commands. Nothing is imported before it is needed."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="pkg://rearank.conf", config_name="config")
def composed(config: DictConfig) -> float | None:
    """Run the task that ``config`` describes; its score is for sweepers."""
    from rearank.cli.running import run_task

    return run_task(config)


def main() -> int:
    """Of the command line in ``sys.argv``; the exit status."""
    if sys.argv[1:] == ["--version"]:
        from rearank import __version__

        print(f"rearank {__version__}")
        return 0
    from rearank.cli.running import guarded

    match sys.argv[1:2]:
        case ["doctor"]:
            from rearank.cli.doctor import doctor

            return guarded(lambda: doctor(sys.argv[2:]))
        case ["prompt"]:
            from rearank.cli.prompt import prompt

            return guarded(lambda: prompt(sys.argv[2:]))
    return guarded(_task)


def _task() -> None:
    from rearank.arguments import accepted

    sys.argv[1:] = accepted(sys.argv[1:])
    composed()
