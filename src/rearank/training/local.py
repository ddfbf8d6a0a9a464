"""What the one-machine trainers share: loading, checkpoints, adapters."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rearank.runs.content import digests_of
from rearank.runs.layout import SEAL
from rearank.runs.seal import DamagedFileError, differing, read_checked, seal, state_of, write_checked
from rearank.training.base import Best, Lora, TrainingError, TrainingJob

_log = logging.getLogger(__name__)
_COMPLETE = "complete"
_WEIGHTS = "weights"


def quiet() -> None:
    """No bars of the libraries' own: ours say what is going on."""
    import datasets
    from transformers.utils import logging as transformers_logging

    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()


def load_tokenizer(model: str, revision: str | None) -> Any:
    """The model's tokenizer; raises ``TrainingError`` where it can't be trained with."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
    except (OSError, ValueError) as error:
        raise TrainingError(f"model.path={model}: no tokenizer can be loaded ({str(error).splitlines()[0]})") from error
    if tokenizer.chat_template is None:
        raise TrainingError(f"model.path={model}: its tokenizer has no chat template; choose an instruction model")
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"model.path={model}: its tokenizer has no end token, so no answer would ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def device_settings(device: str, revision: str | None, *, lora: bool = False) -> dict[str, Any]:
    """On a GPU the computation is in bfloat16, and so are weights that adapters leave as they are.

    Weights that are trained are float32: a step of 1e-6 is less than bfloat16 can tell from none.
    """
    import torch

    gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    dtype = "bfloat16" if gpu and lora else "float32"
    return {"use_cpu": not gpu, "bf16": gpu, "model_init_kwargs": {"dtype": dtype, "revision": revision or "main"}}


def memory_used() -> dict[str, float]:
    """The peak so far, of the GPU if one is used."""
    import torch

    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return {"perf/memory_gib": peak / 2**30} if peak else {}


def lora_config(lora: Lora) -> Any:
    """peft's form of ``lora``."""
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha or 2 * lora.rank,
        lora_dropout=lora.dropout,
        target_modules=lora.modules if lora.modules == "all-linear" else lora.modules.split(","),
        task_type="CAUSAL_LM",
    )


def mark_complete(checkpoint: Path, *, weights_only: bool = False) -> None:
    """Called when everything of a checkpoint is written: one without a mark was cut short by a kill.

    ``weights_only``: it can become the trained model, and no run can go on from it.
    """
    (checkpoint / (_WEIGHTS if weights_only else _COMPLETE)).touch()


def is_complete(checkpoint: Path) -> bool:
    """Whether a run can go on from it."""
    return (checkpoint / _COMPLETE).is_file()


def seal_checkpoint(checkpoint: Path, log: Path) -> None:
    """``mark_complete`` with the digests of its files, and of the ``log`` up to its step.

    For trainers whose checkpoints are written by this process alone, and are small enough to be read again.
    """
    log_now = digests_of([log])[0] if log.is_file() else ""
    write_checked(checkpoint / _COMPLETE, {"files": state_of(checkpoint), "log": log_now})


def logged_alike(checkpoint: Path, log: Path) -> bool:
    """Whether ``log``, without what came later, is as the checkpoint found it; true where that isn't known."""
    mark = checkpoint / _COMPLETE
    known = (read_checked(mark) or {}).get("log") if mark.stat().st_size else None
    return known is None or not log.is_file() or digests_of([log])[0] == known


def step_of(checkpoint: Path) -> int:
    """The step in its name: N of ``checkpoint-N`` and of ``global_step_N``."""
    return int(re.split("[-_]", checkpoint.name)[-1])


def complete_checkpoint(folder: Path, pattern: str = "checkpoint-*") -> Path | None:
    """The latest checkpoint to go on from. Those that were cut short or damaged, and all after it, are removed.

    Folders are named by ``pattern`` and step.
    """
    found = _by_step(folder, pattern)
    whole = [step for step, path in found.items() if is_complete(path)]
    while whole and (lines := damage_of(found[whole[-1]])):
        _log.warning("%s; the checkpoint is removed, and training goes on from the one before", lines[0])
        whole.pop()
    last = max(whole, default=-1)
    for step, path in found.items():
        if step not in whole and not (step < last and (path / _WEIGHTS).is_file()):
            shutil.rmtree(path)
    return found.get(last)


def damage_of(checkpoint: Path) -> list[str]:
    """A line for each damaged file of a checkpoint; none where no mark lists its digests."""
    mark = checkpoint / _COMPLETE
    if not mark.is_file() or not mark.stat().st_size:
        return []
    try:
        return differing(checkpoint, (read_checked(mark) or {}).get("files", {}))
    except DamagedFileError as error:
        return [str(error)]


def prune(folder: Path, pattern: str, keep: int, best: Collection[int]) -> None:
    """Remove checkpoints but those of the steps in ``best`` and the last ``keep`` to go on from.

    Folders are named by ``pattern`` and step. ``best`` holds the best step, and the one that was best at the last
    checkpoint to go on from: a run that is killed falls back to both.
    """
    found = _by_step(folder, pattern)
    whole = [step for step, path in found.items() if is_complete(path)]
    for step in found.keys() - {*best, *whole[-keep:]}:
        shutil.rmtree(found[step])


def _by_step(folder: Path, pattern: str) -> dict[int, Path]:
    """Folders that match ``pattern`` (a name that ends in ``*``) by the number in the star's place, rising."""
    start = len(pattern) - 1
    return dict(sorted((int(path.name[start:]), path) for path in folder.glob(pattern)))


def keep_best(trainer: Any, tokenizer: Any, folder: Path, step: int, ndcg: float | None, best: Best) -> None:
    """Write the present weights (the adapter, with LoRA) to ``<folder>/best-<step>`` and make it the best.

    The file that names the best one changes only when its folder is whole; the one before goes last.
    """
    scratch, place = folder / "best.partial", folder / f"best-{step}"
    for path in (scratch, place):
        shutil.rmtree(path, ignore_errors=True)
    trainer.model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    seal(scratch, sorted(path.name for path in scratch.iterdir()), best={"step": step, "ndcg": ndcg})
    scratch.replace(place)
    best.update(step, ndcg)
    for path in folder.glob("best-*"):
        if path != place:
            shutil.rmtree(path)


def publish_best(job: TrainingJob, lora: Lora | None, best: Best) -> Path:
    """The best checkpoint as ``<folder>/model``, which any tool loads; a LoRA adapter is merged into its base."""
    kept, model = job.folder / f"best-{best.step}", job.folder / "model"
    if lora is None:
        if kept.is_dir():
            shutil.rmtree(model, ignore_errors=True)
            kept.replace(model)
            (model / SEAL).unlink(missing_ok=True)
        return model
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    scratch = job.folder / "model.partial"
    for path in (scratch, model):
        shutil.rmtree(path, ignore_errors=True)
    base = AutoModelForCausalLM.from_pretrained(job.model, revision=job.revision, dtype="auto")
    PeftModel.from_pretrained(base, kept).merge_and_unload().save_pretrained(scratch)
    AutoTokenizer.from_pretrained(kept).save_pretrained(scratch)
    scratch.replace(model)
    return model
