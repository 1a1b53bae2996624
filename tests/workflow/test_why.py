"""`symnet why` names the cause of what Snakemake plans, and of nothing else. Real snakemake, real runs."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.workflow.conftest import TINY, Project
from tests.workflow.test_reruns import edited

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once

RULES = {
    "shapes": "draw_shapes",
    "folds": "make_folds_shapes",
    "counts": "count_images",
    "store": "make_store",
    "episodes": "make_episodes",
    "embeddings": "make_embeddings",
    "base": "train_base",
    "features_test": "cache_features",
    "features_train": "cache_features",
    "records": "make_records",
    "train": "train_method",
    "evaluate": "evaluate_method",
    "gallery": "make_gallery",
    "tables": "make_tables",
    "luck": "make_luck",
    "costs": "make_costs",
    "figures": "make_figures",
    "track": "sync_tracking",
}
STALE = """
import json, sys
from pathlib import Path
from symnet.experiment import read_plain
from symnet.plan import Plan
from symnet.why import whys
with whys(Plan(read_plain(Path("tiny.yaml")), "tiny.yaml", write=False)) as found:
    jobs = {job.outputs[0]: job for job in found.jobs.values()}
    print(json.dumps([job.stage for job in jobs.values() if found.stale(job)]))
assert not {"torch", "mlflow", "snakemake", "pandas"} & set(sys.modules)
"""
CELL = "results/tiny/shapes/efficientnet_lite0/fold1/symnet/shot1"


def python(project: Project, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SYMNET_")} | {"PYTHONPATH": str(project.folder)}
    done = subprocess.run([sys.executable, *arguments], cwd=project.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def why(project: Project, *target: str) -> list[str]:
    return python(project, "-m", "symnet", "why", "--config", "tiny.yaml", *target).splitlines()


def agreed(project: Project) -> dict[str, int]:
    """Rule to number of jobs that `why` holds for stale; the same as Snakemake's. Asked first: planning refreshes lists."""
    stale = Counter(RULES[stage] for stage in json.loads(python(project, "-c", STALE)))
    assert dict(stale) == project.planned()
    return dict(stale)


def test_a_finished_benchmark_is_up_to_date(project: Project) -> None:
    """So the notes, which hold what every command was given, agree with the jobs as `symnet.graph` has them."""
    assert agreed(project) == {}
    assert why(project, "shapes", "1", "symnet", "1") == [f"{CELL.removeprefix('results/tiny/')}/seed7.json: up to date"]
    assert why(project, "results/tiny/tables/main.tex") == ["tables/main.tex: up to date"]


def test_a_setting_is_named_with_both_values(project: Project) -> None:
    project.configure(edited(train={"lr": 0.01}))
    assert agreed(project)["train_method"] == 2
    short = CELL.removeprefix("results/tiny/")
    told = why(project, "shapes", "1", "symnet", "1", "8")
    assert told == [
        f"{short}/seed8.json: out of date",
        "  train.lr: was 0.05, now 0.01",
        f"    {short}/model.safetensors -> {short}/seed8.json",
    ]
    assert why(project, f"{CELL}/model.safetensors")[1:] == ["  train.lr: was 0.05, now 0.01"]
    assert why(project, "results/tiny/shapes/embeddings.csv") == ["shapes/embeddings.csv: up to date"]


@pytest.mark.whole
def test_the_first_cause_is_found_up_the_flow(project: Project) -> None:
    project.configure(edited(folds={1: {"base": {"lr": 0.001}}}))
    agreed(project)
    fold = "shapes/efficientnet_lite0/fold1"
    told = why(project, "shapes", "1", "symnet", "1")
    assert told[1:] == ["  base.lr: was 0.00025, now 0.001", f"    {fold}/base.safetensors -> {fold}/symnet/shot1/seed7.json"]
    assert why(project, "shapes", "0", "symnet", "1")[0].endswith(": up to date")


