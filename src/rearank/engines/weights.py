"""A model's files, looked at without loading them: are they all there, whole, and no mere pointers?"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from rearank.reach import reachable
from rearank.runs.layout import read_json

_POINTER = b"version https://git-lfs"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
MADE_FROM = "gguf.json"
"""In a folder made of a GGUF file: which one, and how its weights are stored."""
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def weight_problems(folder: Path) -> list[str]:
    """What a model's folder lacks: one line a file, with the remedy."""
    files = sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern))
    if not files:
        return [f"{folder}: no weights in it (model.safetensors); copy or fetch them again"]
    found = [line for path in files if (line := _file_problem(path)) is not None]
    for index in folder.glob("*.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError):
            found.append(f"{index}: can't be read; fetch it again")
            continue
        absent = sorted(name for name in named if not (folder / name).is_file())
        found += [f"{folder}: {index.name} names {name}, which isn't there; fetch it" for name in absent[:3]]
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        found.append(f"{folder}: no tokenizer in it (tokenizer.json); copy it from the model's source")
    return found


def names_apart(folder: Path, name: str) -> list[str]:
    """Why ``name`` may not stand for the model in ``folder``: a quantised one is another model."""
    made = read_json(folder / MADE_FROM)
    weights = str(made.get("weights", ""))
    if made.get("quantised") is not True or weights.lower() in name.lower():
        return []
    return [
        f"model.path={folder}: its weights were {weights} in a GGUF file, rounded from another model's; "
        f"set model.name={name}_{weights.lower()}, so that every table names it apart (from_pretrained takes the "
        "folder's name: rename it)"
    ]


def hub_problems(name: str, revision: str | None) -> list[str]:
    """Why a model of the hub could not be loaded: neither in the cache nor to be fetched."""
    if find_spec("huggingface_hub") is None:  # the engine's own preflight names what is missing
        return []
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError as error:  # no name that the hub could have
        return [f"model.path={name}: {str(error).splitlines()[0]}"]
    offline = constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "") in ("1", "true", "True")
    if isinstance(cached, str):
        # Shards that aren't there yet may be fetched; a cut or pointed-to one won't be mended by that.
        files = sorted(path for pattern in _WEIGHTS for path in Path(cached).parent.glob(pattern))
        return [line for path in files if (line := _file_problem(path)) is not None]
    where = f"model.path={name}: not in the cache ({constants.HF_HUB_CACHE})"
    if offline:
        return [f"{where}, and HF_HUB_OFFLINE forbids to fetch it; fetch it elsewhere, or set model.path to a folder"]
    if not reachable(constants.ENDPOINT):
        return [f"{where}, and {constants.ENDPOINT} can't be reached; set model.path to a folder that holds the model"]
    return []


def _file_problem(path: Path) -> str | None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(len(_POINTER))
            if head == _POINTER:
                return f"{path}: a Git LFS pointer and no weights; run `git lfs pull` in its folder"
            if path.suffix != ".safetensors":
                return None if size else f"{path}: empty; fetch it again"
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length < size else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{path}: no safetensors file; fetch it again"
    if not ends or 8 + length + max(ends) != size:
        return f"{path}: cut short or damaged ({size} bytes); fetch it again"
    return None
