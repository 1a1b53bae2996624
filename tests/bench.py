"""What training and evaluation read, in one folder: lists, vectors, base learner and features of a handful of drawn images."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from symnet import train
from symnet.artifacts import Provenance
from symnet.base_learner import train_base
from symnet.config import Settings
from symnet.data.folds import make_folds
from symnet.data.shapes import draw_shapes
from symnet.embeddings import make_embeddings
from symnet.experiment import Experiment, make_experiment
from symnet.features import make_features
from symnet.keeper import Run
from symnet.parallel import ALONE, Ranks
from symnet.stages import restrict
from tests.workflow.conftest import TINY

CPU = torch.device("cpu")


@dataclass
class Bench:
    """A folder with everything that training and evaluation of fold 0 read."""

    root: Path
    experiment: Experiment

    def settings(self, stage: str, method: str | None = None, selection: str = "base_val", **train: Any) -> Settings:
        """Of a stage, with the selection and some of `train` changed."""
        settings = self.experiment.settings("shapes", 0)
        protocol = settings.protocol.model_copy(update={"selection": selection})
        changed = settings.model_copy(update={"train": settings.train.model_copy(update=train), "protocol": protocol})
        return restrict(changed, stage, method)

    def list(self, split: str) -> Path:
        return self.root / "lists" / "fold0" / f"{split}.csv"

    @property
    def inputs(self) -> train.Inputs:
        return train.Inputs(
            self.list("train"), self.root / "base.safetensors", self.root / "vectors.csv", self.root / "features_train.json"
        )

    def train(
        self,
        out: Path,
        inputs: train.Inputs | None = None,
        checkpoint_seconds: float = 300,
        ranks: Ranks = ALONE,
        method: str = "symnet",
        **settings: Any,
    ) -> Path:
        """Train a method for some steps; the same `out` goes on where it was. settings: the selection, or of the section train.

        Its state lies in the folder, its journal in the .jsonl of the same name.
        """
        provenance = Provenance(stage="train", settings="s")
        run = Run(method, 1, out.with_suffix(""), out.with_suffix(".jsonl"), provenance, {}, checkpoint_seconds)
        train.train(self.settings("train", method, **settings), self.root, inputs or self.inputs, run, out, CPU, ranks=ranks)
        return out


def build(root: Path, **sections: dict) -> Bench:
    """TINY's benchmark, with some settings changed, up to training."""
    settings = copy.deepcopy(TINY)
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    bench = Bench(root, make_experiment(settings, "tiny"))
    draw_shapes(bench.settings("shapes").shapes, root / "data" / "shapes", workers=2)
    make_folds(bench.settings("folds"), root, root / "lists")
    make_embeddings(bench.settings("embeddings"), root, root / "vectors.csv")
    provenance = Provenance(stage="base")
    train_base(bench.settings("base"), root, root, bench.list("train"), 0, root / "base.safetensors", CPU, provenance)
    for split in ("train", "test"):
        stage = Provenance(stage="features", settings=split)
        out = root / f"features_{split}.json"
        make_features(bench.settings(f"features_{split}"), root, bench.list(split), split, bench.inputs.base, out, CPU, stage)
    return bench
