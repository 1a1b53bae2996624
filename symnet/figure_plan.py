"""Which figures an experiment has, and what the episodes in them are made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symnet.cells import Cell, fold_folder, gallery_file
from symnet.methods import METHODS
from symnet.shown import Choice, choice_of, files_of

if TYPE_CHECKING:
    from symnet.plan import Plan

# beside the charts of an experiment's own tables
KINDS = ("classes", "sizes", "ranks", "costs", "curves", "episodes", "regions", "failures")


@dataclass(frozen=True)
class Figure:
    """A figure of a data set and shot, of all folds or of one."""

    kind: str
    dataset: str
    shot: int
    fold: int | None = None

    @property
    def stem(self) -> str:
        """Name of its files."""
        of_fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.kind}-{self.dataset}{of_fold}-{self.shot}shot"

    @property
    def caption(self) -> str:
        """Name of the text below it in the report: an experiment's own tables share one."""
        return f"figure_{self.kind if self.kind in KINDS else 'ablation'}"

    @property
    def labels(self) -> dict[str, str]:
        """As the report shows them."""
        fold = "all" if self.fold is None else str(self.fold)
        return {"figure": self.kind, "data set": self.dataset, "shots": str(self.shot), "fold": fold}


class FigurePlan:
    """The figures of a plan, and its galleries: what the rows of a fold saw of the episodes that figures show."""

    def __init__(self, plan: "Plan") -> None:
        """Raises `UserError` for settings that name what the experiment does not have."""
        self.plan = plan
        self.choices = {name: [choice_of(plan.experiment, name, fold) for fold in plan.folds(name)] for name in plan.datasets}

    def choice(self, dataset: str, fold: int | str) -> Choice:
        """Which episodes of a fold are shown, and to which rows."""
        return self.choices[dataset][int(fold)]

    def options(self, dataset: str, fold: int | str) -> list[str]:
        """The choice, for the command."""
        return [word for name, value in self.choice(dataset, fold).options().items() for word in (f"--{name}", value)]

    def gallery(self, dataset: str, fold: int, shot: int) -> Path:
        """The file of a fold's gallery."""
        return gallery_file(fold_folder(self.plan.folder, dataset, self.plan.backbone(dataset), fold), shot)

    def galleries(self) -> list[str]:
        """The files of all galleries in which something is shown."""
        shown = [(name, fold) for name, choices in self.choices.items() for fold, choice in enumerate(choices) if not choice.empty]
        return [str(self.gallery(dataset, fold, shot)) for dataset, fold in shown for shot in self.plan.shots]

    def inputs(self, dataset: str, fold: int | str, shot: int | str) -> list[str]:
        """The files that a gallery is made of, but for the list."""
        plan, choice = self.plan, self.choice(dataset, fold)
        cells = {Cell(dataset, plan.backbone(dataset), int(fold), row, int(shot)): plan.method_of(row) for row in choice.rows}
        return list(map(str, files_of(plan.folder, cells, choice.seed)))

    def all(self) -> list[Figure]:
        """Every figure of the experiment."""
        plan = self.plan
        trained = any(METHODS[plan.method_of(row)].trained for row in plan.rows)
        charts = ["classes", "sizes", "ranks", "costs", *["curves"] * trained, *plan.experiment.tables]
        found = [Figure(kind, dataset, shot) for kind in charts for dataset in plan.datasets for shot in plan.shots]
        for dataset, choices in self.choices.items():
            if any(choice.shows_chosen for choice in choices):
                grids = ["episodes", *["regions"] * self._has_regions(dataset)]
                found += [Figure(kind, dataset, shot) for kind in grids for shot in plan.shots]
            with_failures = [fold for fold, choice in enumerate(choices) if choice.failures]
            found += [Figure("failures", dataset, shot, fold) for fold in with_failures for shot in plan.shots]
        return found

    def file(self, figure: Figure, end: str) -> str:
        """Where one of them lies, .pdf or .png."""
        return str(self.plan.folder / "figures" / f"{figure.stem}{end}")

    def files(self, end: str) -> list[str]:
        """All of them in one format."""
        return [self.file(figure, end) for figure in self.all()]

    def words(self) -> dict[str, str]:
        """Of each data set, for captions, which episodes its figures show."""
        return {name: choices[0].words(self.plan.settings(name).protocol.scoring) for name, choices in self.choices.items()}

    def _has_regions(self, dataset: str) -> bool:
        """Whether thresholds select regions of the prior in the row whose regions are shown."""
        plan, row = self.plan, self.choices[dataset][0].subject
        uses = "model" in METHODS[plan.method_of(row)].settings
        return uses and any(plan.settings(dataset, fold, row).model.apa for fold in plan.folds(dataset))
