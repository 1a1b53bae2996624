"""The page of one's own pictures, used as a person would: what it shows is what `Predictor` finds, and nothing leaves the machine."""

import base64
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Request, Route, expect
from typer.testing import CliRunner

from symnet.checkpoint import load_tensors, save_tensors
from symnet.cli import app
from symnet.data.images import encode_mask
from symnet.errors import UserError
from symnet.pictures import Uploaded, overlay, read_picture
from symnet.predict import Prediction, Predictor, Support, find_run
from symnet.web.question import answer, read_question
from symnet.web.server import LARGEST
from tests.bench import CPU, Bench
from tests.browser import chromium, fits, page
from tests.test_predict import lay_out

__all__ = ["chromium", "page"]  # fixtures
pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


@dataclass(frozen=True)
class Site:
    """A server with its run, and pictures to show it: support.jpg, which EXIF turns (seen 60 wide, 80 high), mask.png, a.png, b.png."""

    address: str
    run: Path
    folder: Path
    seen: np.ndarray
    mask: np.ndarray

    def enliven(self) -> None:
        """Let the model that was not trained, and says the same everywhere, take a half of the pixels for foreground."""
        path, name = self.run / "model.safetensors", "head.decode.classify.3"
        tensors, meta, made_by = load_tensors(path)
        tensors[f"{name}.weight"] *= 300
        save_tensors(path, tensors, meta, made_by)
        soft = np.concatenate([one.soft["meta"].ravel() for one in self.predict(self.mask)])
        tensors[f"{name}.bias"][1] -= float(np.median(np.log(soft / (1 - soft))))
        save_tensors(path, tensors, meta, made_by)

    def predict(self, mask: np.ndarray, explained: bool = False) -> list[Prediction]:
        """Of both queries, without a browser."""
        predictor = Predictor(find_run(self.run), 1, CPU, self.folder)
        return list(
            predictor.predict([Support(self.seen, mask)], [read_picture(self.folder / f"{q}.png") for q in "ab"], "table", explained)
        )


