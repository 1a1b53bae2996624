"""A table as LaTeX (booktabs), and the words that stand around it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from symnet.protocols import SCORINGS, in_words
from symnet.report import Round

SHORT, LONG = (f"% \\usepackage{{booktabs, {other}}}\n" for other in ("graphicx", "longtable"))  # what a table needs
FIT = r"\resizebox{\ifdim\width>\linewidth \linewidth\else \width\fi}{!}{"
PAGE = 45  # lines of a table that a page of a paper takes
WIDE, CROWDED = 8, 16  # columns above which a table of several pages is narrow; is one page, shrunk as a whole
BEST, SECOND = "textbf:--rwrap;", "underline:--rwrap;"  # pandas' words for LaTeX commands


@dataclass(frozen=True)
class Printed:
    """A table as it is to be printed. Rows are grouped by the columns `groups`, each value printed once and a rule between.

    Within a group each numeric column's best is bold and its second underlined, by the two decimals that are printed; not in `unmarked`.
    across: each line's best and second instead. Caption and notes are plain text. narrow: smaller letters, columns closer together,
    heads of several lines; decimals: of columns that have other than two.
    """

    table: pd.DataFrame
    groups: Sequence[str]
    caption: str
    notes: Sequence[str] = ()
    unmarked: Sequence[str] = ("std",)
    across: bool = False
    narrow: bool = False
    decimals: Mapping[str, int] = field(default_factory=dict)


def latex(printed: Printed) -> str:
    """As LaTeX for a paper (needs booktabs and graphicx; longtable where it has more lines than fit on a page)."""
    table, groups = printed.table, printed.groups
    numbers = _numbers(table)
    group = table.groupby(list(groups), sort=False).ngroup()
    marks = ranked(printed)
    shown = table.copy()
    shown.loc[group.duplicated(), list(groups)] = ""
    words = shown.columns.difference(numbers)
    shown[words] = shown[words].map(lambda word: escape(str(word)), na_action="ignore")  # pandas' own leaves < and >
    long = len(table) > PAGE and len(table.columns) <= CROWDED
    narrow = printed.narrow or (long and len(table.columns) > WIDE)
    head = {name: _stacked(name, name in numbers) if narrow else title(name) for name in table.columns}
    style = shown.rename(columns=head).style.hide(axis="index").format(precision=2, na_rep="--")
    for name, places in printed.decimals.items():
        style = style.format(precision=places, na_rep="--", subset=[head[name]])
    style = style.apply(lambda frame: marks.set_axis(frame.columns, axis=1), axis=None)
    columns = "".join("r" if name in numbers else "l" for name in table.columns)
    place: dict[str, Any] = {"environment": "longtable"} if long else {"position": "t", "position_float": "centering"}
    lines = style.to_latex(hrules=True, column_format=columns, caption=escape(printed.caption), **place).splitlines()
    first = lines.index(r"\endlastfoot" if long else r"\midrule") + 1
    for row in reversed(group.index[~group.duplicated()][1:]):
        lines.insert(first + row, r"\midrule")
    end = lines.index(r"\end{longtable}" if long else r"\end{tabular}") + 1
    lines[end:end] = under([escape(note) for note in printed.notes])
    if narrow:  # a float forgets the size of letters around it, a longtable has no inside
        start = 0 if long else next(place for place, line in enumerate(lines) if line.startswith(r"\begin{tabular}"))
        size = "tiny" if long else "footnotesize"
        lines.insert(start, rf"\begingroup\{size}\setlength{{\tabcolsep}}{{3pt}}")
        lines.insert(lines.index(r"\end{longtable}" if long else r"\end{tabular}") + 1, r"\endgroup")
    return LONG + "\n".join(lines) + "\n" if long else fitted(lines)


def ranked(printed: Printed) -> pd.DataFrame:
    """Styles of the cells: within a group each numeric column's best and second, but for `unmarked`; or each line's."""
    table = printed.table
    group = table.groupby(list(printed.groups), sort=False).ngroup()
    marks = pd.DataFrame("", table.index, table.columns)
    if printed.across:
        marks[_numbers(table)] = best_two(table[_numbers(table)].T).T
        return marks
    for name in _numbers(table):
        if name not in printed.unmarked:
            marks[name] = table[name].round(2).groupby(group, group_keys=False).apply(_marks)
    return marks


def _numbers(table: pd.DataFrame) -> list[str]:
    return [name for name in table.columns if pd.api.types.is_float_dtype(table[name])]


def title(column: str) -> str:
    """A column's head: `fold0` -> `Fold-0`, `paper_mean` -> `Paper mean`, `fb_iou_padded` -> `FB-IoU padded`."""
    words = "data set" if column == "dataset" else re.sub(r"fold(?=\d)", "fold-", column)
    words = words.replace("fb_iou", "FB-IoU").replace("miou", "mIoU").replace("_", " ")
    return words if words.startswith("mIoU") else words[:1].upper() + words[1:]


