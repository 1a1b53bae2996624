"""The image store: the pixels of the files, shards that stay, and what is done to a writer or to a shard."""

import hashlib
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from small_sets import coco_settings, voc_settings

from symnet.artifacts import Provenance, file_digest, read_json
from symnet.config import Settings
from symnet.data import store
from symnet.data.folds import make_folds, read_fold_list
from symnet.data.images import BadFile
from symnet.data.index import read_index
from symnet.data.readers import SPLITS, Reader, open_reader
from symnet.data.store import make_store, partition
from symnet.data.stored import Store, StoredReader, source_sum
from symnet.errors import UserError
from tests.killing import KILLED, killed_at, lines_of

PROVENANCE = Provenance(stage="store", settings="s", code="c")
MODES = ("RGB", "L", "CMYK", "P", "RGBA")


def picture(path: Path, height: int, width: int, seed: int, mode: str = "RGB") -> None:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    (image.quantize() if mode == "P" else image.convert(mode)).save(path)


@pytest.fixture
def voc_set(tmp_path: Path) -> Path:
    """A data root with 24 train and 6 test images of every mode and of odd sizes, their masks in palette or grey."""
    root = tmp_path / "data" / "voc"
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(3)
    names = [f"{number:02d} x" for number in range(30)]
    for number, name in enumerate(names):
        mode = MODES[number % 5]
        height, width = (1, 1) if number == 7 else map(int, rng.integers(5, 60, 2))
        picture(root / "JPEGImages" / f"{name}.{'png' if mode in ('P', 'RGBA') else 'jpg'}", height, width, number, mode)
        mask = Image.fromarray(rng.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (height, width)))
        if number % 2:
            mask.putpalette([value for i in range(256) for value in (255 - i, i, 3)])
        mask.save(root / "SegmentationClassAug" / f"{name}.png")
    (root / "train.txt").write_text("\n".join(names[:24]))
    (root / "test.txt").write_text("\n".join(names[24:]))
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some images a shard, not some hundred."""
    monkeypatch.setattr(store, "SHARD_BYTES", 1 << 15)
    monkeypatch.setattr(store, "CUT", 6)


def index(root: Path, settings: Settings) -> Path:
    make_folds(settings, root, root / "lists", workers=1)
    return root / "lists"


def make(root: Path, settings: Settings, out: Path | None = None, workers: int = 2) -> Path:
    out = out or root / "store.json"
    make_store(settings, root, index(root, settings), out, workers, PROVENANCE)
    return out


def stored_in(manifest: Path, root: Path) -> Store:
    """The store for a job that reads all that is indexed."""
    return Store(manifest, {(row.split, row.image): source_sum(row) for row in read_index(root / "lists")[0].rows})


def reading(root: Path, settings: Settings, manifest: Path | None = None) -> Reader:
    return open_reader(settings.data, settings.protocol, root, store=manifest and stored_in(manifest, root))


def served(stored: Reader) -> list[str]:
    """The images that come from the store and not from their files."""
    assert isinstance(stored, StoredReader)
    return [image for split in SPLITS for image in stored.ids(split) if stored._place(split, image)]


def files(root: Path) -> dict[str, str]:
    """Name to sum of all files of the store in a folder; temporary ones of killed writers and the lock left out."""
    found = [*root.glob("store.json"), *root.glob("store-*/[!.]*.*")]
    return {str(path.relative_to(root)): file_digest(path) for path in found}


def stats(root: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.glob("store-*/*.h5")}


def shards(manifest: Path) -> list[Path]:
    return [manifest.parent / shard["file"] for shard in read_json(manifest)[0]["shards"]]


def check_same(plain: Reader, stored: Reader) -> int:
    """All pixels are equal, and all come from the store. Returns how many images there are."""
    count = 0
    assert served(stored) == [image for split in SPLITS for image in plain.ids(split)]
    for split in SPLITS:
        assert stored.ids(split) == plain.ids(split)
        assert stored.sources(split) == plain.sources(split)
        for image in plain.ids(split):
            for one, other in zip(plain.load(split, image), stored.load(split, image), strict=True):
                assert (one.dtype, one.shape, one.flags.writeable) == (other.dtype, other.shape, other.flags.writeable)
                assert np.array_equal(one, other)
            assert np.array_equal(plain.mask(split, image), stored.mask(split, image))
            assert stored.image_path(split, image) == plain.image_path(split, image)
            assert stored.mask_path(split, image) == plain.mask_path(split, image)
            count += 1
    return count


def test_voc_pixels_are_those_of_the_files(voc_set: Path) -> None:
    manifest = make(voc_set, voc_settings())
    assert len(shards(manifest)) > 4
    stored = reading(voc_set, voc_settings(), manifest)
    assert stored.classes == reading(voc_set, voc_settings()).classes
    assert check_same(reading(voc_set, voc_settings()), stored) == 30


@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_coco_pixels_are_those_of_the_files(coco: Path, crowd: str) -> None:
    manifest = make(coco, coco_settings(crowd))
    stored = reading(coco, coco_settings(crowd), manifest)
    assert check_same(reading(coco, coco_settings(crowd)), stored) == 2
    assert (255 in stored.mask("train", f"{12:012d}")) == (crowd == "ignore")


def test_a_shard_is_flat_contiguous_and_as_large_as_its_pixels(voc_set: Path) -> None:
    manifest = make(voc_set, voc_settings())
    plain = reading(voc_set, voc_settings())
    for path, listed in zip(shards(manifest), read_json(manifest)[0]["shards"], strict=True):
        with h5py.File(path) as file:
            assert sorted(file) == ["images", "masks"]
            assert all((d.chunks, d.compression, d.dtype, d.ndim) == (None, None, np.uint8, 1) for d in file.values())
            pairs = [plain.load(split, image) for split, image, *_ in listed["rows"]]
            assert np.array_equal(file["images"][:], np.concatenate([image.ravel() for image, _ in pairs]))
            assert np.array_equal(file["masks"][:], np.concatenate([mask.ravel() for _, mask in pairs]))
            assert file["images"].size * 4 <= 3 * store.SHARD_BYTES


def test_any_number_of_workers_gives_the_same_bytes(voc_set: Path) -> None:
    made = []
    for workers in (1, 3, 8):
        make(voc_set, voc_settings(), workers=workers)
        made.append(files(voc_set))
        shutil.rmtree(next(voc_set.glob("store-*")))
    assert made[0] == made[1] == made[2]


def test_skipped_images_are_not_in_it(voc_set: Path) -> None:
    (voc_set / "voc" / "JPEGImages" / "02 x.jpg").write_bytes(b"\xff\xd8 no image")
    settings = voc_settings(bad_files="skip")
    (voc_set / "voc" / "JPEGImages" / "02 x.png").unlink(missing_ok=True)
    path = reading(voc_set, settings).image_path("train", "02 x")
    path.write_bytes(path.read_bytes()[:40])
    stored = reading(voc_set, settings, make(voc_set, settings))
    assert served(stored) == [f"{number:02d} x" for number in range(30) if number != 2]
    with pytest.raises(BadFile):
        stored.load("train", "02 x")


@pytest.mark.parametrize("size", [None, (3, 4), (59, 59)], ids=["same size", "smaller", "larger"])
def test_a_changed_image_remakes_its_own_shard(voc_set: Path, size: tuple[int, int] | None) -> None:
    manifest = make(voc_set, voc_settings())
    before, rows = stats(voc_set), read_json(manifest)[0]["shards"]
    name = "10 x"
    reader = reading(voc_set, voc_settings())
    height, width = size or reader.mask("train", name).shape
    picture(reader.image_path("train", name), height, width, 99)
    if size:
        Image.fromarray(np.ones(size, np.uint8)).save(voc_set / "voc" / "SegmentationClassAug" / f"{name}.png")
    make(voc_set, voc_settings())
    after = stats(voc_set)
    kept = {shard for shard in after if after[shard] == before.get(shard)}
    own = next(i for i, shard in enumerate(rows) if ["train", name] in [row[:2] for row in shard["rows"]])
    assert {Path(shard["file"]).name for shard in rows[:own]} <= kept
    if size is None:
        assert len(after) == len(before) == len(kept) + 1
    assert set(after) == {path.name for path in shards(manifest)}  # the old shard is gone
    assert {path.stem for path in voc_set.glob("store-*/*")} == {"lock", *(path.stem for path in shards(manifest))}
    assert check_same(reader, reading(voc_set, voc_settings(), manifest)) == 30


def test_cuts_fall_together_again_after_a_change(monkeypatch: pytest.MonkeyPatch, voc_set: Path) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 10 * 4 * 100)
    row = read_index(index(voc_set, voc_settings()))[0].rows[0]
    rows = [type(row)("train", str(i), 10, 10, (), str(i), "") for i in range(300)]
    pieces = partition(rows)
    assert [one for piece in pieces for one in piece] == rows
    assert {len(piece) for piece in pieces} <= set(range(1, 11))
    assert sum(len(piece) == 10 for piece in pieces) > 3  # of those that are full
    grown = [type(row)("train", "150", 30, 10, (), "", "") if i == 150 else one for i, one in enumerate(rows)]
    for changed in (rows[:150] + rows[151:], grown):
        same = [piece for piece in partition(changed) if piece in pieces]
        assert len(pieces) - len(same) <= 3
    assert partition([]) == []


def test_code_and_settings(voc_set: Path) -> None:
    """New code remakes all shards, and the old folder goes; other settings about the same files remake the manifest alone."""
    manifest = make(voc_set, voc_settings())
    before = stats(voc_set)
    other = voc_settings(folds=4)
    assert served(reading(voc_set, other, manifest)) == []
    make(voc_set, other)
    assert stats(voc_set) == before
    assert len(served(reading(voc_set, other, manifest))) == 30
    make_store(other, voc_set, voc_set / "lists", manifest, 1, PROVENANCE.model_copy(update={"code": "new"}))
    assert len(list(voc_set.glob("store-*"))) == 1
    assert not set(before.values()) & set(stats(voc_set).values())


def test_of_an_image_that_changed_since_the_file_is_read(voc_set: Path) -> None:
    manifest = make(voc_set, voc_settings())
    reader, name = reading(voc_set, voc_settings()), "26 x"
    height, width = reader.mask("test", name).shape
    picture(reader.image_path("test", name), height, width, 99)
    index(voc_set, voc_settings())
    stored = reading(voc_set, voc_settings(), manifest)
    assert served(stored) == [f"{number:02d} x" for number in range(30) if number != 26]
    assert np.array_equal(stored.load("test", name)[0], reader.load("test", name)[0])
    make(voc_set, voc_settings())
    assert check_same(reader, reading(voc_set, voc_settings(), manifest)) == 30


def test_a_job_goes_over_to_a_store_that_is_made_while_it_runs(voc_set: Path) -> None:
    index(voc_set, voc_settings())
    plain, stored = reading(voc_set, voc_settings()), reading(voc_set, voc_settings(), voc_set / "store.json")
    assert served(stored) == []
    assert np.array_equal(stored.load("train", "03 x")[0], plain.load("train", "03 x")[0])
    assert np.array_equal(stored.mask("train", "03 x"), plain.mask("train", "03 x"))
    make(voc_set, voc_settings())
    assert check_same(plain, stored) == 30


def test_a_store_knows_the_lists_of_its_job(voc_set: Path) -> None:
    make(voc_set, voc_settings())
    lists = {"train": read_fold_list(voc_set / "lists" / "train.csv"), "test": read_fold_list(voc_set / "lists" / "fold0" / "test.csv")}
    store = Store.of_lists(voc_set / "store.json", lists)
    assert set(store.sums) == {(split, row.image) for split, found in lists.items() for row in found.rows}
    assert store.sums.items() <= stored_in(store.manifest, voc_set).sums.items()


def test_what_changed_since_it_was_indexed_is_refused(voc_set: Path, coco: Path) -> None:
    lists = index(voc_set, voc_settings())
    path = voc_set / "voc" / "SegmentationClassAug" / "00 x.png"
    Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    with pytest.raises(UserError, match="image or mask changed since the index was made; run `symnet folds` again"):
        make_store(voc_settings(), voc_set, lists, voc_set / "store.json", 1, PROVENANCE)
    lists = index(coco, coco_settings())
    with pytest.raises(UserError, match="image or mask changed"):
        make_store(coco_settings("drop"), coco, lists, coco / "store.json", 1, PROVENANCE)
    assert not list(coco.glob("store*/*.h5"))


def test_an_index_without_images_is_refused(voc_set: Path) -> None:
    reading(voc_set, voc_settings()).image_path("train", "03 x").unlink()
    make_folds(voc_settings(), voc_set, voc_set / "lists", masks_only=True)
    with pytest.raises(UserError, match=r"lists: was made without images \(--masks-only\)"):
        make_store(voc_settings(), voc_set, voc_set / "lists", voc_set / "store.json", 1, PROVENANCE)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damage_is_found_told_and_mended(voc_set: Path, damage: Callable[[Path], None]) -> None:
    manifest = make(voc_set, voc_settings())
    whole, before = files(voc_set), stats(voc_set)
    damaged = shards(manifest)[1]
    row = read_json(manifest)[0]["shards"][1]["rows"][0]
    damage(damaged)
    stored = reading(voc_set, voc_settings(), manifest)
    if damage == Path.unlink:  # as when the store is made anew: the files are read
        assert np.array_equal(stored.load(row[0], row[1])[0], reading(voc_set, voc_settings()).load(row[0], row[1])[0])
    else:
        told = "shard does not match its sha256: damaged; delete it and run `symnet store` again"
        with pytest.raises(UserError, match=f"{damaged.name}: {told}$"):
            stored.load(row[0], row[1])
    make(voc_set, voc_settings())
    assert files(voc_set) == whole
    assert sum(before[name] != found for name, found in stats(voc_set).items()) == 1
    assert check_same(reading(voc_set, voc_settings()), stored) == 30


def test_a_shard_cut_short_while_it_is_read_is_told(voc_set: Path) -> None:
    manifest = make(voc_set, voc_settings())
    stored = reading(voc_set, voc_settings(), manifest)
    row = read_json(manifest)[0]["shards"][0]["rows"][0]
    stored.load(row[0], row[1])
    path = shards(manifest)[0]
    os.truncate(path, 3000)
    with pytest.raises(UserError, match="cut short since it was checked"):
        stored.mask(row[0], row[1])


def test_a_full_disk_is_told_and_leaves_no_half_shard(voc_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(voc_set)
    lists = index(voc_set, voc_settings())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7))
    with pytest.raises(UserError, match=r"store needs 0\.0 GB more and 0\.0 GB are free; make room, or set store\.images: false"):
        make_store(voc_settings(), voc_set, lists, voc_set / "store.json", 2, PROVENANCE)
    assert files(voc_set) == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # writes fail in the middle of a shard, as on a full disk
    try:
        with pytest.raises(UserError, match=r"the store cannot be written \(File too large\); mend that and run again: finished"):
            make_store(voc_settings(), voc_set, lists, voc_set / "store.json", 2, PROVENANCE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(voc_set.glob("store-*/.*")) == []
    left = files(voc_set)
    make(voc_set, voc_settings())
    assert "store.json" not in left
    assert left.items() <= files(voc_set).items()


def test_no_space_left_is_told(voc_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC itself, from the second shard on."""
    written = store._write

    def full(path: Path, *rest: object) -> str:
        if list(path.parent.glob("*.h5")):
            raise OSError(28, os.strerror(28), str(path))
        return written(path, *rest)

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(UserError, match=r"the store cannot be written \(No space left on device\)") as caught:
        make(voc_set, voc_settings())
    assert "\n" not in str(caught.value)
    assert len(stats(voc_set)) == 1


