"""The count report: counts by hand, published ones beside, differences flagged."""

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from small_sets import NAMES, voc_settings

from symnet.artifacts import read_json
from symnet.config import Settings
from symnet.data.folds import FoldList, ListRow, fold_lists, write_fold_list
from symnet.data.index import Index, Row, Skipped, write_index
from symnet.errors import UserError
from symnet.report.counts import counted, in_text, make_counts, published, write_differences
from tests.browser import chromium, fits, page

__all__ = ["chromium", "page"]  # fixtures

INDEX = Index(
    (
        Row("train", "a", 9, 9, ((0, 30), (1, 51)), "s", "m"),
        Row("train", "b", 9, 9, ((1, 20), (2, 30), (255, 31)), "s", "m"),
        Row("train", "c", 9, 9, ((3, 19), (4, 62)), "s", "m"),
        Row("test", "d", 9, 9, ((1, 40), (3, 41)), "s", "m"),
        Row("test", "e", 9, 9, ((3, 81),), "s", "m"),
    ),
    (Skipped("test", "f", "f.png", "the file is empty (zero bytes)"),),
)


def write_lists(folder: Path, settings: Settings) -> None:
    write_index(folder, INDEX, "s")
    for fold in range(2):
        for split, made in fold_lists(INDEX, 4, fold, settings).items():
            write_fold_list(folder / f"fold{fold}" / f"{split}.csv", made, "s")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_counts_by_hand(tmp_path: Path) -> None:
    """4 classes in 2 folds, 20 pixels to count: fold 0 tests 1 and 2, so trains on c (3 does not count there) and no other."""
    settings = voc_settings()
    write_lists(tmp_path / "lists", settings)
    told = make_counts(settings, "mine", tmp_path / "lists", tmp_path / "counts.csv")
    found = {(row["list"], row["fold"]): (row["images"], row["pairs"], row["differs"]) for row in rows(tmp_path / "counts.csv")}
    expected = {
        ("train", "0"): ("1", "1", ""),
        ("test", "0"): ("1", "1", ""),
        ("train", "1"): ("2", "3", ""),
        ("test", "1"): ("2", "2", ""),
    }
    assert found == expected
    classes = [tuple(row.values()) for row in rows(tmp_path / "counts-classes.csv")]
    assert classes == [(NAMES[0], "0", "2", "1"), (NAMES[1], "0", "1", "0"), (NAMES[2], "1", "0", "2"), (NAMES[3], "1", "1", "0")]
    assert (tmp_path / "counts.txt").read_text() == told + "\n"
    assert told.splitlines()[0] == "mine: 3 train and 2 test images, 4 classes"
    assert told.splitlines()[-4:] == [
        "no counts were published for these classes and rules",
        "classes with fewer than 2 test images, which cannot be tested: ant (1), bee (0), dog (0)",
        "left out as unusable: 1",
        "  test f: f.png: the file is empty (zero bytes)",
    ]
    sums, _ = read_json(tmp_path / "counts.json", "counts")
    assert set(sums) == {"counts.csv", "counts.txt", "counts.html", "counts-classes.csv", "counts-classes.html"}
    first = (tmp_path / "counts.json").read_bytes()
    make_counts(settings, "mine", tmp_path / "lists", tmp_path / "counts.csv")
    assert (tmp_path / "counts.json").read_bytes() == first


