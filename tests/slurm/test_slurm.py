"""The benchmark as SLURM jobs, and what happens to its trainers there: each ends with the bytes of a run that nothing disturbed."""

import os
import shutil
import time
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, run, wait
from tests.slurm.conftest import CELLS, STEPS, OnSlurm, metrics
from tests.workflow.conftest import Project

# not only where a SLURM is installed: they write its configuration and start its daemons
asked = pytest.mark.skipif("SYMNET_SLURM" not in os.environ, reason="SYMNET_SLURM is not set: no SLURM is started on this machine")
pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(600), asked]

TARGETS = [f"{CELLS.format(fold=fold)}/seed{seed}.json" for fold in (0, 1) for seed in (7, 8)]


def resumed(own: OnSlurm) -> list[int]:
    """At which step each run went on the last time."""
    return [int(run.tags["resumed_at"]) for run in own.runs()]


def check(own: OnSlurm, undisturbed: Project) -> None:
    """Same bytes; every run is finished, and told each of its steps."""
    assert metrics(own.folder) == metrics(undisturbed.folder)
    assert [run.status for run in own.runs()] == ["FINISHED"] * 2
    assert [max(run.metrics["loss"]) for run in own.runs()] == [STEPS] * 2


def test_the_whole_benchmark(cluster: Cluster, undisturbed: Project, tmp_path: Path) -> None:
    """From nothing. The literal command, and a file of the cluster's own."""
    shutil.copytree(undisturbed.folder, tmp_path / "own", symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    project = Project.__new__(Project)
    project.folder, project.environment = tmp_path / "own", {}
    own = OnSlurm(project, cluster)
    own.configure(**{"default-resources": {"slurm_partition": "urgent", "runtime": 60, "mem_mb": 8000}})
    own.start()
    own.finish(540)
    check(own, undisturbed)
    for name in ("tables/main.csv", "tables/main.tex", "tables/base.csv", "shapes/counts.csv"):
        assert (project.results / name).read_bytes() == (undisturbed.results / name).read_bytes()
    jobs = cluster.jobs()
    assert {job["partition"] for job in jobs} == {"urgent"}
    with_gpu = {job["comment"].partition("_wildcards")[0].removeprefix("rule_") for job in jobs if "gpu" in job["gres"]}
    assert with_gpu == {"train_base", "cache_features", "train_method", "evaluate_method"}
    comments = {job["comment"] for job in jobs}
    assert "rule_train_method_wildcards_shapes_efficientnet_lite0_0_symnet_1" in comments  # data set, backbone, fold, method, shot
    assert not [name for name in comments if "tracking" in name or "fetch" in name]
    assert project.planned() == {}  # nor does the time limit, which a local run does not have, make it run again


def test_a_time_limit_is_met_by_a_checkpoint_and_a_retry(untrained: OnSlurm, undisturbed: Project) -> None:
    size = {"mem_mb": 8000, "gpu": 1}
    untrained.configure(**{"set-resources": {"train_method": {"runtime": 1, **size}, "evaluate_method": {"runtime": 60, **size}}})
    untrained.pace(5)
    untrained.start(*TARGETS)
    first = untrained.training()
    wait("deadlines", lambda: len(untrained.runs("KILLED")) == 2, 90)
    stops = [int(run.reason.split(" at step ")[1].split()[0]) for run in untrained.runs()]
    assert [run.reason for run in untrained.runs()] == [
        f"deadline at step {step} of {STEPS}; its state is saved, run the same command again" for step in stops
    ]
    untrained.pace(None)
    untrained.finish()
    check(untrained, undisturbed)
    assert resumed(untrained) == stops
    assert all(0 < step < STEPS for step in stops)
    assert set(first) < {job["id"] for job in untrained.cluster.jobs("train_method")}


def test_requeue_and_scancel(untrained: OnSlurm, undisturbed: Project) -> None:
    """One is SLURM's to start again, under its id; the other Snakemake's, as a retry."""
    untrained.pace(2)
    untrained.start(*TARGETS)
    requeued, cancelled = untrained.training()
    time.sleep(2)
    run("scontrol", "requeue", requeued)
    run("scancel", cancelled)
    wait("stop of both", lambda: len(untrained.runs("KILLED")) == 2, 30)
    untrained.pace(None)
    untrained.finish()
    check(untrained, undisturbed)
    assert all(step > 0 for step in resumed(untrained))
    states = {job["id"]: job["state"] for job in untrained.cluster.jobs("train_method")}
    assert (states[requeued], states[cancelled]) == ("COMPLETED", "CANCELLED")


def test_preemption(untrained: OnSlurm, undisturbed: Project) -> None:
    """A job of a better partition takes the node; SLURM starts the trainers again when it has ended."""
    untrained.pace(2)
    untrained.start(*TARGETS)
    jobs = untrained.training()
    run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--comment=rule_urgent", "--wrap=sleep 2")
    wait("stop of both", lambda: len(untrained.runs("KILLED")) == 2, 60)
    untrained.pace(None)
    untrained.finish()
    check(untrained, undisturbed)
    states = {job["id"]: job["state"] for job in untrained.cluster.jobs("train_method")}
    assert [states[job] for job in jobs] == ["COMPLETED"] * 2


def test_a_killed_snakemake_s_orphans_are_waited_for(untrained: OnSlurm, undisturbed: Project) -> None:
    untrained.pace(1000)
    untrained.start(*TARGETS)
    orphans = untrained.training()
    untrained.kill()
    untrained.start("--unlock")
    untrained.finish(60)
    untrained.start(*TARGETS)
    wait("twins", lambda: untrained.logs().count("symnet: waiting for process") == 2, 120)
    assert all(f"SLURM job {orphan}" in untrained.logs() for orphan in orphans)
    untrained.pace(None)
    untrained.finish()
    check(untrained, undisturbed)
    assert [run.resumed for run in untrained.runs()] == [0, 0]  # the twins trained nothing
    assert untrained.logs().count("there already, trained by another process") == 2


def test_a_node_that_fails(untrained: OnSlurm, undisturbed: Project) -> None:
    """slurmd dies, and what it ran goes on: SLURM starts the jobs anew as soon as the node is back."""
    untrained.pace(1000)
    untrained.start(*TARGETS)
    jobs = untrained.training()
    cluster = untrained.cluster
    cluster.end(cluster.folder / "slurmd.pid", 9)
    wait("down node", lambda: cluster.node_state().startswith("down"), 90)
    cluster.start_node()
    untrained.pace(None)
    untrained.finish()
    check(untrained, undisturbed)
    states = {job["id"]: job["state"] for job in cluster.jobs("train_method")}
    assert [states[job] for job in jobs] == ["COMPLETED"] * 2