@pytest.mark.whole
def test_code_is_named_by_its_file(project: Project) -> None:
    path = project.folder / "symnet" / "model" / "prior.py"
    before = path.read_text()
    path.write_text(before + "\n# a remark\n")
    assert agreed(project) == {}
    path.write_text(before + "\nEDITED = True\n")
    assert agreed(project)["make_records"] == 4
    assert "  code of symnet/model/prior.py changed" in why(project, f"{CELL}/model.safetensors")


@pytest.mark.whole
def test_code_of_a_stage_whose_outputs_carry_none(project: Project) -> None:
    path = project.folder / "symnet" / "data" / "episodes.py"
    path.write_text(path.read_text() + "\nEDITED = True\n")
    assert agreed(project)["make_episodes"] == 2
    path.write_text(path.read_text().replace("\nEDITED = True\n", ""))
    path = project.folder / "symnet" / "report" / "tables.py"
    path.write_text(path.read_text() + "\nEDITED = True\n")
    assert agreed(project) == {"make_tables": 1, "make_costs": 1, "make_figures": 1, "sync_tracking": 1}


@pytest.mark.whole
def test_an_image_is_counted(project: Project) -> None:
    with project.inverted_image() as lists:
        before = [path.read_bytes() for path in lists]
        told = why(project, "shapes", "1", "symnet", "1")
        assert [path.read_bytes() for path in lists] == before  # asking changes nothing
        assert "  input shapes/lists/fold1/test.csv: 1 image changed" in told
        assert agreed(project)["evaluate_method"] == 2
    assert agreed(project) == {}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"seeds": [7, 8, 9]}, "  seeds: was 7,8, now 7,8,9"),
        (edited(features={"records": False}), "is no longer read"),
        (edited(protocol={"selection": "test_best"}), "input shapes/lists/fold1/test.csv: was not read before"),
        (edited(store={"images": True}), None),
        (edited(protocol={"episodes": 5}), "  protocol.episodes: was 4, now 5"),
    ],
)
@pytest.mark.whole
def test_what_else_reruns(project: Project, settings: dict, told: str | None) -> None:
    project.configure({**TINY, **settings})
    agreed(project)
    lines = why(project, "shapes", "1", "symnet", "1")
    assert lines[0].endswith(": up to date") if told is None else any(told in line for line in lines)


@pytest.mark.whole
def test_what_is_missing_and_what_is_gone(project: Project) -> None:
    model = project.folder / CELL / "model.safetensors"
    note, aside = project.results / "made" / CELL.removeprefix("results/tiny/") / "train.json", model.with_suffix(".aside")
    kept = note.read_bytes()
    model.rename(aside)
    try:
        assert "missing: was made and is gone" in why(project, f"{CELL}/model.safetensors")[0]
        note.unlink()
        told = why(project, f"{CELL}/model.safetensors")
        assert told[1] == "  missing: its journal says FINISHED: trained"
    finally:
        aside.rename(model)
        note.write_bytes(kept)
    project.configure({**TINY, "shots": [1, 5]})
    told = why(project, "shapes", "1", "symnet", "5")
    assert told[0].endswith("shot5/seed7.json: missing")
    assert "  missing: never made" in told
    assert len(told) < 12


@pytest.mark.whole
def test_what_is_not_of_the_experiment_is_refused(project: Project) -> None:
    for words in (["none.json"], ["shapes", "1", "nothing", "1"], ["shapes", "x"]):
        done = subprocess.run(
            [sys.executable, "-m", "symnet", "why", "--config", "tiny.yaml", *words],
            cwd=project.folder,
            env=os.environ | {"PYTHONPATH": str(project.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert done.stderr.startswith(f"symnet: {' '.join(words)}: ")


def test_a_damaged_note_is_told(project: Project) -> None:
    note: Path = project.results / "made" / "shapes" / "embeddings.json"
    kept = note.read_bytes()
    note.write_bytes(kept[:-20])
    try:
        with pytest.raises(AssertionError, match=r"embeddings\.json: not a whole JSON file"):
            why(project, "results/tiny/shapes/embeddings.csv")
    finally:
        note.write_bytes(kept)
