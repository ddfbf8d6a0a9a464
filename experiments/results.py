"""A study's sweep -> ``experiments/<study>/results.json``: means, intervals, tests, curves, and where they are from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from omegaconf import OmegaConf
from scipy import stats
from studies import EFFECTS, Study

from rearank.evaluation import bootstrap_interval, holm, paired_test
from rearank.metrics import ndcg
from rearank.runs.reader import FIRST, IDEAL, Evaluated, by_benchmark, on_its_way, read_systems, stands_for
from rearank.runs.seeds import Seeds, p_over_seeds
from rearank.runs.sweeps import Job, Sweep
from rearank.training.rows import read_rows
from rearank.types import JudgedWindow

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
    measured = {arm: {job.choices["seed"]: by_benchmark(read_systems(job.folder)) for job in found}
                for arm, found in by_arm.items()}  # fmt: skip
    names = dict.fromkeys(name for seeds in measured.values() for one in seeds.values() for name in one)
    benchmarks = {
        name: _benchmark(
            study, {a: {s: one.get(name, []) for s, one in seeds.items()} for a, seeds in measured.items()}
        )
        for name in names
    }
    _correct([test for one in benchmarks.values() for test in one["tests"]])
    return {
        "study": study.name,
        "command": " ".join(["python run.py -m", f"experiment=small/{study.name}", *_further(study, jobs)]),
        "baseline": study.baseline,
        "commits": sorted({str(one["commit"])[:7] for one in environments}),
        "packages": _common([one["packages"] for one in environments]),
        "python": environments[0]["python"],
        "jobs": len(jobs),
        "taken_from_other_studies": sum("taken_from" in _read(job.folder / "job.json") for job in jobs),
        "core_hours": round(sum(_own_seconds(job) for job in jobs) / 3600, 3),
        "arms": {arm: _arm(found) for arm, found in by_arm.items()},
        "benchmarks": benchmarks,
        "curves": {arm: _curves(found) for arm, found in by_arm.items()} if study.trains else {},
        "analysis": {job.choices["seed"]: _analysis(job) for job in jobs if (job.folder / "analysis").is_dir()},
    }


def _common(packages: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Version by package; several where jobs had several."""
    names = dict.fromkeys(name for one in packages for name in one)
    return {name: ", ".join(sorted({one[name] for one in packages if name in one})) for name in names}


_ANYWHERE = ("experiment=", "arm=", "seed=", "paths.", "name=", "launcher=", "hydra.", "tracking=")


def _further(study: Study, jobs: Sequence[Job]) -> list[str]:
    """What the sweep's command set besides the study: its results differ from the plain command's."""
    lines = (line for job in jobs if "taken_from" not in _read(job.folder / "job.json") for line in job.fixed)
    own = {line for job in jobs for line in _own_overrides(job)}
    return sorted({line for line in lines if not line.startswith(_ANYWHERE)} - own)


def _own_overrides(job: Job) -> list[str]:
    """What the arm sets, as the study's yaml has it; of a job that was taken over, nothing is known but its arm."""
    arms = OmegaConf.to_container(OmegaConf.load(job.folder.parent / "multirun.yaml").hydra.sweeper.arms, resolve=False)
    return [str(line) for line in dict(arms).get(job.choices["arm"]) or ()]  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _own_seconds(job: Job) -> float:
    return 0.0 if "taken_from" in _read(job.folder / "job.json") else job.seconds


def _arm(jobs: Sequence[Job]) -> dict[str, Any]:
    """What an arm sets, its seeds, and what its trainings were given."""
    return {"sets": _own_overrides(jobs[0]), "seeds": sorted(int(job.choices["seed"]) for job in jobs), **_given(jobs)}


def _given(jobs: Sequence[Job]) -> dict[str, float]:
    """Means over the seeds of what training windows hold, and of how often a group's answers all earned the same."""
    figures: dict[str, list[float]] = {}
    for job in jobs:
        if not (job.folder / "training" / "train.jsonl").is_file():
            continue
        if (path := job.folder / "prepared" / "train.parquet").is_file():
            gains = [_reachable(row.judged) for row in read_rows(path)]
            figures.setdefault("training_windows", []).append(len(gains))
            figures.setdefault("reachable_gain", []).append(fmean(gains))
            figures.setdefault("windows_with_nothing_to_gain", []).append(fmean(gain < 1e-9 for gain in gains))
        lines = [json.loads(line) for line in (job.folder / "training" / "train.jsonl").read_text().splitlines()]
        even = [line[_EVEN] for line in lines if _EVEN in line]
        if even:
            figures.setdefault("groups_without_spread", []).append(fmean(even))
    return {name: round(fmean(values), 5) for name, values in figures.items()}


_EVEN = "rollout/groups_without_spread"


def _reachable(judged: JudgedWindow) -> float:
    ideal = judged.ideal if judged.ideal is not None else judged.relevance
    best = sorted(judged.relevance, reverse=True)
    return ndcg(best, ideal, 10) - ndcg(judged.relevance, ideal, 10)


