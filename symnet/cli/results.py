"""Commands that show what came out."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from symnet.artifacts import Provenance, digest
from symnet.cells import Cell
from symnet.cli.app import (
    RESULTS,
    Backbone,
    Config,
    Dataset,
    Device,
    DryRun,
    Fold,
    FoldLists,
    Out,
    Results,
    Shot,
    Store,
    Threads,
    app,
)
from symnet.cli.jobs import data_root, preview, store_of, use_device
from symnet.errors import UserError
from symnet.made import Note, keep, place, sums
from symnet.methods import METHODS
from symnet.stages import code_hash, code_of, read_resolved


@app.command(rich_help_panel=RESULTS)
def tables(
    config: Config,
    results: Results,
    out: Out,
    partial: Annotated[
        bool, typer.Option("--partial", help="While runs are unfinished: leave out cells without all of their seeds.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Aggregate metric files into main.csv, main.tex and their like. A missing or broken file is refused, or `--` with --partial.

    Example: symnet tables --config config/demo.yaml --results results/demo --out results/demo/tables
    """
    from symnet.experiment import AblationTable
    from symnet.plan import Plan
    from symnet.report.tables import make_tables

    expected = expected_of(config)
    own = {name: AblationTable(**table) for name, table in expected["tables"].items()}
    cells, groups, published = [Cell(**cell) for cell in expected["cells"]], expected["groups"], expected["published"]
    files = [*(cell.metrics(results, seed) for cell in cells for seed in expected["seeds"]), *{cell.base(results) for cell in cells}]
    if dry_run:
        preview(files, [out / "main.csv", *(out / f"{name}.csv" for name in own)])
    read = sums(path for path in files if path.is_file())  # what is missing is told below, with its list
    note = Note(settings=expected, code=code_of("tables"), inputs=read, options={"published": Plan.published_mark()})
    for line in make_tables(cells, expected["seeds"], results, out, own, groups, published, partial):
        print(f"left out: {line}")
    keep(out / "main.csv", "tables", note)


@app.command(rich_help_panel=RESULTS)
def luck(config: Config, results: Results, out: Out, dry_run: DryRun = False) -> None:
    """Tell what of the main table is luck: differences.csv, ranks.csv, sizes.csv, and the same as LaTeX and HTML.

    Example: symnet luck --config config/demo.yaml --results results/demo --out results/demo/tables
    """
    from symnet.report.luck import make_luck

    expected = expected_of(config)
    cells, seeds = [Cell(**cell) for cell in expected["cells"]], expected["seeds"]
    files = [path(results, seed) for cell in cells for seed in seeds for path in (cell.metrics, cell.episodes)]
    if dry_run:
        preview(files, [out / f"{name}.csv" for name in ("differences", "ranks", "sizes")])
    note = Note(settings=expected, code=code_of("luck"), inputs=sums(path for path in files if path.is_file()))
    make_luck(results, out, cells, seeds, expected["scorings"])
    keep(out / "differences.csv", "luck", note)


@app.command(rich_help_panel=RESULTS)
def costs(config: Config, results: Results, out: Out, dry_run: DryRun = False) -> None:
    """Tell what every row costs beside its mIoU: parameters, operations, memory, hours, speed; costs.csv, and the same as LaTeX and HTML.

    Example: symnet costs --config config/demo.yaml --results results/demo --out results/demo/tables
    """
    from symnet.report.costs import make_costs

    expected = expected_of(config)
    cells, seeds = [Cell(**cell) for cell in expected["cells"]], expected["seeds"]
    files = [results / "tables" / "main.csv", *(cell.metrics(results, seed) for cell in cells for seed in seeds)]
    if dry_run:
        preview(files, [out / "costs.csv"])
    note = Note(settings=expected, code=code_of("costs"), inputs=sums(path for path in files if path.is_file()))
    make_costs(results, out, cells, seeds, expected["rows"])
    keep(out / "costs.csv", "costs", note)


