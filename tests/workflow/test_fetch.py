"""From nothing to a table: miniatures of VOC, SBD, COCO and word vectors fetched from loopback, the rest of the network cut off."""

import csv
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.io
from PIL import Image

from tests.workflow.conftest import TINY, Project

NAMES = ("cat", "dog", "cow", "sheep")
SIDE = 48
COLUMNS = ("name", "version", "kind", "place", "inner", "url", "mirrors", "bytes", "checksum", "licence", "note")

# Found by every Python of the run, since it lies on PYTHONPATH: only loopback can be reached.
GUARD = """
import socket
connect, lookup = socket.socket.connect, socket.getaddrinfo
def local(host): return host in ("127.0.0.1", "::1", "localhost", None, "")
def guarded(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not local(address[0]):
        raise OSError(f"cut off: {address}")
    return connect(self, address)
def looked_up(host, *rest, **more):
    if not local(host):
        raise socket.gaierror(f"cut off: {host}")
    return lookup(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = guarded, looked_up
"""


def picture(number: int) -> tuple[bytes, np.ndarray]:
    """A JPEG of grey noise with a coloured square, and its index mask."""
    rng = np.random.default_rng(number)
    value, top, left = number % 4 + 1, *map(int, rng.integers(2, 20, 2))
    image, mask = rng.integers(90, 120, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    image[top : top + 24, left : left + 24] = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)][value - 1]
    mask[top : top + 24, left : left + 24] = value
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue(), mask


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def tar(path: Path, members: dict[str, bytes], mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def voc_and_sbd(folder: Path) -> None:
    """VOC: 8 train images with masks, 16 test images; SBD: 12 more train images, and one of VOC's with another mask."""
    voc, sbd = {}, {}
    lists: dict[str, list[str]] = {"train": [], "val": [], "noval": []}
    for number in range(36):
        split = "train" if number < 8 else "noval" if number < 20 else "val"
        name = f"2008_{number:06d}"
        lists[split].append(name)
        image, mask = picture(number)
        voc[f"JPEGImages/{name}.jpg"] = image
        if split != "noval":
            voc[f"SegmentationClass/{name}.png"] = png(mask)
        if split == "noval" or number == 0:
            buffer = io.BytesIO()
            inner = {"Boundaries": np.zeros((4, 1), object), "Segmentation": mask if number else mask * 0 + 2, "CategoriesPresent": [[1.0]]}
            scipy.io.savemat(buffer, {"GTcls": inner})
            sbd[f"benchmark_RELEASE/dataset/cls/{name}.mat"] = buffer.getvalue()
    for split in ("train", "val"):
        voc[f"ImageSets/Segmentation/{split}.txt"] = "\n".join(lists[split]).encode()
    tar(folder / "voc.tar", {f"VOCdevkit/VOC2012/{name}": data for name, data in voc.items()}, "w")
    tar(folder / "benchmark.tgz", sbd | {"benchmark_RELEASE/README": b"outside"}, "w:gz")
    (folder / "train_noval.txt").write_text("\n".join(lists["noval"]))


def coco(folder: Path) -> None:
    annotations = {}
    for split, numbers in (("train2014", range(100, 120)), ("val2014", range(200, 216))):
        images, shapes = [], []
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for number in numbers:
                data, mask = picture(number)
                archive.writestr(f"{split}/{number:012d}.jpg", data)
                images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": SIDE, "width": SIDE})
                (top, left), value = np.argwhere(mask)[0].tolist(), int(mask.max())
                box = [left, top, left + 24, top, left + 24, top + 24, left, top + 24]
                shapes.append({"id": number, "image_id": number, "category_id": value, "iscrowd": 0, "area": 576, "segmentation": [box]})
        categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, start=1)]
        annotations[split] = {"images": images, "annotations": shapes, "categories": categories}
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        for split, found in annotations.items():
            archive.writestr(f"annotations/instances_{split}.json", json.dumps(found))


def vectors(folder: Path) -> None:
    from gensim.models import KeyedVectors

    words = KeyedVectors(8)
    words.add_vectors(["the", *NAMES], np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32))
    words.save_word2vec_format(str(folder / "vectors.bin.gz"), binary=True)


