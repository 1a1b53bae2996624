"""Labels beside points, none on another: each takes the nearest free place around its point, those with the fewest places first."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

SIZE, GAP = 7, 2.0  # points: of the letters; around a label
DISTANCES = (5, 9, 14, 20, 27, 35, 44, 54, 66, 80)  # points, from a point to the near edge of its label
ANGLES = np.radians(np.arange(0, 360, 15))


def place_labels(axes: Axes) -> None:
    """Write the label of every single marker of `axes` near it, and a thin line to where it had to go further. The layout must be final."""
    points = [line for line in axes.lines if line.get_marker() == "o" and len(_xy(line)) == 1]
    if not points:
        return
    unit = axes.figure.dpi / 72
    at = np.concatenate([axes.transData.transform(_xy(line)) for line in points]) / unit
    written = [axes.text(0, 0, str(line.get_label()), fontsize=SIZE) for line in points]
    sizes = np.array([[box.width, box.height] for box in (text.get_window_extent() for text in written)]) / unit
    frame = axes.get_window_extent()
    for text, line, point, centre, size in zip(written, points, at, arrange(at, sizes, np.array(frame.extents) / unit), sizes, strict=True):
        text.remove()
        _write(axes, line, str(text.get_text()), centre - point, size)


def _xy(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xydata(), np.float64)  # [points, 2]


def _write(axes: Axes, line: Line2D, label: str, offset: np.ndarray, size: np.ndarray) -> None:
    """offset: from the point to the middle of its label of that size, in points."""
    gap = np.hypot(*np.maximum(np.abs(offset) - size / 2, 0))
    arrow = {"arrowstyle": "-", "linewidth": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 3} if gap > DISTANCES[1] else None
    axes.annotate(
        label,
        tuple(_xy(line)[0]),
        xytext=tuple(offset),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=SIZE,
        arrowprops=arrow,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.3},
        annotation_clip=False,
    )


def arrange(points: np.ndarray, sizes: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Middles of labels [N, 2]: each off all points, off the labels placed before, and within the frame (left, bottom, right, top).

    points [N, 2], sizes [N, 2]: of the labels. Where no place is free, the one with the least overlap is taken.
    """
    middles, blocked = np.zeros_like(points), [(point - GAP, point + GAP) for point in points]
    crowd = np.array([(np.abs(points - point).max(1) < DISTANCES[5]).sum() for point in points])
    for i in np.argsort(-crowd, kind="stable"):
        places = _places(points[i], sizes[i])
        low, high = places - sizes[i] / 2, places + sizes[i] / 2  # [M, 2]
        outside = np.maximum(0, [frame[0] - low[:, 0], high[:, 0] - frame[2], frame[1] - low[:, 1], high[:, 1] - frame[3]]).sum(0)
        overlap = np.zeros(len(places))
        for near, far in blocked:
            overlap += np.clip(np.minimum(high, far) - np.maximum(low, near), 0, None).prod(1)
        middles[i] = places[np.lexsort((np.arange(len(places)), overlap + 100 * outside))[0]]
        blocked.append((middles[i] - sizes[i] / 2 - GAP / 2, middles[i] + sizes[i] / 2 + GAP / 2))
    return middles


def _places(point: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Middles of a label around its point, the nearest first, [M, 2]."""
    found = []
    for distance in DISTANCES:
        for angle in ANGLES:
            way = np.array([np.cos(angle), np.sin(angle)])
            found.append(point + way * distance + np.sign(np.round(way, 9)) * size / 2 * (np.abs(way) > 0.2))
    return np.array(found)
