"""The report: one file that a browser shows whole, with nothing fetched from anywhere."""

import csv
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser import chromium, fits, page
from tests.workflow.conftest import Project

__all__ = ["chromium", "page"]  # fixtures
pytestmark = [pytest.mark.xdist_group("workflow"), pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def report(finished: Project) -> Path:
    done = finished.snakemake("--report", "results/tiny/report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    return finished.results / "report.html"


def test_everything_is_in_one_file(report: Path) -> None:
    text = report.read_text()
    figures = [f"{name}-shapes-1shot.png" for name in ("classes", "curves", "sizes", "ranks", "costs", "episodes", "regions")]
    figures += [f"failures-shapes-fold{fold}-1shot.png" for fold in (0, 1)]
    for name in ("main.html", "paper-shapes.html", "differences.html", "costs.html", "counts.html", "counts-classes.html", *figures):
        assert name in text
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)
    captions = ("Bars end at the mean over seeds", "shapes: round of seed 7; failures are of each class the episode")
    for words in captions:
        assert words in text


def test_costs_are_what_the_jobs_told(finished: Project) -> None:
    with open(finished.results / "tables" / "costs.csv", encoding="utf-8", newline="") as file:
        found = {line["method"]: line for line in csv.DictReader(file)}
    assert set(found) == {"prototype", "symnet (ensemble)", "symnet (meta)"}
    for name, line in found.items():
        trained = name != "prototype"
        assert (int(line["trained_parameters"]) > 0) == trained
        assert (0 < float(line["train_hours"]) < 0.1) == trained
        assert line["read"] == ("records" if trained else "features")
        assert float(line["episodes_per_second"]) > 0
        assert 1e8 < float(line["test_memory"]) < 1e11
        assert line["trained_on"] == (line["tested_on"] if trained else "")
        assert re.search(r", \d+ thread|NVIDIA", line["tested_on"])


def test_a_browser_shows_it_whole_and_without_a_network(report: Path, page: Page) -> None:
    page.goto(report.as_uri())
    app = page.locator("#app")
    for words in ("Workflow", "Tables", "Figures", "Data", "every number is made of"):
        expect(app).to_contain_text(words)
    assert fits(page)
    with Image.open(BytesIO(page.screenshot())) as image:
        assert image.size == (1300, 900)
        assert len(image.convert("RGB").getcolors(1 << 21)) > 50  # the graph of rules is drawn, not a blank page


def test_its_tables_and_figures_open_in_place(report: Path, page: Page) -> None:
    for category, count in (("Figures", 9), ("Tables", 8), ("Data", 1)):
        page.goto(report.as_uri())
        page.get_by_text(category, exact=True).first.click()
        opened = page.locator("tbody a[iconname=eye]")
        expect(opened).to_have_count(count)
        for number in range(count):
            opened.nth(number).click()
            if category == "Figures":
                expect(page.locator("#app img").last).to_have_js_property("complete", True)
                assert page.locator("#app img").last.evaluate(
                    "image => image.naturalWidth > 500 && image.getBoundingClientRect().right <= 1300"
                )
            else:
                frame = page.frame_locator("iframe")
                expect(frame.locator("table")).to_be_visible()
                assert frame.locator("html").evaluate("html => html.scrollWidth <= html.clientWidth"), (
                    opened.nth(number).locator("xpath=ancestor::tr").inner_text()
                )
        assert fits(page)
