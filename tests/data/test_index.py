"""The index counts every pixel, is the same however it came about, and opens changed files only."""

import os
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import bands, coco_settings, save_pair, voc_settings

from symnet.artifacts import file_digest
from symnet.config import Settings
from symnet.data import index as index_module
from symnet.data.index import Index, Row, Stamps, build_index, read_index, read_stamps, write_index, write_stamps
from symnet.data.readers import open_reader
from symnet.errors import UserError


def built(settings: Settings, root: Path, **more: object) -> Index:
    reader = open_reader(settings.data, settings.protocol, root, bool(more.get("masks_only")))
    return build_index(reader, len(reader.classes), **more)  # type: ignore[arg-type]


def rows(index: Index) -> dict[str, Row]:
    return {row.image: row for row in index.rows}


def test_rows_hold_size_pixels_and_sums(voc: Path) -> None:
    index = built(voc_settings(), voc)
    assert [row.image for row in index.rows] == ["a3", "a1", "a2", "a4", "b1", "b2", "b3", "b4"]
    assert [row.split for row in index.rows] == ["train"] * 4 + ["test"] * 4
    folder = voc / "voc"
    assert rows(index)["a2"] == Row(
        "train", "a2", 10, 6, ((0, 20), (3, 20), (255, 20)),
        file_digest(folder / "JPEGImages" / "a2.jpg"), file_digest(folder / "SegmentationClassAug" / "a2.png"),
    )  # fmt: skip
    assert dict(index.inputs) == {"train0": file_digest(folder / "train.txt"), "test0": file_digest(folder / "test.txt")}


def test_coco_sums_are_of_the_drawn_mask(coco: Path) -> None:
    settings = coco_settings()
    reader = open_reader(settings.data, settings.protocol, coco)
    row = rows(built(settings, coco))["000000000012"]
    assert row.mask_sha == sha256(reader.mask("train", row.image).tobytes()).hexdigest()
    assert row.pixels == ((0, 400), (1, 6), (2, 134), (255, 60))


@pytest.mark.parametrize("workers", [1, 4])
def test_it_is_written_and_read_back_the_same(voc: Path, tmp_path: Path, workers: int) -> None:
    index = built(voc_settings(), voc, workers=workers)
    write_index(tmp_path / "out", index, "made")
    assert read_index(tmp_path / "out") == (index, "made")
    assert "train,a2,10,6,0:20 3:20 255:20," in (tmp_path / "out" / "index.csv").read_text()


