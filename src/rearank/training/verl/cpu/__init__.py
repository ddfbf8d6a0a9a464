"""verl and vLLM on CPUs: what lets the cluster's code path run, and be tested, on a machine without a GPU.

verl finds this package by the entry point ``verl.plugins``, vLLM by ``vllm.general_plugins``. Importing it does nothing
unless it is asked for by the environment, which ``trainer.device=cpu`` sets for every process of the cluster:

- ``VERL_PLATFORM=cpu``: the platform and every patch of ``patches``;
- ``REARANK_WEIGHT_TIMEOUT``: seconds after which a weight transfer to a dead rollout worker fails. Set on GPUs, too:
  the patches marked ``on_gpu`` are of use there;
- ``REARANK_SHARED_PROMPT``: the engine that computes each prompt once (``sharing``), on CPUs and GPUs.

verl only logs a plug-in that fails, at debug level: ``applied`` is how the runner asserts that it didn't.
"""

from __future__ import annotations

import os

ASKED = os.environ.get("VERL_PLATFORM", "").strip().lower() == "cpu"

applied: list[str] = []
"""Names of what was put in place in this process, in order."""

if ASKED:
    from rearank.training.verl.cpu import platform  # noqa: F401  # registers itself

    applied.append("platform")

if ASKED or os.environ.get("REARANK_WEIGHT_TIMEOUT"):
    from rearank.training.verl.cpu.patches import PATCHES, apply

    applied += [apply(patch) for patch in PATCHES if ASKED or patch.on_gpu]

if os.environ.get("REARANK_SHARED_PROMPT"):
    from rearank.training.verl.cpu.patches import after_import

    def _register(_: object) -> None:
        from rearank.training.verl.sharing import engine

        engine.register()

    after_import("verl.workers.engine.fsdp.transformer_impl", _register)
    applied.append("shared prompts")
