"""`symnet STAGE`: every stage as a plain command. The workflow's rules call the same ones.

`--config` takes the resolved JSON of a job, as the workflow writes it, or an experiment file, whose settings for `--dataset` and
`--fold` are then resolved here. Exit codes: 0 done, 2 the user's to mend (one line says what), 75 stopped early with its state saved.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from symnet.artifacts import Provenance, digest, file_digest, write_json
from symnet.cells import Cell
from symnet.config import Settings
from symnet.errors import EXIT_AGAIN, EXIT_USER, UserError
from symnet.experiment import load_experiment
from symnet.methods import known_method
from symnet.stages import code_hash, experiment_slice, module_hash, read_slice, slice_of

if TYPE_CHECKING:
    import torch

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Few-shot segmentation, from raw data to the tables of a paper. Mostly used through [bold]snakemake all[/bold]; "
    "every stage is also a command here.",
)
track = typer.Typer(no_args_is_help=True, help="Runs in MLflow.")
app.add_typer(track, name="track", rich_help_panel="Results")

DATA, LEARN, RESULTS = "Data", "Learning", "Results"

Config = Annotated[Path, typer.Option(help="Resolved JSON of a job, or an experiment file (YAML).")]
Results = Annotated[Path, typer.Option(envvar="SYMNET_RESULTS", help="Folder of the experiment, results/NAME.")]
Dataset = Annotated[str, typer.Option(help="Data set of the experiment file.")]
Fold = Annotated[int, typer.Option(min=0, help="Fold, from 0.")]
Device = Annotated[str, typer.Option(envvar="SYMNET_DEVICE", help="auto, cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.")]
Seeds = Annotated[str, typer.Option(help="Test rounds, joined by commas: 510,365.")]
Out = Annotated[Path, typer.Option(help="File or folder to write.")]
FoldLists = Annotated[Path, typer.Option("--list", help="A fold's image list (CSV, from `symnet folds`).")]
Base = Annotated[Path, typer.Option(help="The fold's base learner (from `symnet base`).")]
Embeddings = Annotated[Path, typer.Option(help="Class vectors (from `symnet embeddings`).")]
Row = Annotated[str, typer.Option(help="Row of the tables: a method, or a variant of one.")]
MethodOf = Annotated[
    str | None, typer.Option("--method", help="Method behind the row; left out: the row's name, or what the experiment file says.")
]
Features = Annotated[Path | None, typer.Option(help="Feature cache (from `symnet features`); left out: recomputed from the images.")]


@app.command(rich_help_panel=DATA)
def shapes(config: Config, out: Out, workers: Workers = 2, dataset: Dataset = "shapes") -> None:
    """Draw the embedded data set.

    Example: symnet shapes --config config/demo.yaml --out results/demo/data/shapes/shapes.json
    """
    from symnet.data.shapes import draw_shapes

    draw_shapes(_settings(config, "shapes", dataset).shapes, out.parent if out.suffix == ".json" else out, workers)


@app.command(rich_help_panel=DATA)
def folds(
    out: Out,
    config: Annotated[
        Path | None, typer.Option(help="Resolved JSON, or an experiment file; left out: PASCAL-5i from --root and --lists.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of a data set in VOC layout.")] = None,
    lists: Annotated[
        Path | None, typer.Option(help="Folder of id lists: train_merged.txt or train.txt, and voc_val.txt, val.txt or test.txt.")
    ] = None,
    results: Results = Path("results"),
    dataset: Dataset = "pascal5i",
    masks_only: Annotated[bool, typer.Option(help="Do not ask for the images.")] = False,
    workers: Workers = 2,
) -> None:
    """Index a data set and write the image lists of its folds: OUT/index.csv, OUT/fold0/train.csv, OUT/fold0/test.csv, ...

    Example: symnet folds --root VOC2012 --lists lists --masks-only --out folds
    """
    from symnet.data.folds import make_folds

    if config is not None:
        settings, where = _settings(config, "folds", dataset), None
    elif root is not None and lists is not None:
        data = {
            "root": str(root.absolute()),
            "lists": {
                "train": [_first(lists, "train_merged.txt", "train.txt")],
                "test": [_first(lists, "voc_val.txt", "val.txt", "test.txt")],
            },
        }
        settings, where = slice_of({"data": data}, "folds"), Path("/")
    else:
        raise UserError("folds: give --config, or both --root and --lists")
    make_folds(settings, where or _data_root(settings, results), out, masks_only=masks_only, workers=workers)


@app.command(rich_help_panel=DATA)
def episodes(
    config: Config,
    list_: FoldLists,
    shot: Annotated[int, typer.Option(min=1, help="Support images an episode.")],
    seeds: Seeds,
    out: Out,
    dataset: Dataset = "pascal5i",
    fold: Fold = 0,
) -> None:
    """Write the test episodes of a fold, one manifest a seed: OUT/seed510.csv, ...

    Example: symnet episodes --config config/demo.yaml --dataset shapes --list FOLD0/test.csv --shot 1 --seeds 510,365 --out episodes
    """
    from symnet.data.episodes import make_manifest, write_manifest
    from symnet.data.folds import read_fold_list

    settings = _settings(config, "episodes", dataset, fold)
    fold_list = read_fold_list(list_)
    for seed in _numbers(seeds):
        manifest = make_manifest(fold_list, shot, seed, settings.protocol.episodes, settings.protocol.sampling)
        write_manifest(
            out / f"seed{seed}.csv",
            manifest,
            digest([settings.protocol.model_dump(warnings=False), seed, shot]),
            {"list": file_digest(list_)},
        )


@app.command(rich_help_panel=DATA)
def embeddings(config: Config, out: Out, dataset: Dataset = "pascal5i", results: Results = Path("results")) -> None:
    """Write the class vectors of a data set.

    Example: symnet embeddings --config config/demo.yaml --dataset shapes --out embeddings.csv
    """
    from symnet.embeddings import make_embeddings

    settings = _settings(config, "embeddings", dataset)
    make_embeddings(settings, _shared_root(), out)


@app.command(rich_help_panel=LEARN)
def base(
    config: Config,
    list_: FoldLists,
    fold: Fold,
    out: Out,
    dataset: Dataset = "pascal5i",
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Train a fold's base learner (PSPNet) and report its mIoU over base classes.

    Example: symnet base --config config/demo.yaml --dataset shapes --results results/demo --fold 0 --list F0/train.csv --out b.safetensors
    """
    from symnet.base_learner import train_base

    settings = _settings(config, "base", dataset, fold)
    provenance = _provenance("base", settings, {"list": list_}, fold=fold)
    roots = _data_root(settings, results), _shared_root()
    miou = train_base(settings, *roots, list_, fold, out, _device(device, threads), provenance)
    print(f"base learner of fold {fold}: mIoU {100 * miou:.2f} % over base classes of held-out images")


