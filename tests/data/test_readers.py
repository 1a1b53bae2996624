"""Both layouts, through the same door."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import NAMES, bands, coco_settings, voc_settings

from symnet.config import Settings
from symnet.data.images import BadFile
from symnet.data.readers import Reader, open_reader
from symnet.errors import UserError


def opened(settings: Settings, root: Path, masks_only: bool = False) -> Reader:
    return open_reader(settings.data, settings.protocol, root, masks_only)


def test_voc_reads_lists_images_and_masks(voc: Path) -> None:
    reader = opened(voc_settings(), voc)
    assert reader.classes == NAMES
    assert reader.ids("train") == ["a3", "a1", "a2", "a4"]
    assert reader.ids("test") == ["b1", "b2", "b3", "b4"]
    assert reader.sources("train") == [voc / "voc" / "train.txt"]
    image, mask = reader.load("train", "a2")
    assert image.shape == (6, 10, 3)
    assert np.array_equal(mask, bands(3, 0, 255))


def test_voc_unites_lists_in_their_order(voc: Path) -> None:
    (voc / "voc" / "more.txt").write_text("a9\na1\n")
    lists = {"train": ("more.txt", "train.txt"), "test": (str(voc / "voc" / "test.txt"),)}
    reader = opened(voc_settings(lists=lists), voc)
    assert reader.ids("train") == ["a9", "a1", "a3", "a2", "a4"]
    assert reader.ids("test") == ["b1", "b2", "b3", "b4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a1\na2\na1\n", r"train\.txt: image a1 is listed twice"),
        ("../a1\n", r"train\.txt: found image id '\.\./a1'; allowed"),
        ("x/a1\n", "found image id 'x/a1'"),
        ("x\\a1\n", "found image id"),
        ("..\n", "found image id"),
        ("a\x00b\n", "found image id"),
        ("\n", r"train\.txt: no image id found"),
    ],
)
def test_voc_refuses_a_bad_list(voc: Path, text: str, message: str) -> None:
    (voc / "voc" / "train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        opened(voc_settings(), voc).ids("train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"root": "nowhere"}, r"data\.root: folder .*nowhere not found; it is looked for under .*data \(key data_root or SYMNET_DATA\)"),
        ({"masks": "nowhere"}, r"data\.masks: folder"),
        ({"images": {"train": "JPEGImages", "test": "nowhere"}}, r"data\.images\.test: folder"),
        ({"lists": {"train": ("train.txt",), "test": ("nowhere.txt",)}}, r"data\.lists\.test: file .*nowhere\.txt not found"),
        ({"lists": {"train": ("train.txt",)}}, r"data\.lists\.test: not set"),
    ],
)
def test_voc_says_what_is_missing(voc: Path, data: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(voc_settings(**data), voc)


def test_masks_only_forgives_absent_image_folders(voc: Path) -> None:
    settings = voc_settings(images={"train": "nowhere", "test": "nowhere"})
    assert np.array_equal(opened(settings, voc, masks_only=True).mask("train", "a1"), bands(0, 1))


def test_a_mask_of_another_size_is_refused(voc: Path) -> None:
    Image.fromarray(bands(0, 1, 1)).save(voc / "voc" / "SegmentationClassAug" / "a1.png")
    with pytest.raises(BadFile, match=r"a1\.png: mask of 10x6 for a1\.jpg of 10x4; they must be equal"):
        opened(voc_settings(), voc).load("train", "a1")


@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_coco_paints_larger_areas_first(coco: Path, crowd: str, capsys: pytest.CaptureFixture[str]) -> None:
    reader = opened(coco_settings(crowd), coco)
    expected = np.zeros((20, 30), np.uint8)
    expected[:10, :10] = 2  # category 7 is the second by id
    expected[10:20, 20:25] = 2
    if crowd == "ignore":
        expected[18:, :] = 255
    expected[2:4, 2:5] = 1
    assert reader.ids("train") == ["000000000012"]
    image, mask = reader.load("train", "000000000012")
    assert image.shape == (20, 30, 3)
    assert np.array_equal(mask, expected)
    assert capsys.readouterr().out == ""


def test_coco_refuses_other_categories(coco: Path) -> None:
    with pytest.raises(UserError, match=r"train\.json: found 'dog' for 'sheep'; data\.classes has 2"):
        opened(coco_settings(classes=("cat", "sheep")), coco).ids("train")


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [{"id": 1}]}', "{}"])
def test_coco_refuses_what_is_no_annotation_file(coco: Path, text: str) -> None:
    (coco / "coco" / "annotations" / "train.json").write_text(text)
    with pytest.raises(UserError, match=r"train\.json: "):
        opened(coco_settings(), coco).ids("train")


def test_coco_refuses_a_file_name_that_leaves_the_folder(coco: Path) -> None:
    path = coco / "coco" / "annotations" / "train.json"
    whole = json.loads(path.read_text())
    whole["images"][0]["file_name"] = "../../secret.jpg"
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"train\.json: found image id '\.\./\.\./secret\.jpg'"):
        opened(coco_settings(), coco).ids("train")


def test_coco_names_an_annotation_that_cannot_be_drawn(coco: Path) -> None:
    path = coco / "coco" / "annotations" / "train.json"
    whole = json.loads(path.read_text())
    whole["annotations"][0]["category_id"] = 99
    path.write_text(json.dumps(whole))
    with pytest.raises(BadFile, match=r"train\.json: image 000000000012: an annotation cannot be drawn"):
        opened(coco_settings(), coco).mask("train", "000000000012")
