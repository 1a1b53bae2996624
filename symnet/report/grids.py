"""Test episodes as figures: a row an episode, what the model was shown and what it answered side by side."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from symnet.cases import REGIONS, Case
from symnet.report.style import COLOURS, PAGE, TALL, nothing

SUPPORT, PREDICTED, TRUTH = COLOURS[0], COLOURS[1], COLOURS[2]
PAINT = dict(zip(REGIONS, (COLOURS[2], COLOURS[4], COLOURS[0]), strict=True))
OPACITY = 0.5
LEFT, LINE, GAP, LEGEND = 0.2, 0.12, 0.04, 0.45  # inches: of class names, of a line of a column's name, between panels, of a legend
TALLEST = 1.0  # height of a panel over its width, at most: a portrait is drawn smaller

Column = tuple[str, Callable[[Axes, Case], None]]


def episode_grid(cases: Sequence[Case], columns: Sequence[str]) -> Figure:
    """Cases, with these columns of predictions.

    Before those the first support and its mask, the query, HPM's and SPM's priors where a row has them; after them the truth. On a
    prediction stands its IoU in percent. Fills are the masks, lines their borders; pixels without a label are grey.
    """
    shown: list[Column] = [("support", _support), ("query", _query)]
    shown += [(f"{kind} prior", _prior(kind)) for kind in ("HPM", "SPM") if any(kind in case.pictures for case in cases)]
    shown += [(name.replace(" (", "\n("), _prediction(name)) for name in columns]
    return _grid(cases, [*shown, ("truth", _truth)])


def region_grid(cases: Sequence[Case], taus: Mapping[str, float]) -> Figure:
    """Cases: query, prior SPM, the positions that the thresholds `taus` select in the subject's prior, truth."""
    columns: list[Column] = [
        ("query", _query),
        ("SPM prior", _prior("SPM")),
        ("regions", _regions),
        ("truth", _truth),
    ]
    figure = _grid(cases, columns, 0.72 * PAGE, LEGEND)
    words = (f"foreground: above {taus['tau1']:g}", f"hard: {taus['tau3']:g} to {taus['tau4']:g}", f"background: below {taus['tau2']:g}")
    patches = [Patch(color=PAINT[name], alpha=OPACITY, label=text) for name, text in zip(REGIONS, words, strict=True)]
    figure.legend(handles=patches, loc="lower center", borderaxespad=0.1, labelspacing=0.3, fontsize=7)
    return figure


def _grid(cases: Sequence[Case], columns: Sequence[Column], width: float = PAGE, below: float = 0.02) -> Figure:
    """Panels without axes, all of one width, rows as high as their queries; the names of columns above, of classes at the left.

    width, below: inches. Where this would be taller than a page, panels are smaller. Placed by hand: matplotlib's layout engine takes
    seconds for so many panels.
    """
    if not cases:
        return nothing("no class of this page has an episode")
    shapes = [case.pictures["query"].shape for case in cases]
    ratios = [min(TALLEST, shape[0] / shape[1]) for shape in shapes]
    above = LINE * (1.5 + max(title.count("\n") for title, _ in columns))
    beside, around = LEFT + GAP * (len(columns) - 1), above + GAP * (len(cases) - 1) + below
    panel = min((width - beside) / len(columns), (TALL - around) / sum(ratios))
    heights = [panel * ratio for ratio in ratios]
    width, height = beside + panel * len(columns), around + sum(heights)
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=LEFT / width, right=1, bottom=below / height, top=1 - above / height)
    figure.subplots_adjust(wspace=GAP / panel, hspace=GAP * len(cases) / sum(heights))
    panels = figure.subplots(len(cases), len(columns), squeeze=False, height_ratios=heights)
    for row, case in zip(panels, cases, strict=True):
        for axes, (_, draw) in zip(row, columns, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
            axes.set_anchor("N")  # so that titles stand in a line
            draw(axes, case)
        place = row[0].get_position(original=True)  # whatever the shape of the picture in it
        size = min(7, place.height * height * 72 / (0.62 * len(case.name)))  # points: a long word of a low row is smaller, not over others
        figure.text(LEFT / width / 2, (place.y0 + place.y1) / 2, case.name, rotation=90, ha="center", va="center", fontsize=size)
    for axes, (title, _) in zip(panels[0], columns, strict=True):
        axes.set_title(title, fontsize=7, pad=3)
    return figure


def _image(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="bilinear")


def _masked(axes: Axes, picture: np.ndarray, mask: np.ndarray, colour: str) -> None:
    """A picture [h, w, 3] under a mask [h, w] in {0, 1, 255}."""
    _image(axes, picture)
    _image(axes, _painted({1: colour, 255: "grey"}, mask))
    if 0 < (mask == 1).mean() < 1:
        axes.contour(mask == 1, levels=[0.5], colors=[colour], linewidths=0.8)


def _painted(colours: dict[int, str], mask: np.ndarray) -> np.ndarray:
    """Colours of a mask's values, half transparent, float [h, w, 4]; other values show nothing."""
    paint = np.zeros((*mask.shape, 4))
    for value, colour in colours.items():
        paint[mask == value] = (*to_rgb(colour), OPACITY)
    return paint


def _support(axes: Axes, case: Case) -> None:
    _masked(axes, case.pictures["support"], case.pictures["mask"], SUPPORT)


def _query(axes: Axes, case: Case) -> None:
    _image(axes, case.pictures["query"])


def _truth(axes: Axes, case: Case) -> None:
    _masked(axes, case.pictures["query"], case.pictures["truth"], TRUTH)


def _prior(kind: str) -> Callable[[Axes, Case], None]:
    def draw(axes: Axes, case: Case) -> None:
        axes.imshow(case.pictures[kind], cmap="cividis", vmin=0, vmax=255, interpolation="bilinear")

    return draw


def _prediction(column: str) -> Callable[[Axes, Case], None]:
    def draw(axes: Axes, case: Case) -> None:
        _masked(axes, case.pictures["query"], case.pictures[f"of {column}"], PREDICTED)
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0}
        intersection, union = case.scores[column]
        axes.text(0.03, 0.04, f"{100 * intersection / union:.1f}" if union else "--", transform=axes.transAxes, fontsize=6, bbox=box)

    return draw


def _regions(axes: Axes, case: Case) -> None:
    _image(axes, case.pictures["query"])
    _image(axes, _painted({number: PAINT[name] for number, name in enumerate(REGIONS, 1)}, case.pictures["regions"]))
