"""A table as one HTML page that needs nothing beside it: what the report shows, and what a browser opens."""

from html import escape
from typing import Any

import pandas as pd

from symnet.report.latex import BEST, SECOND, Printed, title

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }
caption { text-align: left; max-width: 60em; padding-bottom: .8em; }
th, td { padding: .2em .7em; text-align: left; }
.narrow th, .narrow td { padding: .2em .35em; font-size: 12px; }
th { border-bottom: 1px solid; vertical-align: bottom; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
.rule td { border-top: 1px solid #999; }
.best { font-weight: bold; }
.second { text-decoration: underline; }
small { color: #555; }
p { max-width: 60em; font-size: 12px; }
"""
_CLASS = {BEST: " best", SECOND: " second"}


def html(printed: Printed, marks: pd.DataFrame) -> str:
    """`printed` as a page.

    marks: styles of some of its columns, as `report.latex` makes them. A column `NAME std` after `NAME` is set beside it as a deviation.
    """
    table, groups, decimals = printed.table, printed.groups, printed.decimals
    spread = {name for name in table.columns if name.endswith(" std")}
    names = [name for name in table.columns if name not in spread]
    numbers = {name for name in names if pd.api.types.is_float_dtype(table[name])}
    group = table.groupby(list(groups), sort=False).ngroup()
    head = "".join(f"<th{_number(name, numbers)}>{escape(title(name))}</th>" for name in names)
    rows = []
    for place, (index, line) in enumerate(table.iterrows()):
        first = not group.duplicated().iloc[place]
        cells = []
        for name in names:
            text = "" if name in groups and not first else _text(line[name], decimals.get(name, 2) if name in numbers else None)
            deviation = line.get(name.removesuffix("mean") + "std") if name.endswith(" mean") else None
            text += f" <small>&plusmn; {deviation:.2f}</small>" if deviation is not None and pd.notna(deviation) else ""
            mark = _CLASS.get(str(marks.at[index, name]), "") if name in marks else ""
            cells.append(f"<td{_number(name, numbers, mark)}>{text}</td>")
        rows.append(f"<tr{' class=rule' if first and place else ''}>{''.join(cells)}</tr>")
    told = "".join(f"<p>{escape(note)}</p>" for note in printed.notes)
    body = (
        f"<table{' class=narrow' if printed.narrow else ''}><caption>{escape(printed.caption)}</caption>\n<tr>{head}</tr>\n"
        + "\n".join(rows)
        + f"\n</table>{told}"
    )
    return f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><style>{_STYLE}</style></head>\n<body>{body}</body></html>\n'


def _text(value: Any, places: int | None) -> str:
    if places is None:
        return escape(str(value))
    return "--" if pd.isna(value) else f"{value:.{places}f}"


def _number(name: str, numbers: set[str], mark: str = "") -> str:
    words = (("n" if name in numbers else "") + mark).strip()
    return f' class="{words}"' if words else ""
