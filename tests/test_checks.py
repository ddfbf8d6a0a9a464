"""Ranges stated where the fields are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le

from rearank.checks import check_fields
from rearank.config import ConfigError, build
from rearank.engines import OpenAINode, ScriptedNode
from rearank.rewards import NdcgReward


@dataclass(frozen=True)
class Ranged:
    above: Annotated[float, Gt(0)] = 1.0
    between: Annotated[float | None, Ge(0), Le(1)] = None
    many: tuple[Annotated[float, Ge(0)], ...] = ()
    free: float = -1.0

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("field", ["above", "between", "many"])
def test_a_number_is_finite(field: str, value: float) -> None:
    settings: dict[str, Any] = {field: (0.5, value) if field == "many" else value}
    with pytest.raises(ValueError, match=rf"^{field} must be a finite number, not {value}$"):
        Ranged(**settings)
    assert Ranged(above=1e308, between=1, many=(0.5, 2))
    assert Ranged(free=value).free is value, "no range is stated for it"


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_settings_that_would_never_end_are_refused(value: float) -> None:
    for node, key in (
        ({"_target_": "rearank.engines.nodes.ScriptedNode", "behaviour": "given", "seconds": value}, "seconds"),
        ({"_target_": "rearank.rewards.NdcgReward", "weight_tags": value}, "weight_tags"),
    ):
        with pytest.raises(ConfigError, match=f"x: {key} must be a finite number"):
            build(node, "x")
    with pytest.raises(ValueError, match="budget must be a finite number"):
        OpenAINode(price_prompt=1, price_completion=1, budget=value)
    assert ScriptedNode("given").seconds == 0
    assert NdcgReward().weight_tags == 0.1
