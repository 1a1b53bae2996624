"""The jobs behind an experiment's files as the plan has them now: what each writes, and what it depends on.

The rules of the workflow say the same to Snakemake. A job's note (`symnet.made`) says what its command was really given, and a test
holds the two together.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from symnet.artifacts import mark
from symnet.backbones import weights_path
from symnet.cells import Cell, fold_folder, lists_folder, record_set
from symnet.data.readers import SPLITS
from symnet.made import Note
from symnet.plan import Plan

TABLES = ("main.csv", "main.tex", "main.html", "scorings.csv", "per_class.csv", "base.csv", "groups.csv")


@dataclass(frozen=True)
class Job:
    """outputs: first the one that names it; inputs: the files that its command is given; after: files it only waits for. `now.inputs`
    stays empty: what they hold is looked at when it is asked for.
    """

    stage: str
    outputs: tuple[Path, ...]
    now: Note
    inputs: tuple[Path, ...] = ()
    after: tuple[Path, ...] = ()


def jobs(plan: Plan) -> dict[Path, Job]:
    """Output to job, for everything below the experiment's folder that a rule makes and a note is written of."""
    return {path: job for job in _all(plan) for path in job.outputs}


def _all(plan: Plan) -> Iterator[Job]:
    for dataset in plan.datasets:
        yield from _data(plan, dataset)
        for fold in plan.folds(dataset):
            yield from _fold(plan, dataset, fold)
    for cell in plan.cells():
        yield from _cell(plan, cell)
    tables = [plan.folder / "tables" / name for name in TABLES] + list(map(Path, plan.table_files(".csv", ".tex", ".html")))
    inputs = (*map(Path, plan.metric_files()), *map(Path, plan.base_files()))
    expected = json.loads(json.dumps(plan.expected()))
    note = Note(settings=expected, code=plan.code_of("tables"), options={"published": plan.published_mark()})
    yield Job("tables", tuple(tables), note, inputs)
    luck = tuple(map(Path, plan.luck_files(".csv", ".tex", ".html")))
    tested = (*map(Path, plan.metric_files()), *map(Path, plan.episode_files()))
    yield Job("luck", luck, Note(settings=expected, code=plan.code_of("luck")), tested)
    costs = tuple(map(Path, plan.cost_files(".csv", ".tex", ".html")))
    costed = (plan.folder / "tables" / "main.csv", *map(Path, plan.metric_files()))
    yield Job("costs", costs, Note(settings=expected, code=plan.code_of("costs")), costed, after=tuple(tables))
    figures = [Path(path) for end in (".pdf", ".png") for path in plan.figures.files(end)]
    shown = tuple(map(Path, (*plan.figures.galleries(), *plan.episode_files())))
    yield Job("figures", tuple(figures), Note(settings=expected, code=plan.code_of("figures")), after=(*tables, *luck, *costs, *shown))
    yield Job("track", (plan.folder / "tracking.json",), Note(code=plan.code_of("track")), after=(*tables, *luck, *costs))


def _data(plan: Plan, dataset: str) -> Iterator[Job]:
    """Of a data set."""
    settings, folder = plan.settings(dataset), plan.folder / dataset
    lists = folder / "lists"

    def note(stage: str, **options: str) -> Note:
        return Note(settings=plan.slice_of(stage, dataset), code=plan.code_of(stage), options=options)

    drawn = (plan.folder / "data" / dataset / "shapes.json",) if settings.data.source == "shapes" else ()
    if drawn:
        yield Job("shapes", drawn, note("shapes"))
    of_folds = tuple(lists_folder(plan.folder, dataset, fold) / f"{split}.csv" for fold in plan.folds(dataset) for split in SPLITS)
    yield Job("folds", (lists / "index.csv", lists / "train.csv", *of_folds), note("folds"), after=drawn)
    counted = tuple(folder / f"counts{end}" for end in (".csv", ".txt", ".html", "-classes.html"))
    yield Job("counts", counted, note("counts", published=plan.published_mark()), (lists / "index.csv", *of_folds))
    if settings.store.images:
        yield Job("store", (folder / "store.json",), note("store"), (lists / "index.csv",))
    vectors = "" if settings.text.source == "shapes" else mark(plan.experiment.root / settings.text.source)
    yield Job("embeddings", (folder / "embeddings.csv",), note("embeddings", vectors=vectors))