@app.command(rich_help_panel=LEARN)
def features(
    config: Config,
    split: Annotated[Literal["train", "test"], typer.Option(help="Which list it is.")],
    list_: FoldLists,
    base: Base,
    out: Out,
    dataset: Dataset = "pascal5i",
    fold: Fold = 0,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Cache the block maps of a fold's images in HDF5.

    Example: symnet features --config config/demo.yaml --dataset shapes --results results/demo --split test --list FOLD0/test.csv
    --base b.safetensors --out features_test.json
    """
    from symnet.features import make_features

    settings = _settings(config, f"features_{split}", dataset, fold)
    provenance = _provenance("features", settings, {"list": list_, "base": base}, code=f"features_{split}")
    make_features(settings, _data_root(settings, results), list_, split, base, out, _device(device, threads), provenance)


@app.command(rich_help_panel=LEARN)
def train(
    config: Config,
    dataset: Dataset,
    fold: Fold,
    shot: Annotated[int, typer.Option(min=1)],
    list_: FoldLists,
    base: Base,
    embeddings: Embeddings,
    out: Out,
    backbone: Annotated[str, typer.Option(help="Name of the backbone, for the cell's place.")],
    row: Row = "symnet",
    method: MethodOf = None,
    features: Features = None,
    test_list: Annotated[Path | None, typer.Option(help="The fold's test list, for train.selection test_best.")] = None,
    test_features: Annotated[Path | None, typer.Option(help="Its feature cache; left out: recomputed.")] = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
    deadline: Annotated[float | None, typer.Option(min=1, help="Seconds after which to save and leave with exit code 75.")] = None,
    checkpoint_seconds: Annotated[float, typer.Option(min=1, help="Longest time between two checkpoints.")] = 300,
) -> None:
    """Train a method on a fold. A run that was stopped goes on where it was.

    Example: see the command that `snakemake -np all` prints for rule train_method.
    """
    from symnet.train import Inputs, Run, Stopped
    from symnet.train import train as train_

    settings, method = _job(config, "train", dataset, fold, row, method)
    inputs = Inputs(list_, base, embeddings, features, test_list, test_features)
    inputs.check(settings.train.selection)
    files = {"list": list_, "base": base, "embeddings": embeddings}
    files |= {name: path for name, path in (("features", features), ("test_list", test_list), ("test_features", test_features)) if path}
    provenance = _provenance("train", settings, files, method=method, shot=shot)
    cell = Cell(dataset, backbone, fold, row, shot)
    key = digest(provenance.model_dump())
    provenance = provenance.model_copy(update={"settings": key})
    state = results / "state" / cell.folder(Path()) / key[:12]
    params = {
        "dataset": dataset,
        "backbone": backbone,
        "fold": fold,
        "row": row,
        "method": method,
        "shot": shot,
        **settings.model_dump(mode="json", warnings=False),
    }
    run = Run(method, shot, state, cell.journal(results), provenance, params, checkpoint_seconds)
    try:
        train_(settings, _data_root(settings, results), inputs, run, out, _device(device, threads), deadline)
    except Stopped as reason:
        print(f"symnet: stopped by {reason}", file=sys.stderr)
        raise typer.Exit(EXIT_AGAIN) from None


@app.command(rich_help_panel=LEARN)
def evaluate(
    config: Config,
    dataset: Dataset,
    fold: Fold,
    shot: Annotated[int, typer.Option(min=1)],
    row: Row,
    list_: FoldLists,
    episodes: Annotated[Path, typer.Option(help="Folder of manifests (from `symnet episodes`).")],
    seeds: Seeds,
    base: Base,
    embeddings: Embeddings,
    out: Out,
    backbone: Annotated[str, typer.Option(help="Name of the backbone.")],
    method: MethodOf = None,
    experiment: Annotated[str, typer.Option(help="Name that the metric files carry.")] = "",
    features: Features = None,
    model: Annotated[Path | None, typer.Option(help="Trained weights (from `symnet train`).")] = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
) -> None:
    """Test a method on a fold, one metric file a seed: OUT/seed510.json, ...

    Example: see the command that `snakemake -np all` prints for rule evaluate_method.
    """
    from symnet.evaluate import Inputs, Round
    from symnet.evaluate import evaluate as evaluate_

    settings, method = _job(config, "evaluate", dataset, fold, row, method)
    files = {"list": list_, "base": base, "embeddings": embeddings}
    files |= {name: path for name, path in (("features", features), ("model", model)) if path}
    shared = {name: file_digest(path) for name, path in files.items()}
    rounds = []
    for seed in _numbers(seeds):
        manifest = episodes / f"seed{seed}.csv"
        provenance = _provenance("evaluate", settings, {"episodes": manifest}, method=method, shared=shared)
        rounds.append(Round(seed, manifest, out / f"seed{seed}.json", provenance))
    cell = Cell(dataset, backbone, fold, row, shot)
    inputs = Inputs(list_, base, embeddings, features, model)
    evaluate_(settings, _data_root(settings, results), cell, method, experiment, inputs, rounds, _device(device, threads))


@app.command(rich_help_panel=LEARN)
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="Checkpoint of the released Sym-Net, or of a fold's PSPNet base learner (torch.save).")],
    fold: Fold,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; left out: a folder beside FILE, of its name.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Experiment file that says which classes there are; left out: PASCAL-5i or COCO-20i.")
    ] = None,
    dataset: Dataset = "pascal5i",
) -> None:
    """Turn an authors' checkpoint into files that `symnet evaluate` runs: base.safetensors and, of a Sym-Net, model.safetensors.

    Example: symnet import-checkpoint train_epoch_142_0.7142.pth --fold 0 --out imported
    """
    from symnet.data.classes import class_names
    from symnet.importing import Classes, import_checkpoint

    classes = None
    if config is not None:
        data = load_experiment(config).settings(dataset).data
        classes = Classes(class_names(data.classes), data.folds, data.split, dataset)
    found = import_checkpoint(file, out or file.with_suffix(""), fold, classes, module_hash("symnet.importing"))
    shots = f", {found.shots} shot" if found.shots else ""
    print(f"{file}: {found.kind} of {found.backbone}, {found.base_classes} base classes{shots}")
    print("\n".join(f"wrote {path}" for path in found.files))


@app.command(rich_help_panel=RESULTS)
def tables(config: Config, results: Results, out: Out) -> None:
    """Aggregate metric files into main.csv, main.tex and their like.

    Example: symnet tables --config results/demo/settings/tables.json --results results/demo --out results/demo/tables
    """
    from symnet.experiment import AblationTable
    from symnet.report.tables import make_tables

    expected = json.loads(config.read_text(encoding="utf-8"))
    own = {name: AblationTable(**table) for name, table in expected["tables"].items()}
    make_tables([Cell(**cell) for cell in expected["cells"]], expected["seeds"], results, out, own, expected["groups"])


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


@track.command("sync")
def track_sync(
    results: Results,
    out: Annotated[Path | None, typer.Option(help="Summary to write (JSON).")] = None,
    store: Annotated[Path | None, typer.Option(help="MLflow's database; left out: mlflow.db beside the experiment's folder.")] = None,
) -> None:
    """Bring journals, metrics and tables into MLflow. May be run at any time, also while jobs run; twice changes nothing.

    Example: symnet track sync --results results/demo
    """
    from symnet.tracking import sync

    summary = sync(results, store or results.parent / "mlflow.db", results.parent / "mlartifacts")
    print(summary)
    if out is not None:
        tables = {path.name: file_digest(path) for path in sorted((results / "tables").glob("*")) if path.is_file()}
        write_json(out, {"tables": tables}, Provenance(stage="track", code=code_hash("track")))


@track.command("ui")
def track_ui(results: Annotated[Path, typer.Option(help="Folder of all results.")] = Path("results"), port: int = 5000) -> None:
    """Open the runs in MLflow's own pages on 127.0.0.1.

    Example: symnet track ui --port 5000
    """
    from symnet.tracking import ui_command

    command = ui_command(results / "mlflow.db", results / "mlartifacts", port)
    os.execvp(command[0], command)


def _settings(config: Path, stage: str, dataset: str, fold: int | None = None) -> Settings:
    """The stage's settings from a resolved JSON or an experiment file."""
    if config.suffix == ".json":
        return read_slice(config, stage)
    return experiment_slice(load_experiment(config), dataset, fold, stage)


def _job(config: Path, stage: str, dataset: str, fold: int, row: str, method: str | None) -> tuple[Settings, str]:
    """As `_settings`, of a row; and the method behind it."""
    if config.suffix == ".json":
        method = known_method(method or row)
        return read_slice(config, stage, method), method
    experiment = load_experiment(config)
    found = experiment.method_of(row)
    if method not in (None, found):
        raise UserError(f"--method: found {method}, but {config} says that row {row} is {found}")
    return experiment_slice(experiment, dataset, fold, stage, row), found


def _shared_root() -> Path:
    """Weights and word vectors: $SYMNET_DATA, else ./data."""
    return Path(os.environ.get("SYMNET_DATA") or "data")


def _data_root(settings: Settings, results: Path) -> Path:
    """What `data.root` is relative to: the experiment's own folder for data drawn there."""
    return results if settings.data.source == "shapes" else _shared_root()


def _provenance(
    stage: str, settings: Settings, files: dict[str, Path], *, code: str = "", method: str | None = None, **more: object
) -> Provenance:
    """Settings and code by their hashes, inputs by their sums; `more` joins the settings."""
    shared = more.pop("shared", {})
    inputs = {name: file_digest(path) for name, path in files.items()} | (shared if isinstance(shared, dict) else {})
    values = settings.model_dump(mode="json", warnings=False) | more
    backbone = settings.backbone.name if hasattr(settings, "backbone") else None
    return Provenance(stage=stage, settings=digest(values), code=code_hash(code or stage, method, backbone), inputs=inputs)


def _device(name: str, threads: int) -> "torch.device":
    from symnet.runtime import choose_device, use_threads

    use_threads(threads)
    return choose_device(name)


def _numbers(text: str) -> list[int]:
    """`510,365` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds: found '{text}', expected whole numbers joined by commas") from None


def _first(folder: Path, *names: str) -> str:
    """The first of the files that exists, absolute."""
    for name in names:
        if (folder / name).is_file():
            return str((folder / name).absolute())
    raise UserError(f"{folder}: none of {', '.join(names)} is there")


def main() -> None:
    """Run a command. A `UserError` becomes one line on standard error and exit code 2."""
    try:
        app()
    except UserError as error:
        print(f"symnet: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)
