"""Hand-made masks and settings for the two layouts; `conftest` makes the folders."""

from pathlib import Path

import numpy as np
from PIL import Image

from symnet.config import Settings

NAMES = ("ant", "bee", "cat", "dog")


def save_pair(root: Path, image: str, mask: np.ndarray, colour: int = 90) -> None:
    Image.fromarray(np.full((*mask.shape, 3), colour, np.uint8)).save(root / "JPEGImages" / f"{image}.jpg")
    Image.fromarray(mask.astype(np.uint8)).save(root / "SegmentationClassAug" / f"{image}.png")


def bands(*values: int, each: int = 2, width: int = 10) -> np.ndarray:
    """A mask of horizontal bands: `each` rows of every value."""
    return np.repeat(np.array(values, np.uint8), each)[:, None].repeat(width, 1)


def voc_settings(folds: int = 2, names: tuple[str, ...] = NAMES, min_pixels: int = 20, **data: object) -> Settings:
    lists = {"train": ("train.txt",), "test": ("test.txt",)}
    data = {"root": "voc", "lists": lists, "classes": names, "folds": folds, **data}
    return Settings.model_validate({"data": data, "protocol": {"min_pixels": min_pixels}})


def coco_settings(crowd: str = "ignore", **data: object) -> Settings:
    found = {
        "source": "coco", "root": "coco", "images": {"train": "train", "test": "val"}, "classes": ("cat", "dog"), "folds": 2,
        "masks": None,
        "annotations": {"train": "annotations/train.json", "test": "annotations/val.json"}, **data,
    }  # fmt: skip
    return Settings.model_validate({"data": found, "protocol": {"crowd": crowd, "min_pixels": 1}})
