"""To a repository of the hub, with huggingface_hub: one that anybody can read is never taken for a private one.

The hub is huggingface.co, or the one that HF_ENDPOINT names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rearank.checks import missing_packages
from rearank.engines.chat import in_one_line
from rearank.progress import progress
from rearank.runs.layout import MANIFEST
from rearank.tasks.export.origin import ExportError

_ATTRIBUTES = ".gitattributes"


class Hub:
    """One repository, and who is logged in."""

    def __init__(self, repository: str, *, private: bool) -> None:
        """Ask the hub who this is.

        Args:
            repository: ``owner/name``.
            private: of one that isn't there yet.

        Raises:
            ExportError: without a token, or where the hub doesn't take it.
        """
        if lacking := missing_packages("train", "huggingface_hub"):
            raise ExportError(f"export.push: {lacking[0]}")
        from huggingface_hub import HfApi, get_token

        self._name, self._private, self._token = repository, private, get_token() or ""
        if not self._token:
            raise ExportError(
                f"export.push={repository}: nobody is logged in to the hub; run `hf auth login`, or put a token that "
                "may write into HF_TOKEN"
            )
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=self._token)
        with self._one_line("who is logged in"), progress(f"asking {self._api.endpoint} who this is"):
            self._api.whoami()

    def upload(self, folder: Path, message: str) -> str:
        """All of ``folder`` as one commit or several; returns the repository's address.

        Raises:
            ExportError: where the hub refuses, or the repository is public and was to be private.
        """
        with self._one_line("making the repository"):
            self._api.create_repo(self._name, private=self._private, exist_ok=True)
            info = self._api.model_info(self._name)
            public, there = not info.private, {one.rfilename for one in info.siblings or ()} - {_ATTRIBUTES}
        if self._private and public:
            raise ExportError(
                f"export.push={self._name}: this repository is there, and everybody can read it; set "
                "export.private=false where that is meant, or choose another name"
            )
        if there and MANIFEST not in there:
            raise ExportError(
                f"export.push={self._name}: this repository holds {sorted(there)[0]} and more that rearank did not put "
                "there; choose another name, or empty it"
            )
        with self._one_line("uploading"), progress(f"uploading to {self._name}"):
            # What an earlier export left there would be loaded beside this one, or in its place.
            self._api.upload_folder(
                repo_id=self._name, folder_path=folder, commit_message=message, delete_patterns=["*"] if there else None
            )
        return f"{self._api.endpoint}/{self._name}"

    @contextmanager
    def _one_line(self, what: str) -> Iterator[None]:
        """What goes wrong, as one error without the token."""
        import httpx
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, ExportError):
                raise
            said = in_one_line(error).replace(self._token, "(the token)")
            raise ExportError(
                f"export.push={self._name}: {what} failed: {said}; {_remedy(error)}, then run the same command again"
            ) from None  # the cause may hold the token in its headers


def _remedy(error: Any) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "log in again (`hf auth login`), or put a valid token into HF_TOKEN"
    if status == 403:
        return "the token must be one that may write there"
    return "see whether the hub can be reached (HF_ENDPOINT, HF_HUB_OFFLINE)"
