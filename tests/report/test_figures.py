"""Figures: what is drawn are the tables' numbers, every file is there in both formats, equal data give equal bytes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from PIL import Image

from symnet.artifacts import Provenance, read_json, write_manifest
from symnet.cases import write_gallery
from symnet.cells import Cell
from symnet.episode_counts import write_episode_counts
from symnet.journal import Journal, Run, read_journal
from symnet.report.charts import ablation_bars, class_bars, training_curves
from symnet.report.figures import make_figures
from symnet.report.luck import make_luck
from symnet.report.style import save_figure, style
from symnet.report.tables import make_tables
from tests.report.test_grids import gallery
from tests.report.test_sizes import episode_counts
from tests.report.test_tables import SEEDS, write_round

CELLS = [Cell("pascal5i", "resnet50", fold, method, 1) for fold in range(2) for method in ("prototype", "symnet")]


def write_costs(tables: Path) -> None:
    """As `make_costs` does, of made-up numbers."""
    lines = pd.DataFrame(
        {"dataset": "pascal5i", "shot": 1, "method": ["prototype", "symnet"], "mean": [40.0, 60.0], "train_hours": [0.0, 2.0]}
    )
    lines = lines.assign(episodes_per_second=[9.0, 3.0], tested_on="x", trained_on=["", "x"], train_memory=1.0, test_memory=1.0)
    lines.to_csv(tables / "costs.csv", index=False)
    write_manifest(tables / "costs.json", [tables / "costs.csv"], Provenance(stage="costs"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folds of two classes, two seeds, tables, journals."""
    for cell in CELLS:
        names = ("cat", "dog") if cell.fold == 0 else ("bus", "cow")
        for k, seed in enumerate(SEEDS):
            iou = {name: 30 + 10 * i + 5 * cell.fold + 20 * (cell.method == "symnet") + 2 * k for i, name in enumerate(names)}
            output = "prediction" if cell.method == "prototype" else "meta"
            write_round(tmp_path, cell, seed, {output: iou}, classes=list(names))
            write_episode_counts(cell.episodes(tmp_path, seed), episode_counts((output,), k), Provenance(stage="evaluate"))
        if cell.method == "symnet":
            journal = Journal(cell.journal(tmp_path), "run", {}, {})
            for step in (10, 20, 30):
                journal.log(step, loss=3.0 - step / 10 - cell.fold, **{"base_val.miou": step + cell.fold})
    make_tables(CELLS, SEEDS, tmp_path, tmp_path / "tables")
    write_costs(tmp_path / "tables")
    make_luck(tmp_path, tmp_path / "tables", CELLS, SEEDS, {"pascal5i": "padded"})
    return tmp_path


def test_bars_are_the_table_s_numbers(root: Path) -> None:
    per_class = pd.read_csv(root / "tables" / "per_class.csv")
    (axes,) = class_bars(per_class, "pascal5i", 1, "padded").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "bus", "cow"]
    heights = [[bar.get_height() for bar in group] for group in axes.containers if hasattr(group, "patches") and group.patches]
    assert heights == [[31, 41, 36, 46], [51, 61, 56, 66]]
    assert axes.get_legend().get_texts()[1].get_text() == "symnet"
    (axes,) = class_bars(per_class, "pascal5i", 1, "original").axes
    assert [bar.get_height() for bar in axes.containers[1].patches] == [21, 31, 26, 36]


def test_many_rows_are_a_map_of_numbers() -> None:
    """Eight, of three classes in two folds; one class was left out for all."""
    lines = [
        {"dataset": "d", "shot": 1, "scoring": "padded", "method": f"m{m}", "class": name, "fold": fold, "iou": iou, "std": 0.0}
        for m in range(8)
        for name, fold, iou in (("a", 0, 10.0 + m), ("b", 0, float("nan")), ("c", 1, 20.0 + m))
    ]
    axes = class_bars(pd.DataFrame(lines), "d", 1, "padded").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"m{m}" for m in reversed(range(8))]  # the best first
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in axes.texts] == [f"{v + m}" for m in reversed(range(8)) for v in (10, 20)]
    np.testing.assert_array_equal(axes.images[0].get_array()[0].filled(-1), [17, -1, 27])
    assert [line.get_xdata()[0] for line in axes.lines] == [1.5]  # between the folds


