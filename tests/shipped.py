"""The checkpoint that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rearank.engines.model import Model

ASSETS = Path(Model("tiny", "pkg://rearank/training/assets/tiny").location)


def load(folder: str | Path = ASSETS) -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint, through the auto classes any other tool would use."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