def _benchmark(study: Study, by_arm: Mapping[str, Mapping[str, list[Evaluated]]]) -> dict[str, Any]:
    """Means and tests at the end and, of trainings, early; with those of the first stage and of the ideal order.

    ``by_arm``: arm -> seed -> what its job measured on the benchmark.
    """
    found: dict[str, dict[str, Values]] = {"end": {}, "early": {}}
    answers: dict[str, dict[str, float]] = {}
    references: dict[str, float] = {}
    steps = set()
    benchmark = ""
    for arm, per_seed in by_arm.items():
        chosen = {seed: one for seed, systems in per_seed.items() if (one := stands_for(systems)) is not None}
        found["end"][arm] = {seed: one.main for seed, one in chosen.items()}
        answers[arm] = _answers(list(chosen.values()))
        for seed, systems in per_seed.items():
            for system in systems:
                benchmark = system.benchmark
                if (way := on_its_way(system.name)) is not None:
                    steps.add(way[1])
                    found["early"].setdefault(arm, {})[seed] = system.main  # type: ignore[index]
                if system.role in (FIRST, IDEAL):
                    references[system.role] = system.mean
    for when, arms in found.items():
        _check_seeds(study, arms, when)
    return {
        "measure": "ndcg_cut_10",
        "queries": len(next(iter(next(iter(found["end"].values())).values()))),
        "references": references,
        "early_step": min(steps) if steps else None,
        "answers": answers,
        **{when: {arm: _summary(seeds) for arm, seeds in arms.items()} for when, arms in found.items() if arms},
        "tests": _tests(study, benchmark, found),
    }


def _check_seeds(study: Study, arms: Mapping[str, Values], when: str) -> None:
    """Trainings of other seeds that measure the same to the last digit are one training, measured several times."""
    for arm, seeds in arms.items():
        every = list(seeds.values())
        if len(every) > 1 and not arm.startswith("untrained") and all(one == every[0] for one in every):
            raise ValueError(f"{study.name}: all seeds of {arm} measure the same ({when}): is it one model?")


def _summary(each: Values) -> dict[str, Any]:
    """Mean, spread over seeds, and the interval of the mean over queries."""
    seeds = Seeds(each)
    low, high = bootstrap_interval(_by_query(each))
    return {
        "mean": seeds.mean,
        "seeds": dict(sorted(seeds.means.items())),
        "sd_of_seeds": seeds.deviation,
        "interval_95_over_queries": [low, high],
    }


def _by_query(each: Values) -> list[float]:
    """Means over the seeds, by the queries' ids."""
    return [value for _, value in sorted(Seeds(each).values.items())]


def _tests(study: Study, benchmark: str, found: Mapping[str, Mapping[str, Values]]) -> list[dict[str, Any]]:
    """Every arm against the baseline, and the effects between two other arms."""
    pairs = [(arm, study.baseline) for arm in study.labels if arm != study.baseline]
    named = [(one.arm, one.other) for one in EFFECTS if (one.study, one.benchmark) == (study.name, benchmark)]
    pairs += [pair for pair in named if study.baseline not in pair]
    return [
        {"when": when, "arm": arm, "other": other, **versus(*_both(arms[other], arms[arm]))}
        for when, arms in found.items()
        for arm, other in pairs
        if arm in arms and other in arms
    ]


def _correct(tests: Sequence[dict[str, Any]]) -> None:
    """Holm's correction over all tests of the study: arms, both times, all benchmarks."""
    known = [test for test in tests if deciding_p(test) is not None]
    for test, p in zip(known, holm([deciding_p(test) or 0.0 for test in known]) if known else [], strict=True):
        test["holm"] = p


def deciding_p(test: Mapping[str, Any]) -> float | None:
    """Over the seeds; over the queries where no seed changes either side; ``None`` for a single seed."""
    p: float | None = test["p_randomisation"] if test["deterministic"] else test["p_over_seeds"]
    return p


def _both(a: Values, b: Values) -> tuple[Values, Values]:
    """Of the seeds that both have."""
    shared = sorted(a.keys() & b.keys())
    return {seed: a[seed] for seed in shared}, {seed: b[seed] for seed in shared}


def _answers(measured: Sequence[Evaluated]) -> dict[str, float]:
    """A query's calls and tokens, and the share of answers that named every passage once."""
    counts = [one.calls for one in measured]
    queries = [len(one.main) for one in measured]
    calls = sum(one["calls"] for one in counts)
    return {
        "calls_a_query": calls / sum(queries),
        "tokens_an_answer": sum(one["completion_tokens"] for one in counts) / calls,
        "tokens_a_query": sum(one["completion_tokens"] + one["prompt_tokens"] for one in counts) / sum(queries),
        "complete": sum(one.get("status_ok", 0) for one in counts) / calls,
        "unreadable": sum(one["unparsed"] for one in counts) / calls,
    }


def versus(a: Values, b: Values) -> dict[str, Any]:
    """``b`` - ``a``, by seed (means over queries) and by query (means over the seeds that both have).

    ``interval_95`` is Student's over the seeds: what other trainings would show. Where no seed changes either side it
    is the bootstrap's over the queries, and ``deterministic`` says so.
    """
    over_a, over_b = (dict(sorted(Seeds(one).values.items())) for one in (a, b))
    test = paired_test(over_a, over_b)
    over_queries = bootstrap_interval([over_b[query] - over_a[query] for query in sorted(over_a)])
    means = [Seeds(one).means for one in (a, b)]
    by_seed = {seed: means[1][seed] - means[0][seed] for seed in sorted(means[0])}
    deterministic = len(by_seed) > 1 and all(len({round(m, 12) for m in one.values()}) == 1 for one in means)
    several = len(by_seed) > 1 and not deterministic
    return {
        "difference": fmean(by_seed.values()),
        "interval_95": list(_student(list(by_seed.values())) if several else over_queries),
        "interval_95_over_queries": list(over_queries),
        "deterministic": deterministic,
        "by_seed": by_seed,
        "p_over_seeds": p_over_seeds(*means) if several else None,
        "p_t_test": test.p_value,
        "p_randomisation": test.p_randomisation,
        "wins": test.wins,
        "ties": test.ties,
        "losses": test.losses,
    }


def _student(values: Sequence[float]) -> tuple[float, float]:
    half = float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


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
