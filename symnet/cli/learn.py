"""Commands that train and test a method."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from symnet.artifacts import digest, file_digest
from symnet.cells import Cell, Round, record_set
from symnet.cli.app import (
    LEARN,
    Backbone,
    Base,
    Config,
    Dataset,
    Device,
    DryRun,
    Embeddings,
    Episodes,
    Features,
    Fold,
    FoldLists,
    MethodOf,
    Out,
    Results,
    Row,
    Seeds,
    Set,
    Shot,
    Store,
    Threads,
    app,
)
from symnet.cli.jobs import data_root, job_of, note_of, numbers, preview, provenance_of, store_of, use_device
from symnet.errors import EXIT_AGAIN
from symnet.made import keep
from symnet.methods import METHODS


@app.command(rich_help_panel=LEARN)
def train(
    config: Config,
    dataset: Dataset,
    fold: Fold,
    shot: Shot,
    list_: FoldLists,
    base: Base,
    embeddings: Embeddings,
    out: Out,
    backbone: Backbone,
    row: Row = "symnet",
    method: MethodOf = None,
    features: Features = None,
    test_list: Annotated[Path | None, typer.Option(help="The fold's test list, for protocol.selection test_best.")] = None,
    test_features: Annotated[Path | None, typer.Option(help="Its feature cache; left out: recomputed.")] = None,
    store: Store = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
    deadline: Annotated[float | None, typer.Option(min=1, help="Seconds after which to save and leave with exit code 75.")] = None,
    checkpoint_seconds: Annotated[float, typer.Option(min=1, help="Longest time between two checkpoints.")] = 300,
    processes: Annotated[int, typer.Option(min=1, help="Processes that train together, a GPU each (torchrun); the batch is shared.")] = 1,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Train a method on a fold. A run that was stopped goes on where it was.

    Example: symnet train --config config/demo.yaml --dataset shapes --backbone efficientnet_lite0 --fold 0 --shot 1 --set train.steps=20
    --list results/demo/shapes/lists/fold0/train.csv --base results/demo/shapes/efficientnet_lite0/fold0/base.safetensors
    --embeddings results/demo/shapes/embeddings.csv --results results/demo --out try/model.safetensors
    """
    from symnet.keeper import Run
    from symnet.launch import can_launch, join, launch
    from symnet.lease import Lost
    from symnet.methods import method_class
    from symnet.system import device_name
    from symnet.train import Inputs, Stopped
    from symnet.train import train as train_

    settings, method = job_of(config, set_, "train", dataset, fold, row, method)
    if dry_run:
        images = data_root(settings, results) / settings.data.root
        cell = Cell(dataset, backbone, fold, row, shot)
        preview([list_, base, embeddings, features, test_list, test_features, store, images], [cell.journal(results), out])
    inputs = Inputs(list_, base, embeddings, features, test_list, test_features, store_of(store, list_, test_list))
    inputs.check(settings.protocol.selection)
    files = {"list": list_, "base": base, "embeddings": embeddings}
    files |= {name: path for name, path in (("features", features), ("test_list", test_list), ("test_features", test_features)) if path}
    provenance = provenance_of("train", settings, files, method=method, shot=shot)
    note = note_of("train", settings, files.values(), method)
    cell = Cell(dataset, backbone, fold, row, shot)
    key = digest(provenance.model_dump())
    provenance = provenance.model_copy(update={"settings": key})
    state = cell.state(results, key)
    params = {
        "dataset": dataset,
        "backbone": backbone,
        "fold": fold,
        "row": row,
        "method": method,
        "shot": shot,
        **settings.model_dump(mode="json", warnings=False),
    }
    if processes > 1 and method_class(method).whole_batch:
        print(f"{method} is trained by one process: its batch norm learns from whole batches", flush=True)
        processes = 1
    if can_launch(settings.train, device, processes):
        raise typer.Exit(launch(processes, sys.argv[1:]))
    try:
        with join(device) as ranks:
            used = use_device(device, threads)
            params["device"] = device_name(used, ranks.count)
            run = Run(method, shot, state, cell.journal(results), provenance, params, checkpoint_seconds)
            train_(settings, data_root(settings, results), inputs, run, out, used, deadline, ranks)
    except (Stopped, Lost) as reason:
        print(f"symnet: stopped by {reason}", file=sys.stderr)
        raise typer.Exit(EXIT_AGAIN) from None
    keep(out, "train", note)


@app.command(rich_help_panel=LEARN)
def evaluate(
    config: Config,
    dataset: Dataset,
    fold: Fold,
    shot: Shot,
    row: Row,
    list_: FoldLists,
    episodes: Episodes,
    seeds: Seeds,
    base: Base,
    embeddings: Embeddings,
    out: Out,
    backbone: Backbone,
    method: MethodOf = None,
    experiment: Annotated[str, typer.Option(help="Name that the metric files carry.")] = "",
    features: Features = None,
    records: Annotated[Path | None, typer.Option(help="Folder of records (from `symnet records`); left out: computed here.")] = None,
    model: Annotated[Path | None, typer.Option(help="Trained weights (from `symnet train`).")] = None,
    store: Store = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Test a method on a fold, one metric file a seed: OUT/seed510.json, ...

    Example: symnet evaluate --config config/demo.yaml --dataset shapes --backbone efficientnet_lite0 --fold 0 --shot 1 --row symnet
    --list results/demo/shapes/lists/fold0/test.csv --episodes results/demo/shapes/lists/fold0/shot1 --seeds 510,365
    --base results/demo/shapes/efficientnet_lite0/fold0/base.safetensors --embeddings results/demo/shapes/embeddings.csv
    --model results/demo/shapes/efficientnet_lite0/fold0/symnet/shot1/model.safetensors --results results/demo --out scores
    """
    from symnet.evaluate import Inputs
    from symnet.evaluate import evaluate as evaluate_

    settings, method = job_of(config, set_, "evaluate", dataset, fold, row, method)
    files = {"list": list_, "base": base, "embeddings": embeddings}
    files |= {name: path for name, path in (("features", features), ("model", model)) if path}
    if dry_run:
        seeds_ = numbers(seeds)
        images = data_root(settings, results) / settings.data.root
        reads = [*files.values(), *(episodes / f"seed{seed}.csv" for seed in seeds_), records, store, images]
        preview(reads, [out / f"seed{seed}.json" for seed in seeds_])
    shared = {name: file_digest(path) for name, path in files.items()}
    parts = METHODS[method].records(settings)
    rounds = []
    for seed in numbers(seeds):
        manifest = episodes / f"seed{seed}.csv"
        sets = {part: record_set(records, part, shot, seed) for part in parts} if records else {}
        own = {"episodes": manifest} | {f"records_{part}": path for part, path in sets.items()}
        provenance = provenance_of("evaluate", settings, own, method=method, shared=shared)
        rounds.append(Round(seed, manifest, out / f"seed{seed}.json", provenance, sets))
    cell = Cell(dataset, backbone, fold, row, shot)
    inputs = Inputs(list_, base, embeddings, features, model, store_of(store, test=list_))
    read = [*files.values(), *(path for one in rounds for path in (one.manifest, *one.records.values()))]
    note = note_of("evaluate", settings, read, method, seeds=seeds, experiment=experiment)
    evaluate_(settings, data_root(settings, results), cell, method, experiment, inputs, rounds, use_device(device, threads))
    keep(rounds[0].out, "evaluate", note)
