"""A user's own folder of images and masks, without lists: split by a hash, followed when it grows."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import voc_settings

from symnet.config import Settings
from symnet.data.folds import make_folds, read_fold_list, refresh_folds
from symnet.data.readers import open_reader
from symnet.errors import UserError
from symnet.experiment import load_experiment

CONFIG = Path(__file__).parents[2] / "config" / "own_data.yaml"


def add(root: Path, image: str, value: int) -> None:
    Image.fromarray(np.full((6, 10, 3), 90, np.uint8)).save(root / "JPEGImages" / f"{image}.png")
    Image.fromarray(np.full((6, 10), value, np.uint8)).save(root / "SegmentationClassAug" / f"{image}.png")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "voc"
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    for number in range(60):
        add(root, f"q{number:02d}", number % 4 + 1)
    return tmp_path / "data"


def own(**data: object) -> Settings:
    return voc_settings(lists={}, **data)


def test_every_mask_is_in_one_split_and_stays_there(mine: Path) -> None:
    reader = open_reader(own().data, own().protocol, mine)
    train, test = reader.ids("train"), reader.ids("test")
    assert sorted(train + test) == [f"q{number:02d}" for number in range(60)]
    assert (train, test) == (sorted(train), sorted(test))
    assert 10 <= len(test) <= 26  # about 0.3 of 60
    add(mine / "voc", "a-new-one", 1)
    assert set(test) <= set(open_reader(own().data, own().protocol, mine).ids("test")) <= {*test, "a-new-one"}
    half = open_reader(own(test_share=0.5).data, own().protocol, mine).ids("test")
    assert set(test) < set(half)


def test_folds_of_it_follow_when_an_image_is_added(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists"
    make_folds(own(), mine, out)
    lists = {split: [row.image for row in read_fold_list(out / "fold0" / f"{split}.csv").rows] for split in ("train", "test")}
    assert {int(image[1:]) % 4 + 1 for image in lists["train"]} == {3, 4}
    assert {int(image[1:]) % 4 + 1 for image in lists["test"]} == {1, 2}
    assert not refresh_folds(own(), mine, out)
    for number in range(60, 80):
        add(mine / "voc", f"q{number}", 1)
    assert refresh_folds(own(), mine, out)
    grown = [row.image for row in read_fold_list(out / "fold0" / "test.csv").rows]
    assert [image for image in grown if int(image[1:]) < 60] == lists["test"]
    assert 0 < len(grown) - len(lists["test"]) < 20


def test_lists_of_one_split_alone_are_refused(mine: Path) -> None:
    (mine / "voc" / "train.txt").write_text("q00\n")
    with pytest.raises(UserError, match=r"data\.lists\.test: not set"):
        open_reader(voc_settings(lists={"train": ("train.txt",)}).data, own().protocol, mine)


def test_a_folder_without_masks_is_refused(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=r"SegmentationClassAug: no PNG found; data\.masks needs one an image"):
        make_folds(own(), tmp_path, tmp_path / "lists")


def test_the_example_file_is_one(mine: Path) -> None:
    settings = load_experiment(CONFIG).settings("my_set")
    assert (settings.data.lists, settings.data.folds, len(settings.data.classes)) == ({}, 3, 6)