def test_no_two_lines_look_alike() -> None:
    runs = {f"m{m}": [Run("a", 0.0, metrics={"loss": {1: (2.0, 0.0), 2: (1.0 + m, 0.0)}})] for m in range(20)}
    runs["m3"][0].metrics["base_val.miou"] = {1: (2.0, 0.0), 2: (3.0, 0.0)}
    figure = training_curves(runs)
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == 20
    assert [(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines] == [looks[3]]  # the same in every panel
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(runs)
    assert [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()] == looks


def test_an_ablation_stands_beside_the_print(root: Path) -> None:
    table = pd.DataFrame(
        {
            "setting": ["none", "SPM"] * 2,
            "output": ["meta"] * 2 + ["ensemble"] * 2,
            "mean": [1.0, 2, 3, 4],
            "std": 0.5,
            "paper_mean": [9.0, 8] * 2,
        }
    )
    (axes,) = ablation_bars(table).axes
    assert [[bar.get_height() for bar in group.patches] for group in axes.containers if hasattr(group, "patches")] == [[1, 2], [3, 4]]
    assert list(axes.lines[-1].get_ydata()) == [9, 8]
    (axes,) = ablation_bars(table.drop(columns=["paper_mean"]).assign(output=float("nan"))[:2]).axes
    assert axes.get_legend().get_texts()[0].get_text() == "ours"


def test_curves_are_means_of_folds_in_their_band(root: Path) -> None:
    runs = {"symnet": [read_journal(cell.journal(root))[-1] for cell in CELLS if cell.method == "symnet"]}
    loss, score = training_curves(runs).axes
    assert (loss.get_ylabel(), score.get_ylabel()) == ("training objective", "validation mIoU, %")
    np.testing.assert_allclose(loss.lines[0].get_ydata()[[0, -1]], [1.5, -0.5])
    np.testing.assert_allclose(score.lines[0].get_ydata()[[0, -1]], [10.5, 30.5])
    corners = score.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (10, 31)
    only = training_curves({"symnet": [Run("a", 0.0, metrics={"loss": {1: (2.0, 0.0), 2: (1.0, 0.0)}})]})
    assert [axes.get_ylabel() for axes in only.axes] == ["training objective"]
    assert training_curves({}).texts[0].get_text() == "no journal is left of these runs"


@pytest.mark.whole
def test_every_figure_is_written_in_both_formats_and_the_same_twice(root: Path) -> None:
    shown = [root / f"gallery{fold}.safetensors" for fold in (0, 1)]
    for fold, path in enumerate(shown):
        write_gallery(path, gallery(fold), Provenance(stage="gallery"))
    for folder in ("figures", "again"):
        make_figures(root, root / folder, CELLS, SEEDS, shown, [], {"pascal5i": "padded"}, ["symnet"], {"episodes-pascal5i-1shot": 3})
    charts = [f"{name}-pascal5i-1shot" for name in ("classes", "sizes", "ranks", "costs", "curves", "regions")]
    charts += [f"episodes-pascal5i-1shot-{page}" for page in (1, 2, 3)]
    names = {f"{name}{end}" for name in (*charts, *(f"failures-pascal5i-fold{fold}-1shot" for fold in (0, 1))) for end in (".pdf", ".png")}
    assert {path.name for path in (root / "figures").iterdir()} == {*names, "figures.json"}
    for name in names:
        assert (root / "figures" / name).read_bytes() == (root / "again" / name).read_bytes()
    sums, provenance = read_json(root / "figures" / "figures.json", "figures")
    assert set(sums) == names
    assert "per_class.csv" in provenance.inputs
    with Image.open(root / "figures" / "classes-pascal5i-1shot.png") as image:
        assert len(image.getcolors(1 << 24)) > 10  # not blank
    tall = [imread(root / "figures" / f"episodes-pascal5i-1shot-{page}.png").shape[0] for page in (1, 2, 3)]
    assert tall[0] == tall[1] < tall[2]  # 1, 1 and 2 of 4 episodes


def test_a_figure_is_vectors_with_text(tmp_path: Path) -> None:
    with style():
        figure = training_curves({})
        pdf, _ = save_figure(figure, tmp_path / "one")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Subtype /Image" not in content
    assert b"/FontFile2" in content
