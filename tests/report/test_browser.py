"""The page in a real headless Chromium: it opens from disk, works by mouse and keyboard, and no text in it can act.

Needs Playwright and a Chromium on PATH (Debian: apt-get install chromium); screenshots are kept in
``outputs/screenshots``, or where ``REARANK_SCREENSHOTS`` points.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.hostile import ATTACKS, QUERIES, poison, write_collection
from tests.tasks.runs import made, report_of

from rearank.report import Report
from rearank.tasks.pipeline import evaluate_models
from rearank.tasks.report import make_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed (extra dev)")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems over a hostile collection, their answers poisoned, side by side."""
    place = tmp_path_factory.mktemp("browser")
    collection = write_collection(place / "collection")
    common = (
        *(
            "name=hostile",
            "benchmark=local_beir",
            "prompt=compact",
            "model=tiny",
            "engine=scripted",
            "tracking=none",
            "trainer=trl",
        ),
        *("strategy.size=6", "strategy.step=3", "evaluation.samples=0", "dataset=synthetic"),
        *(f"benchmark.collection.path={collection}", f"paths.cache={place}/cache", "report.figures=false"),
    )
    runs = {name: made(place / name, *common, f"engine.behaviour={name}") for name in ("noisy", "malformed")}
    for name, run in runs.items():
        evaluate_models(run)
        if name == "noisy":
            poison(run.folder / "completions.sqlite")
    sources = ",".join(f"'{name}={run.folder}'" for name, run in runs.items())
    return report_of(made(place, *common, f"report.runs=[{sources}]", "report.title='Noisy and <b>malformed</b>'"))


