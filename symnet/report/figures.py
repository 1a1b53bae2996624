"""The figures of an experiment, from its tables and journals."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pandas as pd

from symnet.artifacts import Provenance, file_digest, read_manifest, write_manifest
from symnet.cells import Cell
from symnet.journal import Run, read_journal
from symnet.report.charts import ablation_bars, class_bars, training_curves
from symnet.report.style import save_figure, style

STAGE = "figures"


def make_figures(
    root: Path, out: Path, cells: Sequence[Cell], tables: Sequence[str], scorings: Mapping[str, str], trained_rows: Collection[str]
) -> list[Path]:
    """Draw the figures of the experiment under `root` into `out`; figures.json there tells the sums of what they show. Returns them.

    classes-DATASET-SHOTshot: IoU by class; NAME-DATASET-SHOTshot: each of `tables`, those that the experiment defines;
    curves-DATASET-SHOTshot: how training went. scorings: by data set, which one counts; trained_rows: those
    that have journals.
    """
    read_manifest(root / "tables" / "tables.json", "tables")
    per_class = pd.read_csv(root / "tables" / "per_class.csv")
    made: list[Path] = []
    with style():
        for dataset, shot in dict.fromkeys((cell.dataset, cell.shot) for cell in cells):
            end = f"{dataset}-{shot}shot"
            made += save_figure(class_bars(per_class, dataset, shot, scorings[dataset]), out / f"classes-{end}")
            for name in tables:
                rows = pd.read_csv(root / "tables" / f"{name}.csv")
                rows = rows[(rows["dataset"] == dataset) & (rows["shot"] == shot)]
                made += save_figure(ablation_bars(rows), out / f"{name}-{end}")
            trained = [cell for cell in cells if (cell.dataset, cell.shot) == (dataset, shot) and cell.method in trained_rows]
            if trained:
                made += save_figure(training_curves(_runs(root, trained)), out / f"curves-{end}")
    inputs = {path.name: file_digest(path) for path in sorted((root / "tables").glob("*.csv"))}
    write_manifest(out / "figures.json", made, Provenance(stage=STAGE, inputs=inputs))
    return made


def _runs(root: Path, cells: list[Cell]) -> dict[str, list[Run]]:
    """The last training run of each cell that has one, by row."""
    found: dict[str, list[Run]] = {}
    for cell in cells:
        if cell.journal(root).is_file() and (runs := read_journal(cell.journal(root))):
            found.setdefault(cell.method, []).append(runs[-1])
    return found
