"""Which figures an experiment has, and what the episodes in them are made of."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from symnet.cells import Cell, fold_folder, gallery_file
from symnet.data.classes import class_names
from symnet.methods import METHODS
from symnet.shown import Choice, choice_of, files_of

if TYPE_CHECKING:
    from symnet.plan import Plan

# beside the charts of an experiment's own tables
KINDS = ("classes", "sizes", "ranks", "costs", "curves", "episodes", "regions", "failures")
ROWS = 10  # episodes, at most, on a page of a grid


@dataclass(frozen=True)
class Figure:
    """A figure of a data set and shot, of all folds or of one; a grid of many episodes is several of them, `page` (from 1) of `pages`."""

    kind: str
    dataset: str
    shot: int
    fold: int | None = None
    page: int = 1
    pages: int = 1

    @property
    def name(self) -> str:
        """Of all its pages."""
        of_fold = "" if self.fold is None else f"-fold{self.fold}"
        return f"{self.kind}-{self.dataset}{of_fold}-{self.shot}shot"

    @property
    def stem(self) -> str:
        """Name of its files."""
        return self.name if self.pages == 1 else f"{self.name}-{self.page}"

    @property
    def caption(self) -> str:
        """Name of the text below it in the report: an experiment's own tables share one."""
        return f"figure_{self.kind if self.kind in KINDS else 'ablation'}"

    @property
    def labels(self) -> dict[str, str]:
        """As the report shows them."""
        fold = "all" if self.fold is None else str(self.fold)
        return {
            "figure": self.kind,
            "data set": self.dataset,
            "shots": str(self.shot),
            "fold": fold,
            "page": f"{self.page} of {self.pages}",
        }


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
        return [*found, *(page for dataset in self.choices for page in self._grids(dataset))]

    def pages(self) -> dict[str, int]:
        """The figures of more than one page, by name: how many."""
        return {one.name: one.pages for one in self.all() if one.pages > 1}

    def file(self, figure: Figure, end: str) -> str:
        """Where one of them lies, .pdf or .png."""
        return str(self.plan.folder / "figures" / f"{figure.stem}{end}")

    def files(self, end: str) -> list[str]:
        """All of them in one format."""
        return [self.file(figure, end) for figure in self.all()]

    def words(self) -> dict[str, str]:
        """Of each data set, for captions, which episodes its figures show."""
        return {name: choices[0].words(self.plan.settings(name).protocol.scoring) for name, choices in self.choices.items()}

    def _grids(self, dataset: str) -> Iterator[Figure]:
        """Of a data set. How many pages they have is known before anything was tested: a class without episodes leaves room on its page."""
        plan, choices, settings = self.plan, self.choices[dataset], self.plan.settings(dataset)
        classes = len(class_names(settings.data.classes)) // settings.data.folds
        chosen = sum(choice.at_most(classes) for choice in choices)
        kinds = ["episodes", *["regions"] * self._has_regions(dataset)]
        grids: list[tuple[str, int | None, int]] = [(kind, None, chosen) for kind in kinds]
        grids += [("failures", fold, min(choice.failures * classes, settings.protocol.episodes)) for fold, choice in enumerate(choices)]
        for kind, fold, episodes in grids:
            pages = ceil(episodes / ROWS)
            yield from (Figure(kind, dataset, shot, fold, page, pages) for shot in plan.shots for page in range(1, pages + 1))

    def _has_regions(self, dataset: str) -> bool:
        """Whether thresholds select regions of the prior in the row whose regions are shown."""
        plan, row = self.plan, self.choices[dataset][0].subject
        uses = "model" in METHODS[plan.method_of(row)].settings
        return uses and any(plan.settings(dataset, fold, row).model.apa for fold in plan.folds(dataset))
