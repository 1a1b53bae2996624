"""How every figure looks and is written: vector PDF and PNG, colours that the colour-blind tell apart, equal bytes for equal data."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from symnet.artifacts import replacing

# Okabe and Ito's: blue, vermilion, green, purple, orange, sky blue, black
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":")  # of lines, where there are more than colours
COLUMN, PAGE, TALL = 3.4, 7.0, 9.0  # inches, of a paper's column, and of its page what is printed on: width, height

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "symnet",
}


@contextmanager
def style() -> Iterator[None]:
    """Make figures in here."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; it belongs to no window."""
    return Figure(figsize=(width, height), layout="constrained")


def nothing(why: str) -> Figure:
    """A figure that says why there is nothing to see."""
    figure = new_figure(PAGE / 2, 2.4)
    figure.text(0.5, 0.5, why, ha="center")
    return figure


def legend_above(axes: Axes, columns: int) -> None:
    """The legend in a line over the axes, where it can hide nothing."""
    axes.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0)


def log_axis(axes: Axes, values: np.ndarray) -> None:
    """A log x axis for these values, with labels that a panel of a few centimetres has room for."""
    spread = values.max() / values.min() if values.size else 1.0
    subs = (1, 1.5, 2, 3, 5, 7) if spread < 8 else (1, 2, 5) if spread < 100 else (1,)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.pdf and `path`.png (200 dots an inch), each whole or not at all. Returns both."""
    made = []
    for end, canvas, options in (
        (".pdf", FigureCanvasPdf, {"metadata": {"CreationDate": None}}),
        (".png", FigureCanvasAgg, {"metadata": {"Software": None}, "dpi": 200}),
    ):
        data = io.BytesIO()
        canvas(figure).print_figure(data, format=end[1:], **options)
        out = path.with_name(path.name + end)
        with replacing(out) as partial:
            partial.write_bytes(data.getvalue())
        made.append(out)
    return made
