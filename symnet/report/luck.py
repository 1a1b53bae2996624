"""What of a table is luck: differences of all pairs of rows with intervals and p-values, ranks over classes, mIoU by size of the object.

Every row is tested on the same episodes, so each difference is measured on them, row against row; how it may be off is
`report.bootstrap`'s, ranks are `report.ranks`'. Pairs of a data set and shot are one family: their p-values are corrected together.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import pandas as pd

from symnet.artifacts import Provenance, file_digest, write_manifest, write_text
from symnet.cells import Cell
from symnet.episode_counts import EpisodeCounts, read_episode_counts
from symnet.report import Round, read_rounds, refuse
from symnet.report.bootstrap import RESAMPLES, holm, interval, luck
from symnet.report.html import html
from symnet.report.latex import Printed, caption, footnotes, latex, ranked
from symnet.report.paired import Paired, paired
from symnet.report.ranks import critical_difference, friedman, ranks
from symnet.report.sizes import SIZES, by_size

STAGE = "luck"
LEVEL = 0.05
HOLDS, HERE, LUCK = "holds", "on these classes", "may be luck"
FAMILY = ["dataset", "shot"]
KEPT = "Not resampled: training, of which each fold has one, and the draw of supports; luck of those two is in every number here"


def make_luck(root: Path, out: Path, cells: Sequence[Cell], seeds: Sequence[int], scorings: Mapping[str, str]) -> None:
    """Write differences, ranks and sizes, each .csv, .tex and .html, and luck.json, which vouches for them, into `out`.

    scorings: by data set, which one counts. Raises `UserError` for rounds that are missing, broken, or of other episodes.
    """
    rounds = read_rounds([cell.metrics(root, seed) for cell in cells for seed in seeds])
    refuse(rounds, {(cell, seed) for cell in cells for seed in seeds})
    made: dict[str, list[pd.DataFrame]] = {"differences": [], "ranks": [], "sizes": []}
    read = []
    for dataset, shot in dict.fromkeys((cell.dataset, cell.shot) for cell in cells):
        tested: dict[str, dict[tuple[int, int], EpisodeCounts]] = {}
        for cell in cells:
            if (cell.dataset, cell.shot) == (dataset, shot):
                for seed in seeds:
                    read.append(cell.episodes(root, seed))
                    tested.setdefault(cell.method, {})[cell.fold, seed] = read_episode_counts(read[-1])
        found = paired(tested, scorings[dataset])
        parts = {"differences": differences(found), "ranks": rank_table(found), "sizes": by_size(tested, scorings[dataset])}
        for name, part in parts.items():
            part.insert(0, "dataset", dataset)
            part.insert(1, "shot", shot)
            made[name].append(part)
    whole = {name: pd.concat(tables, ignore_index=True) for name, tables in made.items()}
    printed = {
        "differences": differences_printed(whole["differences"], rounds),
        "ranks": ranks_printed(whole["ranks"], rounds),
        "sizes": sizes_printed(whole["sizes"], rounds),
    }
    texts = {f"{name}.csv": table.to_csv(index=False, float_format="%.4f", lineterminator="\n") for name, table in whole.items()}
    for name, one in printed.items():
        texts |= {f"{name}.tex": latex(one), f"{name}.html": html(one, ranked(one))}
    for name, text in texts.items():
        write_text(out / name, text)
    inputs = {path.relative_to(root).as_posix(): file_digest(path) for path in (*(one.path for one in rounds), *read)}
    write_manifest(out / "luck.json", [out / name for name in texts], Provenance(stage=STAGE, inputs=inputs))


def differences(found: Paired, resamples: int = RESAMPLES, level: float = LEVEL) -> pd.DataFrame:
    """A line a pair: row minus other, mIoU in points, the higher first; in how many classes the row is ahead; the interval and p-value
    with classes drawn anew (low, high, p, p_holm) and with the classes as they are (the same, `_here`); and what that means.
    """
    drawn = luck(found, resamples)
    lines = []
    for pair in combinations(range(len(found.rows)), 2):
        one, other = sorted(pair, key=lambda r: -found.miou[r])
        difference = found.miou[one] - found.miou[other]
        here, anew = (interval(difference, deviations, level) for deviations in drawn.of(one, other))
        line = {"row": found.rows[one], "other": found.rows[other], "difference": difference}
        line |= {"ahead": (found.by_class[:, one] > found.by_class[:, other]).sum(), "classes": len(found.classes)}
        line |= {"low": anew.low, "high": anew.high, "p": anew.p}
        lines.append(line | {"low_here": here.low, "high_here": here.high, "p_here": here.p})
    table = pd.DataFrame(lines, columns=["row", "other", "difference", "ahead", "classes", *_BOUNDS, *(f"{name}_here" for name in _BOUNDS)])
    table["p_holm"], table["p_here_holm"] = holm(table["p"].tolist()), holm(table["p_here"].tolist())
    pairs = zip(table["p_holm"], table["p_here_holm"], strict=True)
    table["verdict"] = [HOLDS if anew <= level else HERE if here <= level else LUCK for anew, here in pairs]
    return table.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


_BOUNDS = ("low", "high", "p")


def rank_table(found: Paired, level: float = LEVEL) -> pd.DataFrame:
    """A line a row, the best first: mIoU, mean rank over classes and over folds; and the same on each line: the number of classes, the
    p-value of Friedman's test, Nemenyi's critical difference of ranks over classes.
    """
    by_class, count = ranks(found.by_class), len(found.rows)
    table = pd.DataFrame({"method": found.rows, "miou": found.miou, "rank": by_class.mean(0), "rank_folds": ranks(found.by_fold).mean(0)})
    several = count > 1
    table = table.assign(classes=len(found.classes), friedman=friedman(by_class) if several else 1.0)
    table["critical_difference"] = critical_difference(count, len(found.classes), level) if several else 0.0
    return table.sort_values("rank", kind="stable", ignore_index=True)


def differences_printed(table: pd.DataFrame, rounds: Sequence[Round]) -> Printed:
    """As a paper prints it: intervals in one column, corrected p-values as text."""
    shown = table.astype({"dataset": str, "shot": str})
    shown["ahead in"] = [f"{ahead} of {classes}" for ahead, classes in zip(table["ahead"], table["classes"], strict=True)]
    for name, end in (("other", ""), ("these", "_here")):
        ends = zip(table[f"low{end}"], table[f"high{end}"], strict=True)
        shown[f"{name} classes"] = [f"{low:+.2f} to {high:+.2f}" for low, high in ends]
        shown[f"p {name}"] = table[f"p{end}_holm"].map(_p)
    names = [column for name in ("other", "these") for column in (f"{name} classes", f"p {name}")]
    shown = shown[[*FAMILY, "row", "other", "difference", "ahead in", *names, "verdict"]]
    what = (
        f"Paired differences of mIoU in points: 95 % intervals and p-values from {RESAMPLES:,} resamples of test images and classes (other "
        "classes) and of test images alone (these classes), p-values corrected for all pairs of a data set and shot (Holm). "
        f"{KEPT}"
    )
    notes = [f"{HOLDS}: other classes would show it too. {HERE}: other episodes of them would. {LUCK}: neither is shown."]
    return Printed(shown, FAMILY, caption(what, rounds, "means over folds and"), [*notes, *footnotes(rounds)], unmarked=("difference",))


def ranks_printed(table: pd.DataFrame, rounds: Sequence[Round]) -> Printed:
    """Ranks, and beside them what they are to be compared with."""
    shown = table.astype({"dataset": str, "shot": str, "classes": str}).rename(columns={"friedman": "friedman p"})
    shown["friedman p"] = table["friedman"].map(_p)
    what = (
        "Mean ranks by IoU over classes and over folds; rows whose ranks over classes differ by less than the critical difference are "
        f"not told apart at {LEVEL:g} (Nemenyi). {KEPT}"
    )
    unmarked = ("rank", "rank_folds", "critical_difference")
    return Printed(shown, FAMILY, caption(what, rounds, "means over folds and"), footnotes(rounds), unmarked=unmarked)


def sizes_printed(table: pd.DataFrame, rounds: Sequence[Round]) -> Printed:
    """A column a size; how many episodes of each there are, in a note."""
    shown = table.astype({"dataset": str, "shot": str}).pivot_table(index=[*FAMILY, "method"], columns="size", values="miou", sort=False)
    shown = shown.reindex(columns=list(SIZES)).rename_axis(columns=None).reset_index()
    counts = table.drop_duplicates([*FAMILY, "size"]).groupby(FAMILY, sort=False)
    notes = [
        f"{dataset}, {shot}-shot, episodes: " + ", ".join(f"{line.size} {line.episodes}" for line in own.itertuples()) + "."
        for (dataset, shot), own in counts
    ]
    what = "mIoU in percent by the share of the image that the object takes, over the classes that have such objects"
    return Printed(shown, FAMILY, caption(what, rounds, "episodes of all folds, counts summed"), [*notes, *footnotes(rounds)])


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
