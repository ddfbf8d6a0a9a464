"""The model card: the hub's metadata, and what a reader must know. Every number is read from the run's files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rearank.engines.account import unread_of
from rearank.evaluation import JUDGED, Cell, heading, render_table
from rearank.runs.declared import TARGET
from rearank.runs.layout import SFT
from rearank.runs.reader import SYSTEM, Evaluated
from rearank.tasks.analyse.short import short_table
from rearank.tasks.export.origin import OnBenchmark, Origin
from rearank.tasks.export.usage import HowToAsk
from rearank.tasks.export.words import as_yaml, fenced, inline, plain
from rearank.tasks.run_description import closest_option

_TASK = "text-ranking"
_ON_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_DATASET = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_LIST = ", "
_METRIC = re.compile(r"\W+")


@dataclass(frozen=True)
class Facts:
    """All that a card says.

    Args:
        title: of the card.
        origin: the training.
        algorithm: the name of what it was reinforced by, empty for a fine-tuning.
        usage: how the model is asked.
        license: the hub's word, ``None`` where none was given.
        adapter: whether the folder holds an adapter alone.
        measured: its results, and ``left_out`` what isn't shown of others, a line each.
        left_out: see ``measured``.
        analyses: benchmark -> an analysis's tables.
        gate: the verdict on a model of one's own; empty where there is none.
        dtype: what the weights are rounded to, ``None`` where they aren't.
    """

    title: str
    origin: Origin
    algorithm: str
    usage: HowToAsk
    license: str | None
    adapter: bool
    measured: Sequence[OnBenchmark]
    left_out: Sequence[str]
    analyses: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    gate: Mapping[str, Any] = field(default_factory=dict)
    dtype: str | None = None


def card(facts: Facts) -> str:
    """``README.md`` of the exported folder."""
    parts = [
        f"# {inline(facts.title)}",
        *_what(facts),
        "## Use",
        *facts.usage.lines(),
        "## Training data",
        *_data(facts.origin),
        "## Recipe",
        *_recipe(facts.origin),
        "## Results",
        *_results(facts),
        *_answers(facts),
        "## Limits",
        *_limits(facts),
        "## Versions",
        *_versions(facts),
    ]
    return f"---\n{as_yaml(metadata(facts))}---\n\n" + "\n\n".join(parts) + "\n"


def metadata(facts: Facts) -> dict[str, Any]:
    """The card's front matter, in the hub's words."""
    origin, base = facts.origin, facts.origin.base
    dataset = _dataset(origin.settings.get("dataset") or {})
    how = facts.algorithm or SFT
    results = list(_model_index(facts.measured))
    return {
        **({"license": facts.license} if facts.license else {}),
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": _TASK,
        **({"base_model": base[0], "base_model_relation": "adapter" if facts.adapter else "finetune"} if base else {}),
        "tags": list(dict.fromkeys(["rearank", "reranking", "listwise", "reasoning", "text-generation", plain(how)])),
        **({"datasets": [dataset]} if _DATASET.fullmatch(dataset) else {}),
        **(
            {"metrics": _metrics(results), "model-index": [{"name": plain(facts.title), "results": results}]}
            if results
            else {}
        ),
    }


def _dataset(node: Mapping[str, Any]) -> str:
    """The hub's id of what it was trained on, where it comes from there; the name of the node elsewhere."""
    path = str(node.get("path") or "")
    return plain(path if _ON_THE_HUB.fullmatch(path) and not Path(path).exists() else node.get("name", ""))


