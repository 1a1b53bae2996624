"""A finished run on pictures of one's own: supports with their masks in, masks of the queries out.

The pictures pass through what test images pass through: the same square, base learner and method. Only where they come from differs:
any size and format, EXIF rotation honoured, masks as people draw them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from symnet.backbones.base import load_exactly
from symnet.base_learner import BaseLearner, load_base
from symnet.cells import Cell, fold_folder
from symnet.checkpoint import load_tensors
from symnet.config import Settings
from symnet.data.classes import class_names
from symnet.data.images import IGNORE, Pixels
from symnet.data.transforms import Fitted, fit, unfit
from symnet.embeddings import class_vectors, read_embeddings
from symnet.errors import UserError, one_line
from symnet.explain import explain
from symnet.features import forward
from symnet.methods import METHODS, method_class
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.resize import resize
from symnet.stages import read_slice

BATCH = 4  # queries at once


@dataclass(frozen=True)
class Support:
    """A picture, uint8 [H, W, 3], and its mask, uint8 [H, W] in {0, 1, 255}."""

    image: Pixels
    mask: Pixels


@dataclass(frozen=True)
class Prediction:
    """Of one query, by output of the method: `soft`, the probability of foreground, float32 [H, W] at the picture's own size.

    `explained`: by name, what the method saw on the way, float32 [h, w] in [0, 1] over the picture's part of the square; empty where
    nobody asked.
    """

    soft: dict[str, np.ndarray]
    explained: dict[str, np.ndarray]

    def mask(self, output: str) -> Pixels:
        """uint8 [H, W], 1 where the output takes a pixel for foreground."""
        return (self.soft[output] > 0.5).astype(np.uint8)


@dataclass(frozen=True)
class FinishedRun:
    """Where a finished run lies, and what it was made with: `results/NAME/DATASET/BACKBONE/foldN/ROW/shotK`."""

    root: Path  # results/NAME
    cell: Cell
    method: str
    settings: Settings

    @property
    def model(self) -> Path:
        """Its weights; a method that is not trained has none."""
        return self.cell.folder(self.root) / "model.safetensors"


def find_run(place: Path) -> FinishedRun:
    """The run of a folder, or of a model file in it. Raises `UserError` where there is none."""
    folder = (place.parent if place.is_file() else place).absolute()
    parts = folder.parts[-5:]
    shaped = len(parts) == 5 and len(folder.parents) > 4 and parts[2][:4] == "fold" and parts[4][:4] == "shot"
    if not (shaped and parts[2][4:].isdecimal() and parts[4][4:].isdecimal()):
        raise UserError(f"{place}: not the folder of a run; give results/NAME/DATASET/BACKBONE/foldN/ROW/shotK")
    root, cell = folder.parents[4], Cell(parts[0], parts[1], int(parts[2][4:]), parts[3], int(parts[4][4:]))
    expected = root / "settings" / "tables.json"
    try:
        method = json.loads(expected.read_text(encoding="utf-8"))["rows"][cell.method]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{place}: no such row in {expected}; give a folder that the workflow made") from None
    settings = read_slice(root / "settings" / cell.dataset / f"fold{cell.fold}" / f"evaluate-{cell.method}.json", "evaluate", method)
    run = FinishedRun(root, cell, method, settings)
    if METHODS[method].trained and not run.model.is_file():
        raise UserError(f"{run.model}: not there: the run has not finished (`symnet status` tells)")
    return run


class Predictor:
    """A run, loaded for K supports."""

    def __init__(self, run: FinishedRun, shots: int, device: torch.device, data_root: Path) -> None:
        """data_root: of word vectors, for words that are none of the run's classes. Raises `UserError`."""
        self.run, self.shots, self.device, self.data_root = run, shots, device, data_root
        fold = fold_folder(run.root, run.cell.dataset, run.cell.backbone, run.cell.fold)
        self.base: BaseLearner = load_base(fold / "base.safetensors").to(device)
        self.names, self.vectors = read_embeddings(run.root / run.cell.dataset / "embeddings.csv")
        pixels = run.settings.pixels
        side = self.base.backbone.side(pixels.size)
        self.method: Method = method_class(run.method)(run.settings, self.base.backbone, shots, self.vectors.shape[1], side)
        if METHODS[run.method].trained:
            tensors, meta, _ = load_tensors(run.model, "train")
            try:
                load_exactly(self.method, tensors)
            except ValueError as error:
                raise UserError(
                    f"{run.model}: is a model of {meta['shots']} shots and does not fit {shots} supports ({one_line(error)}); "
                    f"give {meta['shots']} of --support, or another run"
                ) from None
        self.method.to(device).eval()

    def vector(self, word: str) -> np.ndarray:
        """The class vector, float32 [T]: the run's own where the word is one of its classes, else from its word vectors."""
        if word in self.names:
            return self.vectors[self.names.index(word)]
        text = read_slice(self.run.root / "settings" / self.run.cell.dataset / "embeddings.json", "embeddings").text
        try:
            return class_vectors([word], text, self.data_root)[0]
        except UserError as error:
            raise UserError(f"{error}; words that need none, the classes of this run: {', '.join(self.names)}") from None

    def seen(self, word: str) -> bool:
        """Whether the run was trained on the class: what it finds of it is then no few-shot segmentation."""
        names = class_names(self.run.settings.data.classes)
        return word in names and names.index(word) + 1 in self.base.classes

    @torch.no_grad()
    def predict(self, supports: Sequence[Support], queries: Sequence[Pixels], word: str, explained: bool = False) -> Iterator[Prediction]:
        """One prediction a query, in order. queries: uint8 [H, W, 3] of any size."""
        assert len(supports) == self.shots
        text = torch.from_numpy(self.vector(word).copy()).to(self.device)
        shown = [self._fit(one.image, one.mask) for one in supports]
        maps, _ = self._kept(shown)
        masks = torch.stack([one.mask for one in shown]).to(self.device)  # [K, S, S]
        for start in range(0, len(queries), BATCH):
            piece = queries[start : start + BATCH]
            fitted = [self._fit(image, np.zeros(image.shape[:2], np.uint8)) for image in piece]
            batch = self._batch(fitted, maps, masks, text)
            outputs = self.method.predict(self.base.backbone, batch)
            whys = explain(self.method, self.base.backbone, batch) if explained else {}
            for i, (image, one) in enumerate(zip(piece, fitted, strict=True)):
                yield Prediction(
                    {name: self._soft(logits[i], one, image) for name, logits in outputs.items()},
                    {name: self._cut(values[i], one) for name, values in whys.items()},
                )

    def _fit(self, image: Pixels, mask: Pixels) -> Fitted:
        pixels = self.run.settings.pixels
        return fit(image, mask, pixels.size, pixels.antialias)

    def _kept(self, fitted: Sequence[Fitted]) -> tuple[list[Tensor], Tensor | None]:
        """What the method keeps of pictures, [n, C, H, W] each, and the base logits, if any."""
        backbone, images = self.base.backbone, torch.stack([one.image for one in fitted]).to(self.device)
        if METHODS[self.run.method].images:
            return self.method.keep(backbone, [images], False), None
        maps, base = forward(self.base, images)
        blocks = self.method.blocks(backbone, False)
        return self.method.keep(backbone, maps if blocks is None else [maps[i] for i in blocks], False), base

    def _batch(self, fitted: Sequence[Fitted], maps: list[Tensor], masks: Tensor, text: Tensor) -> EpisodeBatch:
        """Every query beside the same supports: maps [K, C, H, W], masks [K, S, S], text [T]."""
        found, base = self._kept(fitted)
        count = len(fitted)
        return EpisodeBatch(
            query=found,
            support=[m.expand(count, *m.shape) for m in maps],  # [B, K, C, H, W]
            query_mask=torch.stack([one.mask for one in fitted]).to(self.device),
            support_mask=masks.expand(count, *masks.shape),
            base_logits=base,
            text=text.expand(count, -1),
            base_index=torch.full((count,), -1, device=self.device),
            base_head=self.base.head,
        )

    def _soft(self, logits: Tensor, fitted: Fitted, image: Pixels) -> np.ndarray:
        """Logits [2, h, w] -> probability of foreground at the picture's size."""
        full = resize(logits[None].float(), self.run.settings.pixels.size)
        back = unfit(full, (fitted.height, fitted.width), (image.shape[0], image.shape[1]))[0]  # [2, H, W]
        return back.softmax(0)[1].cpu().numpy()

    def _cut(self, values: Tensor, fitted: Fitted) -> np.ndarray:
        """[h, w] over the square -> the picture's part of it, at the square's resolution."""
        full = resize(values[None, None].float(), self.run.settings.pixels.size)[0, 0]
        return full[: fitted.height, : fitted.width].cpu().numpy()


def as_mask(drawn: Pixels, where: str, value: int | None = None) -> Pixels:
    """A mask as people draw it -> uint8 [H, W] in {0, 1, 255}. drawn: grey levels or indices, uint8 [H, W].

    `value` is the foreground; 255 is then 'ignore', unless it is the value. Without it: black and white means that white is the
    object; an index mask of one class, its 255 ignored, means that class. Raises `UserError` where that says nothing, or too much.
    """
    found = [int(v) for v in np.unique(drawn) if v != 0]
    classes = [v for v in found if v != IGNORE]
    if value is None:
        if len(classes) > 1:
            told = ", ".join(map(str, classes[:8])) + (", ..." if len(classes) > 8 else "")
            raise UserError(f"{where}: found mask values {told}; say which one is the object: --value N (or draw it white on black)")
        value = classes[0] if classes else IGNORE
    on = drawn == value
    if not on.any():
        raise UserError(f"{where}: no pixel of the object is marked (value {value}); values found: {found or 'none but 0'}")
    ignored = (drawn == IGNORE) & (value != IGNORE)
    return np.where(ignored, IGNORE, on).astype(np.uint8)
