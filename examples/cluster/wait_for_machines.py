"""Wait until a Ray cluster has its machines: ``python wait_for_machines.py HOST:PORT MACHINES [SECONDS]``."""

from __future__ import annotations

import socket
import sys
import time

import ray


def machines(address: str) -> int:
    """How many are in the cluster now; 0 where there is none yet."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()  # Ray itself would try for minutes
        ray.init(address, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError):
        return 0
    try:
        return sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


def main() -> int:
    address, wanted, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 600.0
    deadline = time.monotonic() + seconds
    while (found := machines(address)) < wanted:
        if time.monotonic() > deadline:
            print(f"Ray at {address} has {found} of {wanted} machines after {seconds:g} s", file=sys.stderr)
            return 1
        time.sleep(2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
