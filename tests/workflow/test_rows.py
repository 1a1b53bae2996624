"""Rows that are variants of a method: what a new or a changed one runs, and the table it stands in. Real snakemake, real runs."""

import copy
import csv

import pytest

from symnet.methods import METHODS
from tests.workflow.conftest import REPORT, TINY, Project

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once


def with_rows(**models: dict) -> dict:
    """The tiny experiment with a row for each."""
    settings = copy.deepcopy(TINY)
    settings["methods"] = [*TINY["methods"], *models]
    settings["variants"] = {name: {"method": "symnet", "model": model} for name, model in models.items()}
    settings["tables"] = {"modules": {"published": "3", "rows": {"SPM+APA+TDC": "symnet", "TDC": "tdc", "SPM": "spm"}}}
    return settings


@pytest.mark.whole
def test_a_row_is_trained_alone_and_stands_in_its_table(own: Project) -> None:
    rows = {"tdc": {"prior": "pfenet", "apa": False}, "spm": {"apa": False, "tdc": False}}
    own.configure(with_rows(**rows))
    jobs = {"make_records": 2, "train_method": 4, "evaluate_method": 4}  # two rows, two folds, the prior `pfenet`; nothing of the others
    assert own.planned() == {**jobs, "make_gallery": 2, **REPORT}
    own.run("results/tiny/tables/main.csv")
    assert own.planned() == {"make_gallery": 2} | {rule: count for rule, count in REPORT.items() if rule != "make_tables"}
    with open(own.results / "tables" / "modules.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["output"], row["setting"]) for row in table] == [
        (output, setting) for output in ("ensemble", "meta") for setting in ("SPM+APA+TDC", "TDC", "SPM")
    ]
    assert [row["paper_mean"] for row in table[:3]] == ["69.66", "67.90", "65.70"]
    assert (own.results / "tables" / "modules.tex").exists()

    own.configure(with_rows(tdc=rows["tdc"], spm=rows["spm"] | {"tau1": 0.6}))
    assert own.planned() == {"train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}
    assert "method=spm" in own.told
    assert "method=tdc" not in own.told
    assert "method=symnet" not in own.told


@pytest.mark.whole
def test_the_shipped_ablations_are_planned_from_one_file(own: Project) -> None:
    """Files that extend others, with the words of the README; base learners and features once a fold."""
    for name, rows, parts in (("demo_ablations", 15, 4), ("mini_ablations", 6, 3), ("ablations", 15, 4)):
        planned = own.planned_of(f"config/{name}.yaml", "all")
        assert planned["train_method"] == 4 * rows, name
        assert planned["evaluate_method"] == 4 * (rows + 1), name  # and the prototype
        assert planned["train_base"] == 4, name
        assert planned["make_records"] == 4 * parts, name


@pytest.mark.whole
def test_all_methods_are_planned_from_one_file(own: Project) -> None:
    trained = sum(entry.trained for entry in METHODS.values())
    for name, cells in (("demo_methods", 4), ("mini_methods", 4), ("methods", 2 * 4 * 2)):  # of a row: data sets, folds, shots
        planned = own.planned_of(f"config/{name}.yaml", "all")
        assert (planned["train_method"], planned["evaluate_method"]) == (cells * trained, cells * len(METHODS)), name
        assert {planned[rule] for rule in ("make_tables", "make_luck", "make_costs", "make_figures")} == {1}


def test_missing_data_is_told_and_stops_a_run_before_its_first_job(own: Project) -> None:
    done = own.snakemake(configfile=("config/mini_ablations.yaml", "all"))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("symnet: nothing was run: pascal5i: images and index masks missing: put it at data/voc2012, under ")
    assert not list((own.folder / "results" / "mini_ablations").rglob("*.log"))
    again = own.snakemake(configfile=("config/mini_ablations.yaml", "all"))  # no lock is left behind
    assert again.stderr.splitlines()[-1] == last
