"""The exported folder: weights, tokenizer and settings as transformers has them, the card, and what they follow from.

It appears whole or not at all, and nothing that stands in its place is written over.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rearank.engines.model import Model
from rearank.progress import progress
from rearank.runs.content import sha256_of
from rearank.runs.declared import TARGET
from rearank.runs.layout import CARD, MANIFEST, SEAL, free_name, read_json, write_json, write_text
from rearank.runs.seal import damaged
from rearank.tasks.export.origin import ExportError, Origin
from rearank.tasks.export.rounding import round_weights
from rearank.training.base import Lora, way_out

_GENERATION, _CONFIG, _ADAPTER = "generation_config.json", "config.json", "adapter_config.json"
_NOT_OURS = {CARD, MANIFEST, SEAL, _GENERATION, "training_args.bin"}
_LINKED = {".safetensors", ".bin"}  # never edited in place; what is small is copied
_log = logging.getLogger(__name__)


def fill(folder: Path, origin: Origin, node: Mapping[str, Any], *, adapter: bool, dtype: str | None = None) -> None:
    """Weights, tokenizer, template and settings of ``origin`` into ``folder``; large files are linked where that goes.

    ``node``: the model's, with the sampling that it was measured with; ``dtype``: what weights are rounded to.

    Raises:
        ExportError: where an adapter is wanted and none was trained, or kept, or a weight is beyond ``dtype``.
    """
    if adapter:
        _fill_adapter(folder, origin)
    else:
        _take(origin.model, folder)
        config = read_json(folder / _CONFIG)
        if config.get("use_cache") is False:  # as training left it: answering without one takes many times as long
            write_json(folder / _CONFIG, {**config, "use_cache": True})
    if dtype is not None:
        round_weights(folder, dtype)
    write_json(folder / _GENERATION, generation_settings(origin.model, node))


def generation_settings(model: Path, node: Mapping[str, Any]) -> dict[str, Any]:
    """Which tokens end an answer, and how one is drawn: as the model was measured, whatever its base drew by.

    Args:
        model: the whole model's folder.
        node: of ``conf/model``, as the run has it.

    Raises:
        ExportError: where nothing says how an answer ends.
    """
    stated, config = read_json(model / _GENERATION), read_json(model / _CONFIG)
    ends = dict.fromkeys([*_listed(stated.get("eos_token_id", config.get("eos_token_id"))), *_tokenizer_end(model)])
    if not ends:
        raise ExportError(f"{model}: neither its settings nor its tokenizer name an end token, so no answer would end")
    tokens = {name: stated.get(name, config.get(name)) for name in ("bos_token_id", "pad_token_id")}
    temperature = float(node.get("temperature", 0.0))
    drawn = {"temperature": temperature, "top_p": float(node.get("top_p", 1.0)), "top_k": 0} if temperature else {}
    return {
        **{name: token for name, token in tokens.items() if token is not None},
        "eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends)),
        "do_sample": temperature > 0,
        **drawn,
        **({"max_new_tokens": int(node["max_tokens"])} if "max_tokens" in node else {}),
        **({"transformers_version": version} if (version := stated.get("transformers_version")) else {}),
    }


def _listed(found: Any) -> list[int]:
    return [one for one in (found if isinstance(found, list) else [found]) if isinstance(one, int)]


def _tokenizer_end(model: Path) -> Iterator[int]:
    """The id of the tokenizer's end token, without loading the tokenizer."""
    named = read_json(model / "tokenizer_config.json").get("eos_token")
    named = named.get("content") if isinstance(named, dict) else named
    for token in read_json(model / "tokenizer.json").get("added_tokens", ()):
        if named is not None and token.get("content") == named:
            yield int(token["id"])


def _take(source: Path, folder: Path) -> None:
    """All files of a model's folder but those that are made anew."""
    for path in sorted(source.rglob("*")):
        inside = path.relative_to(source)
        if not path.is_file() or path.name in _NOT_OURS or any(part.startswith(".") for part in inside.parts):
            continue
        target = folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in _LINKED and _linked(path, target):
            continue
        shutil.copyfile(path, target)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk
        return False
    return True


