"""Whether a host answers: asked once a process, within seconds, before work that would need it."""

from __future__ import annotations

import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

_SECONDS = 3.0


@cache
def reachable(url: str) -> bool:
    """Whether somebody listens at ``url``'s host and port; taken for granted where requests go through a proxy."""
    parts = urlsplit(url)
    if getproxies() or parts.hostname is None:
        return True
    try:
        with socket.create_connection(
            (parts.hostname, parts.port or (80 if parts.scheme == "http" else 443)), _SECONDS
        ):
            return True
    except OSError:
        return False