def test_only_changed_files_are_opened_again(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(voc_settings(), voc)
    opened: list[str] = []
    whole = index_module._read_row
    monkeypatch.setattr(index_module, "_read_row", lambda *args: opened.append(args[2]) or whole(*args))
    save_pair(voc / "voc", "a1", bands(4, 4))
    Image.fromarray(np.zeros((4, 10, 3), np.uint8)).save(voc / "voc" / "JPEGImages" / "b2.jpg")
    os.utime(voc / "voc" / "SegmentationClassAug" / "a3.png", ns=(1, 1))
    (voc / "voc" / "train.txt").write_text("a3\na1\na2\n")
    second = built(voc_settings(), voc, previous=first, workers=1)
    assert opened == ["a1", "b2"]
    assert second == built(voc_settings(), voc)
    assert rows(second)["a1"].pixels == ((4, 40),)
    assert rows(second)["a3"] == rows(first)["a3"]
    assert "a4" not in rows(second)


def test_changed_annotations_draw_their_split_again(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(coco_settings(), coco)
    path = coco / "coco" / "annotations" / "val.json"
    path.write_text(path.read_text().replace('"area": 6,', '"area": 1000,'))
    opened: list[str] = []
    whole = index_module._read_row
    monkeypatch.setattr(index_module, "_read_row", lambda *args: opened.append(args[2]) or whole(*args))
    second = built(coco_settings(), coco, previous=first, workers=1)  # in this process
    assert opened == ["000000000005"]
    assert rows(second)["000000000005"].pixels == ((0, 400), (2, 140), (255, 60))  # the small box is painted over now


def test_sums_are_computed_for_changed_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    stamps = Stamps()
    assert stamps.sha(path) == sha256(b"one").hexdigest()
    assert stamps.sha(tmp_path / "none") == ""
    write_index(tmp_path, Index(()), "made")
    write_stamps(tmp_path, "made", stamps)
    again = read_stamps(tmp_path, "made")
    assert again is not None
    assert again.current()
    monkeypatch.setattr(index_module, "file_digest", lambda path: "computed")
    assert again.sha(path) == sha256(b"one").hexdigest()
    os.utime(path, ns=(1, 1))
    assert not again.current()
    assert again.sha(path) == "computed"
    assert read_stamps(tmp_path, "other settings") is None
    write_index(tmp_path, Index((), inputs=(("train0", "x"),)), "made")
    assert read_stamps(tmp_path, "made") is None  # another index than the one they were written for


def test_a_file_that_appears_makes_the_sums_stale(tmp_path: Path) -> None:
    stamps = Stamps()
    stamps.sha(tmp_path / "later")
    assert Stamps(stamps.seen).current()
    (tmp_path / "later").write_text("x")
    assert not Stamps(stamps.seen).current()


@pytest.mark.parametrize(
    ("harm", "file", "reason"),
    [
        (lambda root: (root / "JPEGImages" / "a1.jpg").write_bytes(b""), "a1.jpg", "zero bytes"),
        (lambda root: (root / "JPEGImages" / "a1.jpg").unlink(), "a1.jpg", "not found"),
        (lambda root: (root / "SegmentationClassAug" / "a1.png").unlink(), "a1.png", "not found"),
        (lambda root: Image.fromarray(bands(9, 9)).save(root / "SegmentationClassAug" / "a1.png"), "a1.png", "mask value 9"),
        (lambda root: Image.fromarray(bands(1)).save(root / "SegmentationClassAug" / "a1.png"), "a1.png", "mask of 10x2 for a1.jpg"),
        (lambda root: (root / "JPEGImages" / "a1.jpg").write_bytes((root / "JPEGImages" / "a1.jpg").read_bytes()[:-40]), "a1.jpg", "whole"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_or_left_out_and_counted(voc: Path, tmp_path: Path, harm, file: str, reason: str) -> None:
    harm(voc / "voc")
    with pytest.raises(UserError, match=rf"{file}: .*{reason}"):
        built(voc_settings(), voc)
    index = built(voc_settings(), voc, bad_files="skip")
    assert [(s.split, s.image, s.file) for s in index.skipped] == [("train", "a1", file)]
    assert reason in index.skipped[0].reason
    assert [row.image for row in index.rows] == ["a3", "a2", "a4", "b1", "b2", "b3", "b4"]
    write_index(tmp_path / "out", index, "made")
    assert read_index(tmp_path / "out")[0] == index


def test_masks_only_forgives_absent_images_and_no_damaged_ones(voc: Path) -> None:
    (voc / "voc" / "JPEGImages" / "a1.jpg").unlink()
    index = built(voc_settings(), voc, masks_only=True)
    assert [row.image for row in index.rows if not row.image_sha] == ["a1"]
    assert rows(index)["a1"].pixels == ((0, 20), (1, 20))
    with pytest.raises(UserError, match=r"a1\.jpg: not found"):
        built(voc_settings(), voc, previous=index)
    (voc / "voc" / "JPEGImages" / "a2.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a2\.jpg: not a whole"):
        built(voc_settings(), voc, masks_only=True)


def test_an_image_in_both_splits_is_refused(voc: Path) -> None:
    (voc / "voc" / "test.txt").write_text("b1\na1\n")
    with pytest.raises(UserError, match=r"test\.txt: image a1 is in the train list, too"):
        built(voc_settings(), voc)
