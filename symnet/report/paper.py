"""The tables of a paper (Tables 1 and 2 of the field): one a data set, methods by backbone, {1-shot, 5-shot} x {folds, mean}.

Published rows stand beside ours under a mark. They were measured under other filters, sizes, episodes and seeds, so they take no part in
what is bold.
"""

import csv
from collections.abc import Sequence

import pandas as pd

from symnet.report import PUBLISHED_RESULTS, Round
from symnet.report.latex import best_two, escape, fitted, footnotes, under

DAGGER = "\u2020"  # the mark of a published row
BACKBONES = {
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "resnet50_tv": "ResNet-50 (torchvision)",
    "resnet101_tv": "ResNet-101 (torchvision)",
    "vgg16_bn": "VGG-16",
    "efficientnet_lite0": "EfficientNet-Lite0",
}


def paper_table(main: pd.DataFrame, dataset: str, published: str | None = None) -> pd.DataFrame:
    """The lines of a data set: backbone, method, from (what measured it: the protocol, or the venue), `1-shot fold0` ... `1-shot mean`,
    `1-shot std`, and so on for each shot; percent. Published rows of the data set `published` come first within their backbone, in
    print's order, with no std, their `note`s in the last column; of the shots that ours have.
    """
    own = main[main["dataset"] == dataset]
    shots = [int(shot) for shot in sorted(own["shot"].unique())]
    numbers = [name for name in own.columns if name.startswith("fold") and own[name].notna().any()] + ["mean", "std"]
    rows: dict[tuple[str, str, str], dict[str, object]] = {}
    for line in [*_printed(published, shots), *_measured(own, numbers)]:
        row = rows.setdefault((line["backbone"], line["method"], line["from"]), {"published": line["published"], "note": ""})
        row |= {f"{line['shot']}-shot {name}": line[name] for name in numbers if name in line}
        row["note"] = "; ".join(filter(None, (str(row["note"]), line["note"])))
    names = dict.fromkeys(backbone for backbone, _, _ in rows)
    order = sorted(rows, key=lambda key: list(names).index(key[0]))  # stable: within a backbone as they came
    table = pd.DataFrame([dict(zip(("backbone", "method", "from"), key, strict=True)) | rows[key] for key in order])
    values = [f"{shot}-shot {name}" for shot in shots for name in numbers]
    return table.reindex(columns=["backbone", "method", "from", "published", *values, "note"])


def _printed(published: str | None, shots: Sequence[int]) -> list[dict]:
    if published is None:
        return []
    with open(PUBLISHED_RESULTS, encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["dataset"] == published and int(line["shot"]) in shots]
    values = ("fold0", "fold1", "fold2", "fold3", "mean")
    return [
        {"backbone": line["backbone"], "method": line["method"], "from": line["venue"], "published": True, "shot": int(line["shot"])}
        | {name: float(line[name]) for name in values if line[name]}
        | {"note": line["note"]}
        for line in lines
    ]


def _measured(own: pd.DataFrame, numbers: Sequence[str]) -> list[dict]:
    return [
        {"backbone": BACKBONES.get(line["backbone"], line["backbone"]), "method": _name(line), "from": line["protocol"], "published": False}
        | {"shot": int(line["shot"]), "note": ""}
        | {name: line[name] for name in numbers}
        for line in own.to_dict("records")
    ]


def _name(line: dict) -> str:
    """`symnet (meta), paper`: the row, and the variant of the model where it has one."""
    return f"{line['method']}, {line['variant']}" if line["variant"] else str(line["method"])


def value_columns(table: pd.DataFrame) -> list[str]:
    """`1-shot fold0` .. `1-shot mean` of each shot."""
    return [name for name in table.columns if "-shot " in name and not name.endswith("std")]


def paper_marks(table: pd.DataFrame) -> pd.DataFrame:
    """Styles of `value_columns`: the best two of our rows."""
    return best_two(table[value_columns(table)].where(~table["published"].astype(bool)))


def paper_notes(table: pd.DataFrame, rounds: Sequence[Round]) -> list[str]:
    """What the mark of published rows means, what is odd in the print, what of ours was left out; plain text. rounds: of its data set."""
    if not table["published"].any():
        return footnotes(rounds)
    odd = [f"{line['method']}, {line['backbone']}: {line['note']}" for line in table.to_dict("records") if line["note"]]
    told = f"{DAGGER} as printed by its authors, under other filters, sizes, episodes and seeds; not ranked with ours"
    return [". ".join([told, *odd]) + ".", *footnotes(rounds)]


def paper_latex(table: pd.DataFrame, told: str, notes: Sequence[str]) -> str:
    """As LaTeX (needs booktabs, graphicx), with a caption and notes. Of our rows each column's best is bold and its second underlined."""
    columns = value_columns(table)
    shots = list(dict.fromkeys(name.partition(" ")[0] for name in columns))
    marks = paper_marks(table)
    daggers = table["published"].map({True: r"$^\dagger$", False: ""})
    shown: dict[tuple[str, str], Sequence[str]] = {
        ("", "Backbone"): [*table["backbone"].where(~table["backbone"].duplicated(), "").map(escape)],
        ("", "Method"): [*(table["method"].map(escape) + daggers)],
    }
    for name in columns:
        shot, _, value = name.partition(" ")
        spread = table[f"{shot} std"] if value == "mean" else pd.Series(float("nan"), table.index)
        cells = zip(table[name], spread, strict=True)
        shown[shot, value.replace("fold", "Fold-").replace("mean", "Mean")] = [_cell(*cell) for cell in cells]
    plain = pd.DataFrame("", table.index, ["backbone", "method"])
    styles = pd.concat([plain, marks], axis=1)
    style = pd.DataFrame(shown).style.hide(axis="index").apply(lambda frame: styles.set_axis(frame.columns, axis=1), axis=None)
    text = style.to_latex(
        hrules=True,
        position="t",
        position_float="centering",
        column_format="ll" + "r" * len(columns),
        multicol_align="c",
        caption=escape(told),
    )
    lines = text.splitlines()
    of_shot = len(columns) // len(shots)
    rules = " ".join(rf"\cmidrule(lr){{{3 + i * of_shot}-{2 + (i + 1) * of_shot}}}" for i in range(len(shots)))
    top = lines.index(r"\toprule")
    lines.insert(top + 2, rules)
    first = lines.index(r"\midrule") + 1
    for row in reversed(table.index[~table["backbone"].duplicated()][1:]):
        lines.insert(first + row, r"\midrule")
    end = lines.index(r"\end{tabular}") + 1
    lines[end:end] = under([escape(note).replace(DAGGER, r"$^\dagger$") for note in notes])
    return fitted(lines)


def _cell(value: float, spread: float) -> str:
    if pd.isna(value):
        return "--"
    return f"{value:.2f}" + ("" if pd.isna(spread) else rf"{{\scriptsize$\pm${spread:.2f}}}")
