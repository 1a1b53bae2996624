"""`snakemake --config set='...'`: what one setting reruns, and that it reaches jobs. Real snakemake, real runs."""

import json

import pytest

from symnet.journal import read_journal
from tests.workflow.conftest import REPORT, Project
from tests.workflow.test_why import why

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("set=train.lr=0.01", {"train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}, marks=pytest.mark.whole),
        pytest.param(
            "set=datasets.shapes.folds.1.train.lr=0.01",
            {"train_method": 1, "evaluate_method": 1, "make_gallery": 1, **REPORT},
            marks=pytest.mark.whole,
        ),
        pytest.param("set=seeds=[7,8] train.steps=3 model.prior=spm", {}, marks=pytest.mark.whole),  # as they are, said again
        pytest.param("set=methods=[prototype]", {"make_gallery": 2, **REPORT}, marks=pytest.mark.whole),
        (
            "set=protocol.episodes=5 train.lr=1e-2",
            {"make_episodes": 2, "make_records": 4, "train_method": 2, "evaluate_method": 4, "make_gallery": 2, **REPORT},
        ),
    ],
)
def test_what_is_set_reruns_what_it_touches(project: Project, given: str, expected: dict) -> None:
    assert project.planned_with("--config", given) == expected
    assert project.planned() == {}  # without it, the results are those of the file


@pytest.mark.whole
def test_a_wrong_setting_is_one_line_and_makes_nothing(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.results.rglob("*")}
    for given, told in (
        ("train.lrr=1", "datasets.shapes: train.lrr: unknown key"),
        ("train.lr", "tiny.yaml: set: found 'train.lr', expected"),
    ):
        done = project.snakemake("-n", "--config", f"set={given}")
        lines = [line for line in done.stderr.splitlines() if line.startswith("symnet:")]
        assert (done.returncode, len(lines)) == (2, 1)
        assert told in lines[0]
    assert {path: path.stat().st_mtime_ns for path in project.results.rglob("*")} == before


@pytest.mark.whole
def test_what_is_set_reaches_the_job_and_is_remembered(own: Project) -> None:
    cell = "results/tiny/shapes/efficientnet_lite0/fold0/symnet/shot1"
    given = ("--config", "set=train.lr=1.25e-2 train.steps=2")
    done = own.snakemake(f"{cell}/model.safetensors", *given)
    assert done.returncode == 0, done.stdout + done.stderr
    settings = json.loads((own.results / "settings" / "shapes" / "fold0" / "train-symnet.json").read_text())
    assert (settings["train"]["lr"], settings["train"]["steps"]) == (0.0125, 2)
    run = read_journal(own.results / "journals" / "shapes" / "efficientnet_lite0" / "fold0" / "symnet" / "shot1.jsonl")[-1]
    assert run.status == "FINISHED"
    assert (run.params["train"]["lr"], run.params["train"]["steps"]) == (0.0125, 2)
    # the same again: that cell is up to date, the other fold is not; without: it is the other way round
    assert own.planned_with(*given) == {"train_method": 1, "evaluate_method": 2, "make_gallery": 2, **REPORT}
    assert own.planned() == {"train_method": 1, "evaluate_method": 1, "make_gallery": 1, **REPORT}
    target = f"{cell}/model.safetensors"
    assert any("train.lr" in line and "0.0125" in line for line in why(own, target))
    assert not any("train.lr" in line for line in why(own, target, "--set", "train.lr=0.0125", "--set", "train.steps=2"))