def _fill_adapter(folder: Path, origin: Origin) -> None:
    """The adapter of the best step: TRL's is kept beside the model, verl's is in the shards of its checkpoint."""
    if origin.lora is None:
        raise ExportError(
            f"export.merge=false: {origin.folder} trained all weights, so there is no adapter; leave it out, and the "
            "whole model is exported"
        )
    kept, step = origin.folder / f"best-{origin.result.best_step}", origin.result.best_step
    if (kept / _ADAPTER).is_file():
        if found := damaged(kept):
            raise ExportError(f"{found[0]}; {way_out(origin.folder)}")
        _take(kept, folder)
    elif shards := _shards(origin.folder / "checkpoints" / f"global_step_{step}"):
        from rearank.training.verl.export import export

        node = {key: value for key, value in origin.lora.items() if key != TARGET}
        made = folder / "made"
        export(shards, _base_weights(origin), Lora(**node), made, merge=False)
        _take(made, folder)
        shutil.rmtree(made)
    else:
        raise ExportError(
            f"export.merge=false: {origin.folder} has no adapter of step {step} any more; leave it out, and the whole "
            "model is exported, or train again with rerun=true"
        )
    if origin.base is not None and origin.started_from is None:  # not where this machine keeps it
        settings, (name, revision) = read_json(folder / _ADAPTER), origin.base
        write_json(folder / _ADAPTER, {**settings, "base_model_name_or_path": name, "revision": revision})


def _base_weights(origin: Origin) -> str:
    """What a loader takes for the model that training started from."""
    node = origin.settings.get("model") or {}
    path, revision = str(node.get("path", "")), node.get("revision")
    if origin.base is None or origin.started_from is not None or revision is None:
        return Model("base", path).location
    from huggingface_hub import snapshot_download

    with progress(f"fetching {path} at {revision}"):
        return str(snapshot_download(path, revision=revision))


def _shards(checkpoint: Path) -> Path | None:
    """Where verl's checkpoint has the model."""
    places = (checkpoint / "actor", checkpoint)
    return next((place for place in places if (place / "fsdp_config.json").is_file()), None)


def place(
    target: Path, said: Mapping[str, Any], card: str, write: Callable[[Path], None], *, ours: bool, rerun: bool
) -> bool:
    """Let the folder appear; whether it wasn't there already, the same and whole.

    Args:
        target: the folder.
        said: what the folder follows from, as its ``rearank.json`` says it; ``run`` in it tells runs apart.
        card: its ``README.md``.
        write: puts everything else into a folder.
        ours: the target lies in the run's own folder, so that an older export there is the run's.
        rerun: make it again; what is there is moved aside.

    Raises:
        ExportError: where something else stands there.
    """
    said = json.loads(json.dumps(said))
    there = _look(target, said, card, ours=ours, rerun=rerun)
    if there == "":
        return False
    scratch = target.with_name(f".{target.name}.rearank-partial")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        write(scratch)
        write_text(scratch / CARD, card)
        write_json(scratch / MANIFEST, {**said, "files": _digests(scratch)})
        if there is not None:
            aside = free_name(target)
            target.rename(aside)
            _log.warning("%s: %s: kept as %s", target, there, aside)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _look(target: Path, said: Mapping[str, Any], card: str, *, ours: bool, rerun: bool) -> str | None:
    """Why what stands in ``target`` is to be moved aside; ``None`` where nothing does, empty where it is the same."""
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return None
    found = read_json(target / MANIFEST)
    if not found:
        raise ExportError(f"{target}: something else is there, no exported model; choose another folder: export.to=...")
    if rerun:
        return "rerun=true"
    if not ours and found.get("run") != said["run"]:
        raise ExportError(
            f"{target}: the model of another run is there ({MANIFEST} says which); choose another folder "
            "(export.to=...), or set rerun=true to have it moved aside"
        )
    listed = found.pop("files", {})
    if found != said or not (target / CARD).is_file() or (target / CARD).read_text(encoding="utf-8") != card:
        return "it was exported with other settings, or before the run's results changed"
    there = _digests(target)
    odd = [name for name in {**there, **listed} if there.get(name) != listed.get(name)]
    return f"{odd[0]} is missing or was changed" if odd else ""


def _digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file but the one that lists them."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    return {path.relative_to(folder).as_posix(): one for path, one in zip(paths, sha256_of(*paths), strict=True)}
