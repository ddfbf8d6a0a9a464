"""TRL's GRPOTrainer with the algorithm's own advantages. Imports torch and TRL: for a training that has begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from rearank.algorithms import PolicyGradient
from rearank.rewards import RewardError
from rearank.training.local import is_complete
from rearank.training.trl.answers import sampled
from rearank.training.trl.reward import TrlReward
from rearank.training.trl.sharing import SharingTrainer

_ROUNDING = 1e-6
WIDE = 0.1  # how far from 1 the ratio of a token's two probabilities is called wide: as in training.verl.step


class PolicyTrainer(SharingTrainer):
    """TRL's trainer with five changes, and passes that share prompts.

    1. Advantages are ours: ``algorithm.advantages`` of the rewards. Where TRL's own differ by rounding alone, TRL's
       digits are kept, so that a run repeats what an earlier version of rearank made.
    2. Minibatches take whole groups, in the order in which they were sampled; TRL shuffles answers among them. So do
       passes that share prompts.
    3. A run that goes on continues with the order of windows of its own epoch; TRL begins again with the first's.
    4. Where a reward fails or isn't finite the step before is saved, and the run goes on from there once the reward is
       mended.
    5. Where prompts are shared sampling computes each once, and no answer beyond its end. The random draws are TRL's.
    """

    _buffered_inputs: Any
    control: Any

    def __init__(self, algorithm: PolicyGradient, reward: TrlReward, epochs: int, **settings: Any) -> None:
        """``epochs``: how many were over when the run was stopped; ``settings``: TRL's, and shared_prompt."""
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

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *rest: Any, **more: Any
    ) -> Any:
        if not self.shares or self.use_vllm or images or multimodal_fields:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *rest, **more)
        checkpointing = self.args.gradient_checkpointing_kwargs
        unwrapped = unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing
        )
        with unwrapped as model, torch.no_grad():
            ends = frozenset(self.eos_token_ids)
            drawn = sampled(model, prompt_ids, self.args.max_completion_length, ends, self.temperature, self.top_p)
        return drawn, None

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
        one = self._algorithm.minibatches == 1
        if one and not self.shares:
            return super()._prepare_inputs(generation_batch)
        parts = self.args.steps_per_generation
        if self._step % (parts * self.num_iterations) == 0 or self._buffered_inputs is None:
            rows = self._generate_and_score_completions(generation_batch)
            if one:
                torch.randperm(len(rows["prompt_ids"]))  # TRL's shuffle, so that the next answers are drawn alike
            self._buffered_inputs = split_tensor_dict(rows, parts)
        return self._buffered_inputs[self._step % parts]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(dataset)
        for _ in range(self._epochs):
            torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler
