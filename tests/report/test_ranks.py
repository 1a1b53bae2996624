"""Ranks: published critical values, Friedman's test against scipy's, which rows are joined in the figure."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from symnet.report.ranks import cliques, critical_difference, friedman, rank_figure, ranks
from symnet.report.style import save_figure, style

# Demsar 2006, Table 5(a), q of 0.05 and of 0.10 for 2 to 10 rows
PUBLISHED = {
    0.05: (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164),
    0.10: (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920),
}


@pytest.mark.parametrize("level", PUBLISHED)
def test_critical_values_are_the_published_ones(level: float) -> None:
    for rows, q in enumerate(PUBLISHED[level], 2):
        blocks = rows * (rows + 1) / 6
        assert critical_difference(rows, blocks, level) == pytest.approx(q, abs=1.01e-3)


def test_demsar_s_example() -> None:
    """Four classifiers on 14 data sets: q 2.569, and a critical difference of 1.25."""
    assert critical_difference(4, 14, 0.05) == pytest.approx(2.569 * (4 * 5 / (6 * 14)) ** 0.5, abs=1e-3)


def test_ranks_by_hand() -> None:
    values = np.array([[10.0, 30, 20], [5, 5, 1], [7, 7, 7]])
    assert ranks(values).tolist() == [[3, 1, 2], [1.5, 1.5, 3], [2, 2, 2]]


def test_friedman_is_scipy_s_ties_and_all() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 6, (20, 4)) + np.array([0, 0, 1, 2])
    assert friedman(ranks(values)) == pytest.approx(friedmanchisquare(*values.T).pvalue, rel=1e-9)
    assert friedman(ranks(np.ones((5, 3)))) == 1
    assert friedman(ranks(np.arange(40).reshape(20, 2))) < 1e-4


def test_rows_that_are_not_told_apart_are_joined_once() -> None:
    assert cliques([1, 2, 3, 4], 1.5) == [(0, 1), (1, 2), (2, 3)]
    assert cliques([1, 2, 3, 4], 3) == [(0, 3)]
    assert cliques([1, 2, 5, 5.5], 1) == [(0, 1), (2, 3)]
    assert cliques([1, 3, 5], 1) == []


def test_the_figure_shows_each_row_at_its_rank_and_bars_that_join(tmp_path: Path) -> None:
    names, means = ["bam", "hsnet", "symnet (meta)"], [1.9, 2.9, 1.2]
    with style():
        figure = rank_figure(names, means, 0.74)
        (axes,) = figure.axes
        texts = [text.get_text().strip() for text in axes.texts]
        assert texts == ["1", "2", "3", "critical difference 0.74", "symnet (meta)  1.20", "bam  1.90", "2.90  hsnet"]
        (bar,) = [line for line in axes.lines if line.get_linewidth() == 3]
        assert bar.get_xdata() == pytest.approx([1.17, 1.93])
        stems = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 3]
        assert stems == [1.2, 1.9, 2.9]
        first, second = (save_figure(rank_figure(names, means, 0.74), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert rank_figure(["one"], [1.0], 0.0).axes[0].texts[0].get_text() == "one row: nothing to compare"
