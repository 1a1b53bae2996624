"""A table that the experiment defines: chosen rows under the paper's words for them, beside the paper's own figures (Tables 3 to 6)."""

import csv
from collections.abc import Sequence

import pandas as pd

from symnet.errors import UserError
from symnet.experiment import AblationTable
from symnet.report import PUBLISHED, Round
from symnet.report.latex import Printed, caption, footnotes


def published(table: str) -> dict[str, dict[str, float]]:
    """The paper's figures of one of its tables: label -> column -> mIoU in percent, where printed. Raises `UserError`."""
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["setting"]: row for row in rows if row["table"] == table}
    if not found:
        raise UserError(f"tables: published: found '{table}', allowed: {', '.join(dict.fromkeys(row['table'] for row in rows))}")
    return {
        setting: {name: float(value) for name, value in row.items() if value and name not in ("table", "setting", "note")}
        for setting, row in found.items()
    }


def ablation_table(main: pd.DataFrame, table: AblationTable) -> pd.DataFrame:
    """The lines of the main table that belong to `table.rows`, in their order, one a data set, shot and output.

    Columns: dataset, shot, output, setting, fold0.., mean, std, seeds; paper_mean where the paper printed one. Raises `UserError` for a
    label that the paper's table does not have.
    """
    theirs = {} if table.published is None else published(table.published)
    unknown = sorted(set(table.rows) - set(theirs)) if theirs else []
    if unknown:
        raise UserError(f"tables: rows: '{unknown[0]}' is not in the paper's table {table.published}: one of {', '.join(theirs)}")
    found = main.assign(
        row=main["method"].str.replace(r" \(.*\)$", "", regex=True), output=main["method"].str.extract(r"\((.*)\)$")[0].fillna("")
    )
    lines = []
    for place, (label, row) in enumerate(table.rows.items()):
        own = found[found["row"] == row].assign(setting=label, place=place)
        lines.append(own.assign(paper_mean=theirs[label].get("mean")) if theirs else own)
    whole = pd.concat(lines).sort_values(["dataset", "shot", "output", "place"], ignore_index=True)
    numbers = [name for name in main.columns if name.startswith("fold")]
    return whole[["dataset", "shot", "output", "setting", *numbers, "mean", "std", "seeds", *(["paper_mean"] if theirs else [])]]


def ablation_printed(made: pd.DataFrame, table: AblationTable, rounds: Sequence[Round]) -> Printed:
    """To be printed. The paper's column never competes for bold: it was measured under another protocol."""
    what = f"{table.caption or 'Ablation'}, mIoU in percent"
    if "paper_mean" in made:
        what += f" (paper mean: as printed by the authors, ResNet-50, PASCAL-5i, 1-shot, ensemble output, Table {table.published})"
    shown = made.drop(columns="seeds").astype({"dataset": str, "shot": str})
    return Printed(shown, ["dataset", "shot", "output"], caption(what, rounds), footnotes(rounds), unmarked=("std", "paper_mean"))
