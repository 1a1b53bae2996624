"""One's own pictures: they are segmented as an evaluation segments them, from masks as people draw them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from symnet.cli import app
from symnet.data.episodes import read_manifest
from symnet.data.images import encode_mask
from symnet.data.readers import open_reader
from symnet.embeddings import read_embeddings
from symnet.errors import UserError
from symnet.predict import Predictor, Support, as_mask, find_run
from symnet.stages import slice_settings
from tests.bench import CPU, Bench
from tests.test_records import Round1

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


def lay_out(bench: Bench, root: Path) -> Round1:
    """Under `root` a run as the workflow leaves it, its model not trained: tiny/shapes/efficientnet_lite0/fold0/symnet/shot1."""
    made = Round1(bench, root)
    fold = root / "tiny" / "shapes" / "efficientnet_lite0" / "fold0"
    folder = fold / "symnet" / "shot1"
    folder.mkdir(parents=True)
    shutil.copy(made.model, folder)
    shutil.copy(bench.inputs.base, fold)
    shutil.copy(bench.inputs.embeddings, root / "tiny" / "shapes" / "embeddings.csv")
    settings = root / "tiny" / "settings"
    whole = bench.experiment.settings("shapes", 0)
    for path, stage in (("shapes/fold0/evaluate-symnet.json", "evaluate"), ("shapes/embeddings.json", "embeddings")):
        (settings / path).parent.mkdir(parents=True, exist_ok=True)
        (settings / path).write_text(json.dumps(slice_settings(whole, stage, "symnet" if stage == "evaluate" else None)))
    (settings / "tables.json").write_text(json.dumps({"rows": {"symnet": "symnet"}}))
    return made


@pytest.fixture
def run(bench: Bench, tmp_path: Path) -> Path:
    """The folder of a run, and above it the counts of a round, counts.json."""
    made = lay_out(bench, tmp_path)
    (tmp_path / "counts.json").write_text(json.dumps(made.counts({}, features=False)))
    return made.cell.folder(tmp_path / "tiny")


def test_pictures_are_segmented_as_an_evaluation_does(run: Path, bench: Bench, tmp_path: Path) -> None:
    counts = json.loads((tmp_path / "counts.json").read_text())
    settings = bench.settings("evaluate", "symnet")
    reader = open_reader(settings.data, settings.protocol, bench.root)
    predictor = Predictor(find_run(run), 1, CPU, bench.root)
    names, _ = read_embeddings(bench.inputs.embeddings)
    found: dict[str, dict[str, np.ndarray]] = {"meta": {}, "ensemble": {}}
    for episode in read_manifest(tmp_path / "seed5.csv"):
        name = names[episode.class_index - 1]
        image, mask = reader.load("test", episode.supports[0])
        support = Support(image, np.where(mask == 255, 255, mask == episode.class_index).astype(np.uint8))
        query, truth = reader.load("test", episode.query)
        (prediction,) = predictor.predict([support], [query], name)
        for output, sums in found.items():
            on = prediction.mask(output).astype(bool)
            assert on.shape == truth.shape
            true, false = truth == episode.class_index, (truth != episode.class_index) & (truth != 255)
            row = np.array([(on & true).sum(), (on & false).sum(), (~on & true).sum(), (~on & false).sum()])
            sums[name] = sums.get(name, 0) + row
    for output, sums in found.items():
        wanted = counts[output]["original"]
        assert set(sums) == set(wanted)
        for name, row in sums.items():
            np.testing.assert_allclose(row, wanted[name], atol=3)  # pixels: in batches of another size a tie may fall the other way
    assert sum(row[0] + row[1] for row in found["meta"].values()) > 0  # something was found at all


def test_several_queries_give_what_each_gives_alone(run: Path, bench: Bench) -> None:
    settings = bench.settings("evaluate", "symnet")
    reader = open_reader(settings.data, settings.protocol, bench.root)
    images = [reader.load("test", image)[0] for image in reader.ids("test")[:6]]
    images[1] = images[1][:50, :37]  # another size
    predictor = Predictor(find_run(run), 1, CPU, bench.root)
    support = Support(images[0], np.eye(len(images[0]), dtype=np.uint8))
    together = list(predictor.predict([support], images, "table", explained=True))
    for image, one in zip(images, together, strict=True):
        (alone,) = predictor.predict([support], [image], "table")
        for name, soft in one.soft.items():
            assert soft.shape == image.shape[:2]
            np.testing.assert_allclose(soft, alone.soft[name], atol=1e-4)
        assert list(one.explained) == ["prior", "foreground", "background", "hard", "correlation", "hyper", "base"]
        for name, values in one.explained.items():
            assert values.min() >= -1e-5, name
            assert values.max() <= 1 + 1e-5, name


def test_the_command(run: Path, tmp_path: Path, bench: Bench) -> None:
    """A support that EXIF turns, its mask drawn over what one sees; a query with a palette; a class by an unknown word."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (40, 64, 3), np.uint8))
    exif = picture.getexif()
    exif[0x0112] = 6  # seen as 40 wide, 64 high
    picture.save(tmp_path / "turned.jpg", exif=exif)
    seen = np.zeros((64, 40), np.uint8)
    seen[10:30, 5:20] = 255
    Image.fromarray(seen).save(tmp_path / "seen.png")
    stored = np.zeros((40, 64), np.uint8)
    stored[5:20, 10:30] = 3
    (tmp_path / "stored.png").write_bytes(encode_mask(stored))
    Image.fromarray(rng.integers(0, 255, (31, 70, 3), np.uint8)).quantize(16).save(tmp_path / "query.gif")
    words = ["predict", "--model", str(run), "--query", str(tmp_path / "query.gif"), "--class", "table", "--explain"]
    done = {}
    for name in ("seen", "stored"):
        pair = ["--support", f"{tmp_path}/turned.jpg:{tmp_path}/{name}.png", "--out", str(tmp_path / name)]
        done[name] = CliRunner().invoke(app, [*words, *pair], catch_exceptions=False)
        assert done[name].exit_code == 0
    with (
        Image.open(tmp_path / "seen" / "meta" / "query.mask.png") as mask,
        Image.open(tmp_path / "seen" / "explain" / "query.png") as sheet,
    ):
        assert mask.size == (70, 31)
        assert set(np.unique(np.array(mask))) <= {0, 255}
        assert sheet.width > 500
    with Image.open(tmp_path / "seen" / "supports" / "turned.overlay.png") as overlay:
        assert overlay.size == (40, 64)