def test_a_folder_that_cannot_be_written_is_told_and_one_that_is_only_read_will_do(voc_set: Path) -> None:
    (voc_set / "file").write_text("")
    with pytest.raises(UserError, match=r"the store cannot be written \(Not a directory\)"):
        make(voc_set, voc_settings(), voc_set / "file" / "store.json")
    manifest = make(voc_set, voc_settings())
    folder = shards(manifest)[0].parent
    before = sorted(folder.iterdir())
    folder.chmod(0o500)
    try:
        assert check_same(reading(voc_set, voc_settings()), reading(voc_set, voc_settings(), manifest)) == 30
        if os.geteuid():  # the superuser may write anywhere
            with pytest.raises(UserError, match=r"the store cannot be written \(Permission denied\)"):
                make_store(voc_settings(), voc_set, voc_set / "lists", manifest, 1, PROVENANCE)
    finally:
        folder.chmod(0o700)
    assert sorted(folder.iterdir()) == before


def _in_pieces(root: Path, size: int, pause: float) -> None:
    """Make a store whose shards come to the disk in pieces of `size` bytes, with `pause` seconds after each."""

    def write(path: Path, data: memoryview) -> None:
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(data), size):
                file.write(data[start : start + size])
                time.sleep(pause)

    Path.write_bytes = write  # of this process alone
    make_store(voc_settings(), root, root / "lists", root / "store.json", 1, PROVENANCE)


