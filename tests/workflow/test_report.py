"""The report: one file that a browser shows whole, with nothing fetched from anywhere."""

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
    figures = [f"{name}-shapes-1shot.png" for name in ("classes", "curves", "sizes", "ranks", "episodes", "regions")]
    figures += [f"failures-shapes-fold{fold}-1shot.png" for fold in (0, 1)]
    for name in ("main.html", "paper-shapes.html", "differences.html", "counts.txt", *figures):
        assert name in text
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)
    captions = ("Bars end at the mean over seeds", "shapes: round of seed 7; failures are of each class the episode")
    for words in captions:
        assert words in text


def test_a_browser_shows_it_whole_and_without_a_network(report: Path, page: Page) -> None:
    page.goto(report.as_uri())
    app = page.locator("#app")
    for words in ("Workflow", "Tables", "Figures", "Data", "every number is made of"):
        expect(app).to_contain_text(words)
    assert fits(page)
    with Image.open(BytesIO(page.screenshot())) as image:
        assert image.size == (1300, 900)
        assert len(image.convert("RGB").getcolors(1 << 21)) > 50  # the graph of rules is drawn, not a blank page