def _metrics(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of the results, without their cut-offs: ``ndcg`` of ``ndcg_at_10``."""
    kinds = (metric["type"].partition("_at_")[0] for one in results for metric in one["metrics"])
    return list(dict.fromkeys(kinds))


def _model_index(measured: Sequence[OnBenchmark]) -> Iterator[dict[str, Any]]:
    for one in (benchmark.own for benchmark in measured):
        kind = _METRIC.sub("_", heading(one.measure).lower().replace("@", "_at_"))
        metric = {"type": kind, "value": round(one.mean, 4), "name": plain(heading(one.measure))}
        name = plain(one.benchmark)
        yield {
            "task": {"type": _TASK, "name": "Reranking"},
            "dataset": {"type": name, "name": name},
            "metrics": [metric],
        }


def _what(facts: Facts) -> Iterator[str]:
    origin, base = facts.origin, facts.origin.base
    revision = f" at {inline(base[1])}" if base is not None and base[1] else ""
    where = "from a folder, no model of the hub" if base is None else f"`{base[0]}`{revision}"
    how = (
        f"by reinforcement ({inline(facts.algorithm)}, paid by the reward {inline(_option(origin, 'reward'))})"
        if origin.by_rewards
        else "by supervised fine-tuning"
    )
    yield (
        "A listwise reranker that reasons: it is shown a query and a window of passages, thinks, and answers with "
        f"their order. It was trained from {inline(origin.model_node.get('name', 'a model'))} ({where}) {how}"
        f"{', after a fine-tuning' if origin.started_from else ''}, with rearank, an implementation of REARANK (Zhang "
        "et al., EMNLP 2025, arXiv 2505.20046)."
    )
    if facts.adapter:
        needed = (
            f"`{base[0]}`" if base is not None and not origin.started_from else "the model that training began with"
        )
        yield f"This folder holds a LoRA adapter alone, which goes with {needed}; measured are both together."
        if origin.started_from or base is None:
            yield "That model lies in a folder of the machine of the training; `adapter_config.json` names it."
    if facts.dtype:
        yield f"Its weights are rounded to {facts.dtype}; measured were those of the training, before rounding."
    given = f"`{facts.license}`" if facts.license else "none was given; the terms of the model that it is made of hold"
    yield f"License: {given}."
    yield _asked(facts.usage)


def _asked(usage: HowToAsk) -> str:
    """Prompt and strategy, by name and with what was changed."""
    said = []
    for group, node in (("prompt", usage.prompt), ("strategy", usage.strategy)):
        option, changed = usage.choices.get(group, (str((node or {}).get(TARGET, "none was chosen")), []))
        shown = [
            f"{key} {value}" for key, value in (node or {}).items() if key != TARGET and isinstance(value, int | float)
        ]
        details = shown if group == "strategy" else changed
        said.append(f"{group.capitalize()}: {inline(option)}{f' ({inline(_LIST.join(details))})' if details else ''}.")
    return " ".join(said)


def _data(origin: Origin) -> Iterator[str]:
    rows, settings = origin.rows, origin.settings
    name = inline((settings.get("dataset") or {}).get("name", "not known"))
    size = (settings.get("augmentation") or {}).get("size")
    windows = f" of {size} passages" if size is not None else ", as the dataset holds them"
    if not rows:
        yield f"Dataset: {name}. How many queries and windows isn't known: these rows aren't in the run's folder."
        return
    yield (
        f"Dataset: {name}; {rows.get('training_queries')} queries, {rows.get('training_windows')} windows{windows}. "
        f"Held out for validation: {rows.get('validation_queries')} queries, {rows.get('validation_windows')} windows."
    )
    gone = [f"{count} ({inline(reason)})" for reason, count in (rows.get("dropped") or {}).items()]
    if measured := rows.get("queries_dropped_as_measured"):
        gone.append(f"{measured} queries, as a benchmark has them")
    yield f"Left out: {', '.join(gone)}." if gone else "Nothing was left out."


def _recipe(origin: Origin) -> Iterator[str]:
    result, trainer = origin.result, _option(origin, "trainer")
    on = (origin.settings.get("trainer") or {}).get("validate_on", "windows")
    best = "" if result.best_ndcg is None else f", nDCG@10 {result.best_ndcg:.4f} on the validation {inline(on)}"
    of = "adapters" if origin.lora else "all weights"
    yield (
        f"{result.steps} steps of {of} with trainer={inline(trainer)}; this is step {result.best_step}{best}. "
        f"Seed {origin.settings.get('seed')}."
    )
    if result.stopped:
        yield f"Training ended before its last step: {inline(result.stopped)}."
    first = ("algorithm", "reward") if origin.by_rewards else (SFT,)
    settings = {**origin.settings, "lora": origin.lora}
    yield fenced(as_yaml(_short(settings, (*first, "augmentation", "prepare", "lora"))), "yaml")
    if origin.started_from:
        yield "The fine-tuning that it started from:"
        yield fenced(as_yaml(_short(origin.started_from, (SFT,))), "yaml")
    yield "Every setting is in `rearank.json`."


def _short(settings: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """Without classes, and without what isn't set."""

    def kept(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        return {name: kept(value) for name, value in node.items() if name != TARGET and value is not None}

    return {key: kept(settings[key]) for key in keys if settings.get(key) is not None}


def _results(facts: Facts) -> Iterator[str]:
    if facts.measured:
        rows = [_row(one) for benchmark in facts.measured for one in benchmark.rows]
        yield render_table(rows)
        depth = {one.own.benchmark: (one.own.settings.get("benchmark") or {}).get("depth") for one in facts.measured}
        listed = ", ".join(f"{inline(name)} {count}" for name, count in depth.items())
        yield (
            f"Intervals: 95% bootstrap over queries. Candidates reranked a query: {listed}. judged@10: share of the "
            "first ten that anybody judged. A query that failed counts 0 unless the benchmark says otherwise; an "
            "answer that can't be read leaves its window as it was."
        )
        yield from (f"Note: {inline(one.note)}" for benchmark in facts.measured for one in benchmark.rows if one.note)
    else:
        yield "Nothing was measured of these weights."
    for one in (benchmark.own for benchmark in facts.measured):
        node = one.settings.get("benchmark") or {}
        if (node.get("collection") or {}).get("judged_by"):
            yield f"On {inline(one.benchmark)} a teacher's order judges: numbers are agreement with it, no relevance."
    yield from _gate(facts)
    if facts.left_out:
        yield "\n".join(f"- Left out: {inline(line)}." for line in facts.left_out)


def _gate(facts: Facts) -> Iterator[str]:
    """What ``gate.json`` found, where it speaks of these very numbers."""
    numbers = {(benchmark.own.label, benchmark.own.measure, benchmark.own.mean) for benchmark in facts.measured}
    gate = facts.gate
    if (gate.get("model"), gate.get("measure"), gate.get("mean")) not in numbers:
        return
    rows = [f"{inline(one['label'])} ({one['difference']:+.4f}, p = {one['p']:.2g})" for one in gate["against"]]
    verdict = "passed" if gate["passed"] else "did not pass"
    yield (
        f"It {verdict} the gate: better, by a paired randomisation test after Holm's correction (below "
        f"{gate['alpha']:g}), than each of {', '.join(rows)}; in {inline(gate['of'])}."
    )


def _row(one: Evaluated) -> dict[str, Cell]:
    low, high = one.intervals.get(one.measure) or (None, None)
    asked = one.role == SYSTEM
    calls = int(one.calls.get("calls", 0))
    return {
        "benchmark": inline(one.benchmark),
        "system": inline(one.label),
        heading(one.measure): one.mean,
        "95% interval": None if low is None or high is None else f"{low:.4f} to {high:.4f}",
        heading(JUDGED): fmean(one.judged.values()) if one.judged else None,
        "queries": len(one.main),
        "failed queries": one.failed if asked else None,
        "unread answers": f"{int(one.calls.get('unparsed', unread_of(one.calls).total()))} of {calls}"
        if asked
        else None,
    }


def _answers(facts: Facts) -> Iterator[str]:
    """What an analysis says of the answers, beside the score."""
    shown = []
    for name, tables in facts.analyses.items():
        benchmark = next((one for one in facts.measured if one.own.benchmark == name), None)
        if benchmark is None:
            continue
        labels = [one.label for one in benchmark.rows if one.role == SYSTEM]
        there = {row.get("system") for rows in tables.values() for row in rows}
        if benchmark.own.label not in there:
            continue
        safe = {table: [{**row, "system": inline(row.get("system"))} for row in rows] for table, rows in tables.items()}
        lines = short_table(safe, [inline(label) for label in labels if label in there]).split("\n")
        table = "\n".join(line for line in lines if line.startswith("|"))
        warnings = "\n".join(f"- {line.strip()}" for line in lines if not line.startswith("|"))
        shown += [f"On {inline(name)}:", table, *([warnings] if warnings else [])]
    if shown:
        yield "## The answers"
        yield from shown
        yield (
            "tau-b: whether an answer follows its own reasoning; consistency: whether the same passages in another "
            "order come out the same; attack success: how often a passage that asks to be ranked first, neutralised as "
            "prompts show it, gets there."
        )


def _limits(facts: Facts) -> Iterator[str]:
    size = (facts.origin.settings.get("augmentation") or {}).get("size")
    trained = f"windows of {size} passages" if size is not None else "the dataset's own windows"
    lines = [f"It was trained on {trained}; larger ones are new to it.", "It was measured on nothing."]
    if own := [one.own for one in facts.measured]:
        nodes = [one.settings.get("benchmark") or {} for one in own]
        languages = ", ".join(sorted({str(node["language"]) for node in nodes if node.get("language")}))
        said = f" (language: {inline(languages)})" if languages else ""
        lines[-1] = (
            f"It was measured on {inline(_LIST.join(one.benchmark for one in own))}{said} alone. Of other collections, "
            "subjects and languages nothing is known."
        )
    attacked = bool(list(_answers(facts))) and any("attack" in tables for tables in facts.analyses.values())
    lines += [
        "A passage may try to be ranked first by what it says; how often that works "
        f"{'is in the table above' if attacked else 'was not measured'}. rearank's prompts neutralise what poses as "
        "markup, and not what persuades.",
        "A prompt that is worded otherwise, or another way to go through a list, is another system.",
    ]
    yield "\n".join(f"- {line}" for line in lines)


def _versions(facts: Facts) -> Iterator[str]:
    before: Mapping[str, Any] = {}
    measured = [("Measured", one.own.environment) for one in facts.measured]
    for what, environment in (("Trained", facts.origin.environment), *measured):
        if all(before.get(key) == environment.get(key) for key in ("command", "commit", "packages")):
            continue
        before, commands = environment, [str(part) for part in environment.get("command") or []]
        packages = ", ".join(f"{inline(n)} {inline(v)}" for n, v in (environment.get("packages") or {}).items())
        yield (
            f"{what} at commit {inline(environment.get('commit') or 'not known')}, with Python "
            f"{inline(environment.get('python', 'not known'))}; {packages or 'packages not known'}."
        )
        if commands:
            yield fenced(shlex.join(["python", *commands]), "sh")


def _option(origin: Origin, group: str) -> str:
    """The name of what was chosen."""
    node = origin.settings.get(group) or {}
    best = closest_option(group, node)
    return best[0] if best else str(node.get(TARGET, "")).rpartition(".")[2]
