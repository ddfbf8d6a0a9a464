"""The whole of ``task=export``: what was trained, what is known of it, the folder, and the hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from rearank.experiment import Run
from rearank.runs.declared import TARGET
from rearank.runs.layout import EXPORTED, GATE, read_json
from rearank.runs.sharing import fingerprint
from rearank.tasks.export.card import Facts, card
from rearank.tasks.export.folder import fill, place
from rearank.tasks.export.origin import OnBenchmark, Origin, find_analyses, find_measured, find_origin, sampling_of
from rearank.tasks.export.push import Hub
from rearank.tasks.export.usage import HowToAsk
from rearank.tasks.run_description import closest_option
from rearank.training.what_to_export import Export

_FORMAT = 1


@dataclass(frozen=True)
class ExportTask:
    """What a finished run trained, as a folder that others load; asks no model anything."""

    needs: ClassVar[tuple[str, ...]] = ()

    def run(self, run: Run) -> None:
        """Into ``<output_dir>/export`` or ``export.to``, and to the hub."""
        chosen = run.experiment
        command = Command(run.choices.get("algorithm", ""), run.config.get("strategy"), rerun=chosen.rerun)
        print(f"\n{export_run(run.folder, chosen.export, command, run.cache)}", flush=True)


@dataclass(frozen=True)
class Command:
    """What only the command says: names of what the run's files hold without one, and what is to be done anew.

    Args:
        algorithm: the option's name.
        strategy: the node, for a model that nothing was measured of.
        rerun: make the folder again; what is there is moved aside.
    """

    algorithm: str = ""
    strategy: Mapping[str, Any] | None = None
    rerun: bool = False


def export_run(run: Path, settings: Export, command: Command, cache: Path | None = None) -> str:
    """Make the folder, and upload it where that is wanted; returns a line that says where it is.

    Args:
        run: the folder of the run.
        settings: the section ``export``.
        command: what is known besides.
        cache: a folder in which digests of large files are kept.

    Raises:
        ExportError: where nothing is trained, something else stands in the place, or the hub refuses.
        TrainingError: where the training's files are damaged.
        FolderError: where a result of the run can't be read.
    """
    hub = Hub(settings.push, private=settings.private) if settings.push is not None else None
    origin = find_origin(run, settings.which, cache)
    measured, left_out = find_measured(origin, cache)
    target = Path(settings.to).expanduser() if settings.to is not None else run / EXPORTED
    adapter = not settings.merge
    usage = _usage(origin, measured, command.strategy, settings.push, target.name, adapter=adapter)
    title = settings.push.rpartition("/")[2] if settings.push else run.resolve().name
    algorithm = _algorithm(origin, measured, command.algorithm)
    seen = find_analyses(origin)
    gate = read_json(run / GATE)
    facts = Facts(
        *(title, origin, algorithm, usage, settings.license, adapter, measured, left_out, seen, gate, settings.dtype)
    )
    new = place(
        target,
        _manifest(facts),
        card(facts),
        lambda folder: fill(folder, origin, usage.model, adapter=adapter, dtype=settings.dtype),
        ours=settings.to is None,
        rerun=command.rerun,
    )
    said = f"the exported model: {target}{'' if new else ' (as it was)'}"
    if hub is None:
        return said
    step = f"step {origin.result.best_step} of {origin.folder.name}"
    return f"{said}\nuploaded: {hub.upload(target, f'{title}: {step}, exported by rearank')}"


def _algorithm(origin: Origin, measured: Sequence[OnBenchmark], chosen: str) -> str:
    """As its results are named; several options differ in nothing that a run's settings show."""
    if not origin.by_rewards:
        return ""
    node = origin.settings.get("algorithm") or {}
    closest = closest_option("algorithm", node)
    named = measured[0].own.name if measured else closest[0] if closest is not None else chosen
    return named or str(node.get(TARGET, "")).rpartition(".")[2]


def _usage(
    origin: Origin,
    measured: Sequence[OnBenchmark],
    strategy: Mapping[str, Any] | None,
    repository: str | None,
    folder: str,
    *,
    adapter: bool,
) -> HowToAsk:
    """As it was measured; with the command's strategy where it wasn't."""
    asked: Mapping[str, Any] = measured[0].own.settings if measured else origin.settings
    base = origin.base[0] if origin.base is not None and origin.started_from is None else "path/to/its/base"
    return HowToAsk(
        place=repository or f"path/to/{folder}",
        name=(repository or folder).rpartition("/")[2],
        model={**origin.model_node, **sampling_of(asked.get("model") or {})},
        prompt=asked.get("prompt") or origin.settings.get("prompt") or {},
        strategy=asked.get("strategy") or strategy,
        base=base if adapter else None,
    )


def _manifest(facts: Facts) -> dict[str, Any]:
    """``rearank.json``: what the model is, and what it follows from."""
    origin = facts.origin
    settings = {key: value for key, value in origin.settings.items() if key not in ("code", "files", "code_accepted")}
    identity = {key: origin.settings.get(key, {}) for key in ("code", "files")}
    return {
        "format": _FORMAT,
        "run": fingerprint(origin.settings),
        "name": facts.title,
        "stage": origin.folder.name,
        "adapter": facts.adapter,
        "license": facts.license,
        **({"dtype": facts.dtype} if facts.dtype else {}),
        "result": {key: value for key, value in vars(origin.result).items() if key != "model"},
        "rows": dict(origin.rows),
        "config": settings | {"strategy": facts.usage.strategy},
        "started_from": origin.started_from,
        "identity": identity,
        "environment": dict(origin.environment),
        "metrics": {one.own.benchmark: _metrics(one) for one in facts.measured},
    }


def _metrics(measured: OnBenchmark) -> dict[str, Any]:
    """A benchmark's means and intervals, by system; ``exported`` names the model's own."""
    settings = {
        key: value for key, value in measured.own.settings.items() if key in ("prompt", "strategy", "benchmark")
    }
    systems = {
        one.name: {
            "label": one.label,
            "mean": {measure: fmean(values.values()) for measure, values in one.values.items() if values},
            "interval_95": dict(one.intervals),
            "queries": len(one.main),
            "calls": dict(one.calls),
        }
        for one in measured.rows
    }
    return {"exported": measured.own.name, "settings": settings, "systems": systems}
