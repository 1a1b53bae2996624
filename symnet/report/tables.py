"""Tables: main, scorings, classes, groups, base, those the experiment defines (CSV, most as LaTeX and HTML); plain text for a terminal.

Per seed the folds are averaged first; `mean` and `std` are over seeds, `std` being the sample's (n - 1), 0 for one seed. Everything
is in percent, rounded to two decimals when printed and not before.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from symnet.artifacts import Provenance, file_digest, read_json, read_manifest, write_manifest, write_text
from symnet.cells import Cell
from symnet.errors import UserError
from symnet.experiment import AblationTable
from symnet.metrics import class_iou, fb_iou, mean_iou
from symnet.protocols import SCORINGS
from symnet.report import Round, read_rounds, refuse
from symnet.report.ablation import ablation_printed, ablation_table
from symnet.report.detail import classes_printed, scorings_printed
from symnet.report.html import html
from symnet.report.latex import Printed, caption, footnotes, latex, ranked
from symnet.report.paper import DAGGER, paper_latex, paper_marks, paper_notes, paper_table

STAGE = "tables"
ROW = ["dataset", "method", "backbone", "variant", "protocol", "shot"]  # what tells one row from another
BASE_COLUMNS = ["dataset", "backbone", "fold", "miou", "worst_class", "worst_iou", "base_classes", "images", "held_out", "steps"]
ORDER = ["dataset", "shot", "method", "backbone"]  # of rows, data sets as the cells have them


def make_tables(
    cells: Sequence[Cell],
    seeds: Sequence[int],
    root: Path,
    out: Path,
    tables: Mapping[str, AblationTable] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    published: Mapping[str, str] | None = None,
    partial: bool = False,
) -> list[str]:
    """Write the tables of `cells`, each tested with every one of `seeds`, from the metric files under `root` into `out`.

    `tables` are those that the experiment defines, NAME.csv and NAME.tex; `groups` are named groups of classes, of groups.csv.
    `published`: data sets beside whose rows the field's published ones stand, and their names in those figures.
    `out`/tables.json tells the sha256 of each table and of the metric files it is made from. Raises `UserError` with the list of
    what is missing, there twice, mixed or broken; nothing is written then. partial: a cell of which a round is missing or broken is left
    out whole, and with it the means over its folds: `--` in LaTeX. Returns the lines that say which.
    """
    absent: dict[Cell, str] = {}
    if partial:
        cells, absent = _whole(cells, seeds, root)
    rounds = read_rounds([cell.metrics(root, seed) for cell in cells for seed in seeds])
    refuse(rounds, {(cell, seed) for cell in cells for seed in seeds})
    scores, classes = _scores(rounds)
    folds: dict[tuple[str, int], set[int]] = {}
    for cell in [*cells, *absent]:
        folds.setdefault((cell.dataset, cell.shot), set()).add(cell.fold)
    main = _averaged(scores[scores["main"]], ROW, [], folds)
    scorings, per_class = _averaged(scores, [*ROW, "scoring"], ["fb_iou"], folds), _per_class(classes)
    texts = {
        "main.csv": _csv(main),
        "scorings.csv": _csv(scorings),
        "per_class.csv": _csv(per_class),
        "groups.csv": _csv(_grouped(classes, groups or {})),
        "base.csv": _csv(_bases(cells, root)),
    }
    printed = {"main": main_printed(main, rounds), "scorings": scorings_printed(scorings, rounds)}
    for dataset, shot in dict.fromkeys((cell.dataset, cell.shot) for cell in cells):
        own = [one for one in rounds if (one.cell.dataset, one.cell.shot) == (dataset, shot)]
        printed[f"classes-{dataset}-{shot}shot"] = classes_printed(per_class, dataset, shot, own[0].payload["protocol"]["scoring"], own)
    for name, table in (tables or {}).items():
        made = ablation_table(main, table)
        texts[f"{name}.csv"] = _csv(made)
        printed[name] = ablation_printed(made, table, rounds)
    for name, one in printed.items():
        texts |= {f"{name}.tex": latex(one), f"{name}.html": html(one, ranked(one))}
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        texts |= _paper(main, dataset, (published or {}).get(dataset), [one for one in rounds if one.cell.dataset == dataset])
    for name, text in texts.items():
        write_text(out / name, text)
    files = [*(one.path for one in rounds), *sorted({cell.base(root) for cell in cells if cell.base(root).is_file()})]
    inputs = {path.relative_to(root).as_posix(): file_digest(path) for path in files}
    write_manifest(out / "tables.json", [out / name for name in texts], Provenance(stage=STAGE, inputs=inputs))
    return list(absent.values())


def _paper(main: pd.DataFrame, dataset: str, published: str | None, rounds: Sequence[Round]) -> dict[str, str]:
    """A data set's table in a paper's shape, in its three formats, by file name."""
    wide = paper_table(main, dataset, published)
    told, notes = caption(f"Few-shot segmentation on {dataset}, mIoU in percent", rounds), paper_notes(wide, rounds)
    shown = wide.assign(method=wide["method"] + wide["published"].map({True: DAGGER, False: ""})).drop(columns=["published", "note"])
    return {
        f"paper-{dataset}.csv": _csv(wide),
        f"paper-{dataset}.tex": paper_latex(wide, told, notes),
        f"paper-{dataset}.html": html(Printed(shown, ["backbone"], told, notes), paper_marks(wide)),
    }


def _whole(cells: Sequence[Cell], seeds: Sequence[int], root: Path) -> tuple[list[Cell], dict[Cell, str]]:
    """The cells all of whose rounds are there and sound, and of each other one what is not. Raises `UserError` where none is whole."""
    absent: dict[Cell, str] = {}
    for cell in cells:
        try:
            read_rounds([cell.metrics(root, seed) for seed in seeds])
        except UserError as error:
            absent[cell] = str(error)
    if len(absent) == len(cells):
        raise UserError(f"{root}: no cell has all of its rounds yet; {next(iter(absent.values()))}")
    return [cell for cell in cells if cell not in absent], absent


def _scores(rounds: Sequence[Round]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A line per row, fold, scoring and seed with mIoU and FB-IoU, and one per class with its IoU; percent."""
    scores, classes = [], []
    for one in rounds:
        place = {name: i for i, name in enumerate(one.payload["classes"])}
        for method, scored in one.outputs().items():
            row = {"dataset": one.cell.dataset, "method": method, "backbone": one.cell.backbone, "variant": one.payload["variant"]}
            row |= {"protocol": one.payload["protocol_stamp"], "shot": one.cell.shot, "fold": one.cell.fold, "seed": one.seed}
            for scoring in SCORINGS:
                line = {**row, "scoring": scoring, "main": scoring == one.payload["protocol"]["scoring"]}
                scores.append({**line, "miou": mean_iou(scored[scoring]), "fb_iou": fb_iou(scored[scoring])})
                found = class_iou(scored[scoring])
                classes += [{**line, "class": name, "place": place.get(name, -1), "iou": found[name]} for name in found]
    frames = pd.DataFrame(scores), pd.DataFrame(classes)
    for frame in frames:
        names = list(dict.fromkeys(one.cell.dataset for one in rounds))
        frame["dataset"] = pd.Categorical(frame["dataset"], names, ordered=True)
        variants = frame.groupby(["dataset", "method", "backbone", "shot"])["variant"]
        frame["variant"] = variants.transform(lambda found: "+".join(sorted(set(found))))  # a fold may override the model
    return frames


