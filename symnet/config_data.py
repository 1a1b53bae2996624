"""Settings of what is measured: data, its protocol, pixels, class vectors. Part of `symnet.config`."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from symnet.protocols import BLOCKS
from symnet.sections import Fraction, Name, Scale, Section, Side


class DataSettings(Section):
    """Where the images are and which classes they show. Paths are relative to `root`, which is relative to the data root."""

    source: Literal["voc", "coco", "shapes"] = Field(
        "voc", description="voc: images and index masks; coco: images and annotations; shapes: drawn here"
    )
    root: str = Field("VOCdevkit/VOC2012", description="folder of the data set, relative to data_root")
    images: dict[Literal["train", "test"], str] = Field({"train": "JPEGImages", "test": "JPEGImages"}, description="image folder per split")
    masks: str | None = Field(
        "SegmentationClassAug",
        description="folder of index PNGs, which `symnet masks` makes; null (coco layout): drawn from the annotations whenever needed",
    )
    annotations: dict[Literal["train", "test"], str] = Field({}, description="instances_*.json per split (coco)")
    lists: dict[Literal["train", "test"], tuple[str, ...]] = Field(
        {}, description="text files of image ids per split, united (voc layout); none at all: every mask, split by `test_share`"
    )
    test_share: float = Field(
        0.3, gt=0, lt=1, description="share of images in the test split where there are no lists (voc layout), by a hash of their ids"
    )
    classes: str | tuple[str, ...] = Field("voc", description="voc, coco, shapes, or the class names in order of their index (from 1)")
    folds: int = Field(4, ge=1, le=20, description="number of folds; it must divide the number of classes")
    bad_files: Literal["refuse", "skip"] = Field("refuse", description="skip: leave unreadable images and masks out, and count them")

    @model_validator(mode="after")
    def _has_masks(self) -> Self:
        if self.masks is None and self.source != "coco":
            raise ValueError(f"masks: null is for the coco layout; source {self.source} needs a folder of index PNGs")
        return self


class StoreSettings(Section):
    """Images kept decoded. No pixel depends on it, and no job reruns when it is set."""

    images: bool = Field(
        False,
        description="decode images and masks once and keep them in HDF5, for GPUs that else wait (PASCAL 8.6 GB, COCO more than 100)",
    )


class ShapesSettings(Section):
    """The embedded data set."""

    train_images: int = Field(360, ge=20, description="images in the train list")
    test_images: int = Field(240, ge=20, description="images in the test list")
    side: int = Field(144, ge=64, le=1024, description="longer side of an image, pixels")
    seed: int = Field(0, ge=0, description="the same seed draws the same files")


class ProtocolSettings(Section):
    """What makes two numbers comparable. Stamped on every metric and table; a table refuses to mix two."""

    name: Name = Field(
        "symnet-1", description=f"a block that gives the other keys their defaults ({', '.join(BLOCKS)}), or a name of one's own"
    )
    novel_in_train: Literal["drop", "background"] = Field(
        "drop", description="training images with novel pixels: left out (BAM) or painted background (PFENet)"
    )
    min_pixels: int = Field(2048, ge=1, description="pixels at original size from which a class counts in an image")
    crowd: Literal["ignore", "drop"] = Field("ignore", description="COCO crowd regions: 255, or left out")
    split: Literal["serial", "fwb"] = Field(
        "serial", description="serial: fold i tests n consecutive classes; fwb: every folds-th class (COCO-20i)"
    )
    episodes: int = Field(1000, ge=1, description="test episodes a seed")
    sampling: Literal["image", "released", "balanced"] = Field(
        "image",
        description="image: queries in turn through the test list, drawn from all of it where a round is shorter; released: from the "
        "list's head; balanced: class first, uniform (HSNet)",
    )
    scoring: Literal["padded", "original", "400"] = Field(
        "padded", description="scoring of the main table: the padded square, original size, or 400x400 (HSNet); all are always computed"
    )
    selection: Literal["base_val", "last", "test_best"] = Field(
        "base_val",
        description="checkpoint: best on held-out base-class images, the last, or best on the test fold (as released); "
        "none of them trains on the images of base.holdout",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_block(cls, found: Any) -> Any:
        """Keys that are not given take the named block's values. 400 may be written as a number."""
        if not isinstance(found, Mapping):
            return found
        whole = {**BLOCKS.get(str(found.get("name", "symnet-1")), {}), **found}
        return whole | ({"scoring": "400"} if whole.get("scoring") == 400 else {})


class PixelSettings(Section):
    """From a file to the network's input."""

    size: Side = Field(473, ge=33, description="side of the square the network sees, 8n+1")
    antialias: bool = Field(False, description="smooth images when they shrink; the field's code does not, and hardly shrinks them")
    scale: Scale = Field((0.9, 1.1), description="training: range of the random scale, relative to the file's size")
    rotation: float = Field(10.0, ge=0, le=180, description="training: largest rotation, degrees")
    rotation_p: Fraction = Field(0.5, description="training: probability of a rotation")
    blur_p: Fraction = Field(0.5, description="training: probability of a 5x5 Gaussian blur")
    flip_p: Fraction = Field(0.5, description="training: probability of a horizontal flip")
    keep: Fraction = Field(0.85, description="training: share of the foreground a crop must keep")
    tries: int = Field(30, ge=1, description="training: crops drawn before the last is taken as it is")


class TextSettings(Section):
    """Class vectors."""

    source: str = Field(
        "word2vec/GoogleNews-vectors-negative300.bin.gz",
        description="word vectors (.bin, .bin.gz, .txt, .kv), relative to data_root; `shapes` trains them",
    )
    dim: int = Field(300, ge=1, description="width of a vector")
