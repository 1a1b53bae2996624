"""Masks are made once: whole or not at all, whatever kills it, and equal to what they are made from."""

import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array
from small_sets import bands, coco_settings, voc_settings
from typer.testing import CliRunner

from symnet.artifacts import digest, file_digest, read_json, read_table
from symnet.cli import app
from symnet.config import Settings
from symnet.data import index as index_module
from symnet.data import pngs
from symnet.data.classes import COCO as COCO_NAMES
from symnet.data.folds import fold_lists, make_folds
from symnet.data.images import BadFile, read_mask, voc_palette
from symnet.data.index import Index, Stamps, build_index
from symnet.data.masks import make_masks
from symnet.data.readers import Reader, open_reader
from symnet.errors import UserError
from symnet.stages import restrict

Snapshot = dict[str, bytes]
FORK = multiprocessing.get_context("fork")


def snapshot(folder: Path) -> Snapshot:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def opened(settings: Settings, root: Path) -> Reader:
    return open_reader(settings.data, settings.protocol, root)


def made(settings: Settings, root: Path, workers: int = 1) -> Any:
    """Run the stage, with the settings that it declares. Returns the payload of its output."""
    make_masks(restrict(settings, "masks"), root, root / "masks.json", workers)
    return read_json(root / "masks.json", "masks")[0]


def save_sbd(path: Path, mask: np.ndarray) -> None:
    """A file as SBD has it: struct GTcls of Boundaries (20 sparse arrays), Segmentation, CategoriesPresent."""
    edges = np.empty((20, 1), object)
    for i in range(20):
        edges[i, 0] = csc_array(mask == i + 1, dtype=float)
    shown = np.array([[value] for value in np.unique(mask) if value], np.uint8)
    savemat(path, {"GTcls": {"Boundaries": edges, "Segmentation": mask, "CategoriesPresent": shown}}, do_compression=True)


