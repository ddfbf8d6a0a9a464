"""The page in a real headless Chromium: it opens from disk, works by mouse and keyboard, and no text in it can act.

Needs Playwright and a Chromium on PATH (Debian: apt-get install chromium); screenshots are kept in
``outputs/screenshots``, or where ``REARANK_SCREENSHOTS`` points.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.report.hostile import ATTACKS, QUERIES, poison, write_collection
from tests.tasks.runs import made

from rearank.tasks.evaluate import evaluate
from rearank.tasks.report import write_report

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
        evaluate(run)
        if name == "noisy":
            poison(run.folder / "completions.sqlite")
    sources = ",".join(f"'{name}={run.folder}'" for name, run in runs.items())
    return write_report(made(place, *common, f"report.runs=[{sources}]", "report.title='Noisy and <b>malformed</b>'"))


@pytest.fixture(scope="module")
def chromium(page_file: Path) -> Iterator[Any]:
    """After the page is made: Playwright's loop runs in this thread, and an evaluation needs its own."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any, page_file: Path) -> Iterator[Any]:
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
        page.wait_for_function("[...document.querySelectorAll('.window')].every((one) => one.children.length > 1)")
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
