"""verl's engine as a run of ours makes it, on batches of random answers: each prompt once, and once an answer.

A process of its own, as verl reads its environment when it is imported: ``python -m tests.cluster.shared_engine RANK
RANKS FOLDER SETTINGS``. Writes what it found to ``FOLDER/RANK.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from tests.end_to_end.pipeline import ROOT

TINY = "pkg://rearank/training/assets/tiny"


def found(folder: Path, ranks: int = 1, asked: str = "true dense", **settings: Any) -> list[dict[str, Any]]:
    """What each rank found."""
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "VERL_ENGINE_DEVICE": "cuda", "OMP_NUM_THREADS": "1"}
    environment |= {"REARANK_SHARED_PROMPT": asked, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    words = [sys.executable, "-m", "tests.cluster.shared_engine"]
    (folder / "store").unlink(missing_ok=True)
    said = [(folder / f"{rank}.log").open("w") for rank in range(ranks)]
    started = [
        subprocess.Popen(
            [*words, str(rank), str(ranks), str(folder), json.dumps(settings)], env=environment, stdout=log, stderr=log
        )
        for rank, log in enumerate(said)
    ]
    try:
        assert [one.wait(timeout=400) for one in started] == [0] * ranks, (folder / "0.log").read_text()[-4000:]
    finally:
        for one, log in zip(started, said, strict=True):
            one.kill()
            log.close()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def engine_of(settings: dict[str, Any], *, reference: bool = False) -> tuple[Any, Any]:
    """The engine in verl's registry, with a model; and the loss as verl's actor computes it."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine import EngineRegistry
    from verl.workers.utils.losses import ppo_loss

    from rearank.algorithms import PolicyGradient
    from rearank.engines.model import Model
    from rearank.training.base import Lora
    from rearank.training.verl import Cluster, VerlTrainer
    from rearank.training.verl.compose import ppo_config
    from rearank.training.verl.settings import Files, Lengths, Weights

    trainer = VerlTrainer(
        cluster=Cluster(gpus_per_node=settings["ranks"]),
        device="cpu",
        gradient_checkpointing=settings.get("checkpointing", False),
        lora=Lora(rank=4) if settings.get("lora") else None,
        shared_prompt=True,
    )
    weights = Weights(Model("model", settings.get("model", TINY)).location, Lengths(512, 512), "{}", 0)
    config = ppo_config(trainer, PolicyGradient(), weights, Files(Path("r"), None, Path("c")), 1)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    actor.engine.forward_only = reference
    engine = EngineRegistry.new("language_model", "fsdp2", model, actor.engine, actor.optim, actor.checkpoint)
    engine.initialize()
    return engine, partial(ppo_loss, config=actor)


def batch_of(groups: list[tuple[int, list[int]]], budget: int, *, seed: int, entropy: bool) -> Any:
    """As verl's trainer hands it to a worker: (tokens of the prompt, of its answers) for each group."""
    import torch
    from verl.utils import tensordict_utils as tu

    draw = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> Any:
        return torch.randint(4, 300, (length,), generator=draw)

    def nested(many: list[Any]) -> Any:
        return torch.nested.as_nested_tensor(many, layout=torch.jagged)

    prompts, answers = [], []
    for length, lengths in groups:
        prompt = tokens(length)
        prompts += [prompt] * len(lengths)
        answers += [tokens(one) for one in lengths]
    whole = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
    masks = nested([torch.ones_like(answer) for answer in answers])
    figures = [[torch.randn(len(answer), generator=draw) for answer in answers] for _ in range(3)]
    data = tu.get_tensordict(
        {
            "input_ids": nested(whole),
            "position_ids": nested([torch.arange(len(one)) for one in whole]),
            "prompts": nested(prompts),
            "responses": nested(answers),
            "response_mask": masks,
            "loss_mask": masks,
            "old_log_probs": nested([-5 + 0.1 * one for one in figures[0]]),
            "ref_log_prob": nested([-5 + 0.1 * one for one in figures[1]]),
            "advantages": nested(figures[2]),
        },
        {"temperature": 0.8, "calculate_entropy": entropy, "global_batch_size": len(whole)},
    )
    tu.assign_non_tensor(
        data, use_remove_padding=True, use_dynamic_bsz=True, max_token_len_per_gpu=budget, use_fused_kernels=False
    )
    return data


def main(rank: int, ranks: int, folder: Path, settings: dict[str, Any]) -> None:
    """Both paths on one engine: log-probabilities, then the gradients of an update."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    import verl  # noqa: F401  # its plug-ins

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    engine, loss = engine_of({**settings, "ranks": ranks}, reference=settings.get("reference", False))
    if settings.get("lora"):  # one of an adapter's factors begins at 0, and half of the gradients would be 0, too
        with torch.no_grad():
            for name, parameter in engine.module.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(3))
    form, passes, counted = engine._form, {}, []
    forward = engine.prepare_model_inputs

    def counting(micro_batch: Any) -> Any:
        inputs, rest = forward(micro_batch)
        counted.append(inputs["input_ids"].numel())
        return inputs, rest

    engine.prepare_model_inputs = counting
    made: dict[str, Any] = {"engine": type(engine).__name__, "form": form}
    seconds: dict[str, list[float]] = {}
    for _ in range(settings.get("repeats", 1)):
        for path in ("plain", "shared"):
            engine._form = form if path == "shared" else None
            counted.clear()
            begin = perf_counter()
            data = batch_of(settings["groups"][rank], settings["budget"], seed=rank, entropy=True)
            with engine.eval_mode():
                output = engine.infer_batch(data)["model_output"]
            middle = perf_counter()
            # Where an answer is, as verl's losses look it up: from the prompt's last token to the last but one.
            begins = (data["input_ids"].offsets()[:-1] + data["prompts"].offsets().diff() - 1).tolist()
            lengths = data["responses"].offsets().diff().tolist()
            made[path] = {
                name: torch.cat([figure.values()[b : b + n] for b, n in zip(begins, lengths, strict=True)])
                for name, figure in output.items()
            }
            passes[path] = list(counted)
            counted.clear()
            seconds.setdefault(f"{path} log-probabilities", []).append(middle - begin)
            if settings.get("reference"):
                continue
            data = batch_of(
                settings["groups"][rank], settings["budget"], seed=rank, entropy=settings.get("entropy", False)
            )
            with engine.train_mode():
                begin = perf_counter()
                engine.optimizer_zero_grad()
                result = engine.forward_backward_batch(data, loss)
                seconds.setdefault(f"{path} update", []).append(perf_counter() - begin)
                made[path]["gradient"] = torch.cat(
                    [
                        (one.grad.full_tensor() if hasattr(one.grad, "full_tensor") else one.grad).flatten()
                        for one in engine.module.parameters()
                        if one.grad is not None
                    ]
                )
            made[path]["loss"] = torch.tensor([sum(result["loss"])])
            made.setdefault("computed", result["metrics"].get("tokens_computed"))
            assert (path == "shared") == ("tokens_computed" in result["metrics"])
            made[path]["update passes"] = torch.tensor(list(counted))
    apart = {}
    for name, plain in made["plain"].items():
        ours = made["shared"][name]
        if name == "update passes":
            passes |= {"plain update": plain.tolist(), "shared update": ours.tolist()}
        elif name == "gradient":
            apart[name] = float((ours - plain).norm() / plain.norm())
        else:
            assert ours.shape == plain.shape
            apart[name] = float((ours - plain).abs().max())
    summary = {"engine": made["engine"], "form": form, "apart": apart, "passes": passes, "seconds": seconds}
    (folder / f"{rank}.json").write_text(json.dumps(summary))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4]))