def _averaged(scores: pd.DataFrame, keys: list[str], also: list[str], wanted: Mapping[tuple[str, int], set[int]]) -> pd.DataFrame:
    """By `keys`: mIoU of each fold (mean over seeds), mean and std over seeds, the means of columns `also`, the number of seeds.

    wanted: the folds of each data set and shot; a row that has not all of them has no means.
    """
    folds = scores.pivot_table(index=keys, columns="fold", values="miou", aggfunc="mean")
    folds.columns = pd.Index([f"fold{fold}" for fold in sorted(folds.columns)])
    by_seed = scores.groupby([*keys, "seed"])[["miou", *also]].mean().groupby(keys)  # the folds of a seed first
    table = folds.assign(mean=by_seed["miou"].mean(), std=by_seed["miou"].std(ddof=1).fillna(0.0))
    table = table.assign(**{name: by_seed[name].mean() for name in also}, seeds=by_seed.size())
    table = table.reset_index()
    whole = [len(wanted[dataset, shot]) for dataset, shot in zip(table["dataset"], table["shot"], strict=True)]
    table.loc[folds.notna().sum(axis=1).to_numpy() < whole, ["mean", "std", *also]] = float("nan")
    return table.sort_values([*ORDER, *keys[len(ROW) :]], ignore_index=True)