def _fold(plan: Plan, dataset: str, fold: int) -> Iterator[Job]:
    """Of a fold: what all its cells share."""
    settings, lists = plan.settings(dataset, fold), lists_folder(plan.folder, dataset, fold)
    folder, seeds = fold_folder(plan.folder, dataset, plan.backbone(dataset), fold), ",".join(map(str, plan.seeds))

    def note(stage: str, **options: str) -> Note:
        return Note(settings=plan.slice_of(stage, dataset, fold), code=plan.code_of(stage, dataset), options=options)

    base = folder / "base.safetensors"
    weights = mark(weights_path(settings.backbone, plan.experiment.root))
    images = Path(plan.base_list(dataset, fold))
    yield Job("base", (base, base.with_suffix(".json")), note("base", weights=weights), (images,))
    for split in SPLITS:
        for path in plan.cache_file(split, dataset, fold):
            yield Job(f"features_{split}", (Path(path),), note(f"features_{split}"), (lists / f"{split}.csv", base))
    for shot in plan.shots:
        rounds = tuple(lists / f"shot{shot}" / f"seed{seed}.csv" for seed in plan.seeds)
        yield Job("episodes", rounds, note("episodes", seeds=seeds), (lists / "test.csv",))
        made = {path for row in plan.rows for path in map(Path, plan.record_files(dataset, fold, row, shot))}
        for part in sorted({path.parent.parent.name for path in made}):
            sets = tuple(record_set(folder / "records", part, shot, seed) for seed in plan.seeds)
            features = tuple(map(Path, plan.cache_file("test", dataset, fold)))
            yield Job("records", sets, note("records", seeds=seeds, part=part), (*rounds, base, *features))
        choice = plan.figures.choice(dataset, fold)
        if not choice.empty:
            read = (*map(Path, plan.figures.inputs(dataset, fold, shot)), lists / "test.csv")
            yield Job(
                "gallery", (plan.figures.gallery(dataset, fold, shot),), Note(code=plan.code_of("gallery"), options=choice.options()), read
            )


def _cell(plan: Plan, cell: Cell) -> Iterator[Job]:
    """Of a cell: training, where its method is trained, and testing."""
    place, method = (cell.dataset, cell.fold, cell.method), plan.method_of(cell.method)
    lists, base = (
        lists_folder(plan.folder, *place[:2]),
        fold_folder(plan.folder, cell.dataset, cell.backbone, cell.fold) / "base.safetensors",
    )
    shared = (base, plan.folder / cell.dataset / "embeddings.csv")

    def note(stage: str, **options: str) -> Note:
        values, code = plan.slice_of(stage, *place), plan.code_of(stage, cell.dataset, cell.method)
        return Note(settings=values, code=code, options={"method": method, **options})

    def files(*paths: str) -> tuple[Path, ...]:
        return tuple(map(Path, paths))

    model = files(*plan.model_file(*place, cell.shot))
    if model:
        tested = files(*plan.test_files(*place).values())
        inputs = (lists / "train.csv", *shared, *files(*plan.cache_file("train", *place[:2])), *tested)
        yield Job("train", model, note("train"), inputs)
    rounds = tuple(lists / f"shot{cell.shot}" / f"seed{seed}.csv" for seed in plan.seeds)
    read = files(*plan.cache_file("test", *place), *plan.record_files(*place, cell.shot))
    options = {"seeds": ",".join(map(str, plan.seeds)), "experiment": plan.experiment.experiment}
    outputs = tuple(path(plan.folder, seed) for path in (cell.metrics, cell.episodes) for seed in plan.seeds)
    yield Job("evaluate", outputs, note("evaluate", **options), (lists / "test.csv", *rounds, *shared, *read, *model))
