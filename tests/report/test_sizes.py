"""The scatter of IoU against object size: every episode is a dot, medians against brute force."""

from itertools import pairwise

import numpy as np
import pytest

from symnet.episode_counts import EpisodeCounts
from symnet.report.sizes import BINS, SIZES, binned, by_size, points, size_scatter
from tests.report.luck_rounds import ROUNDS


def episode_counts(outputs: tuple[str, ...], seed: int = 0, count: int = 60) -> EpisodeCounts:
    """Images of 10,000 pixels whose first has no object."""
    rng = np.random.default_rng(seed)
    inside = rng.integers(1, 6000, (3, 1, count))
    inside[..., 0] = 0
    tp, fp = rng.integers(0, inside + 1, (3, len(outputs), count)), rng.integers(1, 3000, (3, len(outputs), count))
    counts = np.stack([tp, fp, inside - tp, 10_000 - inside - fp], -1)
    return EpisodeCounts(outputs, tuple(f"q{i}" for i in range(count)), ("cat",) * count, counts)


def test_every_episode_with_an_object_is_a_dot() -> None:
    one, two = episode_counts(("meta",)), episode_counts(("meta",), 1)
    (axes,) = size_scatter({"symnet": [one, two]}, "400").axes
    dots = axes.lines[0]
    expected = []
    for found in (one, two):
        for i in range(1, 60):
            tp, fp, fn, _ = found.counts[2, 0, i]
            size, union = found.counts[1, 0, i, 0] + found.counts[1, 0, i, 2], tp + fp + fn
            expected.append((size / 100, 100 * tp / union))
    np.testing.assert_allclose(np.stack([dots.get_xdata(), dots.get_ydata()], 1), expected)
    assert axes.get_xscale() == "log"


def test_bins_hold_equal_numbers_and_their_quartiles() -> None:
    sizes, ious = points([episode_counts(("meta",), count=90)], "padded", "meta")
    middle, low, median, high = binned(sizes, ious)
    rows = sorted(zip(sizes.tolist(), ious.tolist(), strict=True))
    assert len(rows) == 89
    edges = [0, 12, 23, 34, 45, 56, 67, 78, 89]  # the first of eight bins has one more
    for i, (start, stop) in enumerate(pairwise(edges)):
        own = sorted(iou for _, iou in rows[start:stop])
        assert middle[i] == pytest.approx(np.median([size for size, _ in rows[start:stop]]))
        assert median[i] == pytest.approx(np.median(own))
        assert own[0] <= low[i] <= median[i] <= high[i] <= own[-1]
    assert len(median) == BINS
    assert len(binned(sizes[:19], ious[:19])[0]) == 1


def test_a_panel_an_output_in_the_order_of_the_tables() -> None:
    rounds = {
        "prototype": [episode_counts(("prediction",))],
        "symnet": [episode_counts(("meta", "ensemble"))],
        "more": [episode_counts(("x",))],
    }
    figure = size_scatter(rounds, "padded")
    assert [axes.get_title() for axes in figure.axes] == ["prototype", "symnet (ensemble)", "symnet (meta)", "more", "", ""]
    assert [axes.axison for axes in figure.axes] == [True] * 4 + [False] * 2


def test_sizes_by_loops() -> None:
    table = by_size(ROUNDS, "padded")
    assert len(table) == 3 * len(SIZES)
    edges = {"below 0.03": (0, 0.03), "0.03 to 0.1": (0.03, 0.1), "0.1 to 0.25": (0.1, 0.25), "from 0.25": (0.25, 1)}
    for line in table[table["method"] == "symnet (meta)"].to_dict("records"):
        low, high = edges[line["size"]]
        sums: dict[tuple[int, str], np.ndarray] = {}
        episodes = 0
        for (fold, _), found in ROUNDS["symnet"].items():
            for name, counts, size in zip(found.classes, found.of("padded", "meta"), found.of("original", "meta"), strict=True):
                if low <= (size[0] + size[2]) / 10_000 < high:
                    sums[fold, name] = sums.get((fold, name), 0) + counts
                    episodes += 1
        assert (line["episodes"], line["classes"]) == (episodes, len(sums))
        expected = np.mean([100 * c[0] / c[:3].sum() for c in sums.values()]) if sums else np.nan
        assert line["miou"] == pytest.approx(expected, nan_ok=True)
    assert table["miou"].isna().sum() == 0 or (table["episodes"][table["miou"].isna()] == 0).all()
