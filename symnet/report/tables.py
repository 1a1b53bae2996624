"""Tables: main.csv and main.tex, scorings.csv, per_class.csv, and plain text for a terminal.

Per seed the folds are averaged first; `mean` and `std` are over seeds, `std` being the sample's (n - 1), 0 for one seed. Everything
is in percent, rounded to two decimals when printed and not before.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from symnet.artifacts import Provenance, file_digest, write_json, write_text
from symnet.cells import Cell
from symnet.errors import UserError
from symnet.metrics import class_iou, fb_iou, mean_iou
from symnet.report import SCORINGS, Round, read_rounds, refuse

STAGE = "tables"
ROW = ["dataset", "method", "backbone", "variant", "protocol", "shot"]  # what tells one row from another
ORDER = ["dataset", "shot", "method", "backbone"]  # of rows, data sets as the cells have them


def make_tables(cells: Sequence[Cell], seeds: Sequence[int], root: Path, out: Path) -> None:
    """Write the tables of `cells`, each tested with every one of `seeds`, from the metric files under `root` into `out`.

    `out`/tables.json tells the sha256 of each table and of the metric files it is made from. Raises `UserError` with the list of
    what is missing, there twice, mixed or broken; nothing is written then.
    """
    rounds = read_rounds([cell.metrics(root, seed) for cell in cells for seed in seeds])
    refuse(rounds, {(cell, seed) for cell in cells for seed in seeds})
    scores, classes = _scores(rounds)
    main = _averaged(scores[scores["main"]], ROW, [])
    texts = {
        "main.csv": _csv(main),
        "main.tex": latex(main, rounds),
        "scorings.csv": _csv(_averaged(scores, [*ROW, "scoring"], ["fb_iou"])),
        "per_class.csv": _csv(_per_class(classes)),
    }
    for name, text in texts.items():
        write_text(out / name, text)
    inputs = {one.path.relative_to(root).as_posix(): file_digest(one.path) for one in rounds}
    write_json(out / "tables.json", {name: file_digest(out / name) for name in texts}, Provenance(stage=STAGE, inputs=inputs))


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


def _averaged(scores: pd.DataFrame, keys: list[str], also: list[str]) -> pd.DataFrame:
    """By `keys`: mIoU of each fold (mean over seeds), mean and std over seeds, the means of columns `also`, the number of seeds."""
    folds = scores.pivot_table(index=keys, columns="fold", values="miou", aggfunc="mean")
    folds.columns = pd.Index([f"fold{fold}" for fold in sorted(folds.columns)])
    by_seed = scores.groupby([*keys, "seed"])[["miou", *also]].mean().groupby(keys)  # the folds of a seed first
    table = folds.assign(mean=by_seed["miou"].mean(), std=by_seed["miou"].std(ddof=1).fillna(0.0))
    table = table.assign(**{name: by_seed[name].mean() for name in also}, seeds=by_seed.size())
    return table.reset_index().sort_values([*ORDER, *keys[len(ROW) :]], ignore_index=True)


def _per_class(classes: pd.DataFrame) -> pd.DataFrame:
    """IoU of each class by row, fold and scoring: mean and std over those `seeds` in which it had episodes."""
    keys = [*ROW, "fold", "class", "place", "scoring"]
    found = classes.groupby(keys)["iou"]
    table = pd.DataFrame({"iou": found.mean(), "std": found.std(ddof=1).fillna(0.0), "seeds": found.size()}).reset_index()
    return table.sort_values([*ORDER, "fold", "place", "class", "scoring"], ignore_index=True).drop(columns="place")


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.2f", lineterminator="\n")


def latex(main: pd.DataFrame, rounds: Sequence[Round]) -> str:
    """The main table for a paper (needs booktabs). Within a data set and shot, each column's best is bold, its second underlined."""
    numbers = [name for name in main.columns if name.startswith("fold")] + ["mean", "std"]
    shown = main[["dataset", "shot", "method", "backbone", "variant", *numbers]].astype({"dataset": str, "shot": str})
    group = main.groupby(["dataset", "shot"]).ngroup()
    shown.loc[group.duplicated(), ["dataset", "shot"]] = ""
    titles = {"dataset": "Data set", "std": "Std"} | {name: name.replace("fold", "Fold-").capitalize() for name in numbers}
    marks = pd.DataFrame("", shown.index, shown.columns)
    for name in numbers[:-1]:
        marks[name] = main[name].round(2).groupby(group, group_keys=False).apply(_marks)
    style = shown.rename(columns=lambda name: titles.get(name, name.capitalize())).style.hide(axis="index")
    style = style.format(precision=2, na_rep="--", escape="latex")
    style = style.apply(lambda frame: marks.set_axis(frame.columns, axis=1), axis=None)
    columns = "lllll" + "r" * len(numbers)
    text = style.to_latex(hrules=True, position="t", position_float="centering", column_format=columns, caption=_caption(rounds))
    lines = text.splitlines()
    first = lines.index(r"\midrule") + 1
    for row in reversed(group.index[~group.duplicated()][1:]):
        lines.insert(first + row, r"\midrule")
    end = lines.index(r"\end{tabular}") + 1
    lines[end:end] = _footnotes(rounds)
    return "% \\usepackage{booktabs}\n" + "\n".join(lines) + "\n"


