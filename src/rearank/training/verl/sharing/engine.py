"""verl's FSDP engine for language models, with each prompt computed once. Imported in the cluster only.

It takes the vendor's own place in verl's registry, where verl looks first and has nothing itself. Batches that it can't
share prompts in, it leaves to verl's own code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name, get_vendor
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl

from rearank.training.base import TrainingError
from rearank.training.shared_prompt.packed import pack
from rearank.training.shared_prompt.support import why_plain
from rearank.training.shared_prompt.trial import why_not_flex
from rearank.training.verl.events import NAME, SHARED, Reporter
from rearank.training.verl.sharing.groups import into_passes

Loss = Callable[..., tuple[Any, dict[str, Any]]]

_log = logging.getLogger(__name__)
_MARK = "rearank_shared_prompt"  # in a batch whose prompts are shared
_PLAIN = ("calculate_sum_pi_squared", "distillation_use_topk", "distillation_only")  # figures that only verl computes


def register() -> None:
    """Make the engine the one that verl finds; its registry refuses a place that is taken."""
    device = os.environ.get("VERL_ENGINE_DEVICE") or get_device_name()
    vendor = os.environ.get("VERL_ENGINE_VENDOR") or get_vendor()
    EngineRegistry.register("language_model", ["fsdp", "fsdp2"], device, vendor)(SharedPromptEngine)


class SharedPromptEngine(transformer_impl.FSDPEngineWithLMHead):  # type: ignore[misc]
    """Trains and scores answers in rows that hold a prompt with all its answers."""

    _form: Any = None
    """Of the rows' masks; ``None`` where prompts aren't shared."""

    _computed = 0
    """Tokens of a batch's rows so far."""

    def _build_module(self) -> Any:
        """Raises ``TrainingError`` where ``trainer.shared_prompt`` is ``true`` and the model can't share prompts."""
        module = super()._build_module()
        asked, form = os.environ[SHARED].split()
        reason = why_plain(module) or self._why_plain()
        if reason is None and form == "flex":
            reason = self._why_not_flex(module)
        if reason is None:
            self._form = form
            if module.config._attn_implementation != "eager":
                module.set_attn_implementation("flex_attention" if form == "flex" else "sdpa")
        elif asked == "true":
            raise TrainingError(
                f"trainer.shared_prompt=true: this model's prompts can't be shared: {reason}; set "
                "trainer.shared_prompt=auto or false"
            )
        elif self.rank == 0 and not self.engine_config.forward_only:
            message = f"trainer.shared_prompt: each prompt is computed for each answer: {reason}"
            if NAME in os.environ:
                Reporter().put("warning", message)
            else:
                _log.warning(message)
        return module

    def _why_not_flex(self, module: Any) -> str | None:
        """As ``trial.why_not_flex``, of all GPUs: passes that only some of them share would wait for one another."""
        mixed = self.engine_config.mixed_precision or {}
        computed_in = PrecisionType.to_dtype(mixed.get("param_dtype", "bf16"))
        reason = why_not_flex(module.config, device := get_device_name(), computed_in)
        works = torch.tensor([reason is None], dtype=torch.int32, device=device)
        torch.distributed.all_reduce(works, op=torch.distributed.ReduceOp.MIN)
        return reason if works or reason else "flex_attention doesn't run on another of the GPUs"

    def _why_plain(self) -> str | None:
        """Of verl's settings; as ``support.why_plain``."""
        if self.use_ulysses_sp:
            return "Ulysses splits a row over GPUs (trainer.verl.*.ulysses_sequence_parallel_size)"
        if self.model_config.use_fused_kernels:
            return "fused kernels compute log-probabilities their own way (trainer.fused_kernels)"
        return None

    def _shares(self, data: Any) -> bool:
        """Whether a batch is one of answers, from which only what ``packed`` computes is wanted."""
        return (
            self._form is not None
            and "prompts" in data
            and data["position_ids"].dim() == 2
            and not isinstance(data["temperature"], torch.Tensor)
            and tu.get_non_tensor_data(data, "use_dynamic_bsz", True)
            and not any(tu.get_non_tensor_data(data, name, False) for name in _PLAIN)
        )

    def forward_backward_batch(self, data: Any, loss_function: Loss | None, forward_only: bool = False) -> Any:
        """verl's, over passes in which a prompt's answers are together."""
        if not self._shares(data):
            return super().forward_backward_batch(data, loss_function, forward_only)
        tu.assign_non_tensor(data, **{_MARK: True})
        self._computed = 0
        with patch.object(transformer_impl, "prepare_micro_batches", self._passes):
            output = super().forward_backward_batch(data, loss_function, forward_only)
        output["metrics"]["tokens_computed"] = [self._computed / int(data["input_ids"].offsets()[-1])]
        return output

    def _passes(self, data: Any, dp_group: Any, **_: Any) -> tuple[list[Any], list[list[int]]]:
        """In place of verl's function: the passes, as many on every rank, and which answers each has."""
        lengths = {name: data[name].offsets().diff().tolist() for name in ("prompts", "responses")}
        given = (_prompts(data), lengths["prompts"], lengths["responses"], int(data["max_token_len_per_gpu"]))
        padded = self._form == "dense"
        count = torch.tensor([len(into_passes(*given, padded=padded))], device=get_device_name())
        torch.distributed.all_reduce(count, op=torch.distributed.ReduceOp.MAX, group=dp_group)
        passes = into_passes(*given, padded=padded, at_least=int(count))
        return [tu.index_select_tensor_dict(data, indexes) for indexes in passes], passes

    def prepare_model_inputs(self, micro_batch: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """verl's, or rows of prompts with their answers."""
        if not tu.get_non_tensor_data(micro_batch, _MARK, False):
            return super().prepare_model_inputs(micro_batch)  # type: ignore[no-any-return]
        first: dict[bytes, int] = {}  # each prompt's number
        group = [first.setdefault(key, len(first)) for key in _prompts(micro_batch)]
        every = micro_batch["prompts"].unbind()
        prompts = [every[group.index(number)] for number in range(len(first))]
        packed = pack(prompts, micro_batch["responses"].unbind(), group, one_row=self._form == "flex")
        self._computed += packed.ids.numel()
        return packed.inputs(self.module.config, self._form), {"packed": packed}

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: Any, logits_processor_func: Any
    ) -> dict[str, Any]:
        """verl's, or the same of ``packed``: at each place what it says of the next token, 0 but for the answers'."""
        packed = output_args.get("packed")
        if packed is None:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)  # type: ignore[no-any-return]
        offsets = micro_batch["input_ids"].offsets()
        begin = offsets[:-1] + micro_batch["prompts"].offsets().diff() - 1
        steps = torch.arange(packed.mask.size(1), device=begin.device)
        places = (begin[:, None] + steps)[packed.mask]

        def spread(figures: Any) -> Any:
            flat = figures.new_zeros(int(offsets[-1])).index_put((places,), figures[packed.mask])
            return torch.nested.nested_tensor_from_jagged(flat, offsets)

        log_probs, entropies = packed.figures(output.logits, float(micro_batch["temperature"]))
        wanted = tu.get_non_tensor_data(micro_batch, "calculate_entropy", False)
        return {"log_probs": spread(log_probs)} | ({"entropy": spread(entropies)} if wanted else {})


def _prompts(data: Any) -> list[bytes]:
    """Of each answer its prompt, as something to compare."""
    return [prompt.cpu().numpy().tobytes() for prompt in data["prompts"].unbind()]
