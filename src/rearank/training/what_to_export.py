"""The section ``export`` of the config."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rearank.checks import check_fields

_REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


@dataclass(frozen=True)
class Export:
    """What ``task=export`` makes of a finished run: a folder in Hugging Face form, and a repository of the hub.

    Args:
        to: the folder; ``null`` for ``<output_dir>/export``.
        which: ``best``: what the run trained last (by reinforcement, else by fine-tuning); ``sft``: the fine-tuned one.
        merge: of a training of adapters the whole model, which was measured; ``False`` for the adapter alone.
        dtype: ``bfloat16`` or ``float16``: weights are rounded to it; ``null``: as they were trained.
        license: the hub's word for it, ``apache-2.0`` say; ``null``: the card says that none was given.
        push: ``owner/name`` of a repository to upload to; ``null`` for none.
        private: of a repository that isn't there yet; where it is ``True``, one that is there and public is refused.
    """

    to: str | None = None
    which: Literal["best", "sft"] = "best"
    merge: bool = True
    dtype: Literal["bfloat16", "float16"] | None = None
    license: str | None = None
    push: str | None = None
    private: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.to is not None and not self.to:
            raise ValueError("to must name a folder, or be null for <output_dir>/export")
        if self.license is not None and not _LICENSE.fullmatch(self.license):
            raise ValueError(
                f"license must be the hub's word for one (apache-2.0, mit, other...), not {self.license!r}"
            )
        name = self.push or ""
        odd = not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", "-", "."))
        if self.push is not None and odd:  # not repeated: what was pasted may be a token
            raise ValueError("push must be owner/name of a repository on the hub (letters, digits, -, _ and .)")
