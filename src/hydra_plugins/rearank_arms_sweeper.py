"""A Hydra sweeper for studies: named arms, each a list of overrides, times seeds (``hydra/sweeper=rearank_arms``).

A grid (Hydra's own sweeper) crosses every value with every other; a study's arms are a list, whose members differ from
the baseline in one thing each, and have names. ``arm=a,b`` and ``seed=1,2`` choose some of them; other keys may be
swept as well. Hydra imports this file at every start: nothing heavy may be imported at its top.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

ARM, SEED = "arm", "seed"

# No dataclass: Hydra imports this file before Python knows it as a module, which dataclasses need.
_NODE: dict[str, Any] = {
    "_target_": "hydra_plugins.rearank_arms_sweeper.ArmsSweeper",
    "arms": {},  # name -> overrides; an empty list is the config as it is
    "seeds": [1],
}
ConfigStore.instance().store(group="hydra/sweeper", name="rearank_arms", node=_NODE, provider="rearank")


class ArmsSweeper(Sweeper):
    """All arms with the first seed, then with the second: a sweep that is stopped has whole rows of arms."""

    def __init__(self, arms: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> None:
        self._arms = {str(name): [str(line) for line in lines or ()] for name, lines in arms.items()}
        self._seeds = [str(seed) for seed in seeds]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's protocol."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        # Hydra resolved the arms when it built this object: ${seed} in one means each job's own.
        self._arms = {str(name): [str(line) for line in lines or ()] for name, lines in arms_as_written(config).items()}
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Hydra's protocol: launch every job at once; the launcher decides how many run together.

        Raises:
            HydraException: as ``jobs``.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        jobs = self.jobs(arguments, OverridesParser.create(config_loader=self.hydra_context.config_loader))
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self.validate_batch_is_legal(jobs)
        results = self.launcher.launch(jobs, initial_job_idx=0)
        for result in results:
            _ = result.return_value  # raises what a job raised
        return [results]

    def jobs(self, arguments: Sequence[str], parser: OverridesParser | None = None) -> list[list[str]]:
        """The overrides of each job, in the order of their launch.

        Args:
            arguments: of the command line, as written there.
            parser: Hydra's; one of its own by default.

        Raises:
            HydraException: for a study without arms, an arm that isn't there, a key that is given and that an arm
                sets to something else, or an interval.
        """
        parser = parser or OverridesParser.create()
        return list(self._jobs(parser.parse_overrides(list(arguments))))

    def _jobs(self, given: Sequence[Override]) -> Iterator[list[str]]:
        values = {one.get_key_element(): _values(one) for one in given}
        if not self._arms:
            raise HydraException("hydra/sweeper=rearank_arms: this experiment has no arms; set hydra.sweeper.arms")
        arms = list(dict.fromkeys(values.pop(ARM, list(self._arms))))
        seeds = values.pop(SEED, self._seeds)
        for name in arms:
            if name not in self._arms:
                raise HydraException(f"arm={name}: this study has no such arm; there are {', '.join(self._arms)}")
        swept = [[f"{key}={value}" for value in found] for key, found in values.items()]
        for seed, *lines in itertools.product(seeds, *swept):
            for name in arms:
                yield [*_without(lines, name, self._arms[name]), *self._arms[name], f"{ARM}={name}", f"{SEED}={seed}"]


def arms_as_written(config: DictConfig) -> dict[Any, Any]:
    """name -> overrides, their interpolations left for each job to resolve."""
    arms = OmegaConf.to_container(config.hydra.sweeper.arms, resolve=False)
    return arms if isinstance(arms, dict) else {}


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise HydraException(f"{override.key_or_group}: a study sweeps over lists of values, not over intervals")
    return list(override.sweep_string_iterator())


def _without(given: Sequence[str], name: str, arm: Sequence[str]) -> list[str]:
    """``given`` without what the arm sets, too."""
    own = {line.lstrip("+").partition("=")[0]: line for line in arm}
    for line in given:
        key = line.lstrip("+").partition("=")[0]
        if key in own and own[key].lstrip("+") != line.lstrip("+"):
            raise HydraException(f"{line}: the arm {name} sets {own[key]}; leave it out, or the arm (arm=...)")
    return [line for line in given if line.lstrip("+").partition("=")[0] not in own]