def _marks(column: "pd.Series[float]") -> "pd.Series[str]":
    """The best of a column bold, the second underlined, by the two decimals that are printed."""
    values = sorted(set(column.dropna()), reverse=True)[:2]
    marks = dict(zip(values, ("textbf:--rwrap;", "underline:--rwrap;"), strict=False))
    return pd.Series([marks.get(value, "") for value in column], column.index)


def _caption(rounds: Sequence[Round]) -> str:
    """What was measured, the protocol of each data set in words, the number of seeds."""
    seeds = len({one.seed for one in rounds})
    spread = f"mean over folds, then mean and sample standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    protocols: dict[tuple[str, str], list[str]] = {}
    for one in rounds:
        names = protocols.setdefault((one.payload["protocol_stamp"], protocol_in_words(one.payload["protocol"])), [])
        names += [one.cell.dataset] * (one.cell.dataset not in names)
    told = " ".join(f"{', '.join(names)}: protocol {stamp}: {words}." for (stamp, words), names in protocols.items())
    return escape(f"Few-shot segmentation, mIoU in percent; {spread}. {told}")


def protocol_in_words(protocol: Mapping[str, Any]) -> str:
    """A protocol block as a caption tells it."""
    words = {
        "drop": "training images with novel pixels left out",
        "background": "novel pixels of training images painted background",
        "image": "queries in turn through the test list",
        "balanced": "query classes drawn uniformly",
        "padded": "scored at the padded square",
        "original": "scored at original size",
    }
    crowd = {"ignore": "crowds ignored", "drop": "crowds left out"}[protocol["crowd"]]
    size = protocol.get("image_size")
    parts = [words[protocol["novel_in_train"]], f"a class counts from {protocol['min_pixels']} pixels", crowd]
    parts += [f"{protocol['episodes']} episodes a seed", words[protocol["sampling"]], words[protocol["scoring"]]]
    return ", ".join(parts) + (
        f" of side {size}" if size and protocol["scoring"] == "padded" else f", input of side {size}" if size else ""
    )


def _footnotes(rounds: Sequence[Round]) -> list[str]:
    """Classes left out, with the reason, and those that had no episode in some round."""
    notes: dict[str, None] = {}
    for one in rounds:
        where = f"{one.cell.dataset}, fold {one.cell.fold}, {one.cell.shot}-shot"
        for name, reason in one.payload["left_out"].items():
            notes[f"{where}: {name} ({reason})"] = None
        seen = {name for scored in one.outputs().values() for name in scored[SCORINGS[0]]}
        for name in one.payload["classes"]:
            if name not in seen and name not in one.payload["left_out"]:
                notes[f"{where}, seed {one.seed}: {name} (no episode drawn)"] = None
    return [r"\par\smallskip\footnotesize", escape(f"Left out: {'; '.join(notes)}.")] if notes else []


def escape(text: str) -> str:
    """`text` with what LaTeX would take as a command spelt out."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    return re.sub(r"[\\~^<>&%$#_{}]", lambda found: special.get(found[0], f"\\{found[0]}"), text)


def format_table(path: Path) -> str:
    """main.csv as plain text, one block per data set, shot, backbone and protocol. Raises `UserError` where it is not there."""
    from rich import box  # here: only a terminal needs it
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run `symnet tables`, or the workflow to its end") from None
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
