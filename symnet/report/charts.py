"""Charts of an experiment: what its tables and journals hold, drawn. Nothing is computed here but means to draw."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from symnet.journal import Run
from symnet.report.style import COLOURS, COLUMN, DASHES, PAGE, legend_above, new_figure, nothing

_SCORES = ("base_val.miou", "test_best.miou")  # of a journal


def class_bars(per_class: pd.DataFrame, dataset: str, shot: int, scoring: str) -> Figure:
    """IoU of every class, a bar a row of the table, with the deviation over seeds; classes in the order of their folds. More rows than
    there are colours are told in numbers on a map, the best row first.

    per_class: as per_class.csv.
    """
    found = per_class[(per_class["dataset"] == dataset) & (per_class["shot"] == shot) & (per_class["scoring"] == scoring)]
    classes, methods = list(dict.fromkeys(found["class"])), list(dict.fromkeys(found["method"]))
    folds = found.drop_duplicates("class").set_index("class")["fold"].reindex(classes)
    borders = np.flatnonzero(folds.diff().fillna(0))
    if len(methods) > len(COLOURS):
        return _class_map(found.pivot(index="method", columns="class", values="iou")[classes], borders, f"IoU, {shot}-shot, %")
    figure = new_figure(max(PAGE, 0.35 * len(classes)), 2.4)
    axes = figure.add_subplot()
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        rows = found[found["method"] == method].set_index("class").reindex(classes)
        places = np.arange(len(classes)) + (i - (len(methods) - 1) / 2) * width
        axes.bar(places, rows["iou"], width, yerr=rows["std"], error_kw={"linewidth": 0.6}, label=method)
    for border in borders:
        axes.axvline(border - 0.5, color="black", linewidth=0.5, alpha=0.5)
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.set_ylabel(f"IoU, {shot}-shot, %")
    axes.set_ylim(bottom=0)
    legend_above(axes, len(methods))
    return figure


def _class_map(iou: pd.DataFrame, borders: np.ndarray, label: str) -> Figure:
    """A line a row, a column a class: [rows, classes], in percent; NaN where a class was left out."""
    iou = iou.loc[iou.mean(axis=1).sort_values(ascending=False, kind="stable").index]
    figure = new_figure(max(PAGE, 0.35 * iou.shape[1] + 1.2), 0.2 * len(iou) + 1.1)
    axes = figure.add_subplot()
    axes.grid(visible=False)
    highest = float(np.nanmax(iou.to_numpy(np.float64)))
    shown = axes.imshow(iou, cmap="cividis", vmin=0, vmax=highest, aspect="auto")
    for (line, column), value in np.ndenumerate(iou.to_numpy()):
        if value == value:
            axes.text(column, line, f"{value:.0f}", ha="center", va="center", fontsize=6, color="black" if value > highest / 2 else "white")
    for border in borders:
        axes.axvline(border - 0.5, color="white", linewidth=1.5)
    axes.set_xticks(range(iou.shape[1]), iou.columns, rotation=60, ha="right")
    axes.set_yticks(range(len(iou)), iou.index)
    figure.colorbar(shown, label=label, pad=0.01)
    return figure


def ablation_bars(table: pd.DataFrame) -> Figure:
    """Means of an ablation's settings, a bar an output, with the deviation over seeds; the paper's own figures as marks.

    table: as NAME.csv of `report.ablation`, of one data set and shot.
    """
    settings = list(dict.fromkeys(table["setting"]))
    outputs = list(dict.fromkeys(table["output"].astype(object).fillna("")))
    figure = new_figure(max(COLUMN, 0.55 * len(settings) + 1.2), 2.4)
    axes = figure.add_subplot()
    width = 0.8 / len(outputs)
    for i, output in enumerate(outputs):
        rows = table[table["output"].astype(object).fillna("") == output].set_index("setting").reindex(settings)
        places = np.arange(len(settings)) + (i - (len(outputs) - 1) / 2) * width
        axes.bar(places, rows["mean"], width, yerr=rows["std"], error_kw={"linewidth": 0.6}, label=output or "ours")
    if "paper_mean" in table:
        printed = table.drop_duplicates("setting").set_index("setting")["paper_mean"].reindex(settings)
        axes.plot(range(len(settings)), printed, "D", color="C6", markersize=4, label="paper, under its own protocol")
    axes.set_xticks(range(len(settings)), settings, rotation=30, ha="right")
    axes.set_ylabel("mIoU, %")
    legend_above(axes, 3)
    return figure


def training_curves(runs: Mapping[str, Sequence[Run]]) -> Figure:
    """Loss of training, and validation mIoU where it was measured, against the step: a line is the mean over folds, its band goes from the
    least fold to the greatest.

    runs: by row of the table, those of its folds.
    """
    panels = {"training objective": _lines(runs, ("loss",)), "validation mIoU, %": _lines(runs, _SCORES)}
    panels = {label: found for label, found in panels.items() if found}
    if not panels:
        return nothing("no journal is left of these runs")
    columns = 2 * len(panels)
    names = [row for row in runs if any(row in found for found in panels.values())]
    figure = new_figure(PAGE / 2 * len(panels), 2.2 + 0.16 * -(-len(names) // columns))
    looks: dict[str, Any] = {row: {"color": f"C{i}", "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]} for i, row in enumerate(names)}
    for axes, (label, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for row, lines in found.items():
            steps = np.linspace(max(min(line) for line in lines), min(max(line) for line in lines), 100)
            values = np.stack([np.interp(steps, list(line), [value for value, _ in line.values()]) for line in lines])  # [folds, 100]
            axes.plot(steps, values.mean(0), **looks[row])
            axes.fill_between(steps, values.min(0), values.max(0), color=looks[row]["color"], alpha=0.15, linewidth=0)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    figure.legend([Line2D([], [], **looks[row]) for row in names], names, ncols=columns, loc="outside upper left")
    return figure


def _lines(runs: Mapping[str, Sequence[Run]], names: Sequence[str]) -> dict[str, list[dict[int, tuple[float, float]]]]:
    """By row, one of the metrics `names` of each fold that has one: step -> (value, time)."""
    found = {row: [line for run in of_folds for name in names if (line := run.metrics.get(name))] for row, of_folds in runs.items()}
    return {row: lines for row, lines in found.items() if lines}
