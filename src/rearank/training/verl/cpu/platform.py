"""A platform "cpu" for verl 0.9.1, which ships CUDA, ROCm and NPU only (verl/plugin/platform)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

_GIB = 1 << 30
_MEMORY = 16 * _GIB  # what "the device" claims to have; only logged


class _DeviceModule:
    """What verl asks of ``torch.cuda``: memory is not counted, random state is the CPU's, the rest is ``torch.cpu``."""

    def __getattr__(self, name: str) -> Any:
        return _ANSWERS.get(name) or getattr(torch.cpu, name)


def _nothing(*_: Any, **__: Any) -> None:
    """Calls that only make sense on an accelerator."""


def _zero(*_: Any, **__: Any) -> int:
    return 0


_ANSWERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("memory_reserved", "memory_allocated", "max_memory_allocated", "max_memory_reserved"), _zero),
    **dict.fromkeys(
        ("empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_device", "set_per_process_memory_fraction"),
        _nothing,
    ),
    "mem_get_info": lambda *_, **__: (_MEMORY, _MEMORY),
    "get_device_name": lambda *_, **__: "CPU",  # verl/utils/flops_counter.py has a row of that name
    "get_rng_state": lambda *_, **__: torch.get_rng_state(),
    "set_rng_state": lambda state, *_, **__: torch.set_rng_state(state),
    "manual_seed": torch.manual_seed,
    "manual_seed_all": torch.manual_seed,
}
_DEVICE = _DeviceModule()


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):  # type: ignore[misc]
    """The machine's cores as one accelerator; Ray counts it as a "GPU", of which it gets a made-up number."""

    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DEVICE

    def is_available(self) -> bool:
        """Always."""
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """Never by itself: only ``VERL_PLATFORM=cpu`` chooses it."""
        return False

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        """verl/single_controller/ray/base.py counts "GPU" in its resource pools."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        """Weights travel to the rollout engine through shared memory."""
        return False

    def cudart(self) -> None: ...