def test_a_mask_over_the_stored_pixels_is_turned_with_them(tmp_path: Path) -> None:
    from symnet.pictures import read_drawn_mask, read_picture

    stored = np.zeros((4, 6), np.uint8)
    stored[0, 0] = 7  # stored top left: seen top right
    Image.fromarray(np.repeat(stored[..., None], 3, 2) * 30).save(tmp_path / "a.png", exif=_turned())
    (tmp_path / "m.png").write_bytes(encode_mask(stored))
    image, mask = read_picture(tmp_path / "a.png"), read_drawn_mask(tmp_path / "m.png", tmp_path / "a.png")
    assert image.shape == (6, 4, 3)
    assert mask[0, 3] == 7
    np.testing.assert_array_equal(mask > 0, image[..., 0] > 0)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(UserError, match=r"small.png: mask of 5x5 for a.png of 4x6"):
        read_drawn_mask(tmp_path / "small.png", tmp_path / "a.png")


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("drawn", "value", "wanted"),
    [
        ([[0, 255]], None, [[0, 1]]),
        ([[0, 1]], None, [[0, 1]]),
        ([[0, 13, 255]], None, [[0, 1, 255]]),
        ([[0, 13, 15, 255]], 13, [[0, 1, 0, 255]]),
        ([[0, 13, 255]], 255, [[0, 0, 1]]),
    ],
)
def test_masks_as_people_draw_them(drawn: list, value: int | None, wanted: list) -> None:
    np.testing.assert_array_equal(as_mask(np.array(drawn, np.uint8), "m.png", value), np.array(wanted, np.uint8))


@pytest.mark.parametrize(
    ("drawn", "value", "told"),
    [
        ([[0, 0]], None, "no pixel of the object is marked"),
        ([[0, 8, 18]], None, r"found mask values 8, 18; say which one is the object: --value N"),
        ([[0, 8]], 3, r"no pixel of the object is marked \(value 3\); values found: \[8\]"),
    ],
)
def test_masks_that_say_too_little_or_too_much(drawn: list, value: int | None, told: str) -> None:
    with pytest.raises(UserError, match=told):
        as_mask(np.array(drawn, np.uint8), "m.png", value)


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path, bench: Bench) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        find_run(tmp_path)
    with pytest.raises(UserError, match="no such row"):
        find_run(run.parents[1] / "other" / "shot1")
    (run / "model.safetensors").rename(run / "away")
    with pytest.raises(UserError, match="the run has not finished"):
        find_run(run)
    (run / "away").rename(run / "model.safetensors")
    with pytest.raises(UserError, match=r"no vector for zebra.*the classes of this run: \w+, "):
        Predictor(find_run(run), 1, CPU, bench.root).vector("zebra crossing of lions")


def test_names_that_would_collide_and_pairs_that_are_none(run: Path, tmp_path: Path) -> None:
    words = ["predict", "--model", str(run), "--class", "table", "--support", "a.jpg:a.png"]
    with pytest.raises(UserError, match="two pictures are called q"):
        CliRunner().invoke(app, [*words, "--query", "x/q.jpg", "--query", "y/q.png"], catch_exceptions=False)
    with pytest.raises(UserError, match=r"found 'a\.jpg', expected IMAGE:MASK"):
        CliRunner().invoke(app, [*words[:-1], "a.jpg", "--query", "q.jpg"], catch_exceptions=False)