@pytest.fixture(scope="module")
def chromium(page_file: Path, study_file: Path) -> Iterator[Any]:
    """After the pages are made: Playwright's loop runs in this thread, and an evaluation needs its own."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


ARMS = ("normalised", "absolute", ATTACKS[1], "long" * 30, "exact", "window_10", "window_20")


@pytest.fixture(scope="module")
def study_file(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's jobs, seven arms of two seeds without an untrained model, one of the arms and the analysis hostile."""
    folder, jobs = tmp_path_factory.mktemp("study") / "arms-sweep", []
    for place, arm in enumerate(ARMS):
        for seed in (1, 2):
            job = folder / f"{place}-{seed}"
            jobs.append(job)
            systems = {"bm25": ("first stage", 0.1), "grpo_step6": ("system", 0.2), "grpo": ("system", 0.3)}
            for name, (role, value) in systems.items():
                values = {f"q{n}": value + 0.05 * n + (role == "system") * 0.01 * place * seed for n in range(4)}
                content = {"benchmark": "dl19", "system": name, "role": role, "per_query": {"ndcg_cut_10": values}}
                _write(job / "evaluation" / "dl19" / name / "metrics.json", {**content, "interval_95": {}})
            _write(job / "training" / "settings.json", {"seed": seed, "reward": place})
            curve = [{"step": step, "train/reward/total": step * place * seed / 100} for step in range(1, 21)]
            (job / "training" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
            _write(job / "job.json", {"status": "finished", "choices": {"arm": arm, "seed": str(seed)}, "fixed": []})
    titles = {"length": {"title": ATTACKS[1], "note": f"`rho` is {ATTACKS[2]} {ATTACKS[0]}"}}
    part = {"tables": {"length": [{"system": ATTACKS[0], "rho": 0.5}]}, "titles": titles}
    _write(jobs[0] / "analysis" / "analysis.json", {"benchmarks": {"dl19": part}})
    return make_report(folder, [(None, job) for job in jobs], Report(figures=False), folder)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def page(chromium: Any, page_file: Path) -> Iterator[Any]:
    """The page of two runs."""
    yield from _opened(chromium, page_file)


@pytest.fixture
def study(chromium: Any, study_file: Path) -> Iterator[Any]:
    """The page of a study."""
    yield from _opened(chromium, study_file)


def _opened(chromium: Any, page_file: Path) -> Iterator[Any]:
    """The page, opened from disk; whatever it complains of fails the test, and so does any request but for itself."""
    opened = chromium.new_page(viewport={"width": 1360, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: said.append("a dialog"))
    opened.on("request", lambda request: request.url.startswith("file://") or said.append(request.url))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("html[data-ready]")
    yield opened
    assert said == []
    opened.close()


@pytest.fixture(scope="module")
def screenshots(root: Path) -> Path:
    folder = Path(os.environ.get("REARANK_SCREENSHOTS", root / "outputs" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def rows(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".row .text").all_inner_texts()]


def until(page: Any, holds: str) -> None:
    """Wait for what a script says. The page lets no text be run: a wait within it may look once only."""
    deadline = time.monotonic() + 30
    while not page.evaluate(holds):
        assert time.monotonic() < deadline, holds
        page.wait_for_timeout(20)


def test_everything_is_there_and_nothing_runs(page: Any, screenshots: Path) -> None:
    assert page.locator("h1").inner_text() == "Noisy and <b>malformed</b>"
    assert page.title() == "Noisy and <b>malformed</b> · rearank report"
    assert [text.strip() for text in page.locator("main h2").all_inner_texts()] == [
        *("Results", "Query by query", "How answers were read", "What was run, and with what"),
    ]
    assert page.locator(".hero").count() == 2
    statuses = page.locator("#answers table").inner_text()
    assert "noisy: scripted: noisy" in statuses
    assert "no answer tag" in statuses
    # Every query and every window opened: no attack made an element or ran.
    for place in range(QUERIES):
        page.locator(".row").nth(place).click()
        page.evaluate("document.querySelectorAll('.window').forEach((one) => { one.open = true; })")
        until(page, "[...document.querySelectorAll('.window')].every((one) => one.children.length > 1)")
    assert page.evaluate("window.broken") is None
    assert page.locator("#page img, #page script, #page style, #page iframe").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long word broke the layout"
    body = page.locator("body").inner_text()
    assert "⟨U+202E⟩gnihtyreve" in body
    assert "⟨U+0000⟩" in body
    assert not set("\u202e\u2066\x00\x1b") & set(body)
    page.screenshot(path=screenshots / "report-hostile.png", full_page=True)


def test_searching_and_sorting(page: Any) -> None:
    assert len(rows(page)) == QUERIES
    page.get_by_label("Search").fill("BRAVO")
    assert [text.split()[0] for text in rows(page)] == ["bravo"]
    assert page.locator(".found").inner_text() == f"1 of {QUERIES} queries"
    page.get_by_label("Search").fill("nothing like this")
    assert rows(page) == []
    page.get_by_label("Search").fill("")

    def changes() -> list[float]:
        return [float(t.split()[-1].replace("−", "-")) for t in page.locator(".row .change").all_inner_texts()]

    improved = changes()
    assert improved == sorted(improved, reverse=True)
    assert len(set(improved)) > 1
    page.get_by_role("combobox", name=re.compile("^Sort")).select_option("worsened")
    assert changes() == improved[::-1]


def test_a_query_opens_with_its_windows_and_mentions_light_up_passages(page: Any, screenshots: Path) -> None:
    page.locator(".row").nth(1).click()
    chosen = rows(page)[1]
    assert page.locator(".detail h3").inner_text() == chosen
    assert page.locator(".row[aria-current]").count() == 1
    assert page.evaluate("document.activeElement.className") == "detail"
    window = page.locator(".column .window[open]").first
    shown, answered = window.locator(".shown li").count(), window.locator(".answered li").count()
    assert shown == answered == 6
    mention = window.locator(".mention", has_text=re.compile(r"^\[3\]$")).first
    mention.hover()
    assert window.locator(".answered li.lit .name").all_inner_texts() == ["[3]"]
    several = window.locator(".mention", has_text="passages 1, 2 and")
    several.hover()
    assert set(window.locator(".answered li.lit .name").all_inner_texts()) == {"[1]", "[2]", "[3]"}
    mention.click()
    reading = window.locator(".reading").inner_text()
    assert reading.startswith("[3]")
    assert "first-stage rank" in reading
    page.screenshot(path=screenshots / "report-query.png")
    # The address remembers the query.
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator(".detail h3").inner_text() == chosen


def test_runs_are_compared_side_by_side(page: Any, screenshots: Path) -> None:
    labels = page.locator(".choices label").all_inner_texts()
    assert [label.strip() for label in labels] == ["noisy: scripted: noisy", "malformed: scripted: malformed"]
    for box in page.locator(".choices input").all():
        box.check()
    assert page.locator(".column").count() == 2
    assert page.locator(".column h4").all_inner_texts() == [label.strip() for label in labels]
    page.get_by_role("combobox", name=re.compile("^Before")).select_option(label="malformed: scripted: malformed")
    page.get_by_role("combobox", name=re.compile("^After")).select_option(label="noisy: scripted: noisy")
    said = page.locator(".overview .lead").inner_text()
    assert said.startswith("noisy: scripted: noisy against malformed: scripted: malformed: ")
    assert "better on" in said
    page.screenshot(path=screenshots / "report-compared.png", full_page=True)


def test_by_keyboard_alone(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(".row").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".detail h3").inner_text() == rows(page)[1]
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, input, [role=img], [role=region]')].filter((e) => "
        "!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).length"
    )
    assert unnamed == 0


def test_dark_narrow_and_printed(page: Any, screenshots: Path, tmp_path: Path) -> None:
    def ground() -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))))[:3]

    assert min(ground()) > 200
    page.emulate_media(color_scheme="dark")
    assert max(ground()) < 60
    page.screenshot(path=screenshots / "report-dark.png", full_page=True)
    page.locator("#theme").click()  # light, whatever the system has
    assert min(ground()) > 200
    page.locator("#theme").click()
    page.emulate_media(media="print", color_scheme="dark")
    assert ground() == (255, 255, 255)
    assert not page.locator(".list").is_visible()
    assert not page.locator(".top").is_visible()
    page.set_viewport_size({"width": 760, "height": 1000})  # A4 within its margins
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.pdf(path=tmp_path / "report.pdf").startswith(b"%PDF")
    page.emulate_media(media="screen", color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=screenshots / "report-narrow.png", full_page=True)


