"""How much memory this machine, or this container, has."""

from __future__ import annotations

import re
from pathlib import Path


def memory_bytes(what: str) -> int | None:
    """A line of ``/proc/meminfo``, or the control group's limit where that is less; ``None`` where there is neither."""
    match = re.search(rf"^{what}:\s+(\d+) kB", contents(Path("/proc/meminfo")), re.MULTILINE)
    if match is None:
        return None
    limit = contents(Path("/sys/fs/cgroup/memory.max"))
    return min([int(match.group(1)) * 1024, *([int(limit)] if limit.isdecimal() else [])])


def contents(path: Path) -> str:
    """Of a small file of the system; empty where it can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
