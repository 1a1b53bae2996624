"""The figures of an experiment, from its tables and journals, the counts of its episodes, and what its rows saw of some of them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from symnet.artifacts import Provenance, file_digest, read_manifest, write_manifest
from symnet.cases import Case, Gallery, read_gallery
from symnet.cells import Cell
from symnet.episode_counts import read_episode_counts
from symnet.journal import Run, read_journal
from symnet.progress import progress
from symnet.report.charts import ablation_bars, class_bars, training_curves
from symnet.report.grids import episode_grid, region_grid
from symnet.report.pareto import cost_figure, read_costs
from symnet.report.ranks import rank_figure
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
    pages: Mapping[str, int],
) -> list[Path]:
    """Draw the figures of the experiment under `root` into `out`; figures.json there tells the sums of what they show. Returns them.

    classes-DATASET-SHOTshot: IoU by class; sizes-...: by the size of the object; ranks-...: mean ranks; costs-...: mIoU against costs;
    NAME-...: each of `tables`, those that the experiment defines; curves-...: how training went; episodes-..., regions-... and
    failures-DATASET-foldN-SHOTshot: what `galleries` show.
    scorings: by data set, which one counts; trained_rows: those that have journals; pages: of figures that have several, how many: the
    figure is then one for each, its name and `-1`, `-2` and so on.
    """
    read_manifest(root / "tables" / "tables.json", "tables")
    read_manifest(root / "tables" / "luck.json", "luck")
    per_class, shown = pd.read_csv(root / "tables" / "per_class.csv"), [read_gallery(path) for path in galleries]
    ranks, costs = pd.read_csv(root / "tables" / "ranks.csv"), read_costs(root / "tables")
    drawings: dict[str, Callable[[], Figure]] = {}
    for dataset, shot in dict.fromkeys((cell.dataset, cell.shot) for cell in cells):
        end, scoring = f"{dataset}-{shot}shot", scorings[dataset]
        here = [cell for cell in cells if (cell.dataset, cell.shot) == (dataset, shot)]
        drawings[f"classes-{end}"] = partial(class_bars, per_class, dataset, shot, scoring)
        drawings[f"sizes-{end}"] = partial(_sizes, root, here, seeds, scoring)
        of = ranks[(ranks["dataset"] == dataset) & (ranks["shot"] == shot)]
        drawings[f"ranks-{end}"] = partial(rank_figure, list(of["method"]), list(of["rank"]), of["critical_difference"].iloc[0])
        drawings[f"costs-{end}"] = partial(cost_figure, costs[(costs["dataset"] == dataset) & (costs["shot"] == shot)])
        for name in tables:
            rows = pd.read_csv(root / "tables" / f"{name}.csv")
            drawings[f"{name}-{end}"] = partial(ablation_bars, rows[(rows["dataset"] == dataset) & (rows["shot"] == shot)])
        trained = [cell for cell in here if cell.method in trained_rows]
        if trained:
            drawings[f"curves-{end}"] = partial(_curves, root, trained)
        drawings |= _of_galleries([one for one in shown if (one.dataset, one.shot) == (dataset, shot)], end, pages)
    made: list[Path] = []
    with style():
        for name, draw in progress(drawings.items(), len(drawings), "figures"):
            made += save_figure(draw(), out / name)
    inputs = {path.name: file_digest(path) for path in sorted((root / "tables").glob("*.csv"))}
    write_manifest(out / "figures.json", made, Provenance(stage=STAGE, inputs=inputs))
    return made


def _sizes(root: Path, cells: Sequence[Cell], seeds: Sequence[int], scoring: str) -> Figure:
    """Of cells of a data set and shot."""
    rounds = {row: [read_episode_counts(cell.episodes(root, seed)) for cell in own for seed in seeds] for row, own in _by_row(cells)}
    return size_scatter(rounds, scoring)


def _curves(root: Path, cells: Sequence[Cell]) -> Figure:
    return training_curves(_runs(root, cells))


def _by_row(cells: Sequence[Cell]) -> Iterator[tuple[str, list[Cell]]]:
    for row in dict.fromkeys(cell.method for cell in cells):
        yield row, [cell for cell in cells if cell.method == row]


def _of_galleries(galleries: Sequence[Gallery], end: str, pages: Mapping[str, int]) -> dict[str, Callable[[], Figure]]:
    """What the galleries of a data set and shot show."""
    drawings: dict[str, Callable[[], Figure]] = {}

    def add(name: str, cases: list[Case], draw: Callable[[Sequence[Case]], Figure]) -> None:
        count = pages.get(name, 1)
        for page in range(count if cases else 0):
            own = cases[page * len(cases) // count : (page + 1) * len(cases) // count]  # equally many on each
            drawings[name if count == 1 else f"{name}-{page + 1}"] = partial(draw, own)

    if galleries:
        taus = next((one.taus for one in galleries if one.taus), {})
        draw = partial(episode_grid, columns=galleries[0].columns)
        add(f"episodes-{end}", _cases(galleries, False), draw)
        add(f"regions-{end}", _cases([one for one in galleries if one.taus], False), partial(region_grid, taus=taus))
        for one in galleries:
            add(f"failures-{one.dataset}-fold{one.fold}-{one.shot}shot", _cases([one], True), draw)
    return drawings


def _cases(galleries: Sequence[Gallery], failure: bool) -> list[Case]:
    return [case for gallery in galleries for case in gallery.cases if case.failure == failure]


def _runs(root: Path, cells: Sequence[Cell]) -> dict[str, list[Run]]:
    """The last training run of each cell that has one, by row."""
    found: dict[str, list[Run]] = {}
    for cell in cells:
        if cell.journal(root).is_file() and (runs := read_journal(cell.journal(root))):
            found.setdefault(cell.method, []).append(runs[-1])
    return found
