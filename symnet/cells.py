"""Where things lie under results/{experiment}: the one place that knows the names of files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from symnet.artifacts import Provenance


@dataclass(frozen=True, order=True)
class Cell:
    """One trained and tested thing: what a column of a table's row is made of. The backbone is part of the path."""

    dataset: str
    backbone: str
    fold: int
    method: str
    shot: int

    def folder(self, root: Path) -> Path:
        """{root}/{dataset}/{backbone}/fold{fold}/{method}/shot{shot}, `root` being results/{experiment}."""
        return fold_folder(root, self.dataset, self.backbone, self.fold) / self.method / f"shot{self.shot}"

    def metrics(self, root: Path, seed: int) -> Path:
        """The counts of one test round."""
        return self.folder(root) / f"seed{seed}.json"

    def episodes(self, root: Path, seed: int) -> Path:
        """What each episode of that round gave."""
        return episodes_beside(self.metrics(root, seed))

    def base(self, root: Path) -> Path:
        """What was measured of the base learner that the cell rests on."""
        return fold_folder(root, self.dataset, self.backbone, self.fold) / "base.json"

    def journal(self, root: Path) -> Path:
        """The training run's journal. Not a declared output: the workflow must never delete it."""
        return root / "journals" / self.dataset / self.backbone / f"fold{self.fold}" / self.method / f"shot{self.shot}.jsonl"

    def state(self, root: Path, run: str) -> Path:
        """Checkpoints and lease of a training run, by its id. Not a declared output either."""
        return root / "state" / self.folder(Path()) / run[:12]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Round:
    """One seed: its manifest, what is to be written, and its provenance. `records`: its record sets by part, where there are some."""

    seed: int
    manifest: Path
    out: Path
    provenance: Provenance
    records: Mapping[str, Path] = field(default_factory=dict)


def episodes_beside(metrics: Path) -> Path:
    """Where the counts of a round's episodes lie: beside its metric file."""
    return metrics.with_name(f"{metrics.stem}-episodes.csv")


def fold_folder(root: Path, dataset: str, backbone: str, fold: int) -> Path:
    """What a fold's cells share: base learner and features."""
    return root / dataset / backbone / f"fold{fold}"


def lists_folder(root: Path, dataset: str, fold: int) -> Path:
    """A fold's image lists and episode manifests; they do not depend on the backbone."""
    return root / dataset / "lists" / f"fold{fold}"


def record_set(folder: Path, part: str, shot: int | str, seed: int | str) -> Path:
    """A round's record set; `folder` is `records` of a fold."""
    return folder / part / f"shot{shot}" / f"seed{seed}.json"


def gallery_file(folder: Path, shot: int | str) -> Path:
    """What the rows of a fold saw of the episodes that figures show; `folder` is the fold's."""
    return folder / "gallery" / f"shot{shot}" / "episodes.safetensors"