def _per_class(classes: pd.DataFrame) -> pd.DataFrame:
    """IoU of each class by row, fold and scoring: mean and std over those `seeds` in which it had episodes."""
    keys = [*ROW, "fold", "class", "place", "scoring"]
    found = classes.groupby(keys)["iou"]
    table = pd.DataFrame({"iou": found.mean(), "std": found.std(ddof=1).fillna(0.0), "seeds": found.size()}).reset_index()
    return table.sort_values([*ORDER, "fold", "place", "class", "scoring"], ignore_index=True).drop(columns="place")


def _grouped(classes: pd.DataFrame, groups: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Mean IoU over the classes of a group that had episodes, whatever their fold: mean and std over seeds, by row and scoring."""
    keys = [*ROW, "group", "scoring"]
    parts = [classes[classes["class"].isin(members)].assign(group=name) for name, members in groups.items()]
    if not parts:
        return pd.DataFrame(columns=[*keys, "classes", "iou", "std", "seeds"])
    whole = pd.concat(parts)
    by_seed = whole.groupby([*keys, "seed"], observed=True)["iou"].mean().groupby(keys, observed=True)
    counted = whole.groupby(keys, observed=True)["class"].nunique()
    table = pd.DataFrame({"classes": counted, "iou": by_seed.mean(), "std": by_seed.std(ddof=1).fillna(0.0), "seeds": by_seed.size()})
    return table.reset_index().sort_values([*ORDER, "group", "scoring"], ignore_index=True)


def _bases(cells: Sequence[Cell], root: Path) -> pd.DataFrame:
    """The base learners under the cells: mIoU over base classes of held-out training images, and the class they see least of."""
    lines = []
    for cell in sorted({Cell(c.dataset, c.backbone, c.fold, "", 0) for c in cells if c.base(root).is_file()}):
        told, _ = read_json(cell.base(root), "base")
        worst = min(told["iou"], key=told["iou"].get, default="")
        line = {"dataset": cell.dataset, "backbone": cell.backbone, "fold": cell.fold, "miou": 100 * told["miou"]}
        line |= {"worst_class": worst, "worst_iou": 100 * told["iou"].get(worst, 0.0)}
        lines.append(line | {name: told[name] for name in BASE_COLUMNS[6:]})
    return pd.DataFrame(lines, columns=BASE_COLUMNS)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.2f", lineterminator="\n")


def main_printed(main: pd.DataFrame, rounds: Sequence[Round]) -> Printed:
    """The main table, to be printed: a group is a data set and shot."""
    shown = main.drop(columns=["protocol", "seeds"]).astype({"dataset": str, "shot": str})
    shown = shown[["dataset", "shot", *[name for name in shown.columns if name not in ("dataset", "shot")]]]
    return Printed(shown, ["dataset", "shot"], caption("Few-shot segmentation, mIoU in percent", rounds), footnotes(rounds))


def format_table(path: Path) -> str:
    """main.csv as plain text, one block per data set, shot, backbone and protocol. Raises `UserError` where it is absent or not whole."""
    from rich import box  # here: only a terminal needs it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not path.is_file():
        raise UserError(f"{path}: not found; run `symnet tables`, or the workflow to its end")
    read_manifest(path.with_name("tables.json"), STAGE)
    rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    console = Console(file=io.StringIO(), width=200, color_system=None)
    columns = [name for name in (rows[0] if rows else ()) if name in ("method", "variant", "mean", "std") or name.startswith("fold")]
    common = ("dataset", "shot", "backbone", "protocol", "seeds")
    for (dataset, shot, backbone, protocol, seeds), block in groupby(rows, lambda row: tuple(row[name] for name in common)):
        table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
        for name in columns:
            table.add_column(name, justify="left" if name in ("method", "variant") else "right", no_wrap=True)
        for row in block:
            table.add_row(*(Text(row[name] or "--") for name in columns))
        title = f"{dataset}, {shot}-shot, {backbone}, {protocol}, {seeds} seed{'s' * (seeds != '1')}, mIoU in percent"
        console.print(Text(title), table, "", sep="\n")
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).rstrip()  # type: ignore[attr-defined]