@pytest.fixture
def sbd(voc: Path) -> Path:
    """The data root of `voc` without merged masks: VOC's own of a1 and b1 (another palette), SBD's of a1, a2, a3, a4, b2."""
    folder = voc / "voc"
    shutil.rmtree(folder / "SegmentationClassAug")
    (folder / "SegmentationClass").mkdir()
    (voc / "sbd" / "cls").mkdir(parents=True)
    for image in ("a1", "b1"):
        Image.fromarray(bands(0, 2, 255)).save(folder / "SegmentationClass" / f"{image}.png", compress_level=1)
    for number, image in enumerate(("a1", "a2", "a3", "a4", "b2")):
        save_sbd(voc / "sbd" / "cls" / f"{image}.mat", bands(0, number % 5, 1))
    return voc


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A data root with 12 images a split in the coco layout, six boxes of random place and category in each."""
    rng = random.Random(3)
    root = tmp_path / "data" / "coco"
    (root / "annotations").mkdir(parents=True)
    for split, first in (("train", 100), ("val", 200)):
        (root / split).mkdir()
        images = [{"id": first + i, "file_name": f"{first + i:012d}.jpg", "height": 24, "width": 36} for i in range(12)]
        shapes = []
        for number in range(6 * len(images)):
            x, y, w, h = rng.randrange(20), rng.randrange(12), rng.randrange(3, 16), rng.randrange(3, 12)
            box = [x, y, x + w, y, x + w, y + h, x, y + h]
            own = {"id": number, "image_id": first + number // 6, "category_id": rng.choice([3, 7])}
            shapes.append({**own, "iscrowd": 0, "area": w * h, "segmentation": [box]})
        categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
        whole = {"images": images, "annotations": shapes, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(whole))
        for image in images:
            Image.fromarray(np.full((24, 36, 3), 80, np.uint8)).save(root / split / image["file_name"])
    return tmp_path / "data"


def test_vocs_own_masks_are_taken_byte_for_byte_and_sbds_fill_in(sbd: Path) -> None:
    own, merged = sbd / "voc" / "SegmentationClass", sbd / "voc" / "SegmentationClassAug"
    assert made(voc_settings(), sbd) == {"source": "voc", "files": {"sbd": 4, "voc": 2}}
    assert sorted(path.name for path in merged.iterdir()) == ["a1.png", "a2.png", "a3.png", "a4.png", "b1.png", "b2.png", "masks.json"]
    for name in ("a1.png", "b1.png"):
        assert (merged / name).read_bytes() == (own / name).read_bytes()
    for number, image in enumerate(("a2", "a3", "a4", "b2"), start=1):
        assert np.array_equal(read_mask(merged / f"{image}.png", 4), bands(0, number % 5, 1))
        with Image.open(merged / f"{image}.png") as png:
            assert (png.mode, png.getpalette()) == ("P", voc_palette())
    assert (merged / "masks.json").read_bytes() == (sbd / "masks.json").read_bytes()
    sums = {"sbd": {f"{image}.png": file_digest(sbd / "sbd" / "cls" / f"{image}.mat") for image in ("a2", "a3", "a4", "b2")}}
    sums["voc"] = {name: file_digest(own / name) for name in ("a1.png", "b1.png")}
    assert read_json(sbd / "masks.json")[1].inputs == {name: digest(found) for name, found in sums.items()}
    assert hidden(sbd / "voc") == []


def test_a_ready_folder_is_taken_and_never_touched(voc: Path) -> None:
    folder = voc / "voc" / "SegmentationClassAug"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder, *folder.iterdir()) if path.is_file()}
    folder.chmod(0o555)
    assert made(voc_settings(), voc) == {"source": "voc", "files": {"ready": 8}}
    folder.chmod(0o755)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder, *folder.iterdir()) if path.is_file()} == before
    assert hidden(voc / "voc") == []


def test_a_second_run_makes_nothing_and_says_the_same(sbd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(voc_settings(), sbd)
    said = (sbd / "masks.json").read_bytes()
    shutil.rmtree(sbd / "sbd")  # no longer needed
    monkeypatch.setattr("symnet.data.masks.make_folder", lambda *args: 1 / 0)
    made(voc_settings(), sbd)
    assert (sbd / "masks.json").read_bytes() == said


def _other(name: str, value: Any) -> Callable[[Path], None]:
    return lambda path: savemat(path, {name: value})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: path.write_bytes(b""), "not a whole .mat file with GTcls.Segmentation"),
        (lambda path: path.write_bytes(b"no matlab file" * 40), "not a whole .mat file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-60]), "not a whole .mat file"),
        (_other("GTinst", {"Segmentation": bands(1)}), "not a whole .mat file"),
        (_other("GTcls", {"Boundaries": bands(1)}), "not a whole .mat file"),
        (
            _other("GTcls", {"Segmentation": bands(1).astype(float)}),
            r"found GTcls.Segmentation of float64 \[2, 10\]; expected uint8 \[H, W\]",
        ),
        (lambda path: save_sbd(path, bands(0, 5)), "found mask value 5; allowed: 0 to 4, and 255 for 'ignore'"),
    ],
)
def test_a_bad_mat_file_is_named_and_refused_or_left_out(sbd: Path, harm: Any, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    harm(sbd / "sbd" / "cls" / "a3.mat")
    for workers in (1, 2):
        with pytest.raises(BadFile, match=rf"a3\.mat: {reason}") as error:
            made(voc_settings(), sbd, workers)
        assert "\n" not in str(error.value)
        assert not (sbd / "voc" / "SegmentationClassAug").exists()
    made(voc_settings(bad_files="skip"), sbd)
    assert "left out" in capsys.readouterr().err
    assert sorted(path.stem for path in (sbd / "voc" / "SegmentationClassAug").glob("*.png")) == ["a1", "a2", "a4", "b1", "b2"]


def test_a_damaged_mask_of_vocs_is_not_copied(sbd: Path) -> None:
    (sbd / "voc" / "SegmentationClass" / "b1.png").write_bytes(b"\x89PNG")
    with pytest.raises(BadFile, match=r"b1\.png: not a whole"):
        made(voc_settings(), sbd)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("sbd", r"SegmentationClassAug is not there, and to make it .*sbd/cls is missing"),
        ("voc/SegmentationClass", r"SegmentationClassAug is not there, and to make it .*SegmentationClass is missing"),
    ],
)
def test_what_is_missing_is_said(sbd: Path, gone: str, message: str) -> None:
    shutil.rmtree(sbd / gone)
    with pytest.raises(UserError, match=message):
        made(voc_settings(), sbd)
    (sbd / "sbd" / "cls").mkdir(parents=True, exist_ok=True)
    (sbd / "voc" / "SegmentationClass").mkdir(exist_ok=True)
    for path in (sbd / "sbd" / "cls").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"cls: no \.mat file found"):
        made(voc_settings(), sbd)
    (sbd / "voc" / "SegmentationClassAug").mkdir()
    with pytest.raises(UserError, match="SegmentationClassAug holds no PNG"):
        made(voc_settings(), sbd)


def test_only_coco_can_do_without_a_folder() -> None:
    with pytest.raises(ValueError, match="masks: null is for the coco layout; source voc needs a folder of index PNGs"):
        voc_settings(masks=None)
    assert coco_settings().data.masks is None


def test_what_needs_no_folder_gets_an_output_that_says_so(coco: Path) -> None:
    assert made(coco_settings(), coco) == {"source": "coco", "files": {}}
    assert sorted(path.name for path in (coco / "coco").iterdir()) == ["annotations", "train", "val"]


@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_made_masks_of_coco_are_the_drawn_ones(coco: Path, crowd: str) -> None:
    drawn = opened(coco_settings(crowd), coco)
    found = made(coco_settings(crowd, masks="made"), coco)
    assert found == {"source": "coco", "crowd": crowd, "classes": ["cat", "dog"], "files": {"train": 1, "test": 1}}
    annotations = {split: file_digest(drawn.sources(split)[0]) for split in ("train", "test")}
    assert read_json(coco / "masks.json")[1].inputs == annotations
    reader = opened(coco_settings(crowd, masks="made"), coco)
    folder = coco / "coco" / "made"
    for split, image in (("train", "000000000012"), ("test", "000000000005")):
        assert reader.ids(split) == drawn.ids(split) == [image]
        assert reader.image_path(split, image) == drawn.image_path(split, image)
        assert reader.mask_path(split, image) == folder / split / f"{image}.png"
        assert reader.sources(split) == [folder / f"{split}.csv"]
        rows, provenance = read_table(folder / f"{split}.csv", "masks")
        assert (rows, provenance.inputs) == ([{"image": image, "file_name": f"{image}.jpg"}], {"annotations": annotations[split]})
        assert np.array_equal(reader.load(split, image)[1], drawn.mask(split, image))


def test_made_masks_are_of_one_rule_of_some_classes_and_of_some_annotations(coco: Path) -> None:
    settings = coco_settings(masks="made")
    with pytest.raises(UserError, match=r"data\.masks: .*made holds no made masks; `symnet masks` makes them"):
        opened(settings, coco)
    made(settings, coco)
    other = r"data\.masks: .*made was made with {}; delete it or name another folder, and run `symnet masks`"
    for act in (opened, made):
        with pytest.raises(UserError, match=other.format("protocol.crowd 'ignore', not 'drop'")):
            act(coco_settings("drop", masks="made"), coco)
        with pytest.raises(UserError, match=other.format(r"other data\.classes")):
            act(coco_settings(masks="made", classes=("cat", "cow")), coco)
    path = coco / "coco" / "annotations" / "val.json"
    path.write_text(path.read_text().replace('"area": 6,', '"area": 1000,'))
    assert opened(settings, coco).ids("train") == ["000000000012"]
    with pytest.raises(UserError, match=other.format(r"another .*val\.json")):
        opened(settings, coco).ids("test")
    with pytest.raises(UserError, match=other.format(r"another .*val\.json")):
        made(settings, coco)


def test_made_masks_need_neither_pycocotools_nor_annotations(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(coco_settings(masks="made"), many)
    expected = opened(coco_settings(), many).load("test", "000000000203")
    for name in [name for name in sys.modules if name.split(".")[0] == "pycocotools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError):
        opened(coco_settings(), many).ids("test")
    shutil.rmtree(many / "coco" / "annotations")
    reader = opened(coco_settings(masks="made"), many)
    assert reader.ids("train") == [f"{number:012d}" for number in range(100, 112)]
    for found, wanted in zip(reader.load("test", "000000000203"), expected, strict=True):
        assert np.array_equal(found, wanted)
    make_folds(coco_settings(masks="made"), many, many / "lists")


def test_a_table_that_was_edited_is_refused(coco: Path) -> None:
    made(coco_settings(masks="made"), coco)
    path = coco / "coco" / "made" / "train.csv"
    path.write_text(path.read_text().replace("12.jpg", "13.jpg"))
    with pytest.raises(UserError, match=r"train\.csv: content does not match its sha256"):
        opened(coco_settings(masks="made"), coco).ids("train")


def cases(many: Path, sbd: Path) -> list[tuple[Settings, Path, Path]]:
    """Settings, data root and target of both layouts."""
    for number in range(20):
        save_sbd(sbd / "sbd" / "cls" / f"c{number}.mat", bands(number % 5, 0))
    return [(coco_settings(masks="made"), many, many / "coco" / "made"), (voc_settings(), sbd, sbd / "voc" / "SegmentationClassAug")]


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_fifty_times_it_ends_with_the_same_bytes(many: Path, sbd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kill finds some PNGs made; workers of the killed must end by themselves, or the next run waits for them for ever."""
    rng, whole = random.Random(0), pngs.is_whole
    for settings, root, target in cases(many, sbd):
        made(settings, root)
        expected, said = snapshot(target), (root / "masks.json").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(pngs, "is_whole", lambda path: time.sleep(0.002) or whole(path))
            patch.setattr(os, "sync", lambda: None)
            inside = sum(_kill(settings, root, target, rng, expected) for _ in range(25))
        assert inside >= 10
        made(settings, root, 2)
        assert snapshot(target) == expected
        assert (root / "masks.json").read_bytes() == said
        assert hidden(target.parent) == []