def test_a_study_shows_arms_and_not_its_jobs(study: Any, screenshots: Path) -> None:
    assert study.locator("h1").inner_text() == "arms-sweep"
    results = study.locator("#results table").first.locator("tbody tr")
    assert results.count() == 1 + 2 * len(ARMS)
    assert results.nth(1).locator("th").inner_text() == "normalised: grpo_step6"
    assert study.locator("#results .dots").nth(1 + len(ARMS) + 1).locator(".seed").count() == 2
    assert study.locator(".hero").count() == 3  # first stage, the first arm, the best
    assert study.locator(".hero.best").inner_text().split("\n")[0] == "window_20: grpo"
    assert "against normalised" in study.locator(".hero.best").inner_text()
    tests = study.locator("#results details table tbody tr")
    assert tests.count() == 2 * (len(ARMS) - 1)
    assert set(tests.locator("td:nth-child(2)").all_inner_texts()) == {"normalised: grpo_step6", "normalised: grpo"}
    settings = study.locator("#settings table").first
    assert settings.locator("tbody tr").count() == len(ARMS)
    # One legend for all panels, whose lines go on and off.
    switches, panel = study.locator(".switches input"), study.locator("#training .panel").nth(1)
    assert switches.count() == len(ARMS)
    assert study.locator("#training .legend").count() == 0
    assert panel.locator("figcaption").inner_text() == "Reward"
    assert panel.locator("path.line").count() == panel.locator("path.band").count() == len(ARMS)
    switches.nth(2).uncheck()
    assert panel.locator("path.line").count() == len(ARMS) - 1
    panel.locator("svg").hover()
    said = panel.locator(".readout").inner_text()
    assert said.startswith("step ")
    assert "absolute" in said
    assert "onerror" not in said
    study.screenshot(path=screenshots / "report-study.png", full_page=True)
    for width in (1360, 760, 390):
        study.set_viewport_size({"width": width, "height": 900})
        assert study.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


def test_titles_and_notes_of_an_analysis_are_text(study: Any) -> None:
    section = study.locator("#analyses")
    assert section.locator("summary").inner_text() == f"{ATTACKS[1]} (1)"
    assert (
        section.locator(".note").inner_text() == f"rho is ⟨U+202E⟩gnihtyreve snrut siht⟨U+202C⟩ and back "
        f"⟨U+2066⟩ isolate {ATTACKS[0]}"
    )
    assert section.locator(".note code").all_inner_texts() == ["rho"]
    assert study.evaluate("window.broken") is None
    assert study.locator("#page img, #page script").count() == 0


def test_the_policy_stops_what_would_get_in(page_file: Path, chromium: Any, tmp_path: Path) -> None:
    """Were a text ever to become markup, its script would not run: tried on a copy of the page."""
    poisoned = tmp_path / "poisoned.html"
    markup = f"<script>window.broken = 1</script>{ATTACKS[1]}<main"
    poisoned.write_text(page_file.read_text().replace("<main", markup, 1))
    said: list[str] = []
    page = chromium.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto(poisoned.as_uri())
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate("window.broken") is None
    assert [text for text in said if "Content Security Policy" in text]
    page.close()


BROKEN = ("#q/0/%E0%A4%A", "#q/0/100%", "#q/0/%", "#q/7/x", "#q/0/no-such-query", "#q/", "#%")


@pytest.mark.parametrize("address", BROKEN)
def test_an_address_that_names_no_query_opens_the_first(page: Any, page_file: Path, address: str) -> None:
    first = page.locator(".detail h3").inner_text()
    page.goto("about:blank")
    page.goto(page_file.as_uri() + address)
    page.wait_for_selector("html[data-ready]")
    assert len(rows(page)) == QUERIES
    assert page.locator(".detail h3").inner_text() == first


def test_unread_answers_are_said_before_any_number(chromium: Any, tmp_path: Path) -> None:
    systems = {"bm25": ("first stage", ""), "base": ("system", f"weak: its numbers are the given order's {ATTACKS[1]}")}
    for name, (role, note) in systems.items():
        values = {f"q{n}": 0.1 * n for n in range(3)}
        content = {"benchmark": "dl19", "system": name, "role": role, "per_query": {"ndcg_cut_10": values}}
        place = tmp_path / "run" / "evaluation" / "dl19" / name / "metrics.json"
        _write(place, {**content, "interval_95": {}, "note": note})
    file = make_report(tmp_path, [(None, tmp_path / "run")], Report(figures=False), tmp_path)
    for page in _opened(chromium, file):
        (said,) = page.locator("[role=alert]").all_inner_texts()
        assert said.startswith("dl19: weak: its numbers are the given order's")
        assert page.locator("[role=alert]").bounding_box()["y"] < page.locator("table").first.bounding_box()["y"]
        assert page.evaluate("window.broken") is None
