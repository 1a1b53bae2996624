"""The figures of an experiment, from its tables and journals, the counts of its episodes, and what its rows saw of some of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from symnet.artifacts import Provenance, file_digest, read_manifest, write_manifest
from symnet.cases import Gallery, read_gallery
from symnet.cells import Cell
from symnet.episode_counts import read_episode_counts
from symnet.journal import Run, read_journal
from symnet.report.charts import ablation_bars, class_bars, training_curves
from symnet.report.grids import episode_grid, region_grid
from symnet.report.sizes import size_scatter
from symnet.report.style import save_figure, style

STAGE = "figures"


def make_figures(
    root: Path,
    out: Path,
    cells: Sequence[Cell],
    seeds: Sequence[int],
    galleries: Sequence[Path],
    tables: Sequence[str],
    scorings: Mapping[str, str],
    trained_rows: Collection[str],
) -> list[Path]:
    """Draw the figures of the experiment under `root` into `out`; figures.json there tells the sums of what they show. Returns them.

    classes-DATASET-SHOTshot: IoU by class; sizes-...: by the size of the object; NAME-...: each of `tables`, those that the experiment
    defines; curves-...: how training went; episodes-..., regions-... and failures-DATASET-foldN-SHOTshot: what `galleries` show.
    scorings: by data set, which one counts; trained_rows: those that have journals.
    """
    read_manifest(root / "tables" / "tables.json", "tables")
    per_class, shown = pd.read_csv(root / "tables" / "per_class.csv"), [read_gallery(path) for path in galleries]
    made: list[Path] = []
    with style():
        for dataset, shot in dict.fromkeys((cell.dataset, cell.shot) for cell in cells):
            end = f"{dataset}-{shot}shot"
            made += save_figure(class_bars(per_class, dataset, shot, scorings[dataset]), out / f"classes-{end}")
            here = [cell for cell in cells if (cell.dataset, cell.shot) == (dataset, shot)]
            rounds = {row: [read_episode_counts(cell.episodes(root, seed)) for cell in own for seed in seeds] for row, own in _by_row(here)}
            made += save_figure(size_scatter(rounds, scorings[dataset]), out / f"sizes-{end}")
            for name in tables:
                rows = pd.read_csv(root / "tables" / f"{name}.csv")
                rows = rows[(rows["dataset"] == dataset) & (rows["shot"] == shot)]
                made += save_figure(ablation_bars(rows), out / f"{name}-{end}")
            trained = [cell for cell in here if cell.method in trained_rows]
            if trained:
                made += save_figure(training_curves(_runs(root, trained)), out / f"curves-{end}")
            made += _of_galleries([one for one in shown if (one.dataset, one.shot) == (dataset, shot)], out, end)
    inputs = {path.name: file_digest(path) for path in sorted((root / "tables").glob("*.csv"))}
    write_manifest(out / "figures.json", made, Provenance(stage=STAGE, inputs=inputs))
    return made


def _by_row(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for row in dict.fromkeys(cell.method for cell in cells):
        yield row, [cell for cell in cells if cell.method == row]


def _of_galleries(galleries: Sequence[Gallery], out: Path, end: str) -> list[Path]:
    """What the galleries of a data set and shot show."""
    made: list[Path] = []
    chosen = [gallery for gallery in galleries if any(not case.failure for case in gallery.cases)]
    with_regions = [gallery for gallery in chosen if gallery.taus]
    if chosen:
        made += save_figure(episode_grid(chosen, failure=False), out / f"episodes-{end}")
    if with_regions:
        made += save_figure(region_grid(with_regions), out / f"regions-{end}")
    for one in galleries:
        if any(case.failure for case in one.cases):
            made += save_figure(episode_grid([one], failure=True), out / f"failures-{one.dataset}-fold{one.fold}-{one.shot}shot")
    return made


def _runs(root: Path, cells: list[Cell]) -> dict[str, list[Run]]:
    """The last training run of each cell that has one, by row."""
    found: dict[str, list[Run]] = {}
    for cell in cells:
        if cell.journal(root).is_file() and (runs := read_journal(cell.journal(root))):
            found.setdefault(cell.method, []).append(runs[-1])
    return found
