"""Commands of the data stages."""

from pathlib import Path
from typing import Annotated

import typer

from symnet.artifacts import Provenance, digest, file_digest, mark
from symnet.cli.app import DATA, Config, Dataset, DryRun, Fold, FoldLists, Out, Results, Seeds, Set, Shot, Workers, app
from symnet.cli.jobs import data_root, first_of, note_of, numbers, preview, provenance_of, settings_of, shared_root
from symnet.data.readers import SPLITS
from symnet.errors import UserError
from symnet.made import keep
from symnet.overrides import merge, read_overrides
from symnet.stages import slice_of


@app.command(rich_help_panel=DATA)
def shapes(config: Config, out: Out, workers: Workers = 2, dataset: Dataset = "shapes", set_: Set = None, dry_run: DryRun = False) -> None:
    """Draw the embedded data set.

    Example: symnet shapes --config config/demo.yaml --out results/demo/data/shapes/shapes.json
    """
    from symnet.data.shapes import draw_shapes

    settings = settings_of(config, set_, "shapes", dataset)
    folder = out.parent if out.suffix == ".json" else out
    if dry_run:
        preview([], [folder])
    draw_shapes(settings.shapes, folder, workers)
    keep(out, "shapes", note_of("shapes", settings, []))


@app.command(rich_help_panel=DATA)
def masks(
    config: Config,
    out: Out,
    dataset: Dataset = "pascal5i",
    root: Annotated[Path | None, typer.Option(help="Data root; left out: $SYMNET_DATA, else ./data.")] = None,
    workers: Workers = 2,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Make the index masks of a data set, once: VOC's united with SBD's, or COCO's polygons drawn.

    Example: symnet masks --config config/config.yaml --dataset coco20i --out masks.json
    """
    from symnet.data.masks import make_masks

    settings = settings_of(config, set_, "masks", dataset)
    folder = (root or shared_root()) / settings.data.root
    if dry_run:
        preview([folder], [folder / settings.data.masks, out] if settings.data.masks else [out])
    make_masks(settings, root or shared_root(), out, workers)


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
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Index a data set and write the image lists of its folds: OUT/index.csv, OUT/fold0/train.csv, OUT/fold0/test.csv, ...

    Example: symnet folds --root VOC2012 --lists lists --masks-only --out folds
    """
    from symnet.data.folds import make_folds

    if config is not None:
        settings, where = settings_of(config, set_, "folds", dataset), None
    elif root is not None and lists is not None:
        data = {
            "root": str(root.absolute()),
            "lists": {
                "train": [first_of(lists, "train_merged.txt", "train.txt")],
                "test": [first_of(lists, "voc_val.txt", "val.txt", "test.txt")],
            },
        }
        settings, where = slice_of(merge({"data": data}, read_overrides(set_ or [], "folds")), "folds"), Path("/")
    else:
        raise UserError("folds: give --config, or both --root and --lists")
    if dry_run:
        lists_ = [out / f"fold{fold}" / f"{split}.csv" for fold in range(settings.data.folds) for split in SPLITS]
        preview([(where or data_root(settings, results)) / settings.data.root], [out / "index.csv", *lists_])
    make_folds(settings, where or data_root(settings, results), out, masks_only=masks_only, workers=workers)
    keep(out / "index.csv", "folds", note_of("folds", settings, []))


@app.command(rich_help_panel=DATA)
def counts(
    config: Config,
    lists: Annotated[Path, typer.Option(help="Folder of the index and the folds' lists (from `symnet folds`).")],
    out: Out,
    dataset: Dataset = "pascal5i",
    against: Annotated[
        Path | None, typer.Option(help="Lists of other rules: OUT's name with -differences tells which images differ.")
    ] = None,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Count images and pairs of the folds' lists, beside the published counts: OUT (CSV), a page and a text beside it; the text is printed.

    Example: symnet counts --config config/config.yaml --lists results/benchmark/pascal5i/lists --out counts.csv
    """
    from symnet.plan import Plan
    from symnet.report.counts import make_counts, write_differences

    settings = settings_of(config, set_, "counts", dataset)
    files = [lists / "index.csv", *(lists / f"fold{fold}" / f"{split}.csv" for fold in range(settings.data.folds) for split in SPLITS)]
    if dry_run:
        preview([*files, against], [out])
    note = note_of("counts", settings, files, published=Plan.published_mark())
    print(make_counts(settings, dataset, lists, out))
    keep(out, "counts", note)
    if against is not None:
        print(write_differences(settings, lists, against, out.with_name(f"{out.stem}-differences.csv")))


@app.command(rich_help_panel=DATA)
def store(
    config: Config,
    index: Annotated[Path, typer.Option(help="Folder of the data set's index (from `symnet folds`).")],
    out: Out,
    results: Results = Path("results"),
    dataset: Dataset = "pascal5i",
    workers: Workers = 2,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Keep every image and mask of a data set decoded, in HDF5: the same pixels, read at once.

    Example: symnet store --config config/config.yaml --index results/benchmark/pascal5i/lists --out store.json --workers 8
    """
    from symnet.data.store import make_store

    settings = settings_of(config, set_, "store", dataset)
    if dry_run:
        preview([index / "index.csv", data_root(settings, results) / settings.data.root], [out])
    provenance = provenance_of("store", settings, {"index": index / "index.csv"})
    note = note_of("store", settings, [index / "index.csv"])
    make_store(settings, data_root(settings, results), index, out, workers, provenance)
    keep(out, "store", note)


@app.command(rich_help_panel=DATA)
def episodes(
    config: Config,
    list_: FoldLists,
    shot: Shot,
    seeds: Seeds,
    out: Out,
    dataset: Dataset = "pascal5i",
    fold: Fold = 0,
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Write the test episodes of a fold, one manifest a seed: OUT/seed510.csv, ...

    Example: symnet episodes --config config/demo.yaml --dataset shapes --shot 1 --seeds 510,365 --set protocol.episodes=10
    --list results/demo/shapes/lists/fold0/test.csv --out episodes
    """
    from symnet.data.episodes import make_manifest, write_manifest
    from symnet.data.folds import read_fold_list

    settings = settings_of(config, set_, "episodes", dataset, fold)
    if dry_run:
        preview([list_], [out / f"seed{seed}.csv" for seed in numbers(seeds)])
    fold_list = read_fold_list(list_)
    rules = settings.protocol.model_dump(warnings=False)
    note = note_of("episodes", settings, [list_], seeds=seeds)
    for seed in numbers(seeds):
        manifest = make_manifest(fold_list, shot, seed, settings.protocol.episodes, settings.protocol.sampling)
        made_by = Provenance(stage="episodes", settings=digest([rules, seed, shot]), protocol=rules, inputs={"list": file_digest(list_)})
        write_manifest(out / f"seed{seed}.csv", manifest, made_by)
    keep(out / "seed.csv", "episodes", note)


@app.command(rich_help_panel=DATA)
def embeddings(
    config: Config,
    out: Out,
    dataset: Dataset = "pascal5i",
    results: Results = Path("results"),
    set_: Set = None,
    dry_run: DryRun = False,
) -> None:
    """Write the class vectors of a data set.

    Example: symnet embeddings --config config/demo.yaml --dataset shapes --out embeddings.csv
    """
    from symnet.embeddings import make_embeddings

    settings = settings_of(config, set_, "embeddings", dataset)
    source = None if settings.text.source == "shapes" else shared_root() / settings.text.source
    if dry_run:
        preview([source], [out])
    vectors = "" if source is None else mark(source)
    note = note_of("embeddings", settings, [], vectors=vectors)
    make_embeddings(settings, shared_root(), out)
    keep(out, "embeddings", note)
