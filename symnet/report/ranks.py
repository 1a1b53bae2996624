"""Ranks of rows over classes: Friedman's test, and Nemenyi's critical difference as Demsar (JMLR 2006) draws it.

A class is a block: in each the row with the highest IoU has rank 1, equal ones share the mean of their ranks. Classes are taken for
independent. The test asks who is ahead more often, not by how much: that is the bootstrap's question (`report.bootstrap`).
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symnet.report.style import PAGE, new_figure

LINE = 0.2  # inches between labels


def ranks(values: np.ndarray) -> np.ndarray:
    """[blocks, R], the higher the better -> rank in each block, float64 [blocks, R]."""
    from scipy.stats import rankdata  # here: slow to import

    return rankdata(-values, axis=1)


def friedman(ranked: np.ndarray) -> float:
    """p-value of all rows being equal in rank [blocks, R], corrected for ties; 1 where all are tied."""
    from scipy.special import chdtrc

    blocks, rows = ranked.shape
    spread = (ranked**2).sum() - blocks * rows * (rows + 1) ** 2 / 4
    if spread == 0:
        return 1.0
    between = ((ranked.sum(0) - blocks * (rows + 1) / 2) ** 2).sum()
    return float(chdtrc(rows - 1, (rows - 1) * between / spread))


def critical_difference(rows: int, blocks: int, level: float) -> float:
    """Nemenyi's: mean ranks further apart differ at the level, all pairs counted."""
    from scipy.stats import studentized_range

    q = studentized_range.ppf(1 - level, rows, np.inf) / 2**0.5
    return float(q * (rows * (rows + 1) / (6 * blocks)) ** 0.5)


def cliques(means: Sequence[float], difference: float) -> list[tuple[int, int]]:
    """First and last place of each largest group of mean ranks, which rise, within the difference; groups of one left out."""
    lasts = [max(j for j in range(len(means)) if means[j] - means[i] <= difference) for i in range(len(means))]
    return [(i, last) for i, last in enumerate(lasts) if last > i and (i == 0 or last > lasts[i - 1])]


def rank_figure(names: Sequence[str], means: Sequence[float], difference: float) -> Figure:
    """Mean ranks on a line, the best on the left; bars join rows that are not told apart. difference: the critical one."""
    order = np.argsort(means, kind="stable")
    places, labels = np.asarray(means, np.float64)[order], [names[i] for i in order]
    groups = cliques(places.tolist(), difference)
    half = -(-len(places) // 2)
    figure = new_figure(PAGE, 0.6 + LINE * (half + 0.5 * len(groups) + 2))
    axes = figure.add_subplot()
    if len(places) < 2:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "one row: nothing to compare", ha="center")
        return figure
    top = len(places)
    _scale(axes, top, difference)
    for number, (first, last) in enumerate(groups):
        height = -0.5 * (number + 1)
        axes.plot([places[first] - 0.03, places[last] + 0.03], [height, height], color="C1", linewidth=3, solid_capstyle="butt")
    below = -0.5 * (len(groups) + 1)
    for i, (place, label) in enumerate(zip(places, labels, strict=True)):
        left = i < half
        height = below - (i if left else len(places) - 1 - i) - 0.3
        end = 0.85 if left else top + 0.15
        axes.plot([place, place, end], [0, height, height], color="black", linewidth=0.7)
        axes.text(end, height, f"{label}  {place:.2f} " if left else f" {place:.2f}  {label}", ha="right" if left else "left", va="center")
    axes.set_ylim(below - half, 2)
    return figure


def _scale(axes: Axes, top: int, difference: float) -> None:
    """The line of ranks, from 1 to the number of rows, and the critical difference above it."""
    axes.set_axis_off()
    axes.set_xlim(1 - 0.35 * (top - 1), top + 0.35 * (top - 1))
    axes.plot([1, top], [0, 0], color="black", linewidth=1)
    for rank in range(1, top + 1):
        axes.plot([rank, rank], [0, 0.2], color="black", linewidth=1)
        axes.text(rank, 0.3, str(rank), ha="center", va="bottom")
    axes.plot([1, 1, 1 + difference, 1 + difference], [1.3, 1.5, 1.5, 1.3], color="C0", linewidth=1.2)
    axes.text(1 + difference / 2, 1.6, f"critical difference {difference:.2f}", ha="center", va="bottom", color="C0")
