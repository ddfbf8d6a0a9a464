"""An exported folder's weights in 16 bits: half the size, as hubs expect them, and read by every engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rearank.runs.layout import read_json, write_json
from rearank.tasks.export.origin import ExportError

_INDEX, _CONFIG = "model.safetensors.index.json", "config.json"


def round_weights(folder: Path, dtype: str) -> None:
    """Write every floating-point weight of ``folder`` anew, to the nearest ``dtype`` (``bfloat16`` or ``float16``).

    A file that is a link to the training's own is replaced, never written into.

    Raises:
        ExportError: where a weight is beyond ``dtype``, or weights lie in files other than safetensors.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if old := sorted(folder.glob("pytorch_model*.bin")) + sorted(folder.glob("adapter_model.bin")):
        raise ExportError(f"{old[0].name}: export.dtype rounds weights in safetensors files; leave export.dtype out")
    to, size = getattr(torch, dtype), 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        tensors: dict[str, Any] = load_file(path)
        for name in tensors:
            before = tensors[name]
            if not before.is_floating_point():
                continue
            tensors[name] = before.to(to)
            if not torch.equal(tensors[name].isfinite(), before.isfinite()):
                raise ExportError(
                    f"{name} has weights that {dtype} can't hold; set export.dtype=bfloat16, or leave it out"
                )
        scratch = path.with_name(path.name + ".partial")
        save_file(tensors, scratch, metadata=said)
        scratch.replace(path)
        size += sum(tensor.nbytes for tensor in tensors.values())
    if index := read_json(folder / _INDEX):
        write_json(folder / _INDEX, {**index, "metadata": {**index.get("metadata", {}), "total_size": size}})
    if config := read_json(folder / _CONFIG):
        named = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
        write_json(folder / _CONFIG, {**config, **dict.fromkeys(named, dtype)})
