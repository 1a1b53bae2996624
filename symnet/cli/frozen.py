"""Commands of what is learned or computed before any method: base learners, features, records."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from symnet.artifacts import file_digest, mark
from symnet.cells import Round, record_set
from symnet.cli.app import (
    LEARN,
    Base,
    Config,
    Dataset,
    Device,
    DryRun,
    Episodes,
    Fold,
    FoldLists,
    Out,
    Results,
    Seeds,
    Set,
    Shot,
    Store,
    Threads,
    app,
)
from symnet.cli.jobs import data_root, note_of, numbers, preview, provenance_of, settings_of, shared_root, store_of, use_device
from symnet.made import keep


@app.command(rich_help_panel=LEARN)
def base(
    config: Config,
    list_: FoldLists,
    fold: Fold,
    out: Out,
    dataset: Dataset = "pascal5i",
    store: Store = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Train a fold's base learner (PSPNet) and report its mIoU over base classes.

    Example: symnet base --config config/demo.yaml --dataset shapes --results results/demo --fold 0 --set base.steps=20
    --list results/demo/shapes/lists/fold0/train.csv --out base.safetensors
    """
    from symnet.backbones import weights_path
    from symnet.base_learner import train_base

    settings = settings_of(config, set_, "base", dataset, fold)
    if dry_run:
        weights = weights_path(settings.backbone, shared_root())
        preview([list_, weights, data_root(settings, results) / settings.data.root, store], [out, out.with_suffix(".json")])
    provenance = provenance_of("base", settings, {"list": list_}, fold=fold)
    roots = data_root(settings, results), shared_root()
    note = note_of("base", settings, [list_], weights=mark(weights_path(settings.backbone, shared_root())))
    used = use_device(device, threads, tf32=True)
    miou = train_base(settings, *roots, list_, fold, out, used, provenance, store_of(store, train=list_))
    keep(out, "base", note)
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
    store: Store = None,
    results: Results = Path("results"),
    device: Device = "auto",
    threads: Threads = 1,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Cache the block maps of a fold's images in HDF5.

    Example: symnet features --config config/demo.yaml --dataset shapes --results results/demo --split test
    --list results/demo/shapes/lists/fold0/test.csv
    --base results/demo/shapes/efficientnet_lite0/fold0/base.safetensors --out features_test.json
    """
    from symnet.features import make_features

    settings = settings_of(config, set_, f"features_{split}", dataset, fold)
    if dry_run:
        preview([list_, base, data_root(settings, results) / settings.data.root, store], [out])
    provenance = provenance_of("features", settings, {"list": list_, "base": base}, code=f"features_{split}")
    images = store_of(store, **{split: list_})
    note = note_of(f"features_{split}", settings, [list_, base])
    make_features(settings, data_root(settings, results), list_, split, base, out, use_device(device, threads), provenance, images)
    keep(out, f"features_{split}", note)


@app.command(rich_help_panel=LEARN)
def records(
    config: Config,
    part: Annotated[
        Literal["spm", "hpm", "pfenet", "twice", "cosine", "tdc"],
        typer.Option(help="A prior mask with psi and base map, or the correlations."),
    ],
    shot: Shot,
    episodes: Episodes,
    seeds: Seeds,
    base: Base,
    features: Annotated[Path, typer.Option(help="Cache of the fold's test images (from `symnet features`).")],
    out: Out,
    dataset: Dataset = "pascal5i",
    fold: Fold = 0,
    device: Device = "auto",
    threads: Threads = 1,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Record what of a fold's test episodes no trained weight changes, one set a seed: OUT/PART/shot1/seed510.json, ...

    Example: symnet records --config config/demo.yaml --dataset shapes --part tdc --shot 1 --seeds 510,365
    --episodes results/demo/shapes/lists/fold0/shot1 --base results/demo/shapes/efficientnet_lite0/fold0/base.safetensors
    --features results/demo/shapes/efficientnet_lite0/fold0/features_test.json --out records
    """
    from symnet.records import make_records

    settings = settings_of(config, set_, "records", dataset, fold)
    if dry_run:
        seeds_ = numbers(seeds)
        reads = [*(episodes / f"seed{seed}.csv" for seed in seeds_), base, features]
        preview(reads, [record_set(out, part, shot, seed) for seed in seeds_])
    shared = {name: file_digest(path) for name, path in (("base", base), ("features", features))}
    rounds = []
    for seed in numbers(seeds):
        manifest = episodes / f"seed{seed}.csv"
        provenance = provenance_of("records", settings, {"episodes": manifest}, part=part, shared=shared)
        rounds.append(Round(seed, manifest, record_set(out, part, shot, seed), provenance))
    note = note_of("records", settings, [*(one.manifest for one in rounds), base, features], seeds=seeds, part=part)
    make_records(settings, part, rounds, base, features, use_device(device, threads), f"records fold {fold} {shot}-shot")
    keep(rounds[0].out, "records", note)
