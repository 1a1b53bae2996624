"""Folds by the protocol: small sets by hand, the rules against brute force, PASCAL-5i against its published lists."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from small_sets import bands, coco_settings, save_pair, voc_settings

from symnet.artifacts import write_text
from symnet.config import Settings
from symnet.data import folds as folds_module
from symnet.data.classes import VOC
from symnet.data.folds import (
    base_classes,
    base_count,
    base_list,
    fold_lists,
    make_folds,
    novel_classes,
    novel_list,
    read_fold_list,
    refresh_folds,
)
from symnet.data.index import Index, Row
from symnet.errors import UserError
from symnet.report.counts import make_counts
from symnet.stages import restrict


def pairs(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    return [(row.image, row.classes) for row in read_fold_list(path).rows]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.csv")}


def changed(before: dict[str, tuple[int, bytes]], folder: Path) -> set[str]:
    return {name for name, now in snapshot(folder).items() if before.get(name) != now}


def test_pascal_and_coco_splits() -> None:
    assert novel_classes(0, 20, 4, "serial") == (1, 2, 3, 4, 5)
    assert novel_classes(3, 20, 4, "serial") == (16, 17, 18, 19, 20)
    assert novel_classes(1, 80, 4, "fwb") == tuple(range(2, 81, 4))
    assert base_classes(1, 20, 4, "serial") == (1, 2, 3, 4, 5, *range(11, 21))
    assert base_count(Settings().data) == 15
    assert base_count(Settings().data.model_copy(update={"classes": "coco"})) == 60


@given(st.integers(1, 20), st.integers(1, 12), st.sampled_from(["serial", "fwb"]))
def test_folds_part_the_classes(folds: int, each: int, split) -> None:
    count = folds * each
    novel = [novel_classes(fold, count, folds, split) for fold in range(folds)]
    assert sorted(index for fold in novel for index in fold) == list(range(1, count + 1))
    assert {len(fold) for fold in novel} == {each}
    assert all(set(base_classes(i, count, folds, split)) == set(range(1, count + 1)) - set(novel[i]) for i in range(folds))


def test_a_count_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.folds: found 3 for 20 classes; allowed: a divisor of 20"):
        novel_classes(0, 20, 3, "serial")


MASKS = st.lists(st.dictionaries(st.sampled_from([0, 1, 2, 3, 4, 255]), st.integers(1, 9), max_size=5), max_size=12)


@given(MASKS, st.integers(1, 9), st.sampled_from(["drop", "background"]), st.integers(0, 1))
def test_rules_equal_brute_force(masks: list[dict[int, int]], least: int, rule, fold: int) -> None:
    rows = [Row(split, f"{split}{i}", 1, 1, tuple(sorted(m.items())), "i", "m") for split in ("train", "test") for i, m in enumerate(masks)]
    novel = novel_classes(fold, 4, 2, "serial")
    base = base_classes(fold, 4, 2, "serial")
    train, test = [], []
    for i, mask in enumerate(masks):
        counting = {value for value, count in mask.items() if count >= least}
        if counting & set(base) and (rule == "background" or not set(mask) & set(novel)):
            train.append((f"train{i}", tuple(sorted(counting & set(base)))))
        if counting & set(novel):
            test.append((f"test{i}", tuple(sorted(counting & set(novel)))))
    assert [(r.image, r.classes) for r in base_list(rows, base, novel, least, rule).rows] == train
    assert [(r.image, r.classes) for r in novel_list(rows, novel, least).rows] == test


def test_lists_of_a_small_set(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_folds(voc_settings(), voc, out)
    assert pairs(out / "fold0" / "train.csv") == [("a2", (3,))]
    assert pairs(out / "fold0" / "test.csv") == [("b1", (1, 2)), ("b3", (1,))]
    assert pairs(out / "fold1" / "train.csv") == [("a1", (1,)), ("a4", (2,))]
    assert pairs(out / "fold1" / "test.csv") == [("b2", (4,))]
    settings = Settings.model_validate({**voc_settings().model_dump(), "protocol": {"min_pixels": 20, "novel_in_train": "background"}})
    make_folds(settings, voc, out)
    assert pairs(out / "fold0" / "train.csv") == [("a3", (3,)), ("a2", (3,))]
    assert read_fold_list(out / "fold0" / "train.csv").by_class == {3: ("a3", "a2")}


def test_folds_must_divide(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.folds: found 3 for 4 classes"):
        make_folds(voc_settings(folds=3), voc, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_stage_reads_no_setting_it_does_not_declare(voc: Path, coco: Path, tmp_path: Path) -> None:
    for settings, name in ((voc_settings(), "voc"), (coco_settings(), "coco")):
        root = voc if name == "voc" else coco
        make_folds(restrict(settings, "folds"), root, tmp_path / name)
        before = snapshot(tmp_path / name)
        make_folds(settings, root, tmp_path / name)
        assert changed(before, tmp_path / name) == set()
        assert not refresh_folds(restrict(settings, "folds"), root, tmp_path / name)


def test_a_second_run_touches_nothing(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_folds(voc_settings(), voc, out)
    before = snapshot(out)
    assert set(before) == {"index.csv", "skipped.csv", "train.csv", *(f"fold{i}/{s}.csv" for i in (0, 1) for s in ("train", "test"))}
    make_folds(voc_settings(), voc, out)
    assert not refresh_folds(voc_settings(), voc, out)
    for path in (voc / "voc").rglob("*"):
        os.utime(path, ns=(10**9, 10**9))  # touched, not changed
    assert refresh_folds(voc_settings(), voc, out)
    assert not refresh_folds(voc_settings(), voc, out)
    assert changed(before, out) == set()


def test_refresh_changes_the_lists_of_the_changed_file_only(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_folds(voc_settings(), voc, out)
    before = snapshot(out)
    Image.fromarray(np.full((4, 10, 3), 7, np.uint8)).save(voc / "voc" / "JPEGImages" / "b2.jpg")
    assert refresh_folds(voc_settings(), voc, out)
    assert changed(before, out) == {"index.csv", "fold1/test.csv"}
    before = snapshot(out)
    save_pair(voc / "voc", "b4", bands(0, 2))
    assert refresh_folds(voc_settings(), voc, out)
    assert changed(before, out) == {"index.csv", "fold0/test.csv"}
    assert pairs(out / "fold0" / "test.csv") == [("b1", (1, 2)), ("b3", (1,)), ("b4", (2,))]
    fresh = tmp_path / "fresh"
    make_folds(voc_settings(), voc, fresh)
    assert {name: text for name, (_, text) in snapshot(fresh).items()} == {name: text for name, (_, text) in snapshot(out).items()}


def test_refresh_leaves_to_the_stage_what_is_the_stages(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not refresh_folds(voc_settings(), voc, out)  # never made
    assert not out.exists()
    make_folds(voc_settings(), voc, out)
    before = snapshot(out)
    save_pair(voc / "voc", "b4", bands(0, 2))
    assert not refresh_folds(voc_settings(min_pixels=21), voc, out)  # other settings
    assert not refresh_folds(voc_settings(), tmp_path / "gone", out)  # no data here
    assert changed(before, out) == set()


def test_an_interrupted_build_is_finished_by_the_next(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    make_folds(voc_settings(), voc, out)
    save_pair(voc / "voc", "b4", bands(0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(folds_module, "write_fold_list", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            refresh_folds(voc_settings(), voc, out)
    assert refresh_folds(voc_settings(), voc, out)
    assert pairs(out / "fold0" / "test.csv")[-1] == ("b4", (2,))


def test_a_damaged_index_is_built_anew(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make_folds(voc_settings(), voc, out)
    whole = (out / "index.csv").read_text()
    write_text(out / "index.csv", whole.replace("a2,10,6", "a2,10,7"))
    make_folds(voc_settings(), voc, out)
    assert (out / "index.csv").read_text() == whole


def test_masks_only_lists_and_their_refresh(voc: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (voc / "voc" / "JPEGImages" / "b2.jpg").unlink()
    with pytest.raises(UserError, match=r"b2\.jpg: not found"):
        make_folds(voc_settings(), voc, out)
    make_folds(voc_settings(), voc, out, masks_only=True)
    assert read_fold_list(out / "fold1" / "test.csv").rows[0].image_sha == ""
    with pytest.raises(UserError, match=r"b2\.jpg: not found"):
        make_folds(voc_settings(), voc, out)
    save_pair(voc / "voc", "b2", bands(0, 4))
    assert refresh_folds(voc_settings(), voc, out)
    assert len(read_fold_list(out / "fold1" / "test.csv").rows[0].image_sha) == 64


@pytest.fixture(scope="module")
def pascal(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Index]:
    lists = {"train": ("../lists/pascal/sbd_train_noval.txt", "../lists/pascal/voc_train.txt"), "test": ("../lists/pascal/voc_val.txt",)}
    settings = voc_settings(folds=4, names=VOC, min_pixels=2048, root="voc2012", lists=lists)
    out = tmp_path_factory.mktemp("pascal")
    return out, make_folds(settings, shared / "data", out, masks_only=True)


def test_the_united_train_list_is_the_published_one(shared: Path, pascal: tuple[Path, Index]) -> None:
    listed = (shared / "data" / "lists" / "pascal" / "train_merged.txt").read_text().split()
    assert [row.image for row in pascal[1].rows if row.split == "train"] == listed
    whole = read_fold_list(pascal[0] / "train.csv")
    assert [row.image for row in whole.rows] == listed
    for fold in range(4):  # a fold's own list is part of it, with the same classes in the same images
        own = {row.image: row.classes for row in read_fold_list(pascal[0] / f"fold{fold}" / "train.csv").rows}
        assert own == {row.image: row.classes for row in whole.rows if row.image in own}


@pytest.mark.parametrize("fold", range(4))
@pytest.mark.parametrize(("split", "folder"), [("train", "train"), ("test", "val")])
def test_pascal_lists_are_the_published_ones(shared: Path, pascal: tuple[Path, Index], fold: int, split: str, folder: str) -> None:
    published = shared / "data" / "lists" / "pascal" / folder
    made = read_fold_list(pascal[0] / f"fold{fold}" / f"{split}.csv")
    assert [row.image for row in made.rows] == (published / f"fold{fold}.txt").read_text().split()
    found = [f"{image}\t{index}" for index, images in made.by_class.items() for image in images]
    assert found == (published / f"fold{fold}_image_class.tsv").read_text().splitlines()


def test_pascal_counts_are_told_beside_the_published_ones(shared: Path, pascal: tuple[Path, Index], tmp_path: Path) -> None:
    settings = voc_settings(folds=4, names=VOC, min_pixels=2048)
    named = settings.model_copy(update={"data": settings.data.model_copy(update={"classes": "voc"})})
    told = make_counts(named, "pascal5i", pascal[0], tmp_path / "counts.csv")
    assert told.splitlines()[0] == "pascal5i: 5953 train and 1449 test images, 20 classes"
    assert told.splitlines()[-1] == "as published"
    assert told.count("--") == 8  # in the column of differences: every list has a published count of images and of pairs


def test_background_rule_on_pascal(shared: Path, pascal: tuple[Path, Index], tmp_path: Path) -> None:
    """PFENet's rule keeps every image of BAM's, and those with a novel pixel beside a base class that counts."""
    lists = {"train": ("../lists/pascal/sbd_train_noval.txt", "../lists/pascal/voc_train.txt"), "test": ("../lists/pascal/voc_val.txt",)}
    settings = voc_settings(folds=4, names=VOC, min_pixels=2048, root="voc2012", lists=lists)
    painted = settings.model_copy(update={"protocol": settings.protocol.model_copy(update={"novel_in_train": "background"})})
    more = [fold_lists(pascal[1], 20, fold, painted) for fold in range(4)]
    assert [len(found["train"]) for found in more] == [4760, 4588, 4097, 5108]
    for fold, found in enumerate(more):
        dropped = fold_lists(pascal[1], 20, fold, settings)
        assert found["test"] == dropped["test"]
        extra = {row.image for row in found["train"].rows} - {row.image for row in dropped["train"].rows}
        shown = {row.image: {value for value, _ in row.pixels} for row in pascal[1].rows if row.split == "train"}
        novel = set(range(5 * fold + 1, 5 * fold + 6))
        assert len(found["train"]) - len(dropped["train"]) == len(extra)
        assert all(shown[image] & novel for image in extra)