class Counting(http.server.SimpleHTTPRequestHandler):
    asked: ClassVar[Counter] = Counter()

    def log_message(self, *arguments: object) -> None:
        self.asked[self.path] += 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The miniatures on a server; yields its address and their folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    for make in (voc_and_sbd, coco, vectors):
        make(folder)
    Counting.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def catalogue(address: str, folder: Path) -> str:
    """As config/datasets.tsv: the same names and places, other files. The word vectors have no sum yet."""
    voc = "VOCdevkit/VOC2012"
    rows = [
        ("voc2012", "archive", voc, voc, "voc.tar"),
        ("sbd", "archive", "sbd", "benchmark_RELEASE/dataset", "benchmark.tgz"),
        ("sbd_train_noval", "file", f"{voc}/ImageSets/Segmentation/train_noval.txt", "", "train_noval.txt"),
        ("segmentation_class_aug", "made", f"{voc}/SegmentationClassAug", "", ""),
        ("coco2014_train", "archive", "coco/train2014", "train2014", "train2014.zip"),
        ("coco2014_val", "archive", "coco/val2014", "val2014", "val2014.zip"),
        ("coco2014_annotations", "archive", "coco/annotations", "annotations", "annotations.zip"),
        ("googlenews", "file", "word2vec/vectors.bin.gz", "", "vectors.bin.gz"),
    ]
    lines = ["\t".join(COLUMNS)]
    for name, kind, place, inner, file in rows:
        data = (folder / file).read_bytes() if file else b""
        checksum = f"md5:{hashlib.md5(data).hexdigest()}" if file and name != "googlenews" else ""
        url, size = (f"{address}/{file}", str(len(data))) if file else ("", "")
        lines.append("\t".join((name, "1", kind, place, inner, url, "", size, checksum, "", "made by another command" * (not file))))
    return "\n".join(lines) + "\n"


def experiment(data_root: Path) -> dict:
    """Three data sets of the same classes: fetched VOC and COCO, and a folder of one's own."""
    kept = {name: TINY[name] for name in ("experiment", "shots", "backbone", "protocol", "pixels", "base", "model")}
    return kept | {
        "seeds": [7],
        "methods": ["symnet"],
        "data_root": str(data_root),
        "data": {"classes": list(NAMES), "folds": 2},
        "text": {"source": "word2vec/vectors.bin.gz", "dim": 8},
        "features": {"cache_test": False},
        "train": {"steps": 2, "batch_size": 2, "validation_episodes": 2},
        "datasets": {
            "pascal": {
                "data": {
                    "lists": {
                        "train": ["ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/train_noval.txt"],
                        "test": ["ImageSets/Segmentation/val.txt"],
                    }
                },
                "store": {"images": True},
            },
            "coco": {
                "data": {
                    "source": "coco",
                    "root": "coco",
                    "masks": "masks",
                    "images": {"train": "train2014", "test": "val2014"},
                    "annotations": {
                        "train": "annotations/instances_train2014.json",
                        "test": "annotations/instances_val2014.json",
                    },
                },
                "protocol": {"split": "fwb"},
            },
            "own": {"data": {"root": "own", "images": {"train": "images", "test": "images"}, "masks": "masks", "test_share": 0.4}},
        },
    }


def bring_own(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(300, 340):
        image, mask = picture(number)
        (root / "images" / f"{number}.jpg").write_bytes(image)
        (root / "masks" / f"{number}.png").write_bytes(png(mask))


@pytest.mark.timeout(600)
@pytest.mark.whole
def test_from_nothing_to_a_table(served: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = served
    (tmp_path / "project").mkdir()
    project, data = Project(tmp_path / "project"), tmp_path / "data"
    bring_own(data / "own")
    (project.folder / "sitecustomize.py").write_text(GUARD)
    (tmp_path / "datasets.tsv").write_text(catalogue(address, folder))
    project.environment = {"SYMNET_CATALOGUE": str(tmp_path / "datasets.tsv")}
    project.configure(experiment(data))
    told = project.snakemake("-n")
    assert told.returncode == 0
    assert f"symnet: coco: images will be put at {data}/coco/train2014: " in told.stderr
    project.run()

    with open(project.results / "tables" / "main.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["dataset"], row["method"]) for row in rows] == [
        (dataset, f"symnet ({output})") for dataset in ("pascal", "coco", "own") for output in ("ensemble", "meta")
    ]
    assert all(float(row["mean"]) >= 0 and row["seeds"] == "1" for row in rows)
    assert Counting.asked == {f"/{path.name}": 1 for path in folder.iterdir()}  # each once, and nothing else
    assert (tmp_path / "datasets.lock").is_file()  # pins the vectors

    aug = data / "VOCdevkit" / "VOC2012" / "SegmentationClassAug"
    assert len(list(aug.glob("*.png"))) == 8 + 12 + 16
    own = data / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2008_000000.png"
    assert (aug / own.name).read_bytes() == own.read_bytes()  # not SBD's, which is another
    for number in (8, 19):
        assert np.array_equal(np.asarray(Image.open(aug / f"2008_{number:06d}.png")), picture(number)[1])
    masks = data / "coco" / "masks"
    for split, number in (("train", 101), ("test", 203)):
        assert np.array_equal(np.asarray(Image.open(masks / split / f"{number:012d}.png")), picture(number)[1])
    assert (project.results / "pascal" / "store.json").is_file()
    assert "20 train and 16 test images, 4 classes" in (project.results / "coco" / "counts.txt").read_text()
    assert sorted(path.name for path in data.iterdir()) == [".symnet", "VOCdevkit", "coco", "downloads", "own", "sbd", "word2vec"]

    assert project.planned() == {}
    settings = experiment(data)
    settings["train"]["lr"] = 0.01
    project.configure(settings)
    assert {"fetch_data", "make_masks", "make_store", "train_base"}.isdisjoint(project.planned())
    assert sum(Counting.asked.values()) == len(list(folder.iterdir()))