def _stacked(column: str, number: bool) -> str:
    """The head with a line a word, on the side where the column's values are."""
    words, side = title(column).split(" "), "r" if number else "l"
    lines = r"\\".join(words)
    return rf"\shortstack[{side}]{{{lines}}}" if len(words) > 1 else lines


def best_two(table: pd.DataFrame) -> pd.DataFrame:
    """Styles of a table of numbers: each column's best bold, its second underlined, by the two decimals that are printed."""
    return table.round(2).apply(_marks)


def _marks(column: "pd.Series[float]") -> "pd.Series[str]":
    """The best of a column bold, the second underlined, by the two decimals that are printed."""
    values = sorted(set(column.dropna()), reverse=True)[:2]
    marks = dict(zip(values, (BEST, SECOND), strict=False))
    return pd.Series([marks.get(value, "") for value in column], column.index)


def caption(what: str, rounds: Sequence[Round], means: str = "mean over folds, then mean and sample standard deviation") -> str:
    """What was measured, the protocol of each data set in words, what is taken over how many seeds (`means`); plain text."""
    seeds = len({one.seed for one in rounds})
    spread = f"{means} over {seeds} seeds" if seeds > 1 else "one seed"
    protocols: dict[tuple[str, str], list[str]] = {}
    for one in rounds:
        names = protocols.setdefault((one.payload["protocol_stamp"], in_words(one.payload["protocol"])), [])
        names += [one.cell.dataset] * (one.cell.dataset not in names)
    told = " ".join(f"{', '.join(names)}: protocol {stamp}: {words}." for (stamp, words), names in protocols.items())
    return f"{what}; {spread}. {told}"


def footnotes(rounds: Sequence[Round]) -> list[str]:
    """Classes left out, with the reason, and those that had no episode in some round; plain text, none or one."""
    notes: dict[str, None] = {}
    for one in rounds:
        where = f"{one.cell.dataset}, fold {one.cell.fold}, {one.cell.shot}-shot"
        for name, reason in one.payload["left_out"].items():
            notes[f"{where}: {name} ({reason})"] = None
        seen = {name for scored in one.outputs().values() for name in scored[SCORINGS[0]]}
        for name in one.payload["classes"]:
            if name not in seen and name not in one.payload["left_out"]:
                notes[f"{where}, seed {one.seed}: {name} (no episode drawn)"] = None
    return [f"Left out: {'; '.join(notes)}."] if notes else []


def fitted(lines: Sequence[str]) -> str:
    """A table that is made smaller where it would be wider than the text around it."""
    found = "\n".join(lines) + "\n"
    return SHORT + found.replace(r"\begin{tabular}", FIT + r"\begin{tabular}").replace(r"\end{tabular}", r"\end{tabular}}")


def under(notes: Sequence[str]) -> list[str]:
    """Lines of LaTeX that set `notes`, LaTeX themselves, under a table."""
    return [r"\par\smallskip\footnotesize", *notes] if notes else []


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
