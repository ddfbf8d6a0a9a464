"""Which model it is, without loading it: where it lies, what its weights are, the precision it is to have."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rearank.engines.base import EngineError
from rearank.runs.content import reading

_HASHED_WHOLE = 1 << 30  # weights up to 1 GiB are fingerprinted whole, larger files by size, date and both ends
_END = 1 << 20
_WEIGHTS_AND_SETTINGS = {".json", ".jinja", ".safetensors", ".bin", ".model"}


def located(model: str) -> str:
    """What a loader takes: the folder, or the hub id; raises ``EngineError`` where it is neither."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        raise EngineError(f"no model at {model}: give a folder with config.json and weights, or a hub id")
    return model


def cannot_load(model: str | Path, error: Exception) -> EngineError:
    """In one line: what a loader says can go on for pages."""
    return EngineError(f"can't load {model}: {str(error).splitlines()[0]}")


def dtype_name(dtype: str, *, on_gpu: bool) -> str:
    """``auto`` resolved: bfloat16 on a GPU, float32 on a CPU; raises ``EngineError`` for a name torch doesn't know."""
    import torch

    name = ("bfloat16" if on_gpu else "float32") if dtype == "auto" else dtype
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise EngineError(f"engine.dtype: torch has no {name!r}; write auto, float32 or bfloat16")
    return name


def known_as(model: str | Path) -> str:
    """The model's name in an identity: a folder is known by what is in it, so that moving it changes no answer."""
    return "" if Path(model).expanduser().is_dir() else str(model)


def fingerprint(model: str | Path, config: Any = None) -> str:
    """What the weights are: a hash of a folder's files, the commit of a hub model (``""`` if it is not known)."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return str(getattr(config, "_commit_hash", None) or "")
    digest = hashlib.sha256()
    files = sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS_AND_SETTINGS)
    with reading(*(path for path in files if path.stat().st_size <= _HASHED_WHOLE)) as blocks:
        for path in files:
            state = path.stat()
            digest.update(f"{path.name}:{state.st_size}:".encode())
            if state.st_size <= _HASHED_WHOLE:
                for block in blocks(path):
                    digest.update(block)
                continue
            digest.update(f"{state.st_mtime_ns}:".encode())
            with path.open("rb") as file:
                digest.update(file.read(_END))
                file.seek(-_END, 2)
                digest.update(file.read(_END))
    return digest.hexdigest()
