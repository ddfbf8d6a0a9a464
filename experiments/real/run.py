"""The real run, command by command. What is finished isn't done again, and what was stopped goes on.

    python experiments/real/run.py train             # cold start, GRPO from it with three seeds, GRPO alone; hours
    python experiments/real/run.py measure           # SciFact's 150 test claims with the shipped adapters
    python experiments/real/run.py measure --all     # DL19 and NovelEval, too, where their files are
    python experiments/real/run.py render            # results.json -> the README's tables, the figure

Each needs models/smollm2_q4_1 (the first lines of conf/model/smollm2_q4_1.yaml) and data (lay_out.py). What is measured
are the adapters as they lie in ``adapters/``, in 16 bits: ``train`` puts them there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from real_results import BENCHMARKS, render, write_results

from rearank.engines.merge import merge

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ADAPTERS = HERE / "adapters"
SHIPPED = ("adapter_config.json", "adapter_model.safetensors", "README.md")
UNTRAINED, COLD, ALONE = "untrained", "cold", "alone"
SEEDS = {f"grpo-seed{seed}": seed for seed in (1, 2, 3)}
WATCHED = (
    "prepare.validation_windows=48",
    "trainer.validate_every=10",
)  # where the checkpoint is chosen, looked at closely
LARGEST = 6_000_000  # bytes of an adapter


@dataclass(frozen=True)
class Place:
    """Where things lie."""

    outputs: Path
    data: Path
    base: Path
    overrides: tuple[str, ...] = ()

    def folder(self, name: str) -> Path:
        """Of a run."""
        return self.outputs / f"real-{name}"

    @property
    def usage(self) -> Path:
        """A line for each command: its name, wall and core seconds."""
        return self.outputs / "real-usage.jsonl"


def run(place: Place, name: str, *overrides: str) -> None:
    """One command of ``run.py``, and a line of what it took; raises ``SystemExit`` where it fails."""
    words = [sys.executable, str(ROOT / "run.py"), "experiment=real/scifact", f"name=real-{name}", *overrides]
    words += [f"paths.outputs={place.outputs}", f"paths.data={place.data}", *place.overrides]
    print(f"{' '.join(words[1:])}", flush=True)
    began, before = time.monotonic(), _core_seconds()
    status = subprocess.run(words, cwd=ROOT, check=False).returncode
    line = {"run": name, "overrides": overrides, "status": status, "seconds": round(time.monotonic() - began, 1)}
    with place.usage.open("a") as file:
        file.write(json.dumps(line | {"core_seconds": round(_core_seconds() - before, 1)}) + "\n")
    if status:
        raise SystemExit(f"real-{name}: exit status {status}; the same command goes on where it stopped")


def _core_seconds() -> float:
    """Of all commands so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(place: Place, names: list[str]) -> None:
    """Every training that isn't finished, and the adapters that come of it."""
    if COLD in names:
        run(place, COLD, "task=sft", f"model.path={place.base}")
        ship(place, COLD, "export.which=sft")
    for name, seed in SEEDS.items():
        if name in names:
            run(place, name, "task=train", f"seed={seed}", *WATCHED, *_model(place, COLD))
            ship(place, name)
    if ALONE in names:
        # No answer of the untrained model can be read, which the guard would stop for: here that is what is looked at.
        blind = ("trainer.guard.max_unread=1", "trainer.guard.min_readable=0", "trainer.guard.max_cut_off=1")
        run(place, ALONE, "task=train", "algorithm.steps=20", *blind, *WATCHED, f"model.path={place.base}")
        ship(place, ALONE)


def ship(place: Place, name: str, *overrides: str) -> None:
    """The best step's adapter, in 16 bits, to ``adapters/<name>``."""
    run(
        place,
        name,
        "task=export",
        "export.merge=false",
        "export.dtype=float16",
        "export.license=cc-by-nc-2.0",
        *overrides,
    )
    made = place.folder(name) / "export"
    shutil.rmtree(ADAPTERS / name, ignore_errors=True)
    (ADAPTERS / name).mkdir(parents=True)
    for file in SHIPPED:
        shutil.copyfile(made / file, ADAPTERS / name / file)
    for shown in (ADAPTERS / name / SHIPPED[0], ADAPTERS / name / SHIPPED[2]):  # which name where things lay here
        text = shown.read_text(encoding="utf-8")
        named = {place.base: "models/smollm2_q4_1", place.outputs: "outputs", place.data: "data"}
        for path, said in named.items():
            text = text.replace(str(path), said)
        text = text.replace("in `rearank.json`", "in `conf/experiment/real`")
        shown.write_text(text, encoding="utf-8")
    size = (ADAPTERS / name / SHIPPED[1]).stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{ADAPTERS / name}: {size} bytes are more than the {LARGEST} that an adapter here may have")


def merged(place: Place, name: str) -> Path:
    """A whole model of the shipped adapters: of the cold start, or of that and what came after it."""
    if name == UNTRAINED:
        return place.base
    weights = (ADAPTERS / name / SHIPPED[1]).read_bytes()
    under = place.base if name in (COLD, ALONE) else merged(place, COLD)
    known = hashlib.sha256(weights + str(under).encode()).hexdigest()[:8]
    folder = place.outputs / "real-models" / f"{name}-{known}"
    if not (folder / "config.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        merge(str(under), str(ADAPTERS / name), scratch).replace(folder)
    return folder


def _model(place: Place, name: str) -> tuple[str, str]:
    return f"model.path={merged(place, name)}", f"model.name=smollm2_q4_1-{name}"


def measure(place: Place, names: list[str], benchmarks: list[str]) -> None:
    """Each system on each collection; answers are kept, so that nothing is asked twice."""
    unread = "evaluation.max_unread=1"  # of the untrained model, which answers in no form that can be read
    for benchmark in benchmarks:
        for name in names:
            run(place, f"measured-{name}", "task=evaluate", f"benchmark={benchmark}", unread, *_model(place, name))
    write_results(place.outputs, {name: place.folder(f"measured-{name}") for name in names}, _trainings(place))
    render()


def _trainings(place: Place) -> dict[str, Path]:
    return {name: folder for name in (COLD, *SEEDS, ALONE) if (folder := place.folder(name)).is_dir()}


def _shipped() -> Iterator[str]:
    yield UNTRAINED
    yield from (name for name in (COLD, *SEEDS, ALONE) if (ADAPTERS / name / SHIPPED[1]).is_file())


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=("train", "measure", "render"))
    words.add_argument("--all", action="store_true", help="every collection")
    words.add_argument("--only", action="append", help="this training or system; again for more")
    words.add_argument("--outputs", type=Path, default=ROOT / "outputs")
    words.add_argument("--data", type=Path, default=ROOT / "data")
    words.add_argument("--base", type=Path, default=ROOT / "models" / "smollm2_q4_1")
    words.add_argument("overrides", nargs="*", help="for every command, trainer.threads=1 say")
    given = words.parse_args()
    place = Place(given.outputs.resolve(), given.data.resolve(), given.base.resolve(), tuple(given.overrides))
    if not (place.base / "config.json").is_file():
        raise SystemExit(f"{place.base}: the model isn't there; conf/model/smollm2_q4_1.yaml says how it is made")
    place.outputs.mkdir(parents=True, exist_ok=True)
    if given.what == "train":
        train(place, given.only or [COLD, *SEEDS, ALONE])
    elif given.what == "measure":
        measure(place, given.only or list(_shipped()), list(BENCHMARKS) if given.all else list(BENCHMARKS)[:1])
    else:
        render()


if __name__ == "__main__":
    main()