@pytest.fixture(scope="module")
def site(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("web")
    run = lay_out(bench, folder).cell.folder(folder / "tiny")
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize((80, 60), Image.Resampling.BICUBIC)
    exif = smooth.getexif()
    exif[0x0112] = 6
    smooth.save(folder / "support.jpg", exif=exif)
    seen = read_picture(folder / "support.jpg")
    assert seen.shape == (80, 60, 3)
    mask = np.zeros((80, 60), np.uint8)
    mask[20:50, 10:40] = 1
    Image.fromarray(255 * mask).save(folder / "mask.png")
    for name, size in (("a", (64, 64)), ("b", (90, 50))):
        Image.fromarray(rng.integers(0, 255, (5, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    site = Site("", run, folder, seen, mask)
    site.enliven()
    words = [sys.executable, "-m", "symnet", "web", "--model", str(run), "--port", "0", "--device", "cpu"]
    with open(folder / "errors.txt", "w+") as errors, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
        assert server.stdout is not None
        told = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert told, (folder / "errors.txt").read_text()
        yield replace(site, address=told[0])
        server.terminate()
        server.wait(timeout=20)
        assert (folder / "errors.txt").read_text() == ""


def place(page: Page, kind: str) -> Locator:
    return page.locator(f".drop{kind} input")


def drop(page: Page, selector: str, path: Path) -> None:
    """A file from the desktop let fall on a place of the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    script = """([content, name]) => {
        const held = new DataTransfer();
        held.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
        return held;
    }"""
    held = page.evaluate_handle(script, [content, path.name])
    page.dispatch_event(selector, "dragover", {"dataTransfer": held})
    page.dispatch_event(selector, "drop", {"dataTransfer": held})


def give(page: Page, site: Site, mask: bool = True) -> None:
    """All that the page asks for, but for the button."""
    page.goto(site.address)
    place(page, ".image").set_input_files(site.folder / "support.jpg")
    if mask:
        drop(page, ".drop.mask", site.folder / "mask.png")
    page.get_by_label("The object in a word").fill("table")
    place(page, "#queries").set_input_files([site.folder / "a.png", site.folder / "b.png"])


def segment(page: Page) -> str:
    """Press the button; what the page says at last."""
    page.get_by_role("button", name="Segment").click()
    expect(page.locator("#segment")).to_be_enabled()
    return page.locator("#told").inner_text()


def decoded(url: str | None) -> np.ndarray:
    assert url is not None
    with Image.open(BytesIO(base64.b64decode(url.partition("base64,")[2]))) as image:
        return np.array(image)


def assert_shows(page: Page, wanted: list[Prediction]) -> None:
    """Every mask and soft map, as saved from the page and as shown, is the prediction's; the overlays are of these masks."""
    for name, one in zip("ab", wanted, strict=True):
        for output in one.soft:
            for kind, values in (("mask", 255 * one.mask(output)), ("soft", (255 * one.soft[output]).round().astype(np.uint8))):
                link = page.locator(f"a[download='{name}.{output}.{kind}.png']")
                np.testing.assert_array_equal(decoded(link.get_attribute("href")), values)
                shown = page.locator("figure", has=link).locator("img")
                assert shown.get_attribute("src") == link.get_attribute("href")
                assert shown.evaluate("image => [image.naturalHeight, image.naturalWidth]") == list(values.shape)


def test_dropped_pictures_are_segmented_as_the_predictor_does(page: Page, site: Site, tmp_path: Path) -> None:
    give(page, site)
    expect(page.locator("#run")).to_have_text("shapes, efficientnet_lite0, fold 0, symnet, 1-shot")
    page.get_by_label("show what the model saw").check()
    assert segment(page).startswith("Done: 2 in ")
    wanted = site.predict(site.mask, explained=True)
    assert 0.2 < np.mean([one.mask("meta").mean() for one in wanted]) < 0.8
    assert_shows(page, wanted)
    overlays = page.locator("figure img[alt*='of the picture']")
    outputs = [(name, one, output) for name, one in zip("ab", wanted, strict=True) for output in one.soft]
    assert overlays.count() == len(outputs)
    for i, (name, one, output) in enumerate(outputs):
        mask = one.mask(output)
        expect(page.locator("figcaption", has_text="of the picture").nth(i)).to_have_text(
            f"{output}: {100 * mask.mean():.1f} % of the picture"
        )
        exact = np.array(overlay(read_picture(site.folder / f"{name}.png"), mask), np.float32)
        assert np.abs(decoded(overlays.nth(i).get_attribute("src")) - exact).mean() < 6  # of 255: a JPEG
    sheets = page.locator("figure.sheet img")
    assert sheets.count() == 2
    assert decoded(sheets.first.get_attribute("src")).shape[1] > 500
    with page.expect_download() as saved:
        page.locator("a[download='b.ensemble.mask.png']").click()
    saved.value.save_as(tmp_path / "saved.png")
    with Image.open(tmp_path / "saved.png") as image:
        np.testing.assert_array_equal(np.array(image), 255 * wanted[1].mask("ensemble"))
    assert fits(page)


def test_a_painted_mask_is_what_the_model_gets(page: Page, site: Site) -> None:
    give(page, site, mask=False)
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "POST" else None)
    page.get_by_label("outline, filled").check()
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None

    def go(*points: tuple[float, float]) -> None:  # in parts of the picture
        spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        page.mouse.move(*spots[0])
        page.mouse.down()
        for spot in spots[1:]:
            page.mouse.move(*spot, steps=4)
        page.mouse.up()

    go((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))
    page.get_by_label("erase").check()
    page.get_by_label("size").fill("20")
    go((0.0, 0.5), (1.0, 0.5))
    assert segment(page).startswith("Done: 2 in ")
    painted = decoded("base64," + json.loads(str(sent[-1].post_data))["supports"][0]["mask"]["content"])[..., 0] == 255
    wanted = np.zeros((80, 60), bool)  # as seen, not as stored
    wanted[20:60, 15:45] = True
    wanted[32:48] = False  # 20 % of the longer side
    assert painted.shape == wanted.shape
    assert (painted & wanted).sum() / (painted | wanted).sum() > 0.85
    assert_shows(page, site.predict(painted.astype(np.uint8)))
    page.get_by_role("button", name="clear").click()
    assert segment(page) == "mask of support 1 (painted): no pixel of the object is marked (value 255); values found: none but 0"


def test_a_press_cannot_come_before_the_script(page: Page, site: Site) -> None:
    asked: list[Route] = []
    page.route("**/about", lambda route: asked.append(route))  # not answered yet; no bare append: its arguments are counted
    with page.expect_request("**/about"):
        page.goto(site.address, wait_until="commit")
    button = page.get_by_role("button", name="Segment")
    expect(button).to_be_disabled()
    asked[0].continue_()
    expect(button).to_be_enabled()


def test_what_is_wrong_is_told_in_one_line(page: Page, site: Site, tmp_path: Path) -> None:
    page.goto(site.address)
    assert segment(page) == "support 1: drop a picture"
    (tmp_path / "note.png").write_text("no picture")
    place(page, ".image").set_input_files(tmp_path / "note.png")
    assert segment(page) == "support 1: this browser cannot show the picture, so drop its mask"
    drop(page, ".drop.mask", site.folder / "mask.png")
    assert segment(page) == "class: say in a word what the object is"
    page.get_by_label("The object in a word").fill("table")
    assert segment(page) == "queries: drop a picture to segment"
    place(page, "#queries").set_input_files(site.folder / "a.png")
    assert segment(page).startswith("support 1 (note.png): not a whole, readable image (")
    place(page, ".image").set_input_files(site.folder / "a.png")
    assert segment(page) == "mask of support 1 (mask.png): mask of 60x80 for support 1 (a.png) of 64x64; they must be equal"
    several = np.zeros((64, 64), np.uint8)
    several[:9], several[40:] = 3, 7
    (tmp_path / "several.png").write_bytes(encode_mask(several))
    drop(page, ".drop.mask", tmp_path / "several.png")
    assert segment(page).startswith("mask of support 1 (several.png): found mask values 3, 7; say which one is the object: --value N")
    page.get_by_label("the object's value").fill("7")
    page.get_by_label("The object in a word").fill("zebra")
    assert "no vector for zebra" in segment(page)
    expect(page.locator("#told")).to_have_class("error")
    page.get_by_label("The object in a word").fill("table")
    assert segment(page).startswith("Done: 1 in ")
    base = page.locator("#names option").last.get_attribute("value")
    page.get_by_label("The object in a word").fill(str(base))
    assert f"Note: {base} is a base class of this run" in segment(page)
    expect(page.locator("#told")).not_to_have_class("error")


def test_only_the_page_on_this_machine_may_ask(site: Site) -> None:
    with httpx.Client(base_url=site.address, trust_env=False) as client:
        assert client.get("/about", headers={"Host": "elsewhere.example"}).status_code == 400
        assert client.get("/about", headers={"Host": "localhost:7860"}).json()["shots"] == 1
        assert client.post("/segment", content="{}", headers={"Content-Type": "text/plain"}).status_code == 415
        assert client.get("/segment").status_code == 405
        for path in ("/server.py", "/../server.py", "/%2e%2e/server.py", "//etc/passwd"):
            assert client.get(path).status_code == 404
        assert "default-src 'self'" in client.get("/").headers["Content-Security-Policy"]
    connection = http.client.HTTPConnection(site.address.removeprefix("http://"), timeout=60)
    with closing(connection):  # refused by its length, before its body
        connection.putrequest("POST", "/segment")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(LARGEST + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413


def body(site: Site, **changes: Any) -> bytes:
    def sent(path: Path) -> dict[str, str]:
        return {"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()}

    support = {"image": sent(site.folder / "support.jpg"), "mask": sent(site.folder / "mask.png")}
    question = {"supports": [support], "queries": [sent(site.folder / "a.png")], "word": "table", **changes}
    return json.dumps(question).encode()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"supports": []}, "question: supports: List should have at least 1 item"),
        ({"queries": [{"path": "/etc/passwd"}]}, r"question: queries.0.name: Field required"),
        ({"word": ""}, "question: word: String should have at least 1 character"),
        ({"model": "/tmp"}, "question: model: Extra inputs are not permitted"),
    ],
)
def test_a_question_of_another_shape_is_refused(site: Site, changes: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_question(body(site, **changes))
    with pytest.raises(UserError, match="question: : Invalid JSON"):
        read_question(b"{")


def test_supports_and_pixels_are_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(find_run(site.run), 1, CPU, site.folder)
    twice = json.loads(body(site))["supports"] * 2
    with pytest.raises(UserError, match="supports: found 2, this run takes 1"):
        next(answer(predictor, read_question(body(site, supports=twice))))
    monkeypatch.setattr("symnet.web.question.MOST_PIXELS", 80 * 60 + 64 * 64 - 1)
    with pytest.raises(UserError, match="pictures: more than 0 million pixels in all"):
        next(answer(predictor, read_question(body(site))))


def test_a_name_is_no_path_and_only_plain_formats_are_read(tmp_path: Path) -> None:
    picture = tmp_path / "there.png"
    Image.new("RGB", (3, 2)).save(picture)
    with pytest.raises(UserError, match=r"there\.png: not a whole, readable image"):
        read_picture(Uploaded(str(picture), b""))
    drawing = BytesIO()
    Image.new("RGB", (3, 2)).save(drawing, "EPS")
    with pytest.raises(UserError, match=r"x\.eps: not a whole, readable image"):
        read_picture(Uploaded("x.eps", drawing.getvalue()))


def test_a_port_that_is_taken_is_told(site: Site) -> None:
    port = site.address.rpartition(":")[2]
    with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
        CliRunner().invoke(app, ["web", "--model", str(site.run), "--port", port], catch_exceptions=False)
