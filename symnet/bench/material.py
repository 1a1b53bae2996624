"""What the bench works on, made up: a network at random weights whose maps have ordinary values, episodes, files on a disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from symnet.artifacts import Provenance, file_digest
from symnet.backbones.base import Backbone
from symnet.backbones.loading import build_backbone
from symnet.base_learner import BaseLearner, base_tensors
from symnet.cells import Round
from symnet.checkpoint import save_tensors
from symnet.config import Settings
from symnet.data.episodes import Episode, make_manifest, read_manifest, write_manifest
from symnet.data.folds import FoldList, make_folds, read_fold_list
from symnet.data.index import read_index
from symnet.data.readers import Reader, open_reader
from symnet.data.shapes import draw_shapes
from symnet.data.store import make_store
from symnet.data.stored import Store, source_sum
from symnet.features import FeatureCache, forward, make_features
from symnet.methods.symnet import SymNetMethod
from symnet.model.base import PSPHead
from symnet.model.episode import TDC
from symnet.recorded import EpisodeRecords
from symnet.records import make_records
from symnet.sources import CacheSource, Features
from symnet.validating import validate

BASE_CLASSES = tuple(range(6, 21))  # fold 0 of PASCAL-5i
TEXT = 300
EPISODES = 16  # on the disk
# The norms that end residual branches. At weight 1 a random network doubles, block by block, whatever differs; trained ones do not.
_LAST_NORMS = ("bn3", "_bn2", "downsample.1")


@dataclass(frozen=True)
class Sizes:
    """What is timed: backbone, side of images, episodes a batch, widths; the base learner's side and batch; rounds; files on the disk.

    `large`: the side of larger images, COCO's; `tested`: episodes a batch in tests from records, of which the twin does a batch as above;
    `paper`: the side at which tests from records are timed as well, where `size` is less: their gain grows with it; `looped`: steps a call
    of the training loop.
    """

    backbone: str
    size: int
    batch: int
    channels: int
    base_width: int
    base_size: int
    base_batch: int
    rounds: int
    image_side: int = 500  # VOC's longer side
    large: int = 225
    tested: int = 8
    paper: int = 0
    looped: int = 2


QUICK = Sizes("efficientnet_lite0", 161, 4, 64, 64, 161, 4, rounds=3)
ON_CPU = Sizes("resnet50", 161, 2, 256, 512, 161, 4, rounds=3, paper=473)
ON_GPU = Sizes("resnet50", 473, 8, 256, 512, 417, 12, rounds=20, large=641, tested=32, looped=50)


def sizes_for(device: torch.device, quick: bool) -> Sizes:
    """The paper's on a GPU, where quick means fewer rounds; smaller ones on a CPU."""
    if device.type == "cuda":
        return Sizes(**{**vars(ON_GPU), "rounds": 5}) if quick else ON_GPU
    return QUICK if quick else ON_CPU


