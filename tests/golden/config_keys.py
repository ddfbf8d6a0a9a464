"""The config's keys when they were written down: users have them in commands and files, so none may go.

``python -m tests.golden.config_keys`` writes them down again, with those that are new.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_suffix(".json")


def recorded() -> dict[str, list[str]]:
    """``group=option`` -> the keys of its node; the empty name: those of the whole default config."""
    found: dict[str, str] = json.loads(RECORDED.read_text())
    return {option: line.split() for option, line in found.items()}


def keys(node: Any, above: str = "") -> Iterator[str]:
    """Dotted, of mappings in mappings."""
    for name, value in node.items():
        here = f"{above}{name}"
        yield here
        if isinstance(value, dict):
            yield from keys(value, f"{here}.")


def gone(option: str, node: Any) -> set[str]:
    """Keys that were there and are no more."""
    return set(recorded().get(option, ())) - set(keys(node))


if __name__ == "__main__":
    from importlib.util import find_spec

    from hydra import initialize_config_dir

    from tests.test_composition import BENCHMARKS, CONF, GIVEN, OPTIONS, PLUGINS, benchmark_node, composed

    found = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found[""] = sorted(keys(composed()))
        for option in OPTIONS:
            group = option.partition("=")[0]
            there = option not in PLUGINS or find_spec(f"hydra_plugins.{PLUGINS[option]}") is not None
            node = composed(option, *GIVEN.get(option, [])).get(group) if there else None
            found[option] = sorted(keys(node)) if isinstance(node, dict) else []
        for name in BENCHMARKS:
            found[f"benchmark={name}"] = sorted(keys(benchmark_node(name, *GIVEN.get(name, []))))
    RECORDED.write_text(json.dumps({option: " ".join(some) for option, some in found.items()}, indent=0) + "\n")