@app.command(rich_help_panel=RESULTS)
def gallery(
    dataset: Dataset,
    backbone: Backbone,
    fold: Fold,
    shot: Shot,
    rows: Annotated[str, typer.Option(help="Rows of the tables that are shown, joined by commas.")],
    subject: Annotated[str, typer.Option(help="The one of them whose failures and regions are shown.")],
    seed: Annotated[int, typer.Option(min=0, help="Test round that the episodes are of.")],
    list_: FoldLists,
    results: Results,
    out: Out,
    episodes: Annotated[str, typer.Option(help="first:N, of each of N classes, or numbers from 0 in the round: 3,17.")] = "first:2",
    failures: Annotated[int, typer.Option(min=0, help="Worst episodes of each class.")] = 1,
    store: Store = None,
    device: Device = "auto",
    threads: Threads = 1,
    dry_run: DryRun = False,
) -> None:
    """Pass the episodes that figures show through the rows of a tested fold, and keep what they saw of them: pictures, priors, predictions.

    Example: symnet gallery --results results/demo --dataset shapes --backbone efficientnet_lite0 --fold 0 --shot 1
    --rows prototype,symnet --subject symnet --seed 510 --list results/demo/shapes/lists/fold0/test.csv --out episodes.safetensors
    """
    from symnet.gallery import make_gallery
    from symnet.predict import find_run
    from symnet.shown import Choice, files_of

    choice = Choice(tuple(rows.split(",")), subject, seed, episodes, failures)
    if subject not in choice.rows:
        raise UserError(f"--subject: found '{subject}', allowed: what --rows lists ({rows})")
    cells = [Cell(dataset, backbone, fold, row, shot) for row in choice.rows]
    if dry_run:
        preview([list_, store, *(cell.episodes(results, seed) for cell in cells)], [out])
    runs = {cell: find_run(cell.folder(results)) for cell in cells}
    read = sums([*files_of(results, {cell: run.method for cell, run in runs.items()}, seed), list_])
    note = Note(code=code_of("gallery"), inputs=read, options=choice.options())
    inputs = {place(results, Path(name)): sha for name, sha in read.items()}
    made_by = Provenance(stage="gallery", settings=digest(choice.options()), code=code_hash("gallery"), inputs=inputs)
    settings = next(iter(runs.values())).settings
    images = store_of(store, test=list_)
    make_gallery(list(runs.values()), choice, out, data_root(settings, results), use_device(device, threads), made_by, images)
    keep(out, "gallery", note)


@app.command(rich_help_panel=RESULTS)
def figures(config: Config, results: Results, out: Out, dry_run: DryRun = False) -> None:
    """Draw the experiment's figures, PDF and PNG: IoU by class and by size, its own tables as charts, training curves, episodes.

    Example: symnet figures --config config/demo.yaml --results results/demo --out results/demo/figures
    """
    from symnet.report.figures import make_figures

    expected = expected_of(config)
    cells = [Cell(**cell) for cell in expected["cells"]]
    if dry_run:
        preview([results / "tables"], [out])
    trained = [row for row, method in expected["rows"].items() if METHODS[method].trained]
    note = Note(settings=expected, code=code_of("figures"))
    shown = [results / path for path in expected["galleries"]]
    tables, scorings, pages = list(expected["tables"]), expected["scorings"], expected["pages"]
    for path in make_figures(results, out, cells, expected["seeds"], shown, tables, scorings, trained, pages):
        print(path)
    keep(out / "figures.pdf", "figures", note)


def expected_of(config: Path) -> dict[str, Any]:
    """What the tables are to hold, from the JSON that the workflow wrote or an experiment file. Raises `UserError`."""
    from symnet.experiment import read_plain
    from symnet.plan import Plan

    if config.suffix == ".json":
        return read_resolved(config)
    return json.loads(json.dumps(Plan(read_plain(config), str(config), write=False).expected()))
