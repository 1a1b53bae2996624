"""MLflow's own pages, as `make ui` serves them, in a real browser: what a person looks for is there, and has the values of the files."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from symnet.artifacts import Provenance, file_digest
from symnet.overlays import write_overlay
from tests.browser import chromium, their_page
from tests.served import free_port, serving
from tests.test_tracking import Place, empty_store, symnet, write_journal, write_round, write_tables

__all__ = ["chromium", "empty_store", "their_page"]  # fixtures
pytestmark = [pytest.mark.xdist_group("ui"), pytest.mark.timeout(600)]  # one server, started once

MIOU = "metrics.`test/meta.padded.miou`"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Place:
    """Two folds of a finished experiment in the store: 52.5 and 54.5 % in the mean of two seeds, six steps of a loss, a picture, tables."""
    place = Place(tmp_path_factory.mktemp("ui"), empty_store)
    for fold in range(2):
        write_journal(place, symnet(fold), f"run-{fold}", steps=6)
        for k, seed in enumerate((510, 365)):
            metrics = write_round(place, symnet(fold), seed, add=2 + k + 2 * fold)
        picture = symnet(fold).folder(place.root) / "overlays" / "00000-cat.png"
        made_by = Provenance(stage="overlays", inputs={"metrics": file_digest(metrics)})
        write_overlay(picture, Image.new("RGB", (30 + fold, 20), (200, 0, 100)), made_by)
    write_tables(place.root)
    place.sync()
    return place


@pytest.fixture(scope="module")
def address(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page that `symnet track ui` says is the experiment's."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "log"
    command = [sys.executable, "-m", "symnet", "track", "ui", "--results", str(place.store.parent), "--port", str(port)]
    with serving(command, port, log):
        name, _, address = log.read_text().splitlines()[0].partition(": ")
        assert (name, address.partition("/#/")[0]) == ("bench", f"http://127.0.0.1:{port}")
        yield address


@pytest.fixture
def runs(page: Page, address: str) -> Page:
    """The table of runs, MLflow's assistant closed."""
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    page.goto(address)
    expect(row(page, "shapes symnet fold 0 1-shot")).to_be_visible()
    return page


def row(page: Page, name: str) -> Locator:
    """The part of a row with the run's name; other columns are other elements."""
    return page.get_by_role("row").filter(has_text=name)


def column(page: Page, name: str) -> list[str]:
    """Its cells from the top; of the runs' names without their colours."""
    cells = page.locator(f'[role=gridcell][col-id="{name}"]')
    return [text.splitlines()[-1] for text in cells.all_inner_texts()]


def test_the_table_of_runs(runs: Page) -> None:
    headers = [text for text in runs.get_by_role("columnheader").all_inner_texts() if text]
    for wanted in (
        "Run Name",
        "Created",
        "test/meta.padded.miou",
        "test/ensemble.padded.miou",
        "method",
        "fold",
        "shot",
        "seed",
        "dataset",
    ):
        assert wanted in headers
    names = column(runs, "attributes.`Run Name`")
    assert sorted(names) == ["bench tables", "shapes symnet fold 0 1-shot", "shapes symnet fold 1 1-shot"]
    shown = dict(
        zip(names, zip(column(runs, MIOU), column(runs, "params.`fold`"), column(runs, "params.`dataset`"), strict=True), strict=True)
    )
    assert shown == {
        "bench tables": ("-", "-", "shapes"),
        "shapes symnet fold 0 1-shot": ("52.5", "0", "shapes"),
        "shapes symnet fold 1 1-shot": ("54.5", "1", "shapes"),
    }
    expect(runs.get_by_text("holds the tables")).to_be_attached()  # the description

    expander = row(runs, "shapes symnet fold 1 1-shot").get_by_role("button")
    expander.click()  # shows its seeds
    expect(row(runs, "seed 365")).to_be_visible()
    names = column(runs, "attributes.`Run Name`")
    seeds = {name: value for name, value in zip(names, column(runs, MIOU), strict=True) if name.startswith("seed")}
    assert seeds == {"seed 510": "54", "seed 365": "55"}
    assert dict(zip(names, column(runs, "params.`fold`"), strict=True))["seed 365"] == "1"

    expander.click()
    expect(row(runs, "seed 365")).not_to_be_visible()
    for fold in range(2):
        row(runs, f"shapes symnet fold {fold}").get_by_label("Press Space to toggle row selection").check()
    runs.get_by_role("button", name="Compare").click()
    expect(runs.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    folds = runs.get_by_role("row").filter(has=runs.get_by_text("fold", exact=True)).last
    assert sorted(folds.inner_text().split()[1:]) == ["0", "1"]
    for text in ("test/meta.padded.miou", "52.5", "54.5"):  # names and values are lists beside each other
        expect(runs.get_by_text(text, exact=True).first).to_be_visible()


def test_a_run_its_curves_pictures_and_the_tables(runs: Page, address: str) -> None:
    runs.get_by_role("link", name="shapes symnet fold 1 1-shot").click()
    for seed in (510, 365):
        expect(runs.get_by_role("link", name=f"seed {seed}")).to_be_visible()
    runs.get_by_text("Model metrics", exact=True).first.click()
    mean = runs.get_by_role("heading", name="ensemble.400.fb_iou", exact=True)
    expect(mean).to_be_visible()  # the first of the part `test`, without that prefix
    runs.get_by_placeholder("Search metric charts").fill("loss")
    expect(mean).not_to_be_visible()
    line = runs.locator(".scatterlayer path.js-line").first
    expect(line).to_be_attached()
    heights = [float(point.partition(",")[2]) for point in str(line.get_attribute("d")).removeprefix("M").split("L")]
    assert len(heights) == 6
    assert heights == sorted(heights)  # downwards on the page, as 1 / step
    top, bottom = heights[0], heights[-1]
    for step, height in enumerate(heights, 1):
        assert height == pytest.approx(bottom - (bottom - top) * (1 / step - 1 / 6) / (1 - 1 / 6), abs=0.5)

    runs.get_by_text("Artifacts", exact=True).first.click()
    runs.get_by_text("overlays", exact=True).click()
    runs.get_by_text("00000-cat.png").click()
    picture = runs.locator("img[src^=blob]").first
    expect(picture).to_be_visible()
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [31, 20]

    runs.goto("about:blank")
    runs.goto(address)
    runs.get_by_role("link", name="bench tables").click()
    expect(runs.get_by_text("symnet (meta)").first).to_contain_text("52.50")  # the description is the main table
    runs.get_by_text("Artifacts", exact=True).first.click()
    expect(runs.get_by_text("main.csv")).to_be_visible()
