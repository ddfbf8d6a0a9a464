"""A LoRA adapter and its base -> one folder that every engine loads.

Some checkpoints are published as adapters (Rank-R1 of Qwen2.5-7B-Instruct). Merged once they cost nothing per call, and
no engine needs to know of adapters: ``python -m rearank.engines.merge BASE ADAPTER FOLDER``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rearank.checks import missing_packages
from rearank.engines.base import EngineError


def merge(base: str, adapter: str, folder: Path, *, revision: str | None = None) -> Path:
    """Write ``base`` with ``adapter`` merged into it, and the base's tokenizer, to ``folder``; needs no GPU.

    The weights keep the precision that the base is stored in.

    Args:
        base: a folder or a hub id.
        adapter: a folder or a hub id, with an ``adapter_config.json``.
        folder: must not hold anything yet.
        revision: of the adapter, on the hub.

    Raises:
        EngineError: where either can't be loaded, they don't belong together, or ``folder`` isn't empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise EngineError(f"{folder} is not empty; name another folder, or use it as it is: model.path={folder}")
    if lacking := missing_packages("train", "peft"):
        raise EngineError(lacking[0])
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
        merged = PeftModel.from_pretrained(model, adapter, revision=revision).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, RuntimeError) as error:
        raise EngineError(f"{adapter} can't be merged into {base}: {error}") from error
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Merge a LoRA adapter into its base, once, so that every engine can load it."""
    parser = argparse.ArgumentParser(prog="python -m rearank.engines.merge", description=main.__doc__)
    parser.add_argument("base", help="folder or hub id of the whole model")
    parser.add_argument("adapter", help="folder or hub id of the adapter")
    parser.add_argument("folder", type=Path, help="where the merged model goes")
    parser.add_argument("--revision", help="the adapter's commit, tag or branch on the hub")
    chosen = parser.parse_args(arguments)
    try:
        folder = merge(chosen.base, chosen.adapter, chosen.folder, revision=chosen.revision)
    except EngineError as error:
        parser.error(str(error))
    print(f"merged: model.path={folder} model.adapter_of=null")


if __name__ == "__main__":
    main()