@pytest.mark.whole
def test_killed_at_any_moment_it_ends_with_the_same_bytes(voc_set: Path) -> None:
    make(voc_set, voc_settings())
    whole = files(voc_set)
    rng = np.random.default_rng(11)

    def forget() -> None:
        shutil.rmtree(next(voc_set.glob("store-*"), voc_set / "store-none"), ignore_errors=True)
        (voc_set / "store.json").unlink(missing_ok=True)

    forget()
    lines = lines_of(_in_pieces, voc_set, 100, 0)
    forget()
    halves = killed = 0
    for _ in range(50):
        killed += killed_at(int(rng.integers(1, lines)), _in_pieces, voc_set, 100, 0) == KILLED
        left = files(voc_set)
        assert left.items() <= whole.items()
        halves += bool(list(voc_set.glob("store-*/.*.partial")))
        if "store.json" in left or len(left) > 0.5 * len(whole):
            forget()
    assert killed > 25
    assert halves > 10  # many fell in the middle of a shard
    make(voc_set, voc_settings())
    assert files(voc_set) == whole
    assert list(voc_set.glob("store-*/.*")) == []  # and what they left is gone


def test_of_two_writers_one_waits(voc_set: Path) -> None:
    lists = index(voc_set, voc_settings())
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_in_pieces, args=(voc_set, 2000, 0.001)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    whole, before = files(voc_set), stats(voc_set)
    make_store(voc_settings(), voc_set, lists, voc_set / "store.json", 1, PROVENANCE)
    assert (files(voc_set), stats(voc_set)) == (whole, before)


def _sum_of_all(root: Path, manifest: Path, turn: int) -> str:
    """sha256 of all pixels, read from another image on."""
    reader = reading(root, voc_settings(), manifest)
    images = [(split, image) for split in SPLITS for image in reader.ids(split)]
    sums = {item: [pixels.tobytes() for pixels in reader.load(*item)] for item in images[turn:] + images[:turn]}
    return hashlib.sha256(b"".join(part for item in images for part in sums[item])).hexdigest()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_eight_processes_read_at_once(voc_set: Path, method: str) -> None:
    manifest = make(voc_set, voc_settings())
    expected = _sum_of_all(voc_set, manifest, 0)  # before the fork, so that its state is inherited
    with multiprocessing.get_context(method).Pool(8) as pool:
        assert pool.starmap(_sum_of_all, [(voc_set, manifest, 3 * turn) for turn in range(8)]) == [expected] * 8


def test_its_modules_do_not_load_torch() -> None:
    code = "import sys, symnet.data.store; print('torch' in sys.modules, 'symnet.data.stored' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
