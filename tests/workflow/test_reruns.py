"""What runs again after an edit: exactly what depends on it. Real snakemake, real runs."""

import copy
import csv
import json
import os
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from symnet.journal import read_journal
from tests.workflow.conftest import REPORT, TINY, Project

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once


def edited(**sections: dict) -> dict:
    settings = copy.deepcopy(TINY)
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    return settings


def test_a_finished_benchmark_has_its_table_and_nothing_to_do(finished: Project) -> None:
    with open(finished.results / "tables" / "main.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["prototype", "symnet (ensemble)", "symnet (meta)"]
    assert list(rows[0]) == ["dataset", "method", "backbone", "variant", "protocol", "shot", "fold0", "fold1", "mean", "std", "seeds"]
    assert {row["seeds"] for row in rows} == {"2"}
    assert finished.planned() == {}


def test_counts_add_up_to_the_pixels_of_the_episodes(finished: Project) -> None:
    size = TINY["pixels"]["size"]
    for path in finished.results.glob("shapes/*/fold*/*/shot1/seed*.json"):
        payload = json.loads(path.read_text())["payload"]
        for output in payload["outputs"].values():
            total = sum(sum(counts) for counts in output["padded"].values())
            assert 0 < total <= TINY["protocol"]["episodes"] * size * size


def test_the_runs_are_in_mlflow(finished: Project) -> None:
    with sqlite3.connect(finished.folder / "results" / "mlflow.db") as store:
        (runs,) = store.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()
    cells, seeds = 2 * 2, 2
    assert runs == cells + cells * seeds + 1  # and the benchmark's own


def test_touching_every_file_reruns_nothing(project: Project) -> None:
    for path in project.folder.rglob("*"):
        if path.is_file() and ".snakemake" not in path.parts:
            os.utime(path)
    assert project.planned() == {}


def test_a_comment_in_the_experiment_file_reruns_nothing(project: Project) -> None:
    path = project.folder / "tiny.yaml"
    path.write_text("# a remark\n" + path.read_text())
    assert project.planned() == {}


def test_a_fold_s_own_setting_reruns_that_fold(project: Project) -> None:
    project.configure(edited(folds={1: {"train": {"lr": 0.01}}}))
    assert project.planned() == {"train_method": 1, "evaluate_method": 1, "make_gallery": 1, **REPORT}
    assert "fold=1" in project.told
    assert "fold=0" not in project.told


@pytest.mark.whole
def test_a_fold_s_base_learner_reruns_all_of_that_fold(project: Project) -> None:
    project.configure(edited(folds={0: {"base": {"lr": 0.001}}}))
    assert project.planned() == {
        **{"train_base": 1, "cache_features": 2, "make_records": 2, "train_method": 1, "evaluate_method": 2, "make_gallery": 1},
        **REPORT,
    }


def test_the_learning_rate_reruns_training_and_on(project: Project) -> None:
    project.configure(edited(train={"lr": 0.01}))
    assert project.planned() == {"train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}


@pytest.mark.whole
def test_selection_on_the_test_fold_reads_that_fold_s_test_files(project: Project) -> None:
    project.configure(edited(protocol={"selection": "test_best"}))
    assert project.planned() == {"train_method": 2, "evaluate_method": 4, "make_gallery": 2, **REPORT}
    commands = project.snakemake("-n", "-p").stdout
    assert sorted(re.findall(r"--test-(?:list|features) (\S+)", commands)) == [
        *(f"results/tiny/shapes/efficientnet_lite0/fold{fold}/features_test.json" for fold in range(2)),
        *(f"results/tiny/shapes/lists/fold{fold}/test.csv" for fold in range(2)),
    ]


@pytest.mark.whole
def test_an_image_store_is_made_and_reruns_nothing(project: Project) -> None:
    project.configure(edited(store={"images": True}))
    assert project.planned() == {"make_store": 1}
    project.configure(edited(store={"images": True}, train={"lr": 0.01}))
    assert project.planned() == {"make_store": 1, "train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}
    assert project.snakemake("-n", "-p").stdout.count("--store results/tiny/shapes/store.json") == 6


def test_more_episodes_rerun_evaluation(project: Project) -> None:
    project.configure(edited(protocol={"episodes": 5}))
    assert project.planned() == {"make_episodes": 2, "make_records": 4, "evaluate_method": 4, "make_gallery": 2, **REPORT}


@pytest.mark.whole
def test_other_episodes_are_shown_without_testing_any(project: Project) -> None:
    project.configure(edited(gallery={"episodes": {1: [2, 3]}}))
    assert project.planned() == {"make_gallery": 1, "make_figures": 1}
    assert "fold=1" in project.told
    project.configure(edited(gallery={"failures": 2, "subject": "prototype"}))
    assert project.planned() == {"make_gallery": 2, "make_figures": 1}


@pytest.mark.whole
def test_records_switched_off_rerun_the_tests_that_read_them(project: Project) -> None:
    project.configure(edited(features={"records": False}))
    assert project.planned() == {"evaluate_method": 2, "make_gallery": 2, **REPORT}
    assert "method=prototype" not in project.told


@pytest.mark.whole
def test_a_new_seed_asks_for_its_records(project: Project) -> None:
    project.configure({**TINY, "seeds": [7, 8, 9]})  # the jobs find the other seeds' shards: tests/test_records.py
    assert project.planned() == {"make_episodes": 2, "make_records": 4, "evaluate_method": 4, "make_gallery": 2, **REPORT}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        pytest.param("symnet/report/bootstrap.py", {"make_luck": 1, "make_figures": 1, "sync_tracking": 1}, marks=pytest.mark.whole),
        ("symnet/report/tables.py", {"make_tables": 1, "make_costs": 1, "make_figures": 1, "sync_tracking": 1}),
        pytest.param("symnet/report/costs.py", {"make_costs": 1, "make_figures": 1, "sync_tracking": 1}, marks=pytest.mark.whole),
        pytest.param("symnet/cli/learn.py", {}, marks=pytest.mark.whole),
        ("symnet/model/decoder.py", {"train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}),
        pytest.param("symnet/records.py", {"make_records": 4, "evaluate_method": 2, "make_gallery": 2, **REPORT}, marks=pytest.mark.whole),
        pytest.param("symnet/methods/prototype.py", {"evaluate_method": 2, "make_gallery": 2, **REPORT}, marks=pytest.mark.whole),
        pytest.param("symnet/gallery.py", {"make_gallery": 2, "make_figures": 1}, marks=pytest.mark.whole),
        pytest.param("symnet/report/grids.py", {"make_figures": 1}, marks=pytest.mark.whole),
        pytest.param("symnet/backbones/resnet.py", {}, marks=pytest.mark.whole),
    ],
)
def test_an_edit_reruns_the_stages_that_use_the_module(project: Project, module: str, expected: dict) -> None:
    path = project.folder / module
    path.write_text(path.read_text() + "\nEDITED = True\n")
    assert project.planned() == expected


@pytest.mark.whole
def test_remarks_rerun_nothing(project: Project) -> None:
    """In every module, and in other layout: test_stages.py."""
    for module in ("symnet/report/tables.py", "symnet/model/decoder.py", "symnet/data/shapes.py", "symnet/train.py"):
        path = project.folder / module
        path.write_text(path.read_text() + "\n# a remark\n")
    assert project.planned() == {}


def test_one_changed_image_reruns_its_folds_alone(project: Project) -> None:
    with project.inverted_image():
        # the list itself changed: episodes name images only, so the same manifests come out, and are tested on the new features
        jobs = {"count_images": 1, "make_episodes": 1, "cache_features": 1, "make_records": 2, "evaluate_method": 2, "make_gallery": 1}
        assert project.planned() == {**jobs, **REPORT}
        assert "fold=0" not in project.told
    assert project.planned() == {}  # the list is as it was, byte by byte


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"train": {"lrr": 1}}, "train.lrr: unknown key"),
        pytest.param({"folds": {7: {}}}, "folds.7: there is no such fold", marks=pytest.mark.whole),
        pytest.param({"seeds": [7, 7]}, "seeds: given twice: 7", marks=pytest.mark.whole),
        pytest.param({"pixels": {"size": 34}}, "pixels.size: must be 8n+1", marks=pytest.mark.whole),
    ],
)
def test_bad_settings_are_told_in_one_line_and_make_nothing(project: Project, settings: dict, told: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.results.rglob("*")}
    project.configure({**TINY, **settings})
    done = project.snakemake("-n")
    lines = [line for line in done.stderr.splitlines() if line.startswith("symnet:")]
    assert len(lines) == 1
    assert told in lines[0]
    assert done.returncode == 2
    assert {path: path.stat().st_mtime_ns for path in project.results.rglob("*")} == before


@pytest.mark.whole
def test_several_gpus_train_together_and_their_number_reruns_nothing(finished: Project, tmp_path: Path) -> None:
    own = Project.__new__(Project)
    own.folder, own.environment = tmp_path / "own", {}
    shutil.copytree(finished.folder, own.folder, symlinks=True, ignore=shutil.ignore_patterns(".snakemake", "state", "journals"))
    shutil.copytree(finished.folder / ".snakemake", own.folder / ".snakemake")
    own.configure({**TINY, "device": "cpu"})
    assert own.planned() == {}
    model = own.results / "shapes" / "efficientnet_lite0" / "fold0" / "symnet" / "shot1" / "model.safetensors"
    model.unlink()
    done = own.snakemake(str(model.relative_to(own.folder)), "--set-resources", "train_method:gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (read_journal(path)[-1] for path in (own.results / "journals").rglob("*.jsonl"))
    assert (run.status, run.tags["processes"]) == ("FINISHED", "2")
    assert "evaluate_method" in own.planned()  # other weights than before
    own.run(str(model.with_name("seed7.json").relative_to(own.folder)))
    assert own.planned() == {"make_gallery": 1, **REPORT}  # no training
