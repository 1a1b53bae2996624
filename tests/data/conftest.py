"""Small data sets in the two layouts."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sets import bands, save_pair


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A data root with `voc`: 4 train and 4 test images of the 4 classes, bands of 20 pixels a value."""
    root = tmp_path / "data" / "voc"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "SegmentationClassAug").mkdir()
    masks: Mapping[str, tuple[int, ...]] = {
        "a1": (0, 1), "a2": (3, 0, 255), "a3": (1, 3), "a4": (2, 0, 0), "b1": (1, 2, 0), "b2": (0, 4), "b3": (1, 0), "b4": (0, 0)
    }  # fmt: skip
    for image, values in masks.items():
        save_pair(root, image, bands(*values))
    (root / "train.txt").write_text("a3\na1\na2\na4\n")
    (root / "test.txt").write_text("b1\nb2\n\nb3\nb4\n")
    return tmp_path / "data"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A data root with `coco`: two categories (ids 7 and 3), one train and one test image of 20x30."""
    root = tmp_path / "data" / "coco"
    for folder in ("annotations", "train", "val"):
        (root / folder).mkdir(parents=True)

    def box(x: int, y: int, w: int, h: int) -> list[float]:
        return [x, y, x + w, y, x + w, y + h, x, y + h]

    crowd = np.zeros((20, 30), int)
    crowd[18:, :] = 1
    flat = crowd.T.ravel()  # COCO counts down the columns
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    shapes = [
        {"id": 1, "category_id": 3, "iscrowd": 0, "area": 6, "segmentation": [box(2, 2, 3, 2)]},
        {"id": 2, "category_id": 7, "iscrowd": 0, "area": 150, "segmentation": [box(0, 0, 10, 10), box(20, 10, 5, 10)]},
        {"id": 3, "category_id": 3, "iscrowd": 1, "area": 60, "segmentation": {"counts": counts, "size": [20, 30]}},
    ]
    for split, number in (("train", 12), ("val", 5)):
        whole = {
            "images": [{"id": number, "file_name": f"{number:012d}.jpg", "height": 20, "width": 30}],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": [{**shape, "image_id": number} for shape in shapes],
        }
        (root / "annotations" / f"{split}.json").write_text(json.dumps(whole))
        Image.fromarray(np.full((20, 30, 3), 80, np.uint8)).save(root / split / f"{number:012d}.jpg")
    return tmp_path / "data"
