"""The embedded data set: the same bytes from the same settings, VOC's layout, and classes spread as the folds need them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from symnet.artifacts import read_json
from symnet.config_data import ShapesSettings
from symnet.data.images import voc_palette
from symnet.data.shapes import GROUP, SHAPES, draw_image, draw_shapes, image_id, plan_image
from symnet.data.shapes_draw import SHOWN
from symnet.errors import UserError

SMALL = ShapesSettings(train_images=24, test_images=20, side=96, seed=3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "set"
    draw_shapes(SMALL, folder, 1)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def masks(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((folder / "SegmentationClassAug").iterdir())]


def test_layout(drawn: Path) -> None:
    assert sorted(path.name for path in drawn.iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClassAug", "shapes.json"]
    train = (drawn / "ImageSets/train.txt").read_text().split()
    test = (drawn / "ImageSets/test.txt").read_text().split()
    assert train == [image_id("train", i) for i in range(24)]
    assert test[0] == "shapes_test_00000"
    assert len(test) == 20
    assert {path.stem for path in (drawn / "JPEGImages").iterdir()} == {*train, *test}
    assert {path.stem for path in (drawn / "SegmentationClassAug").iterdir()} == {*train, *test}
    assert [path.name for path in drawn.parent.iterdir()] == ["set"]


def test_images_and_masks(drawn: Path) -> None:
    sizes = set()
    for path in (drawn / "SegmentationClassAug").iterdir():
        with Image.open(path) as mask, Image.open(drawn / "JPEGImages" / f"{path.stem}.jpg") as image:
            assert (mask.mode, image.mode, image.size) == ("P", "RGB", mask.size)
            assert mask.getpalette() == voc_palette()
            values = set(np.unique(np.asarray(mask)).tolist())
            assert values <= {*range(21), 255}
            assert {0, 255} < values
            assert np.asarray(image).std() > 15
            sizes.add(image.size)
    assert sizes == {(96, 96), (96, 75), (75, 96)}


def test_palette_is_vocs() -> None:
    palette = np.array(voc_palette()).reshape(256, 3).tolist()
    assert palette[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[20] == [0, 64, 128]
    assert palette[255] == [224, 224, 192]


def test_every_object_has_a_border(drawn: Path) -> None:
    for mask in masks(drawn):
        for below, right in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            touching = (below != right) & (below != 255) & (right != 255)
            assert not touching.any()
        assert 0.01 < (mask == 255).mean() < 0.4


def test_same_bytes_whatever_the_workers(drawn: Path, tmp_path: Path) -> None:
    draw_shapes(SMALL, tmp_path / "again", 2)
    assert files(tmp_path / "again") == files(drawn)


def test_an_image_is_a_function_of_seed_split_and_index(drawn: Path) -> None:
    image, mask = draw_image(SMALL.model_copy(update={"train_images": 99}), "test", 7)
    assert np.array_equal(mask, np.asarray(Image.open(drawn / "SegmentationClassAug" / "shapes_test_00007.png")))
    for other in (draw_image(SMALL, "train", 7), draw_image(SMALL, "test", 8), draw_image(ShapesSettings(side=96, seed=4), "test", 7)):
        assert not np.array_equal(image, other[0])


def test_marker(drawn: Path) -> None:
    payload, _ = read_json(drawn / "shapes.json", "shapes")
    assert payload["settings"] == SMALL.model_dump()
    shown = np.stack([np.isin(range(1, 21), mask) for mask in masks(drawn)])  # test before train
    assert [payload["images"][name] for name in SHAPES] == [
        {"train": int(train), "test": int(test)} for train, test in zip(shown[20:].sum(0), shown[:20].sum(0), strict=True)
    ]


def test_an_earlier_set_is_replaced_and_anything_else_refused(drawn: Path, tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.mkdir()
    draw_shapes(ShapesSettings(train_images=20, test_images=20, side=64), target, 1)
    (target / "shapes.json").unlink()  # as a workflow does before it runs a job again
    draw_shapes(SMALL, target, 1)
    assert files(target) == files(drawn)
    (target / "JPEGImages/mine.jpg").write_bytes(b"kept")
    with pytest.raises(UserError, match="holds other things than a drawn data set"):
        draw_shapes(SMALL, target, 1)
    assert (target / "JPEGImages/mine.jpg").read_bytes() == b"kept"


def test_nothing_is_left_of_a_drawing_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("symnet.data.shapes.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_shapes(ShapesSettings(train_images=20, test_images=20, side=64), tmp_path / "set", 1)
    assert list(tmp_path.iterdir()) == []


def test_classes_of_the_default_set() -> None:
    """Every class in 12 test images or more; the drop rule leaves 60 % of the training images in every fold."""
    settings = ShapesSettings()

    def shown(split: str, count: int) -> np.ndarray:
        table = np.zeros((count, len(SHAPES)), bool)
        for index in range(count):
            table[index, np.array(plan_image(settings, split, index)[1]) - 1] = True
        return table

    assert shown("test", settings.test_images).sum(0).min() >= 12
    train = shown("train", settings.train_images)
    kept = [float((~train[:, fold * GROUP : (fold + 1) * GROUP].any(1)).mean()) for fold in range(4)]
    assert min(kept) >= 0.6
    assert 1.8 < train.sum(1).mean() < 2.2
    assert set(train.sum(1).tolist()) == {1, 2, 3}


@pytest.mark.parametrize("index", range(12))
def test_objects_are_large_enough_to_count(index: int) -> None:
    """At the default size every object shows 400 pixels or more, so the planned classes are the ones that count."""
    settings = ShapesSettings()
    _, mask = draw_image(settings, "test", index)
    counts = np.bincount(mask.ravel(), minlength=256)[1:21]
    assert counts[counts > 0].min() >= SHOWN * settings.side**2 > 400
    assert set(np.flatnonzero(counts) + 1) == set(plan_image(settings, "test", index)[1])


def test_names_are_ordinary_and_unique() -> None:
    assert len(set(SHAPES)) == 20
    assert all(name.isalpha() and name.islower() for name in SHAPES)
