"""The Pareto front by brute force, machines apart, and the figure that shows it: points where the table has them, no label on another."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from symnet.report.labels import arrange
from symnet.report.pareto import SPEED, TRAINING, cost_figure, front, fronts
from symnet.report.style import save_figure, style

VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, float("nan")])  # few, so that many are equal


@given(st.lists(st.tuples(VALUES, VALUES), max_size=12))
@example([(3.0, 1.0), (3.0, 2.0), (3.0, 1.0), (2.0, 1.0)])
def test_the_front_by_brute_force(points: list[tuple[float, float]]) -> None:
    gain, cost = (np.array([point[i] for point in points], np.float64) for i in (0, 1))

    def beaten(i: int) -> bool:
        return any(gain[j] >= gain[i] and cost[j] <= cost[i] and (gain[j] > gain[i] or cost[j] < cost[i]) for j in range(len(points)))

    known = ~(np.isnan(gain) | np.isnan(cost))
    assert front(gain, cost).tolist() == [bool(known[i]) and not beaten(i) for i in range(len(points))]


def table(*lines: tuple[str, float, float, float, str]) -> pd.DataFrame:
    """Of method, mIoU, episodes a second, hours, machine; a method without hours was not trained."""
    found = pd.DataFrame(lines, columns=["method", "mean", "episodes_per_second", "train_hours", "tested_on"])
    return found.assign(trained_on=found["tested_on"].where(found["train_hours"] > 0, ""))


SEVERAL = table(("a", 50.0, 9.0, 0.0, "x"), ("b", 60.0, 4.0, 2.0, "x"), ("c", 55.0, 3.0, 1.0, "x"), ("d", 58.0, 5.0, 4.0, "x"))


def test_rows_of_one_machine() -> None:
    found = {name: list(SEVERAL["method"][on]) for name, on in fronts(SEVERAL).items()}
    assert found == {SPEED: ["a", "b", "d"], TRAINING: ["a", "b", "c"]}


def test_machines_are_not_compared_and_what_trains_nothing_is_with_all() -> None:
    two = SEVERAL.assign(tested_on=["x", "x", "y", "y"], trained_on=["", "x", "y", "y"])
    found = {name: list(two["method"][on]) for name, on in fronts(two).items()}
    assert found == {SPEED: ["a", "b", "d"], TRAINING: ["a", "b", "c", "d"]}
    low = two.assign(mean=[59.0, 60, 55, 58])
    assert list(low["method"][fronts(low)[TRAINING]]) == ["a", "b"]  # a, for nothing, beats those of y


def test_what_is_not_known_is_on_no_front() -> None:
    some = SEVERAL.assign(mean=[50.0, float("nan"), 55, 58], episodes_per_second=[float("nan"), 4, 3, 5])
    assert {name: list(some["method"][on]) for name, on in fronts(some).items()} == {SPEED: ["d"], TRAINING: ["a", "c", "d"]}


def shown(axes: object) -> dict[str, tuple[float, float, str]]:
    """Label to place and fill of each single marker."""
    lines = [line for line in axes.lines if line.get_marker() == "o"]  # type: ignore[attr-defined]
    return {line.get_label(): (*line.get_xydata()[0].tolist(), line.get_fillstyle()) for line in lines}


def test_points_stand_at_their_numbers() -> None:
    with style():
        speed, training = cost_figure(SEVERAL).axes
    assert (speed.get_xscale(), training.get_xscale()) == ("log", "log")
    assert shown(speed) == {"a": (9, 50, "full"), "b": (4, 60, "full"), "c": (3, 55, "none"), "d": (5, 58, "full")}
    edge = pytest.approx(1 / 3)
    assert shown(training) == {"a": (edge, 50, "full"), "b": (2, 60, "full"), "c": (1, 55, "full"), "d": (4, 58, "none")}
    drawn = [next(line for line in axes.lines if len(line.get_xdata()) > 2) for axes in (speed, training)]
    assert [(line.get_drawstyle(), line.get_ydata().tolist()) for line in drawn] == [
        ("steps-pre", [60, 58, 50]),
        ("steps-post", [50, 55, 60]),
    ]
    assert [text.get_text() for text in speed.texts] == ["a", "b", "c", "d"]


def test_a_panel_without_a_number_says_so() -> None:
    figure = cost_figure(SEVERAL.assign(train_hours=float("nan"), trained_on=""))
    assert [text.get_text() for text in figure.axes[1].texts] == ["not known of any row"]


def crowd(seed: int, count: int = 16) -> pd.DataFrame:
    """Rows as close together as methods are."""
    rng = np.random.default_rng(seed)
    names = [f"method{i} (ensemble)" if i % 5 == 0 else f"method{i}" for i in range(count)]
    means, speeds, hours = rng.normal(60, 4, count), 20 * rng.lognormal(0, 0.5, count), rng.lognormal(1, 0.4, count)
    return table(*((*line, "x") for line in zip(names, means, speeds, hours, strict=True)))


@pytest.mark.parametrize("seed", range(6))
def test_no_label_lies_on_another_or_on_a_point(seed: int) -> None:
    with style():
        figure = cost_figure(crowd(seed))
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # an annotation's own has its line as well
        assert len(boxes) == 16
        assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
        points = [axes.transData.transform(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
        assert not [box for box in boxes for point in points if box.contains(*point)]
        for box in boxes:
            assert figure.bbox.containsx(box.x0)
            assert figure.bbox.containsx(box.x1)


def test_a_label_goes_where_there_is_room() -> None:
    alone = arrange(np.array([[50.0, 50.0]]), np.array([[20.0, 8.0]]), np.array([0, 0, 100, 100]))
    np.testing.assert_allclose(alone, [[65, 50]])  # to the right, at the least distance
    at_the_edge = arrange(np.array([[95.0, 50.0]]), np.array([[20.0, 8.0]]), np.array([0, 0, 100, 100]))
    assert at_the_edge[0, 0] + 10 <= 100


def test_the_same_twice(tmp_path: Path) -> None:
    def draw() -> Figure:
        return cost_figure(crowd(1))

    with style():
        first, second = (save_figure(draw(), tmp_path / name) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
