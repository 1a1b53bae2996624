"""Every method in one experiment, and its published rows beside ours: Tables 1 and 2 of the field."""

import csv
from pathlib import Path

import pytest

from symnet.cells import Cell
from symnet.experiment import Experiment, load_experiment
from symnet.methods import METHODS, method_class
from symnet.report import PUBLISHED_RESULTS
from symnet.report.tables import make_tables
from tests.report.test_paper import compile_latex
from tests.report.test_tables import write_round

CONFIG = Path(__file__).parents[2] / "config"
SETS = ("pascal5i", "coco20i")
UNPUBLISHED = {"prototype", "dcama", "hdmnet"}  # not in the paper's tables
PRINTED = {name: entry.door or {"symnet": "Sym-Net", "ntrenet": "NTRENet", "hpa": "HPA"}.get(name, "") for name, entry in METHODS.items()}


def published(dataset: str, backbone: str) -> set[str]:
    """Methods with a row there, by our names."""
    with open(PUBLISHED_RESULTS, encoding="utf-8", newline="") as file:
        found = {line["method"] for line in csv.DictReader(file) if (line["dataset"], line["backbone"]) == (dataset, backbone)}
    names = {printed: name for name, printed in PRINTED.items()}
    return {names[method] for method in found if method in names}


@pytest.mark.parametrize("name", ["methods", "demo_methods", "mini_methods"])
def test_no_method_is_left_out(name: str) -> None:
    found = load_experiment(CONFIG / f"{name}.yaml")
    assert set(found.methods) == set(METHODS), "a new method has to stand in config/parts/methods.yaml"
    assert all(found.settings(dataset).features.records for dataset in found.datasets)
    widths = {
        settings.model_dump()[section]["channels"]
        for settings in (found.settings(dataset) for dataset in found.datasets)
        for section in ("model", "pfenet", "bam", "mianet", "cyctr", "qpenet", "hdmnet", "ntrenet", "hpa")
    }
    assert len(widths) == 1  # no row is wider than another


def test_the_published_benchmark_s_other_backbone() -> None:
    found: Experiment = load_experiment(CONFIG / "methods.yaml", {"preset": "vgg16"})
    assert {found.settings(dataset).backbone.name for dataset in found.datasets} == {"vgg16_bn"}
    assert set(found.methods) == {"prototype", "bam"} | published("pascal5i", "VGG-16")  # of BAM means are printed, elsewhere


@pytest.fixture
def root(tmp_path: Path) -> Path:
    cells = [Cell(dataset, "resnet50", fold, name, shot) for dataset in SETS for fold in (0, 1) for name in METHODS for shot in (1, 5)]
    for cell in cells:
        outputs = {output: {"cat": 50 + cell.fold, "dog": 40} for output in method_class(cell.method).outputs}
        write_round(tmp_path, cell, 510, outputs)
    make_tables(cells, [510], tmp_path, tmp_path / "tables", published={name: name for name in SETS})
    return tmp_path


@pytest.mark.parametrize("dataset", SETS)
def test_every_method_stands_beside_its_published_row(root: Path, dataset: str) -> None:
    with open(root / "tables" / f"paper-{dataset}.csv", encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["backbone"] == "ResNet-50"]
    ours = [line["method"].partition(" ")[0].partition(",")[0] for line in lines if line["published"] == "False"]
    theirs = {line["method"] for line in lines if line["published"] == "True"}
    assert set(ours) == set(METHODS)
    assert {PRINTED[name] for name in set(METHODS) - UNPUBLISHED} <= theirs
    assert published(dataset, "ResNet-50") == set(METHODS) - UNPUBLISHED


def test_the_tables_fit_on_their_pages(root: Path) -> None:
    compile_latex(root / "tables", sorted(path.name for path in (root / "tables").glob("*.tex")))
