"""What the workflow has to make: read by the Snakefile, which names files and calls commands and knows nothing else.

Reading the plan keeps two kinds of file true, each rewritten only when its content changes: a JSON per job with exactly the settings
it depends on, and, where a data set was indexed before, the fold lists (so that a changed image reruns its own folds and no other).
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from symnet.artifacts import mark, write_text_if_changed
from symnet.cells import Cell, fold_folder, lists_folder, record_set
from symnet.config import Settings
from symnet.data.folds import refresh_folds
from symnet.experiment import Experiment, make_experiment
from symnet.figure_plan import FigurePlan
from symnet.methods import METHODS
from symnet.report import PUBLISHED, PUBLISHED_RESULTS, PUBLISHED_SETS
from symnet.report.counts import PUBLISHED_COUNTS
from symnet.stages import code_hash, code_of, restrict, slice_settings
from symnet.supplies import Supplies


class Plan:
    """An experiment as files to make. `write`: keep settings and fold lists true (the main process only)."""

    def __init__(self, config: Mapping[str, Any], where: str, write: bool) -> None:
        self.experiment: Experiment = make_experiment(config, where)
        self.folder = self.experiment.folder
        self.datasets = list(self.experiment.datasets)
        self.shots, self.seeds = list(self.experiment.shots), list(self.experiment.seeds)
        self.rows = list(self.experiment.methods)
        self.figures = FigurePlan(self)
        self.supplies = Supplies(self.experiment, write)
        if write:
            for path, text in self._slices():
                write_text_if_changed(path, text)
            for dataset in self.datasets:
                settings = restrict(self.settings(dataset), "folds")
                refresh_folds(settings, self.data_root(dataset), self.folder / dataset / "lists")

    def settings(self, dataset: str, fold: int | None = None, row: str | None = None) -> Settings:
        """Merged settings of a data set, of one of its folds, of one row in it."""
        return self.experiment.settings(dataset, fold, row)

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
            Cell(dataset, self.backbone(dataset), fold, row, shot)
            for dataset in self.datasets
            for fold in self.folds(dataset)
            for row in self.rows
            for shot in self.shots
        ]

    def metric_files(self) -> list[str]:
        """Every metric file of the benchmark."""
        return [str(cell.metrics(self.folder, seed)) for cell in self.cells() for seed in self.seeds]

    def table_files(self, *ends: str) -> list[str]:
        """The tables beside the main one, in these formats: a paper's, one a data set, and those that the experiment defines; as LaTeX
        and HTML also what scorings.csv and per_class.csv hold.
        """
        names = [*(f"paper-{dataset}" for dataset in self.datasets), *self.experiment.tables]
        detail = ["scorings", *(f"classes-{dataset}-{shot}shot" for dataset in self.datasets for shot in self.shots)]
        return [str(self.folder / "tables" / f"{name}{end}") for end in ends for name in names + detail * (end != ".csv")]

    def luck_files(self, *ends: str) -> list[str]:
        """The tables of what is luck, in these formats."""
        return [str(self.folder / "tables" / f"{name}{end}") for end in ends for name in ("differences", "ranks", "sizes")]

    def cost_files(self, *ends: str) -> list[str]:
        """The table of what rows cost, in these formats."""
        return [str(self.folder / "tables" / f"costs{end}") for end in ends]

    def episode_files(self) -> list[str]:
        """What every round counted of each of its episodes."""
        return [str(cell.episodes(self.folder, seed)) for cell in self.cells() for seed in self.seeds]

    def slice_path(self, stage: str, dataset: str = "", fold: int | str | None = None, row: str = "") -> str:
        """The JSON that holds what a job depends on."""
        parts = [part for part in (dataset, "" if fold is None else f"fold{fold}") if part]
        return str(Path(self.folder, "settings", *parts, f"{stage}{'-' + row if row else ''}.json"))

    def method_of(self, row: str) -> str:
        """The method behind a row."""
        return self.experiment.method_of(row)

    def code(self, stage: str, dataset: str = "", row: str = "") -> str:
        """Hash of the code that a job runs."""
        return code_hash(stage, self.method_of(row) if row else None, self.backbone(dataset) if dataset else None)

    def cached(self, split: str, dataset: str, fold: int | str) -> bool:
        """Whether the fold's features of a split are cached in HDF5, or recomputed by those who need them."""
        features = self.settings(dataset, int(fold)).features
        return features.cache_test if split == "test" else features.train_views > 0

    def cache_file(self, split: str, dataset: str, fold: int | str, row: str = "") -> list[str]:
        """The fold's feature cache of a split; none where it is not cached. row: that reads it; one that is fed images needs the training
        cache for its views, and no other.
        """
        folder = fold_folder(self.folder, dataset, self.backbone(dataset), int(fold))
        unread = split == "test" and row and METHODS[self.method_of(row)].images
        return [str(folder / f"features_{split}.json")] if self.cached(split, dataset, fold) and not unread else []

    def record_files(self, dataset: str, fold: int | str, row: str, shot: int | str) -> list[str]:
        """The episode records that a row's tests read; none where its method reads none, where they are off, or without a feature cache."""
        settings = self.settings(dataset, int(fold), row)
        if not (settings.features.records and settings.features.cache_test):
            return []
        folder = fold_folder(self.folder, dataset, self.backbone(dataset), int(fold)) / "records"
        parts = METHODS[self.method_of(row)].records(settings)
        return [str(record_set(folder, part, shot, seed)) for part in parts for seed in self.seeds]

    def store_files(self) -> list[str]:
        """The image stores of those data sets that have one."""
        return [str(self._store(dataset)) for dataset in self.datasets if self.settings(dataset).store.images]

    def store_option(self, dataset: str, input: object) -> list[str]:
        """Where a job looks for decoded images. `input` is there for Snakemake, which does not record what is a function of it: a store
        switched on or off reruns nothing.
        """
        return ["--store", str(self._store(dataset))] if self.settings(dataset).store.images else []

    def _store(self, dataset: str) -> Path:
        return self.folder / dataset / "store.json"

    @staticmethod
    def records_folder(base: str) -> str:
        """Where the records of a fold lie: beside its base learner."""
        return str(Path(base).parent / "records")

    def base_files(self) -> list[str]:
        """What was measured of each base learner."""
        return list(dict.fromkeys(str(cell.base(self.folder)) for cell in self.cells()))

    def base_list(self, dataset: str, fold: int | str) -> str:
        """The image list that the fold's base learner trains on."""
        folder = self.folder / dataset / "lists" if self.settings(dataset, int(fold)).base.images == "all" else None
        return str((folder or lists_folder(self.folder, dataset, int(fold))) / "train.csv")

    def test_files(self, dataset: str, fold: int | str, row: str) -> dict[str, str]:
        """Option to file: what training reads of the fold's test images. None but for selection test_best: theirs must retrain no other."""
        if self.settings(dataset, int(fold), row).protocol.selection != "test_best":
            return {}
        found = {"--test-list": str(lists_folder(self.folder, dataset, int(fold)) / "test.csv")}
        for path in self.cache_file("test", dataset, fold, row):
            found["--test-features"] = path
        return found

    def model_file(self, dataset: str, fold: int | str, row: str, shot: int | str) -> list[str]:
        """The cell's trained weights; none for a method that is not trained."""
        cell = Cell(dataset, self.backbone(dataset), int(fold), row, int(shot))
        return [str(cell.folder(self.folder) / "model.safetensors")] if METHODS[self.method_of(row)].trained else []

    def deadline_option(self, resources: Mapping[str, Any]) -> list[str]:
        """When a training job has to save and leave: before its time limit, where it has one. Ten minutes of it, or half of a short one,
        are for starting, the last step and saving. Snakemake does not record a function of resources: another limit retrains nothing.
        """
        minutes = resources.get("runtime")
        return ["--deadline", str(60 * minutes - min(600, 30 * minutes))] if isinstance(minutes, int) else []

    def processes_option(self, resources: Mapping[str, Any]) -> list[str]:
        """As many processes as a training job has GPUs, where it has several. No parameter either: they share the batch."""
        gpus = resources.get("gpu")
        return ["--processes", str(gpus)] if isinstance(gpus, int) and gpus > 1 else []

    def export(self) -> None:
        """Tell jobs, by the environment, where they run: that is no reason to run them again, so it is no parameter."""
        os.environ["SYMNET_PYTHON"] = sys.executable
        os.environ["SYMNET_DATA"] = str(self.experiment.root)
        os.environ["SYMNET_RESULTS"] = str(self.folder)
        os.environ["SYMNET_DEVICE"] = self.experiment.device
        # glibc: keep what a step frees for the next. Large tensors otherwise come and go page by page: a tenth to a third of a CPU step.
        os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
        os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(1 << 33))

    def code_of(self, stage: str, dataset: str = "", row: str = "") -> dict[str, str]:
        """That code, by module."""
        return code_of(stage, self.method_of(row) if row else None, self.backbone(dataset) if dataset else None)

    def slice_of(self, stage: str, dataset: str, fold: int | None = None, row: str = "") -> dict[str, Any]:
        """The plain values that a job depends on."""
        return slice_settings(self.settings(dataset, fold, row or None), stage, self.method_of(row) if row else None)

    @staticmethod
    def published_mark() -> str:
        """Changes when the published figures and counts, printed beside ours, do."""
        return mark(PUBLISHED) + mark(PUBLISHED_COUNTS) + mark(PUBLISHED_RESULTS)

    def _published(self) -> dict[str, str]:
        """Data sets beside whose rows published ones are shown, and their names in the published figures."""
        kinds = {dataset: self.settings(dataset).data.classes for dataset in self.datasets if self.experiment.published}
        return {dataset: PUBLISHED_SETS[kind] for dataset, kind in kinds.items() if isinstance(kind, str) and kind in PUBLISHED_SETS}

    def expected(self) -> dict[str, Any]:
        """What the tables are to hold: every cell and seed, rows and their methods, own tables, groups of classes."""
        return {
            "cells": [cell.as_dict() for cell in self.cells()],
            "seeds": self.seeds,
            "tables": {name: table.model_dump() for name, table in self.experiment.tables.items()},
            "groups": self.experiment.groups,
            "rows": {row: self.method_of(row) for row in self.rows},
            "published": self._published(),
            "galleries": [str(Path(path).relative_to(self.folder)) for path in self.figures.galleries()],
            "pages": self.figures.pages(),
            "scorings": {dataset: self.settings(dataset).protocol.scoring for dataset in self.datasets},
        }

    def _slices(self) -> Iterator[tuple[str, str]]:
        """Path and text of every settings file."""
        yield self.slice_path("tables"), json.dumps(self.expected(), indent=1) + "\n"
        for dataset in self.datasets:
            for stage in ("shapes", "masks", "folds", "counts", "store", "embeddings"):
                yield self._slice(stage, dataset, None)
            for fold in self.folds(dataset):
                for stage in ("episodes", "base", "features_test", "features_train", "records"):
                    yield self._slice(stage, dataset, fold)
                for row in self.rows:
                    for stage in ("train", "evaluate"):
                        yield self._slice(stage, dataset, fold, row)

    def _slice(self, stage: str, dataset: str, fold: int | None, row: str = "") -> tuple[str, str]:
        return self.slice_path(stage, dataset, fold, row), json.dumps(self.slice_of(stage, dataset, fold, row), indent=1) + "\n"


def alternatives(names: Iterable[str]) -> str:
    """A wildcard constraint that allows these names alone; of none of them, nothing."""
    return "|".join(map(re.escape, names)) or "(?!)"
