"""Which rows no other row beats in accuracy and in a cost at once, and the figure of it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symnet.artifacts import read_manifest
from symnet.report.labels import place_labels
from symnet.report.style import PAGE, log_axis, new_figure

SPEED, TRAINING = "speed", "training"
NUMBERS = ("mean", "train_memory", "train_hours", "test_memory", "episodes_per_second")  # those of costs.csv that may not be known


def front(gain: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Whether each point [N] is on the Pareto front: no other has at least its gain at no more cost, one of both strictly better.

    Points of equal gain and cost stand or fall together; NaN in either is never on it and beats none.
    """
    found = np.zeros(len(gain), bool)
    known = np.flatnonzero(~(np.isnan(gain) | np.isnan(cost)))
    best, at = -np.inf, np.nan
    for i in known[np.lexsort((-gain[known], cost[known]))]:
        if gain[i] > best:
            best, at = gain[i], cost[i]
        found[i] = (gain[i], cost[i]) == (best, at)
    return found


def read_costs(tables: Path) -> pd.DataFrame:
    """costs.csv of a folder of tables, checked. Raises `UserError`."""
    read_manifest(tables / "costs.json", "costs")
    return pd.read_csv(tables / "costs.csv", keep_default_na=False, na_values={name: [""] for name in NUMBERS})


def fronts(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Of rows of a data set and shot, bool [N] each: SPEED, of mIoU and episodes a second of tests; TRAINING, of mIoU and hours.

    table: columns mean, episodes_per_second, tested_on, train_hours, trained_on. Rows measured on different machines are not compared, but
    for those that train nothing: those took no time anywhere.
    """
    gain, speed, hours = (table[name].to_numpy(np.float64) for name in ("mean", "episodes_per_second", "train_hours"))
    found = {SPEED: np.zeros(len(table), bool), TRAINING: np.zeros(len(table), bool)}
    for device in table["tested_on"].unique():
        found[SPEED] |= front(np.where(table["tested_on"] == device, gain, np.nan), -speed)
    for device in set(table["trained_on"]) - {""} or {""}:
        found[TRAINING] |= front(np.where((table["trained_on"] == device) | (hours == 0), gain, np.nan), hours)
    return found


def cost_figure(table: pd.DataFrame) -> Figure:
    """mIoU over episodes a second of tests, and over hours of training, both on log axes; a point a row, a colour a machine, the Pareto
    front of each machine a line. Rows that train nothing stand on the left edge. table: as of `fronts`, with the column method.
    """
    figure = new_figure(PAGE, max(2.6, 0.2 * len(table) + 1))
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    on = fronts(table)
    hours = table["train_hours"].to_numpy(np.float64)
    trained = hours[hours > 0]
    edge = trained.min() / 3 if len(trained) else 1.0
    machines = list(table["trained_on"].where(hours > 0, table["tested_on"]))
    _panel(panels[0], table, table["episodes_per_second"].to_numpy(np.float64), list(table["tested_on"]), on[SPEED], "steps-pre")
    _panel(panels[1], table, np.where(hours == 0, edge, hours), machines, on[TRAINING], "steps-post")
    panels[0].set_xlabel("episodes/s in testing")
    panels[1].set_xlabel("hours of training a fold")
    panels[0].set_ylabel("mIoU, %")
    if (hours == 0).any():
        panels[1].axvline(edge, color="black", linewidth=0.5, linestyle=":")
        panels[1].text(edge, 1.0, " trains nothing", transform=panels[1].get_xaxis_transform(), va="bottom", ha="left", fontsize=7)
    figure.draw_without_rendering()  # the layout: labels are placed on the panels as they will be
    figure.set_layout_engine("none")
    for axes in panels:
        place_labels(axes)
    return figure


def _panel(axes: Axes, table: pd.DataFrame, x: np.ndarray, devices: Sequence[str], on: np.ndarray, steps: str) -> None:
    """Points and fronts, by steps: what is had at that cost; the names of the points are their labels, for `place_labels`."""
    y, names = table["mean"].to_numpy(np.float64), list(table["method"])
    known = ~(np.isnan(x) | np.isnan(y))
    axes.margins(0.12)
    colours = {device: f"C{number}" for number, device in enumerate(dict.fromkeys(devices))}
    for device, colour in colours.items():
        own = known & (np.array(devices) == device)
        order = np.flatnonzero(own & on)
        order = order[np.argsort(x[order])]
        if len(order) > 1:
            axes.plot(x[order], y[order], color=colour, linewidth=1, alpha=0.5, drawstyle=steps)
        for i in np.flatnonzero(own):
            axes.plot(x[i], y[i], "o", color=colour, markersize=4.5, fillstyle="full" if on[i] else "none", label=names[i])
    log_axis(axes, x[known])
    if not known.any():
        axes.text(0.5, 0.5, "not known of any row", transform=axes.transAxes, ha="center")
