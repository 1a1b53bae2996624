"""What figures share of their axes."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from symnet.report.style import PAGE, log_axis, new_figure


@pytest.mark.parametrize("spread", [1.2, 2, 3.5, 7, 9, 50, 99, 500, 20_000])
@pytest.mark.parametrize("least", [0.0026, 0.15, 1.0, 42.0])
def test_labels_of_a_log_axis_do_not_overlap(least: float, spread: float) -> None:
    figure = new_figure(PAGE / 2, 2.0)
    axes = figure.subplots()
    values = np.array([least, least * spread])
    axes.plot(values, [0, 1])
    log_axis(axes, values)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    low, high = axes.get_xlim()
    boxes = [
        tick.label1.get_window_extent(canvas.get_renderer())
        for tick in axes.xaxis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text()
    ]
    assert boxes
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
