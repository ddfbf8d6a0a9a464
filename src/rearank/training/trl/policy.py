"""TRL's GRPOTrainer with the algorithm's own advantages. Imports torch and TRL: for a training that has begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from trl import GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from rearank.algorithms import PolicyGradient
from rearank.rewards import RewardError
from rearank.training.local import is_complete
from rearank.training.trl.reward import TrlReward

_ROUNDING = 1e-6
WIDE = 0.1  # how far from 1 the ratio of a token's two probabilities is called wide: as in training.verl.step


class PolicyTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer with four changes.

    1. Advantages are ours: ``algorithm.advantages`` of the rewards. Where TRL's own differ by rounding alone, TRL's
       digits are kept, so that a run repeats what an earlier version of rearank made.
    2. Minibatches take whole groups, in the order in which they were sampled; TRL shuffles answers among them.
    3. A run that goes on continues with the order of windows of its own epoch; TRL begins again with the first's.
    4. Where a reward fails or isn't finite the step before is saved, and the run goes on from there once the reward is
       mended.
    """

    _buffered_inputs: Any
    control: Any

    def __init__(self, algorithm: PolicyGradient, reward: TrlReward, epochs: int, **settings: Any) -> None:
        """``epochs``: how many were over when the run was stopped; ``settings``: TRL's."""
        self._algorithm, self._reward, self._epochs = algorithm, reward, epochs
        super().__init__(reward_funcs=reward, **settings)
        if self.use_vllm:
            set_seed(self.args.seed)  # vLLM in this process has set its own, the same for every run

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        state = torch.get_rng_state()
        on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        try:
            output = super()._generate_and_score_completions(inputs)
        except RewardError:
            torch.set_rng_state(state)  # the same answers are sampled again
            torch.cuda.set_rng_state_all(on_gpus)
            self._save_last_step()
            raise
        rewards = np.array([breakdown.total for *_, breakdown in self._reward.scored], np.float32)
        groups = np.array([row.index for row, *_ in self._reward.scored])
        theirs = output["advantages"]
        ours = torch.from_numpy(self._algorithm.advantages(rewards, groups)).to(theirs)
        output["advantages"] = torch.where(torch.isclose(ours, theirs, rtol=_ROUNDING, atol=_ROUNDING), theirs, ours)
        for name, value in self._gaps(output).items():
            self._metrics["train"][name].append(value)
        return output

    def _gaps(self, output: Any) -> dict[str, float]:
        """How far trainer and vLLM are apart, where both have said how likely the sampled tokens are."""
        if not {"old_per_token_logps", "sampling_per_token_logps"} <= output.keys():
            return {}
        answered = output["completion_mask"].bool()
        trainer, engine = (output[f"{whose}_per_token_logps"][answered] for whose in ("old", "sampling"))
        gap, ratio = (trainer.exp() - engine.exp()).abs(), (trainer - engine).exp()
        found = {"max": gap.max(), "mean": gap.mean(), "wide": ((ratio - 1).abs() > WIDE).float().mean()}
        gaps = {f"train/rollout_gap_{name}": value.item() for name, value in found.items()}
        if (weights := output.get("importance_sampling_ratio")) is not None:
            shown = weights if weights.size(1) == 1 else weights[answered]
            gaps["train/corrected"] = (shown >= self._algorithm.correction_cap).float().mean().item()
        return gaps

    def _save_last_step(self) -> None:
        """A checkpoint of the steps that are done, where there is none yet."""
        step = self.state.global_step // self._algorithm.minibatches
        if step > 0 and not is_complete(Path(self.args.output_dir) / f"checkpoint-{step}"):
            self._save_checkpoint(self.model, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        if self._algorithm.minibatches == 1:
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), parts)
        return self._buffered_inputs[self._step % parts]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self._epochs):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler
