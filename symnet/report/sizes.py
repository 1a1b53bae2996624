"""IoU against the size of the object: which objects a method misses."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from symnet.episode_counts import EpisodeCounts
from symnet.report.style import PAGE, log_axis, new_figure

BINS, LEAST = 8, 10  # bins of equal numbers of episodes, at most; episodes of one, at least
ROW = 3  # panels
SIZES = {"below 0.03": 0.03, "0.03 to 0.1": 0.1, "0.1 to 0.25": 0.25, "from 0.25": 2.0}  # shares of the image, and where each ends


def size_scatter(rounds: Mapping[str, Sequence[EpisodeCounts]], scoring: str) -> Figure:
    """A panel an output, a dot an episode of any fold and seed; the line is the median of each bin, the band its middle half.

    rounds: by row of the table, all that were tested. Object sizes are shares of the image in percent, on a log axis.
    """
    found = {name: points(own, scoring, output) for row, own in rounds.items() for output, name in own[0].named(row).items()}
    lines = -(-len(found) // ROW)
    figure = new_figure(PAGE, 2.3 * lines)
    panels = figure.subplots(lines, min(ROW, len(found)), squeeze=False, sharex=True, sharey=True)
    for axes in panels.ravel()[len(found) :]:
        axes.set_axis_off()
    for axes, (name, (sizes, ious)) in zip(panels.ravel()[: len(found)], found.items(), strict=True):
        faint = min(0.6, max(0.1, 200 / len(sizes)))
        axes.plot(sizes, ious, ".", color="C0", alpha=faint, markersize=4, markeredgewidth=0, rasterized=True)
        middle, low, median, high = binned(sizes, ious)
        axes.fill_between(middle, low, high, color="C1", alpha=0.25, linewidth=0)
        axes.plot(middle, median, color="C1", marker="o", markersize=2.5)
        log_axis(axes, sizes)
        axes.set_title(name)
    figure.supxlabel("object, % of the image", fontsize=8)
    figure.supylabel("IoU, %", fontsize=8)
    return figure


def points(rounds: Sequence[EpisodeCounts], scoring: str, output: str) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of objects and IoUs, in percent, of all episodes whose object has a pixel."""
    sizes = np.concatenate([100 * one.sizes() for one in rounds])
    ious = np.concatenate([100 * one.iou(scoring, output) for one in rounds])
    there = (sizes > 0) & ~np.isnan(ious)
    return sizes[there], ious[there]


def binned(sizes: np.ndarray, ious: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of bins of equal numbers of episodes, by size: the median size, and the quartiles of IoU, low, median and high."""
    order = np.argsort(sizes, kind="stable")
    pieces = np.array_split(order, min(BINS, max(1, len(order) // LEAST)))
    quartiles = np.array([np.percentile(ious[piece], (25, 50, 75)) for piece in pieces])
    return np.array([np.median(sizes[piece]) for piece in pieces]), *quartiles.T


def by_size(rounds: Mapping[str, Mapping[tuple[int, int], EpisodeCounts]], scoring: str) -> pd.DataFrame:
    """A line a row and size: mIoU in percent over the classes of its folds with such objects, counts of all seeds summed; and how many
    episodes and classes that are. Without an episode it has no mIoU.

    rounds: by row of the experiment, then by fold and seed, all on the same episodes.
    """
    lines = []
    for row, own in rounds.items():
        places = np.array([f"{fold} {name}" for (fold, _), one in own.items() for name in one.classes])
        size = np.digitize(np.concatenate([one.sizes() for one in own.values()]), list(SIZES.values()))
        for output, method in next(iter(own.values())).named(row).items():
            counts = np.concatenate([one.of(scoring, output) for one in own.values()])  # [E, 4]
            for number, label in enumerate(SIZES):
                at = size == number
                classes, of = np.unique(places[at], return_inverse=True)
                sums = np.zeros((len(classes), 4))
                np.add.at(sums, of, counts[at])
                miou = 100 * (sums[:, 0] / np.maximum(sums[:, :3].sum(1), 1)).mean() if len(classes) else np.nan
                lines.append({"method": method, "size": label, "episodes": at.sum(), "classes": len(classes), "miou": miou})
    return pd.DataFrame(lines)
