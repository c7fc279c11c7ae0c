"""The report's page in Chromium on a phone, on a desktop and printed.

Its content is tested in tests/bot/training/test_story_report.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bot.cards.training import reports
from bot.charts import evaluations
from bot.values.runs import NOTHING_SINCE, LabelChange
from tests.cards import builders, measurements
from tests.peers.browser import find_chromium
from trainers.providers.pricing import PriceList, PriceRow

pytestmark = pytest.mark.e2e

SHOTS = Path(__file__).parents[1] / "screenshots" / "report"
PAPER = 680  # CSS pixels of A4's width between the margins
LONG = "fireworks/accounts-fireworks-models-llama-v3p1-405b-instruct-with-a-name-of-no-end"
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter((node) => !node.closest(".scroll table")
    && node.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((node) => node.outerHTML)"""
CUT = """() => [...document.querySelectorAll("table")].filter((table) =>
    table.scrollWidth > table.parentElement.clientWidth + 1).map((table) => table.outerHTML)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = find_chromium()
    assert chromium, "no Chromium on PATH"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run's and a measurement's report, with the longest names and the most rows that may occur."""
    folder = tmp_path_factory.mktemp("report")
    candidates = [
        *measurements.CANDIDATES,
        measurements.candidate("tuned", LONG, 184),
        *measurements.comparison_of_many(20).candidates,
    ]
    comparison = measurements.comparison(candidates)
    plot = evaluations.draw_comparison(comparison, folder / "comparison.png")
    assert plot
    prices = PriceList(
        tuple(row for row in measurements.PRICES if isinstance(row, PriceRow)), date(2026, 11, 25)
    )
    labels = tuple(LabelChange("a label of many words " * 3 + str(n), 40 + n, 30, n) for n in range(70))
    run = reports.run_report(
        builders.run("done"),
        replace(builders.advised_plan(), prices=prices.to_json(), base_model=LONG),
        builders.result(
            beside=measurements.comparison_beside_classical(111, 155), advice=builders.CHEAPER, labels=labels
        ),
        after=NOTHING_SINCE,
        is_stopped=False,
        comparison=comparison,
        actuals=builders.actuals(0.84),
        approvals=builders.APPROVALS,
        history=builders.AUDITED * 4,
        plots=[plot],
        name_of=str,
    )
    measurement = reports.measurement_report(measurements.measurement("done"), comparison, plot, str)
    paths = {"run": folder / "run.html", "measurement": folder / "measurement.html"}
    for (_, path), html in zip(paths.items(), (run, measurement), strict=True):
        path.write_text(html, encoding="utf-8")
    return paths


@pytest.mark.parametrize("kind", ["run", "measurement"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_requests_nothing(
    browser: Browser, pages: dict[str, Path], kind: str, width: int
) -> None:
    page, requests = opened(browser, pages[kind], width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    assert requests == [pages[kind].as_uri()]
    assert page.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{kind}-{width}.png", full_page=True)
    page.close()


@pytest.mark.parametrize("kind", ["run", "measurement"])
def test_no_table_is_cut_in_print(browser: Browser, pages: dict[str, Path], kind: str) -> None:
    page, _ = opened(browser, pages[kind], PAPER)
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelectorAll('table').length") >= 1
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PAPER
    pdf = page.pdf(path=SHOTS / f"{kind}.pdf", prefer_css_page_size=True, print_background=True)
    sizes = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert len(sizes) >= 1
    assert {(round(float(wide)), round(float(high))) for wide, high in sizes} == {(595, 842)}  # A4 in points
    page.close()


def opened(browser: Browser, path: Path, width: int) -> tuple[Page, list[str]]:
    """Opens the page. Also returns what it requested, except for its embedded pictures."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri(), wait_until="networkidle")
    return page, [url for url in requests if not url.startswith("data:")]