def _kill(settings: Settings, root: Path, target: Path, rng: random.Random, expected: Snapshot) -> bool:
    """Start the stage, kill it when 0 to 4 more PNGs are there. Returns whether it left a folder begun and not finished."""
    partial = target.with_name(f".{target.name}.partial")

    def there() -> int:
        return sum(name.endswith(".png") for _, _, names in os.walk(partial) for name in names)

    if target.exists():  # then all of it
        assert snapshot(target) == expected
        shutil.rmtree(target)
    (root / "masks.json").unlink(missing_ok=True)
    wanted = there() + rng.randrange(5)
    process = FORK.Process(target=make_masks, args=(settings, root, root / "masks.json", 2))
    process.start()
    end = time.monotonic() + 10
    while process.is_alive() and there() < wanted and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(rng.random() / 250)
    process.kill()
    process.join()
    return not target.exists() and there() > 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_of_two_at_once_the_second_waits(many: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    settings, whole = coco_settings(masks="made"), pngs.is_whole
    monkeypatch.setattr(pngs, "is_whole", lambda path: time.sleep(0.01) or whole(path))
    outs = [many / f"{number}.json" for number in range(2)]
    processes = [FORK.Process(target=make_masks, args=(settings, many, out, 2)) for out in outs]
    processes[0].start()
    while processes[0].is_alive() and not (many / "coco" / ".made.partial").exists():
        time.sleep(0.001)
    processes[1].start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert outs[0].read_bytes() == outs[1].read_bytes() == (many / "coco" / "made" / "masks.json").read_bytes()
    assert capfd.readouterr().err.count("masks: waiting for the process that makes") == 1
    assert hidden(many / "coco") == []


def stopped(settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run the stage up to its last step. Returns the unfinished folder, with all PNGs in it."""

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "sync", stop)
        with pytest.raises(KeyboardInterrupt):
            made(settings, root)
    return root / "coco" / ".made.partial"


def test_whole_pngs_are_kept_and_torn_ones_made_again(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = coco_settings(masks="made")
    folder = stopped(settings, many, monkeypatch)
    expected = snapshot(folder)
    paths = sorted(folder.rglob("*.png"))
    assert len(paths) == 24
    for path in paths:
        os.utime(path, ns=(1, 1))
    paths[0].write_bytes(b"")
    paths[1].write_bytes(paths[1].read_bytes()[:-3])
    paths[2].write_bytes(b"\0" * 300)
    paths[3].unlink()
    made(settings, many)
    target = many / "coco" / "made"
    assert snapshot(target) == expected
    assert [target / p.relative_to(folder) for p in paths[4:]] == sorted(p for p in target.rglob("*.png") if p.stat().st_mtime_ns == 1)


@pytest.mark.parametrize("change", ["crowd", "annotations", "mark"])
def test_an_unfinished_folder_of_other_inputs_is_discarded(many: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    folder = stopped(coco_settings(masks="made"), many, monkeypatch)
    for path in folder.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-12] + b"old" + path.read_bytes()[-12:])  # passes for whole
    annotations = many / "coco" / "annotations" / "val.json"
    if change == "annotations":
        annotations.write_text(annotations.read_text() + " ")
    if change == "mark":
        (folder / "masks.json").write_text("{")
    settings = coco_settings("drop" if change == "crowd" else "ignore", masks="made")
    made(settings, many)
    assert not any(b"old" in data for data in snapshot(many / "coco" / "made").values())
    assert opened(settings, many).ids("test") == [f"{number:012d}" for number in range(200, 212)]


def test_a_folder_that_cannot_be_made_is_named(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pngs, "write_text", full)
    with pytest.raises(UserError, match=r"made: cannot be made \(.*No space left on device\)"):
        made(coco_settings(masks="made"), many)


def test_any_number_of_workers_gives_the_same_bytes(many: Path, sbd: Path) -> None:
    for settings, root, target in cases(many, sbd):
        found = []
        for workers in (1, 2, 3):
            made(settings, root, workers)
            found.append(snapshot(target))
            shutil.rmtree(target)
        assert found[0] == found[1] == found[2]
        assert len(found[0]) == {"made": 24 + 3, "SegmentationClassAug": 26 + 1}[target.name]


def test_the_command(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = coco_settings(masks="made").data.model_dump(mode="json")
    (many / "a.yaml").write_text(json.dumps({"experiment": "a", "datasets": {"tiny": {"data": data}}}))
    options = ["masks", "--config", str(many / "a.yaml"), "--dataset", "tiny", "--out", str(many / "m.json"), "--workers", "2"]
    assert CliRunner().invoke(app, [*options, "--root", str(many)]).exit_code == 0
    assert read_json(many / "m.json", "masks")[0]["files"] == {"train": 12, "test": 12}
    shutil.rmtree(many / "coco" / "made")
    monkeypatch.setenv("SYMNET_DATA", str(many))
    assert CliRunner().invoke(app, options).exit_code == 0
    assert (many / "coco" / "made" / "masks.json").read_bytes() == (many / "m.json").read_bytes()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("harmed", [False, True])
def test_an_index_by_processes_is_that_by_threads(many: Path, monkeypatch: pytest.MonkeyPatch, harmed: bool) -> None:
    if harmed:
        (many / "coco" / "train" / "000000000104.jpg").write_bytes(b"")
    reader = opened(coco_settings(), many)
    processes, threads, alone = Stamps(), Stamps(), Stamps()
    found = build_index(reader, 2, None, "skip", 2, False, processes)
    assert build_index(reader, 2, None, "skip", 1, False, alone) == found
    with monkeypatch.context() as patch:
        patch.setattr(index_module, "forked_map", index_module._threaded_map)
        assert build_index(reader, 2, None, "skip", 2, False, threads) == found
    assert processes.seen == threads.seen == alone.seen
    assert len(processes.seen) == 2 + 24  # annotations and images
    assert [skipped.image for skipped in found.skipped] == ["000000000104"] * harmed
    assert build_index(reader, 2, found, "skip", 2) == found
    if harmed:
        with pytest.raises(BadFile, match=r"000000000104\.jpg: the file is empty") as error:
            build_index(reader, 2, workers=2)
        assert error.value.path.name == "000000000104.jpg"


def mini_settings(crowd: str, masks: str | None, split: str = "fwb") -> Settings:
    annotations = {split: f"annotations/instances_{name}2017.json" for split, name in (("train", "train"), ("test", "val"))}
    images = {"train": "train2017", "test": "val2017"}
    data = {"root": "coco_mini", "images": images, "annotations": annotations, "classes": COCO_NAMES, "masks": masks, "folds": 4}
    settings = coco_settings(crowd, **data)
    return settings.model_copy(update={"protocol": settings.protocol.model_copy(update={"split": split})})


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, in the test's own decoding
@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_coco_mini_equals_a_reading_annotation_by_annotation(shared: Path, tmp_path: Path, crowd: str) -> None:
    root, masks = shared / "data", str(tmp_path / "made")
    make_masks(mini_settings(crowd, masks), root, tmp_path / "masks.json", 2)
    reader, drawn = opened(mini_settings(crowd, masks), root), opened(mini_settings(crowd, None), root)
    for split, name in (("train", "train"), ("test", "val")):
        whole = json.loads((root / "coco_mini" / f"annotations/instances_{name}2017.json").read_text())
        order = sorted(category["id"] for category in whole["categories"])
        assert reader.ids(split) == [f"{number:012d}" for number in sorted(image["id"] for image in whole["images"])]
        for image in whole["images"]:
            own = [a for a in whole["annotations"] if a["image_id"] == image["id"] and not (a["iscrowd"] and crowd == "drop")]
            expected = _read_one_by_one(own, order, image["height"], image["width"])
            stem = Path(image["file_name"]).stem
            assert np.array_equal(drawn.mask(split, stem), expected)
            assert np.array_equal(reader.mask(split, stem), expected)
            assert reader.image_path(split, stem) == root / "coco_mini" / f"{name}2017" / image["file_name"]


def _read_one_by_one(annotations: list[dict[str, Any]], order: list[int], height: int, width: int) -> np.ndarray:
    """A pixel shows the annotation of the smallest area that covers it; of equal ones the latest by id. In whatever order they come."""
    from pycocotools import mask as drawing

    values, ids, areas = np.zeros((height, width), int), np.full((height, width), -1), np.full((height, width), np.inf)
    for shape in annotations:
        region = np.zeros((height, width), bool)
        for part in shape["segmentation"] if isinstance(shape["segmentation"], list) else [shape["segmentation"]]:
            coded = drawing.frPyObjects([part] if isinstance(part, list) else part, height, width)
            region |= drawing.decode(coded).reshape(height, width).astype(bool)
        seen = region & ((shape["area"] < areas) | ((shape["area"] == areas) & (shape["id"] > ids)))
        values[seen] = 255 if shape["iscrowd"] else 1 + order.index(shape["category_id"])
        ids[seen], areas[seen] = shape["id"], shape["area"]
    return values


@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_folds_of_coco_mini_are_the_same_from_made_and_drawn_masks(shared: Path, tmp_path: Path, crowd: str) -> None:
    root, masks = shared / "data", str(tmp_path / "made")
    make_masks(mini_settings(crowd, masks), root, tmp_path / "masks.json", 2)

    def indexed(settings: Settings) -> Index:
        index = build_index(opened(settings, root), 80, workers=2)
        return Index(tuple(replace(row, mask_sha="") for row in index.rows), index.skipped)  # of the file, or of the drawn array

    index = indexed(mini_settings(crowd, None))
    assert len(index.rows) == 200
    assert indexed(mini_settings(crowd, masks)) == index
    lengths = {}
    for split in ("fwb", "serial"):
        found = [fold_lists(index, 80, fold, mini_settings(crowd, masks, split)) for fold in range(4)]
        assert found == [fold_lists(index, 80, fold, mini_settings(crowd, None, split)) for fold in range(4)]
        lengths[split] = [(len(lists["train"]), len(lists["test"])) for lists in found]
    assert all(train and test for pairs in lengths.values() for train, test in pairs)
