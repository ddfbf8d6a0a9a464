"""Supervised fine-tuning: verl's SFT trainer on the rows' ideal answers. Imported in the cluster only."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from verl.trainer import sft_trainer_ray

from rearank.training.local import mark_complete
from rearank.training.verl.events import Reporter
from rearank.training.verl.runner import Outcome

_CURVES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/learning_rate", "mfu": "perf/mfu"}


class AnswerDataset(Dataset):  # type: ignore[misc]
    """Prompt and answer of each row as tokens; the loss is on the answer and its end token alone.

    verl's own data set would learn every assistant turn, and a rearank prompt has many ("Received passage [1].").
    """

    def __init__(
        self,
        parquet_files: str | Sequence[str],
        tokenizer: Any,
        config: Any,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        import pyarrow.parquet as pq

        paths = [parquet_files] if isinstance(parquet_files, str) else list(parquet_files)
        self._records = [record for path in paths for record in pq.read_table(path).to_pylist()]
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """``input_ids``, ``position_ids``, ``loss_mask``: each of shape (tokens,)."""
        record, tokenizer = self._records[index], self._tokenizer
        text = tokenizer.apply_chat_template(record["prompt"], tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = [*tokenizer(record["answer"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor(prompt + answer)
        mask = torch.tensor([0] * len(prompt) + [1] * len(answer))
        return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "loss_mask": mask}


class _Tracking:
    """In the place of verl's ``Tracking``: figures go to the driver under our names."""

    last = 0
    best_step, best_loss = -1, float("inf")

    def __init__(self, **_: Any) -> None:
        self._reporter = Reporter()

    def log(self, data: Mapping[str, Any], step: int) -> None:
        figures = {ours: float(data[key]) for name, ours in _CURVES.items() if (key := f"train/{name}") in data}
        if "val/loss" in data:
            figures["val/loss"] = loss = float(data["val/loss"])
            if loss < _Tracking.best_loss:
                _Tracking.best_step, _Tracking.best_loss = step, loss
        _Tracking.last = self._reporter.put("log", (step, figures))


def fine_tune(config: Mapping[str, Any], watch: Mapping[str, Any]) -> Outcome:
    """Train to the end; the best step is the one of least loss on the validation rows."""
    from omegaconf import OmegaConf

    tree = OmegaConf.create(dict(config))
    OmegaConf.resolve(tree)
    for line in watch["history"]:
        if "val/loss" in line and line["val/loss"] < _Tracking.best_loss:
            _Tracking.best_step, _Tracking.best_loss = line["step"], line["val/loss"]
    sft_trainer_ray.Tracking = _Tracking
    trainer = sft_trainer_ray.SFTTrainer(tree)
    if tree.trainer.device == "cpu":  # a worker process for each of verl's eight loaders is more than a trial needs
        trainer.train_dataloader.num_workers = 0
        if trainer.val_dataloader is not None:
            trainer.val_dataloader.num_workers = 0
    reporter = Reporter()
    save = trainer.ckpt_handler.save_checkpoint

    def save_and_mark(step: int) -> None:
        save(step=step)
        reporter.wait_for_driver(_Tracking.last)
        folder = Path(tree.trainer.default_local_dir)
        mark_complete(folder / f"global_step_{step}")
        steps = sorted(int(path.name.rpartition("_")[2]) for path in folder.glob("global_step_*"))
        for old in steps[: -watch["keep"]]:
            if old != _Tracking.best_step:
                shutil.rmtree(folder / f"global_step_{old}")

    trainer.ckpt_handler.save_checkpoint = save_and_mark
    reporter.put("begin", {"step": trainer.resume_global_step, "steps": trainer.total_training_steps})
    trainer.fit()
    return Outcome(trainer.total_training_steps, _Tracking.best_step)