class Material:
    """Made from a seed: the same values for every run of the same sizes on the same kind of device."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        torch.manual_seed(0)
        self.sizes, self.device = sizes, device
        self.settings = validate(Settings, _settings(sizes), "bench")
        head = PSPHead(build_backbone(sizes.backbone).high_channels, 1 + len(BASE_CLASSES), sizes.base_width)
        self.base = BaseLearner(sizes.backbone, calibrated(sizes.backbone), head, BASE_CLASSES, "").to(device)
        self.backbone: Backbone = self.base.backbone
        self.side = self.backbone.side(sizes.size)
        self.vectors = nn.functional.normalize(torch.randn(20, TEXT), dim=1)  # of unit length

    def method(self, shots: int) -> SymNetMethod:
        """Sym-Net on this backbone, to be trained."""
        return SymNetMethod(self.settings, self.backbone, shots, TEXT, self.side).to(self.device).train()

    def images(self, count: int, size: int | None = None) -> Tensor:
        """[count, 3, S, S], as if normalised, smooth as photographs are."""
        coarse = torch.randn(count, 3, 13, 13)
        size = size or self.sizes.size
        smooth = nn.functional.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)
        return (smooth + 0.2 * torch.randn(count, 3, size, size)).to(self.device)

    def masks(self, count: int) -> Tensor:
        """[count, S, S] uint8: a quarter of the square, in a place of its own in each, is of the episodes' class, its left edge 255."""
        size = self.sizes.size
        masks = torch.zeros(count, size, size, dtype=torch.uint8)
        for mask in masks:
            top, left = (int(x) for x in torch.randint(0, size // 2, (2,)))
            mask[top : top + size // 2, left : left + size // 2] = BASE_CLASSES[0]
            mask[top : top + size // 2, left] = 255
        return masks.to(self.device)

    def originals(self, count: int) -> list[Tensor]:
        """Index masks of images, at their own size: the left half is of the episodes' class."""
        side = self.sizes.image_side
        mask = torch.zeros(side * 3 // 4, side, dtype=torch.uint8)
        mask[:, : side // 2] = BASE_CLASSES[0]
        return [mask] * count

    def episodes(self, shots: int, count: int | None = None) -> list[Episode]:
        """A batch of them; their images are the queries, then the supports."""
        return [Episode(f"q{i}", BASE_CLASSES[0], tuple(f"s{i}.{k}" for k in range(shots))) for i in range(count or self.sizes.batch)]

    def features(self, images: Tensor, masks: Tensor) -> Features:
        """Of the images of a batch, as a source gives them."""
        return Features(*forward(self.base, images), masks)


def _settings(sizes: Sizes) -> dict[str, dict[str, object]]:
    return {
        "pixels": {"size": sizes.size},
        "backbone": {"name": sizes.backbone},
        "model": {"variant": "released", "channels": sizes.channels},
        "train": {"batch_size": sizes.batch},
        "base": {"width": sizes.base_width, "batch_size": sizes.base_batch, "size": sizes.base_size},
        "data": {
            "source": "shapes",
            "root": "shapes",
            "classes": "shapes",
            "lists": {"train": ("ImageSets/train.txt",), "test": ("ImageSets/test.txt",)},
        },
        "protocol": {"min_pixels": 64},
        "shapes": {"train_images": 60, "test_images": 20, "side": sizes.image_side},
    }


def calibrated(name: str) -> Backbone:
    """A backbone with random weights, its batch norm's statistics those of images, so that no map vanishes or explodes."""
    backbone = build_backbone(name)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of the one batch that follows, not a moving mean
    with torch.no_grad():
        backbone.train()(torch.randn(4, 3, 97, 97))
    for name, module in backbone.named_modules():
        if name.endswith(_LAST_NORMS):
            nn.init.constant_(module.weight, 0.5)
    return backbone.eval()


@dataclass(frozen=True)
class Disk:
    """Drawn images as files, in a store and as a feature cache. `images` are of the test split, and in the cache; `train`: of the other."""

    images: list[str]
    train: FoldList
    files: Reader
    stored: Reader
    cache: FeatureCache
    source: CacheSource  # of the same cache
    records: EpisodeRecords
    episodes: tuple[Episode, ...]  # those that the records are of


@contextmanager
def written(material: Material, folder: Path) -> Iterator[Disk]:
    """A `Disk` in `folder`."""
    settings, made = material.settings, Provenance(stage="bench")
    draw_shapes(settings.shapes, folder / "shapes", workers=1)
    make_folds(settings, folder, folder / "lists", workers=1)
    make_store(settings, folder, folder / "lists", folder / "store.json", 1, made.model_copy(update={"stage": "store"}))
    rows = read_index(folder / "lists")[0].rows
    store = Store(folder / "store.json", {(row.split, row.image): source_sum(row) for row in rows})
    files, stored = (open_reader(settings.data, settings.protocol, folder, store=s) for s in (None, store))
    meta = {"backbone": material.base.name, "width": material.sizes.base_width, "classes": list(BASE_CLASSES)}
    tensors = base_tensors(material.backbone, material.base.head)
    save_tensors(folder / "base.safetensors", tensors, meta, made.model_copy(update={"stage": "base"}))
    stage, out = made.model_copy(update={"stage": "features"}), folder / "features.json"
    make_features(
        settings, folder, folder / "lists" / "fold0" / "test.csv", "test", folder / "base.safetensors", out, material.device, stage
    )
    cache, source = FeatureCache(out), CacheSource(out, material.device)
    records, episodes = _records(material, folder, out)
    train = read_fold_list(folder / "lists" / "fold0" / "train.csv")
    yield Disk([image for image, _ in cache.rows], train, files, stored, cache, source, records, episodes)
    for opened in (cache, source.cache, records):
        opened.close()


def _records(material: Material, folder: Path, features: Path) -> tuple[EpisodeRecords, tuple[Episode, ...]]:
    """Of a round of one-shot episodes of fold 0, every part."""
    manifest, sets = folder / "episodes.csv", {part: folder / f"{part}.json" for part in (material.settings.model.prior, TDC)}
    fold_list = read_fold_list(folder / "lists" / "fold0" / "test.csv")
    write_manifest(manifest, make_manifest(fold_list, 1, 0, EPISODES, "image"))
    made = Provenance(stage="records", inputs={"episodes": file_digest(manifest), "features": file_digest(features)})
    for part, out in sets.items():
        one = Round(0, manifest, out, made)
        make_records(material.settings, part, [one], folder / "base.safetensors", features, material.device)
    return EpisodeRecords(sets, manifest, features), read_manifest(manifest)
