"""A study's sweep -> ``experiments/<study>/results.json``: means, intervals, tests, curves, and where they are from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from studies import EFFECTS, Study

from rearank.evaluation import bootstrap_interval, holm, paired_test
from rearank.tasks.sweep import ON_ITS_WAY, Job, Sweep, measured_by

Values = Mapping[str, Mapping[str, float]]
"""seed -> query -> value."""


def results_of(study: Study, sweep: Path) -> dict[str, Any]:
    """Everything a study's tables and figures show.

    Raises:
        ValueError: where a job of the sweep isn't finished; the message names it.
    """
    jobs = [job for job in Sweep.read(sweep).jobs() if job.choices.get("arm") in study.labels]
    if not jobs:
        raise ValueError(f"{sweep}: no job of {study.name}; run: python experiments/run.py {study.name}")
    if unfinished := [job.folder.name for job in jobs if job.status != "finished"]:
        raise ValueError(f"{sweep}: {', '.join(unfinished)} not finished; the same command goes on")
    by_arm = {arm: [job for job in jobs if job.choices["arm"] == arm] for arm in study.labels}
    if missing := [arm for arm, found in by_arm.items() if not found]:
        raise ValueError(f"{sweep}: no job of {', '.join(missing)}")
    environments = [_read(job.folder / "environment.json") for job in jobs]
    return {
        "study": study.name,
        "command": f"python run.py -m experiment=small/{study.name}",
        "baseline": study.baseline,
        "commits": sorted({str(one["commit"])[:7] for one in environments}),
        "packages": environments[0]["packages"],
        "python": environments[0]["python"],
        "jobs": len(jobs),
        "taken_from_other_studies": sum("taken_from" in _read(job.folder / "job.json") for job in jobs),
        "hours": round(sum(_own_seconds(job) for job in jobs) / 3600, 3),
        "arms": {arm: _arm(found) for arm, found in by_arm.items()},
        "benchmarks": {name: _benchmark(study, by_arm, name) for name in _benchmarks(jobs)},
        "curves": {arm: _curves(found) for arm, found in by_arm.items()} if study.trains else {},
        "analysis": {job.choices["seed"]: _analysis(job) for job in jobs if (job.folder / "analysis").is_dir()},
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _own_seconds(job: Job) -> float:
    return 0.0 if "taken_from" in _read(job.folder / "job.json") else job.seconds


def _arm(jobs: Sequence[Job]) -> dict[str, Any]:
    """What an arm sets, and its seeds."""
    lines = (jobs[0].folder / ".hydra" / "overrides.yaml").read_text().splitlines()
    own = [line.removeprefix("- ").strip("'\"") for line in lines]
    shared = ("experiment=", "arm=", "seed=", "paths.", "name=", "launcher=", "hydra.")
    return {
        "sets": [line for line in own if not line.startswith(shared)],
        "seeds": sorted(int(job.choices["seed"]) for job in jobs),
    }


def _benchmarks(jobs: Sequence[Job]) -> list[str]:
    places = (
        path.parent.parent.name for job in jobs for path in sorted(job.folder.glob("evaluation/*/*/metrics.json"))
    )
    return list(dict.fromkeys(places))


def _systems(job: Job, benchmark: str) -> dict[str, dict[str, Any]]:
    return {path.parent.name: _read(path) for path in job.folder.glob(f"evaluation/{benchmark}/*/metrics.json")}


def _benchmark(study: Study, by_arm: Mapping[str, Sequence[Job]], benchmark: str) -> dict[str, Any]:
    """Means and tests at the end and, of trainings, half-way; first stage and ideal order beside them."""
    found: dict[str, dict[str, Values]] = {"end": {}, "half_way": {}}
    answers: dict[str, dict[str, float]] = {}
    references: dict[str, float] = {}
    steps = set()
    for arm, jobs in by_arm.items():
        per_job = {job.choices["seed"]: _systems(job, benchmark) for job in jobs}
        chosen = {seed: systems[name] for seed, systems in per_job.items() if (name := measured_by(systems))}
        found["end"][arm] = {seed: _values(one) for seed, one in chosen.items()}
        answers[arm] = _answers(list(chosen.values()))
        for seed, systems in per_job.items():
            for name, system in systems.items():
                if ON_ITS_WAY in name:
                    steps.add(int(name.partition(ON_ITS_WAY)[2]))
                    found["half_way"].setdefault(arm, {})[seed] = _values(system)  # type: ignore[index]
                if system["role"] in ("first stage", "ideal"):
                    references[system["role"]] = fmean(_values(system).values())
    compared = {when: _compared(study.baseline, arms) for when, arms in found.items() if arms}
    effects = {
        effect.what: {
            when: versus(*_both(arms[effect.other], arms[effect.arm]))
            for when, arms in found.items()
            if effect.arm in arms and effect.other in arms
        }
        for effect in EFFECTS
        if effect.study == study.name and effect.benchmark == benchmark
    }
    return {
        "measure": "ndcg_cut_10",
        "queries": len(next(iter(next(iter(found["end"].values())).values()))),
        "references": references,
        "half_way_step": min(steps) if steps else None,
        "answers": answers,
        **compared,
        "effects": effects,
    }


def _both(a: Values, b: Values) -> tuple[Values, Values]:
    """Of the seeds that both have; an arm that no seed changes has one, which stands for all."""
    if len(a) == 1 or len(b) == 1:
        every = sorted(a.keys() | b.keys())
        a, b = ({seed: arm.get(seed, next(iter(arm.values()))) for seed in every} for arm in (a, b))
    shared = sorted(a.keys() & b.keys())
    return {seed: a[seed] for seed in shared}, {seed: b[seed] for seed in shared}


def _values(metrics: Mapping[str, Any]) -> dict[str, float]:
    values: dict[str, float] = metrics["per_query"][metrics["measures"][0]]
    return values


def _answers(measured: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A query's calls and tokens, and the share of answers that named every passage once."""
    counts = [one["calls"] for one in measured]
    queries = [len(_values(one)) for one in measured]
    calls = sum(one["calls"] for one in counts)
    return {
        "calls_a_query": calls / sum(queries),
        "tokens_an_answer": sum(one["completion_tokens"] for one in counts) / calls,
        "tokens_a_query": sum(one["completion_tokens"] + one["prompt_tokens"] for one in counts) / sum(queries),
        "complete": sum(one.get("status_ok", 0) for one in counts) / calls,
        "unreadable": sum(one["unparsed"] for one in counts) / calls,
    }


