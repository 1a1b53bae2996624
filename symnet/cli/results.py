"""Commands that show what came out."""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from symnet.artifacts import Provenance, digest, file_digest, write_json
from symnet.cells import Cell
from symnet.cli.app import (
    RESULTS,
    START,
    Backbone,
    Config,
    Dataset,
    Device,
    DryRun,
    Fold,
    FoldLists,
    Out,
    Results,
    Set,
    Shot,
    Store,
    Threads,
    app,
    track,
)
from symnet.cli.jobs import data_root, preview, store_of, use_device
from symnet.errors import EXIT_FOUND, UserError
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


@app.command(rich_help_panel=RESULTS)
def show(results: Results) -> None:
    """Print the main table, where the files are, and how to open the runs.

    Example: symnet show --results results/demo
    """
    from symnet.report.tables import format_table

    print(format_table(results / "tables" / "main.csv"))
    print(
        f"\ntables   {results / 'tables'}\nmetrics  {results}\nruns     {results.parent / 'mlflow.db'}: make ui, then http://127.0.0.1:5000"
    )


@app.command(rich_help_panel=RESULTS)
def status(
    results: Results,
    state: Annotated[str | None, typer.Option(help="Only cells of these states, joined by commas: failed,died.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list, for programs.")] = False,
) -> None:
    """Print where every cell stands: waiting, training (how far, how fast), tested, failed and why. May be asked at any time.

    Example: symnet status --results results/demo --state failed,died
    """
    from symnet.status import STATES, in_text, standings

    wanted = tuple(state.split(",")) if state else STATES
    if unknown := sorted(set(wanted) - set(STATES)):
        raise UserError(f"--state: found '{unknown[0]}', allowed: {', '.join(STATES)}")
    found = [one for one in standings(results) if one.state in wanted]
    print(json.dumps([one.as_dict() for one in found], indent=1) if as_json else in_text(found))


@app.command(rich_help_panel=RESULTS)
def why(
    target: Annotated[list[str], typer.Argument(help="A file of the experiment, or a cell: dataset fold row shot, and perhaps a seed.")],
    config: Annotated[Path, typer.Option(help="Experiment file (YAML).")] = Path("config/config.yaml"),
    preset: Annotated[str | None, typer.Option(help="One of its presets, where the workflow was given one.")] = None,
    set_: Set = None,
) -> None:
    """Tell why a file is out of date, or missing: which setting, input or code is not what it was made from, and how it hangs together.

    Example: symnet why --config config/demo.yaml shapes 0 symnet 1
    """
    from symnet.experiment import read_plain
    from symnet.plan import Plan
    from symnet.why import whys

    plan = Plan(read_plain(config) | ({"preset": preset} if preset else {}) | ({"set": set_} if set_ else {}), str(config), write=False)
    with whys(plan) as found:
        print("\n".join(found.explain(*found.job(target))))


@app.command(rich_help_panel=START)
def doctor(
    config: Annotated[Path, typer.Option(help="Experiment file (YAML).")] = Path("config/config.yaml"),
    results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"),
) -> None:
    """Look at what a run stands on: packages, GPU, SLURM, data, disks, locks, unfinished files, MLflow. Exit code 1 where something is bad.

    Example: symnet doctor --config config/pascal_mini.yaml
    """
    from symnet.doctor import BAD, examine, in_text

    findings = list(examine(config, results))
    print(in_text(findings))
    raise typer.Exit(EXIT_FOUND if any(one.mark == BAD for one in findings) else 0)


@track.command("sync")
def track_sync(
    results: Results,
    out: Annotated[Path | None, typer.Option(help="Summary to write (JSON).")] = None,
    store: Annotated[Path | None, typer.Option(help="MLflow's database; left out: mlflow.db beside the experiment's folder.")] = None,
    uri: Annotated[
        str | None, typer.Option(help="Address of a tracking server to fill as well; left out: $MLFLOW_TRACKING_URI, if that is one.")
    ] = None,
    follow: Annotated[float | None, typer.Option(min=1, help="Do it again every so many seconds, until interrupted.")] = None,
) -> None:
    """Bring journals, metrics and tables into MLflow. May be run at any time, also while jobs run; twice changes nothing.

    A server is an extra. One that the environment names and that cannot be used costs a warning, as does any while following: the
    next sync brings what it lacks. No job ever waits for it.

    Example: symnet track sync --results results/demo --uri https://mlflow.lab --follow 60
    """
    from symnet.tracking import sync, sync_to_server

    while True:
        print(sync(results, store or results.parent / "mlflow.db", results.parent / "mlartifacts"), flush=True)
        if address := uri or os.environ.get("MLFLOW_TRACKING_URI"):
            try:
                print(f"server: {sync_to_server(results, address)}", flush=True)
            except UserError as error:
                if uri and not follow:
                    raise
                print(f"warning: server: {error}", flush=True)
        if not follow:
            break
        time.sleep(follow)
    if out is not None:
        tables = {path.name: file_digest(path) for path in sorted((results / "tables").glob("*")) if path.is_file()}
        write_json(out, {"tables": tables}, Provenance(stage="track", code=code_hash("track")))
        keep(out, "track", Note(code=code_of("track")))


@track.command("ui")
def track_ui(results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"), port: int = 5000) -> None:
    """Open the runs in MLflow's own pages on 127.0.0.1, and print where those of each experiment are.

    Example: symnet track ui --port 5000
    """
    from symnet.tracking import pages, ui_command

    command = ui_command(results / "mlflow.db", results / "mlartifacts", port)
    for name, page in pages(results / "mlflow.db").items():
        print(f"{name}: http://127.0.0.1:{port}/{page}", flush=True)
    os.execvp(command[0], command)
