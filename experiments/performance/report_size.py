"""How large a report of 1,500 queries x 9 windows is, and how soon it can be used.

python experiments/performance/report_size.py [queries in full...]

Two systems rerank 100 candidates a query in nine windows of twenty, answers of about 400 tokens; passages have 60 to
120 words. Times are of headless Chromium: from opening the file until the page is drawn and answers, and until a query
is opened, found by its words, and sorted anew. Targets: under 3 s, under 30 MB.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rearank.data import JudgedCandidates
from rearank.engines.tracing import WindowTrace
from rearank.parsing import parse_ranking
from rearank.ranking import plan_windows
from rearank.report.page import render
from rearank.report.queries import Queries
from rearank.report.replay import Replayed
from rearank.report.results import Side, comparisons, result_rows
from rearank.runs.reader import FIRST, SYSTEM, Evaluated
from rearank.types import Candidates, Passage, Query

QUERIES, DEPTH, SIZE, STEP = 1500, 100, 20, 10
MEASURE = "ndcg_cut_10"
_WORDS = [f"{a}{b}{c}" for a in ("ba", "ko", "ri", "tu", "se", "lam") for b in "aeiou" for c in ("n", "rt", "ss", "l")]


def words(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(low, high)))


def collection(rng: random.Random) -> dict[str, JudgedCandidates]:
    judged = {}
    for number in range(QUERIES):
        passages = tuple(Passage(f"{number}-{place}", words(rng, 60, 120)) for place in range(DEPTH))
        grades = {passage.id: rng.choice((0, 0, 0, 1, 1, 2, 3)) for passage in passages if rng.random() < 0.7}
        judged[str(number)] = JudgedCandidates(Candidates(Query(str(number), words(rng, 4, 12)), passages), grades)
    return judged


def trace(rng: random.Random, shown: tuple[int, ...]) -> WindowTrace:
    order = rng.sample(range(SIZE), SIZE)
    notes = " ".join(f"[{place + 1}] {words(rng, 10, 16)}." for place in range(SIZE))
    answer = " > ".join(f"[{place + 1}]" for place in order)
    text = f"<think> {notes} </think> <answer> {answer} </answer>"
    parsed = parse_ranking(text, SIZE)
    ordered, figures = parsed.permutation.apply(shown), (3000, 400, 4.2)
    return WindowTrace(shown, ordered, parsed.status, parsed.think, parsed.answer, text, *figures, False, False)


def evaluated(name: str, role: str, values: dict[str, float]) -> Evaluated:
    calls = {"calls": 9 * QUERIES, "completion_tokens": 400 * 9 * QUERIES, "status_ok": 9 * QUERIES}
    answers = {} if role == SYSTEM else None
    counted = calls if role == SYSTEM else {}
    return Evaluated(name, name, role, "stress", {MEASURE: values}, {}, counted, {}, {}, answers, Path())


class Stress(Queries):
    """Rankings are made up, too: no run file is read."""

    def _strips(self, one: Evaluated, ids: Any) -> list[str]:
        rng = random.Random(one.name)
        return [self._strip(query, rng.sample([f"{query}-{n}" for n in range(DEPTH)], DEPTH)) for query in ids]


def build(path: Path, full: int) -> float:
    """Megabytes of the page."""
    rng = random.Random(1)
    judged = collection(rng)
    first = {query: rng.betavariate(4, 4) for query in judged}
    systems = [evaluated("bm25", FIRST, first)]
    for name in ("base", "trained"):
        moved = {query: min(1.0, max(0.0, value + rng.gauss(0.05, 0.15))) for query, value in first.items()}
        systems.append(evaluated(name, SYSTEM, moved))
    texts = {query: item.candidates.query.text for query, item in judged.items()}
    part = Stress("stress", systems, texts, judged, 600)
    shown = frozenset(part.changed_most(full))
    spans = plan_windows(DEPTH, SIZE, STEP)
    for number in (1, 2):
        hear = part.hears(number, shown, letters=False)
        for query in judged:
            windows = tuple(trace(rng, tuple(rng.sample(range(DEPTH), SIZE))) for _ in spans)
            hear(Replayed(query, 0, windows, True))
    group = [Side(system, (0,)) for system in systems]
    benchmark = {
        **{"name": "stress", "measures": [{"key": MEASURE, "label": "nDCG@10"}], "systems": result_rows(group)},
        **{"tests": comparisons("stress", group), "seeds": [], "known": {}},
    }
    run = {
        **{"label": "stress", "folder": "stress", "command": [], "overrides": [], "commit": None, "python": None},
        **{"platform": None, "cores": None, "time": None, "packages": {}, "seed": 1, "names": {}, "settings": []},
        "result": {},
    }
    curves: dict[str, Any] = {"panels": [], "lines": []}
    data = {"title": "stress", "runs": [run], "benchmarks": [benchmark], "curves": curves, "analyses": [], "notes": []}
    blocks: dict[str, Any] = {"data": data, "queries-0": part.figures(), "passages-0": part.passages()}
    blocks |= {f"query-0-{place}": detail for place, detail in part.details()}
    path.write_text(render("stress", blocks), encoding="utf-8")
    return path.stat().st_size / 1_000_000


def timed(what: str, page: Any, act: str) -> None:
    taken = page.evaluate(f"() => {{ const began = performance.now(); {act}; document.body.offsetHeight; "
                          "return performance.now() - began; }")  # fmt: skip
    print(f"  {what}: {taken:.0f} ms")


def look(path: Path, chromium: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for attempt in range(3):
            page = browser.new_page(viewport={"width": 1360, "height": 900})
            began = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")
            print(f"  ready, attempt {attempt + 1}: {time.perf_counter() - began:.2f} s")
            if attempt == 2:
                timed("another query opened", page, "document.querySelectorAll('.row')[5].click()")
                timed("searched", page, "const s = document.querySelector('input[type=search]'); s.value = 'kon'; "
                      "s.dispatchEvent(new Event('input'))")  # fmt: skip
                timed("sorted", page, "const o = document.querySelector('.tools select'); o.value = 'tokens'; "
                      "o.dispatchEvent(new Event('change'))")  # fmt: skip
            page.close()
        browser.close()


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as folder:
        for full in map(int, sys.argv[1:] or (200, 0)):
            path = Path(folder) / f"stress-{full}.html"
            began = time.perf_counter()
            size = build(path, full)
            print(f"{QUERIES} queries x 9 windows x 2 systems, {full} in full: {size:.1f} MB, "
                  f"built in {time.perf_counter() - began:.1f} s")  # fmt: skip
            if chromium is not None:
                look(path, chromium)
            else:
                print("  no Chromium on PATH, so nothing is timed: apt-get install chromium")


if __name__ == "__main__":
    main()
