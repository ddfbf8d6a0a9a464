"""A prompt that doesn't fit the strategy or the training is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.experiment import Run, make_run
from rearank.tasks.preflight import PreflightError, preflight

TINY = ("model=tiny", "model.prompt=null", "benchmark=synthetic", "engine=scripted", "tracking=none")


def made(root: Path, *overrides: str) -> Run:
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        config = OmegaConf.to_container(
            compose("config", ["name=test", "output_dir=outputs/test", *TINY, *overrides]), resolve=True
        )
    assert isinstance(config, dict)
    return make_run({str(key): value for key, value in config.items()}, {})


@pytest.mark.parametrize(
    "fits",
    [
        ("strategy=setwise", "prompt=setwise"),
        ("strategy=setwise", "prompt=compact"),
        ("strategy=pairwise", "prompt=pairwise"),
        ("strategy=pointwise", "prompt=pointwise"),
        ("strategy=self_consistency", "prompt=compact", "model.temperature=0.7"),
        ("strategy=self_consistency", "strategy@strategy.strategy=setwise", "prompt=setwise", "model.temperature=0.7"),
        ("strategy=sliding_window", "prompt=pointwise", "engine=none"),
    ],
)
def test_what_fits_starts(root: Path, fits: tuple[str, ...]) -> None:
    preflight(made(root, "task=evaluate", *fits))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("strategy=sliding_window", "prompt=setwise"), "the best passage alone"),
        (("strategy=pointwise", "prompt=compact"), "asks: yes_no"),
        (("strategy=self_consistency", "prompt=compact"), "set model.temperature=0.7"),
    ],
)
def test_what_does_not_is_named(root: Path, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(PreflightError, match=said):
        preflight(made(root, "task=evaluate", *overrides))


RANK_R1 = ("task=train", "trainer=trl", "dataset=synthetic", "reward=rank_r1")


def test_a_reward_for_the_best_alone_goes_with_a_prompt_that_asks_for_it(root: Path) -> None:
    pytest.importorskip("trl")
    preflight(made(root, *RANK_R1, "prompt=setwise"))
    with pytest.raises(PreflightError, match=r"training grades the best passage alone.*\(asks: ranking\).*asks: best"):
        preflight(made(root, *RANK_R1, "prompt=compact"))


def test_training_needs_the_whole_order(root: Path) -> None:
    with pytest.raises(PreflightError, match="training grades the order of all passages"):
        preflight(made(root, "task=train", "trainer=trl", "dataset=synthetic", "prompt=setwise"))