def _compared(baseline: str, arms: Mapping[str, Values]) -> dict[str, Any]:
    """Per arm: mean and spread over seeds, interval over queries, and the paired tests against ``baseline``."""
    table: dict[str, Any] = {}
    tests = {}
    for arm, seeds in arms.items():
        means = {seed: fmean(values.values()) for seed, values in seeds.items()}
        low, high = bootstrap_interval(list(_over_seeds(seeds).values()))
        table[arm] = {
            "mean": fmean(means.values()),
            "seeds": dict(sorted(means.items())),
            "sd_of_seeds": stdev(means.values()) if len(means) > 1 else None,
            "interval_95": [low, high],
        }
        if arm != baseline and baseline in arms:
            tests[arm] = versus(*_both(arms[baseline], seeds))
    corrected = holm([test["p_randomisation"] for test in tests.values()]) if tests else []
    for (arm, test), p in zip(tests.items(), corrected, strict=True):
        table[arm]["against_baseline"] = {**test, "holm": p}
    return table


def versus(a: Values, b: Values) -> dict[str, Any]:
    """``b`` - ``a``, by query (each averaged over the seeds that both have) and by seed (means over queries)."""
    over_a, over_b = _over_seeds(a), _over_seeds(b)
    test = paired_test(over_a, over_b)
    low, high = bootstrap_interval([over_b[query] - over_a[query] for query in sorted(over_a)])
    means = [{seed: fmean(values.values()) for seed, values in arm.items()} for arm in (a, b)]
    by_seed = {seed: means[1][seed] - means[0][seed] for seed in sorted(means[0])}
    random = len({round(one, 12) for one in by_seed.values()}) > 1  # greedy answers of one model: no seed changes them
    return {
        "difference": test.mean_difference,
        "interval_95": [low, high],
        "p_t_test": test.p_value,
        "p_randomisation": test.p_randomisation,
        "wins": test.wins,
        "ties": test.ties,
        "losses": test.losses,
        "by_seed": by_seed,
        "p_over_seeds": paired_test(*means).p_value if random else None,
    }


def _over_seeds(seeds: Values) -> dict[str, float]:
    queries = set.intersection(*(set(values) for values in seeds.values()))
    return {query: fmean(values[query] for values in seeds.values()) for query in sorted(queries)}


GAIN = "gain"
"""Of the curves: validation nDCG@10 above what it was before training."""
_CURVES = ("val/ndcg@10", "val/reward/rank", "rollout/length", "rollout/parse/ok", "train/entropy", "train/reward/rank")


def _curves(jobs: Sequence[Job]) -> dict[str, Any]:
    """name -> step -> [mean, lowest, highest] over the seeds."""
    series: dict[str, dict[int, list[float]]] = {}
    for job in jobs:
        path = job.folder / "training" / "train.jsonl"
        if not path.is_file():
            continue
        seen: dict[tuple[str, int], float] = {}
        for line in path.read_text().splitlines():
            logged = json.loads(line)
            seen.update({(name, logged["step"]): logged[name] for name in _CURVES if name in logged})
        start = seen.get(("val/ndcg@10", 0), 0.0)  # each seed has validation windows of its own
        seen.update({(GAIN, step): value - start for (name, step), value in seen.items() if name == "val/ndcg@10"})
        for (name, step), value in seen.items():
            series.setdefault(name, {}).setdefault(step, []).append(value)
    return {
        name: {str(step): [round(f(v), 6) for f in (fmean, min, max)] for step, v in sorted(steps.items())}
        for name, steps in series.items()
    }


def _analysis(job: Job) -> dict[str, Any]:
    """The tables of ``task=analyse`` and the curve of nDCG@10 by length."""
    found = _read(job.folder / "analysis" / "analysis.json")
    return {
        name: {
            "tables": {key: rows for key, rows in one["tables"].items() if key in ("length", "faithfulness")},
            "curves": {key: rows for key, rows in one["curves"].items() if key == "length_query"},
        }
        for name, one in found["benchmarks"].items()
    }
