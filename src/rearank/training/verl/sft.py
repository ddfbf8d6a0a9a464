"""Supervised fine-tuning: verl's SFT trainer on the rows' ideal answers. Imported in the cluster only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from verl.trainer import sft_trainer_ray

from rearank.training.local import mark_complete, prune
from rearank.training.targets import target_tokens
from rearank.training.verl.events import Outcome, Reporter
from rearank.training.verl.settings import Watch

_CURVES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/learning_rate", "mfu": "perf/mfu"}


class AnswerDataset(Dataset):  # type: ignore[misc]
    """Prompt and answer of each row as tokens; the loss is on the answer and its end token alone.

    verl's own data set would learn every assistant turn, and a rearank prompt has many ("Received passage [1].").
    """

    def __init__(self, parquet_files: str | Sequence[str], tokenizer: Any, **_: Any) -> None:
        import pyarrow.parquet as pq

        paths = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        self._records = [record for path in paths for record in pq.read_table(path).to_pylist()]
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``input_ids``, ``position_ids``, ``loss_mask``: each of shape (tokens,)."""
        record, tokenizer = self._records[index], self._tokenizer
        tokens, asked = target_tokens(tokenizer, record["prompt"], record["answer"], "")
        ids = torch.tensor([*tokens, tokenizer.eos_token_id])
        mask = torch.tensor([0] * asked + [1] * (len(ids) - asked))
        return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}


class _Progress:
    """In the place of verl's ``Tracking``, and around its checkpoints: figures go to the driver under our names."""

    def __init__(self, history: Sequence[Mapping[str, Any]], keep: int) -> None:
        self.best_step, self._best_loss = -1, float("inf")
        self._reporter, self._keep, self._logged = Reporter(), keep, 0
        for line in history:
            self._compare(line["step"], line)

    def tracking(self, **_: Any) -> _Progress:
        """What verl calls ``Tracking(...)`` for."""
        return self

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """verl's figures of a step, or of a validation."""
        figures = {ours: float(data[key]) for name, ours in _CURVES.items() if (key := f"train/{name}") in data}
        figures |= {"val/loss": float(data["val/loss"])} if "val/loss" in data else {}
        self._compare(step, figures)
        self._logged = self._reporter.put("log", (step, figures))

    def watch(self, trainer: Any) -> None:
        """Have each checkpoint of ``trainer`` count once its figures are logged, and old ones removed."""
        save = trainer.ckpt_handler.save_checkpoint

        def save_and_mark(step: int) -> None:
            save(step=step)
            place = Path(trainer.config.trainer.default_local_dir) / f"global_step_{step}"
            if step % trainer.steps_per_epoch == 0:
                # The loader's state at an epoch's end gives an empty epoch first; without one the next begins afresh.
                (place / "data_0.pt").unlink()
            self._reporter.wait_for_driver(self._logged)
            mark_complete(place)
            prune(place.parent, "global_step_*", self._keep, [self.best_step])

        trainer.ckpt_handler.save_checkpoint = save_and_mark
        self._reporter.put("begin", None)

    def _compare(self, step: int, figures: Mapping[str, float]) -> None:
        if (loss := figures.get("val/loss", float("inf"))) < self._best_loss:
            self.best_step, self._best_loss = step, loss


def fine_tune(config: Mapping[str, Any], watch: Watch) -> Outcome:
    """Train to the end; the best step is the one of least loss on the validation rows."""
    from omegaconf import OmegaConf

    tree = OmegaConf.create(dict(config))
    OmegaConf.resolve(tree)
    shown = _Progress(watch.history, watch.settings.keep)
    sft_trainer_ray.Tracking = shown.tracking
    trainer = sft_trainer_ray.SFTTrainer(tree)
    if tree.trainer.device == "cpu":  # a worker process for each of verl's eight loaders is more than a trial needs
        trainer.train_dataloader.num_workers = 0
        if trainer.val_dataloader is not None:
            trainer.val_dataloader.num_workers = 0
    shown.watch(trainer)
    trainer.fit()
    return Outcome(trainer.total_training_steps, shown.best_step)