def test_pages_hold_what_the_text_does(tmp_path: Path, page: Page) -> None:
    settings = voc_settings()
    write_lists(tmp_path / "lists", settings)
    told = make_counts(settings, "a & b", tmp_path / "lists", tmp_path / "counts.csv").splitlines()
    page.goto((tmp_path / "counts.html").as_uri())
    expect(page.locator("caption")).to_have_text(f"{told[0]}: images, and pairs of image and class, in the lists")
    shown = [line.split() for line in page.locator("tr").all_inner_texts()]
    assert shown[1:3] == [["0", "train", "1", "--", "1", "--", "--"], ["test", "1", "--", "1", "--", "--"]]
    assert shown[3:] == [["1", "train", "2", "--", "3", "--", "--"], ["test", "2", "--", "2", "--", "--"]]
    assert page.locator("p").all_inner_texts() == [line.strip() for line in told[-4:]]
    assert fits(page)
    page.goto((tmp_path / "counts-classes.html").as_uri())
    classes = [line.split() for line in page.locator("tr").all_inner_texts()[1:]]
    assert classes == [["0", NAMES[0], "2", "1"], [NAMES[1], "1", "0"], ["1", NAMES[2], "0", "2"], [NAMES[3], "1", "0"]]


def named(classes: str, **protocol: object) -> Settings:
    return Settings.model_validate({"data": {"classes": classes, "folds": 4}, "protocol": protocol})


def listed(images: int, pairs: int) -> FoldList:
    double = ListRow("x", (1, 2), 9, 9, "s", "m")
    return FoldList((double,) * (pairs - images) + (ListRow("x", (1,), 9, 9, "s", "m"),) * (2 * images - pairs))


@pytest.mark.parametrize(
    ("settings", "split", "fold", "images", "pairs", "differs"),
    [
        (named("voc"), "test", 1, 445, 467, ""),
        (named("voc"), "test", 1, 444, 467, "-1 images"),
        (named("voc"), "test", 1, 446, 470, "+1 images, +3 pairs"),
        (named("coco", split="fwb"), "train", 0, 21916, 30000, ""),
        (named("coco", split="fwb"), "train", 0, 21917, 30000, ""),
        (named("coco", split="fwb"), "train", 0, 21920, 30000, "+3 images"),
        (named("coco", split="fwb"), "test", 2, 13000, 20000, "-92 images"),
    ],
)
def test_differences_from_the_published(settings: Settings, split: str, fold: int, images: int, pairs: int, differs: str) -> None:
    row = counted(listed(images, pairs), split, fold, settings)
    assert (row["images"], row["pairs"], row["differs"]) == (images, pairs, differs)
    told = in_text("set", INDEX, [row], [])
    assert ("as published" in told) == (differs == "")
    assert (f"DIFFERS from the published counts: {split} list of fold {fold} ({differs})" in told) == (differs != "")


def test_other_rules_have_no_published_counts() -> None:
    assert published(named("voc", novel_in_train="background"), "train", 0) is None
    assert published(named("voc", novel_in_train="background"), "test", 0) is not None  # the rule is about training images
    assert published(named("voc", min_pixels=1), "test", 0) is None
    assert published(named("coco"), "test", 0) is None  # serial split
    assert published(named("shapes"), "test", 0) is None


def test_which_images_differ(tmp_path: Path) -> None:
    drop, keep = voc_settings(), voc_settings()
    keep = keep.model_copy(update={"protocol": keep.protocol.model_copy(update={"novel_in_train": "background"})})
    one, other = tmp_path / "one", tmp_path / "other"
    write_lists(one, drop)
    write_lists(other, keep)
    assert write_differences(drop, one, one, tmp_path / "same.csv") == f"{one} and {one}: the same images"
    write_fold_list(other / "fold1" / "test.csv", FoldList(()), "s")
    told = write_differences(drop, one, other, tmp_path / "differences.csv")
    assert told == f"test list of fold 1: 2 images only in {one}"
    assert [(row["list"], row["fold"], row["image"]) for row in rows(tmp_path / "differences.csv")] == [
        ("test", "1", "d"),
        ("test", "1", "e"),
    ]


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists", voc_settings())
    (tmp_path / "lists" / "fold1" / "test.csv").unlink()
    with pytest.raises(UserError, match=r"fold1/test\.csv: not found"):
        make_counts(voc_settings(), "mine", tmp_path / "lists", tmp_path / "counts.csv")
