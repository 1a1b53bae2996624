"""What the workflow has to make: read by the Snakefile, which names files and calls commands and knows nothing else.

Reading the plan keeps two kinds of file true, each rewritten only when its content changes: a JSON per job with exactly the settings
it depends on, and, where a data set was indexed before, the fold lists (so that a changed image reruns its own folds and no other).
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from symnet.artifacts import write_text_if_changed
from symnet.backbones import weights_path
from symnet.cells import Cell, fold_folder
from symnet.config import Experiment, Settings, make_experiment
from symnet.data.folds import refresh_folds
from symnet.methods import METHODS
from symnet.stages import code_hash, restrict, slice_settings

SAMPLE = 1 << 20  # bytes read at each end of a large file to tell whether it changed


class Plan:
    """An experiment as files to make. `write`: keep settings and fold lists true (the main process only)."""

    def __init__(self, config: Mapping[str, Any], where: str, write: bool) -> None:
        self.experiment: Experiment = make_experiment(config, where)
        self.folder = self.experiment.folder
        self.datasets = list(self.experiment.datasets)
        self.shots, self.seeds = list(self.experiment.shots), list(self.experiment.seeds)
        self.methods = list(self.experiment.methods)
        if write:
            for path, text in self._slices():
                write_text_if_changed(path, text)
            for dataset in self.datasets:
                settings = restrict(self.settings(dataset), "folds")
                refresh_folds(settings, self.data_root(dataset), self.folder / dataset / "lists")

    def settings(self, dataset: str, fold: int | None = None) -> Settings:
        """Merged settings of a data set, or of one of its folds."""
        return self.experiment.settings(dataset, fold)

    def folds(self, dataset: str) -> list[int]:
        """0 .. folds - 1."""
        return list(range(self.settings(dataset).data.folds))

    def backbone(self, dataset: str) -> str:
        """Name of the data set's backbone."""
        return self.settings(dataset).backbone.name

    def data_root(self, dataset: str) -> Path:
        """Folder that `data.root` is relative to: the experiment's own for data it draws, else the data root."""
        return self.folder if self.settings(dataset).data.source == "shapes" else self.experiment.root

    def cells(self) -> list[Cell]:
        """Every cell of the benchmark."""
        return [
            Cell(dataset, self.backbone(dataset), fold, method, shot)
            for dataset in self.datasets
            for fold in self.folds(dataset)
            for method in self.methods
            for shot in self.shots
        ]

    def metric_files(self) -> list[str]:
        """Every metric file of the benchmark."""
        return [str(cell.metrics(self.folder, seed)) for cell in self.cells() for seed in self.seeds]

    def slice_path(self, stage: str, dataset: str = "", fold: int | str | None = None, method: str = "") -> str:
        """The JSON that holds what a job depends on."""
        parts = [part for part in (dataset, "" if fold is None else f"fold{fold}") if part]
        return str(Path(self.folder, "settings", *parts, f"{stage}{'-' + method if method else ''}.json"))

    def code(self, stage: str, dataset: str = "", method: str = "") -> str:
        """Hash of the code that a job runs."""
        return code_hash(stage, method or None, self.backbone(dataset) if dataset else None)

    def cached(self, split: str, dataset: str, fold: int | str) -> bool:
        """Whether the fold's features of a split are cached in HDF5, or recomputed by those who need them."""
        features = self.settings(dataset, int(fold)).features
        return features.cache_test if split == "test" else features.train_views > 0

    def cache_file(self, split: str, dataset: str, fold: int | str) -> list[str]:
        """The fold's feature cache of a split; none where it is not cached."""
        folder = fold_folder(self.folder, dataset, self.backbone(dataset), int(fold))
        return [str(folder / f"features_{split}.json")] if self.cached(split, dataset, fold) else []

    def model_file(self, dataset: str, fold: int | str, method: str, shot: int | str) -> list[str]:
        """The cell's trained weights; none for a method that is not trained."""
        cell = Cell(dataset, self.backbone(dataset), int(fold), method, int(shot))
        return [str(cell.folder(self.folder) / "model.safetensors")] if METHODS[method].trained else []

    def export(self) -> None:
        """Tell jobs, by the environment, where they run: that is no reason to run them again, so it is no parameter."""
        os.environ["SYMNET_PYTHON"] = sys.executable
        os.environ["SYMNET_DATA"] = str(self.experiment.root)
        os.environ["SYMNET_RESULTS"] = str(self.folder)
        os.environ["SYMNET_DEVICE"] = self.experiment.device

    def weights_mark(self, dataset: str) -> str:
        """Changes when the file of backbone weights does; empty where it is absent."""
        return mark(weights_path(self.settings(dataset).backbone, self.experiment.root))

    def vectors_mark(self, dataset: str) -> str:
        """Changes when the file of word vectors does; empty where it is absent."""
        source = self.settings(dataset).text.source
        return "" if source == "shapes" else mark(self.experiment.root / source)

    def missing(self) -> list[str]:
        """One line for each thing that has to be there and is not: what, from where it comes, where it goes."""
        lines = []
        for dataset in self.datasets:
            settings, root = self.settings(dataset), self.experiment.root
            place = "under data_root (a key of the experiment file, or SYMNET_DATA)"
            if settings.data.source != "shapes" and not (root / settings.data.root).is_dir():
                what = {"voc": "images and index masks", "coco": "images and annotations"}[settings.data.source]
                lines.append(
                    f"{dataset}: {what} are missing: put the data set's folder at {root / settings.data.root}, {place}; {ORIGIN['data']}"
                )
            weights = weights_path(settings.backbone, root)
            if not weights.is_file():
                what = f"ImageNet weights of {settings.backbone.name}"
                lines.append(f"{dataset}: {what} are missing: put them at {weights}, {place}; {ORIGIN['weights']}")
            if settings.text.source != "shapes" and not (root / settings.text.source).is_file():
                lines.append(
                    f"{dataset}: word vectors are missing: put them at {root / settings.text.source}, {place}; {ORIGIN['vectors']}"
                )
        return lines

    def _slices(self) -> Iterator[tuple[str, str]]:
        """Path and text of every settings file."""
        expected = [cell.as_dict() for cell in self.cells()]
        yield self.slice_path("tables"), json.dumps({"cells": expected, "seeds": self.seeds}, indent=1) + "\n"
        for dataset in self.datasets:
            for stage in ("shapes", "folds", "embeddings"):
                yield self._slice(stage, dataset, None)
            for fold in self.folds(dataset):
                for stage in ("episodes", "base", "features_test", "features_train"):
                    yield self._slice(stage, dataset, fold)
                for method in self.methods:
                    for stage in ("train", "evaluate"):
                        yield self._slice(stage, dataset, fold, method)

    def _slice(self, stage: str, dataset: str, fold: int | None, method: str = "") -> tuple[str, str]:
        values = slice_settings(self.settings(dataset, fold), stage, method or None)
        return self.slice_path(stage, dataset, fold, method), json.dumps(values, indent=1) + "\n"


ORIGIN = {
    "data": "sources and checksums in README.md, 'Data'",
    "weights": "the deep-stem file is pretrained_resnet/resnet50-imagenet.pth of the MIT scene parsing benchmark (README.md, 'Data')",
    "vectors": "GoogleNews-vectors-negative300.bin.gz of the word2vec project, or gensim's word2vec-google-news-300 (README.md, 'Data')",
}


def mark(path: Path) -> str:
    """A short digest that changes with a file's content; of a large file, its size and both ends. Empty where it is absent."""
    if not path.is_file():
        return ""
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        total.update(file.read(SAMPLE))
        file.seek(max(0, size - SAMPLE))
        total.update(file.read(SAMPLE))
    return total.hexdigest()[:16]
