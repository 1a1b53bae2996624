"""The benchmark as SLURM jobs, and what happens to its trainers there: each run ends with the bytes of one that nothing disturbed."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import RUN, end, run, wait
from tests.slurm.conftest import FOLDER, STEPS, OnSlurm, Trained, metrics
from tests.workflow.conftest import holders_of_secrets

# not only where a SLURM is installed: they write its configuration and start its daemons
asked = pytest.mark.skipif("SYMNET_SLURM" not in os.environ, reason="SYMNET_SLURM is not set: no SLURM is started on this machine")
pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(900), asked]

HELD = 1000.0  # seconds of a step that does not end by itself
TABLES = ("tables/main.csv", "tables/main.tex", "tables/base.csv", "shapes/counts.csv")


def check(own: OnSlurm, undisturbed: Path, *cells: Trained) -> None:
    """Same bytes; every run is finished, and told each of its steps."""
    assert metrics(own.folder) == metrics(undisturbed)
    runs = [own.of(cell) for cell in cells]
    assert [found.status for found in runs] == ["FINISHED"] * len(cells)
    assert [sorted(found.metrics["loss"])[-1] for found in runs] == [STEPS] * len(cells)


def test_the_whole_benchmark_whose_trainers_are_stopped_in_four_ways(fresh: OnSlurm, undisturbed: Path) -> None:
    """From nothing, by the literal command and a file of the cluster's own. A requeued job is SLURM's to start again, under its id; one
    that was cancelled, ran into its time limit or left before it is Snakemake's to retry.
    """
    requeued, cancelled, late, leaving = cells = [(0, "symnet"), (0, "bare"), (1, "symnet"), (1, "bare")]
    short = {"train_method": {"runtime": 3, "mem_mb": 8000, "gpu": 1}}  # it leaves 90 s after its start, which may take as long
    with_one = ("train_base", "cache_features", "make_records", "evaluate_method", "make_gallery")
    table = {rule: {"runtime": 60, "mem_mb": 8000, "gpu": 1} for rule in with_one}
    fresh.configure(**{"default-resources": {"slurm_partition": "urgent", "runtime": 60, "mem_mb": 8000}, "set-resources": table | short})
    fresh.pace(2, requeued, cancelled)
    fresh.pace(HELD, late)
    fresh.pace(9, leaving)
    earlier = {job["id"] for job in fresh.cluster.jobs()}  # of other tests
    fresh.start()

    jobs: dict[Trained, str] = {}
    disturb: dict[Trained, Callable[[str], object]] = {
        requeued: lambda job: (run("scontrol", "requeue", job), fresh.cluster.hurry(job)),
        cancelled: lambda job: run("scancel", job),
        late: lambda job: run("scontrol", "update", f"JobId={job}", "TimeLimit=1"),  # before its own deadline
        leaving: lambda job: None,
    }

    def all_disturbed() -> bool:
        for cell in cells:
            if cell not in jobs and (job := fresh.job(cell)):
                jobs[cell] = job
                disturb[cell](job)
        return len(jobs) == len(cells)

    wait("four trainers", all_disturbed, 500)
    fresh.pace(None, requeued, cancelled)
    wait("stop of three", lambda: all(fresh.stops(cell) for cell in (requeued, cancelled, leaving)), 200)
    assert [fresh.stops(cell)[0].split(" at ")[0] for cell in (requeued, cancelled, leaving)] == ["SIGTERM", "SIGTERM", "deadline"]
    left_at = int(fresh.stops(leaving)[0].split(" at step ")[1].split()[0])
    assert fresh.stops(leaving)[0] == f"deadline at step {left_at} of {STEPS}; its state is saved, run the same command again"
    wait("time limit", lambda: fresh.cluster.state(jobs[late]) == "TIMEOUT", 150)
    fresh.pace(None, late, leaving)
    fresh.finish()

    check(fresh, undisturbed, *cells)
    for name in TABLES:
        assert (fresh.project.results / name).read_bytes() == (undisturbed / "results" / "tiny" / name).read_bytes()
    at = {cell: int(fresh.of(cell).tags["resumed_at"]) for cell in cells}
    assert at[late] <= 1  # it was held in its first step, and killed there; or left after it, where SLURM's SIGKILL did not reach it
    assert at[leaving] == left_at
    assert all(0 < at[cell] < STEPS for cell in (requeued, cancelled, leaving))
    states = [fresh.cluster.state(jobs[cell]) for cell in cells]
    assert states == ["COMPLETED", "CANCELLED", "TIMEOUT", "FAILED"]

    found = [job for job in fresh.cluster.jobs() if job["id"] not in earlier]
    assert {job["partition"] for job in found} == {"urgent"}
    with_gpu = {job["comment"].partition("_wildcards")[0].removeprefix("rule_") for job in found if "gpu" in job["gres"]}
    assert with_gpu == {*with_one, "train_method"}
    comments = {job["comment"] for job in found}
    assert "rule_train_method_wildcards_shapes_efficientnet_lite0_0_symnet_1" in comments  # data set, backbone, fold, method, shot
    assert not [name for name in comments if "tracking" in name or "fetch" in name]
    assert holders_of_secrets(fresh.folder) == []
    assert fresh.project.planned() == {}  # nor does the time limit, which a local run does not have, make it run again


def test_preemption_a_failed_node_a_killed_snakemake_and_an_absent_controller(untrained: OnSlurm, undisturbed: Path) -> None:
    """One after the other, of the same two trainers."""
    cluster, cells = untrained.cluster, [(0, "symnet"), (1, "symnet")]
    targets = [f"{FOLDER}/fold{fold}/symnet/shot1/seed{seed}.json" for fold in (0, 1) for seed in (7, 8)]
    untrained.pace(2, *cells)
    untrained.start(*targets)
    jobs = untrained.jobs(*cells)

    # a job of a better partition takes the node; SLURM starts the trainers again when it has ended
    run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--comment=rule_urgent", "--wrap=sleep 1")
    wait("stop of both", lambda: all(map(untrained.stops, cells)), 60)
    untrained.pace(HELD, *cells)
    cluster.hurry(*jobs)
    assert untrained.jobs(*cells) == jobs
    assert all(int(untrained.of(cell).tags["resumed_at"]) > 0 for cell in cells)

    # the node fails: SLURM ends what it runs, and starts the jobs anew, when it is back
    cluster.kill_node()
    cluster.start_node()
    wait("end of what ran there", lambda: not cluster.steps(*jobs))
    time.sleep(15)  # until then the node may be told a second time to end them; what it ends then is Snakemake's to retry
    jobs = untrained.jobs(*cells)

    # of a killed snakemake the jobs live on, and those of the next one wait for them
    untrained.kill()
    untrained.start("--unlock")
    untrained.finish(60)
    untrained.start(*targets)
    wait("waiting twins", lambda: all("symnet: waiting for process" in untrained.train_log(cell) for cell in cells), 120)
    for cell, job in zip(cells, jobs, strict=True):
        assert f"SLURM job {job}" in untrained.train_log(cell)

    # no controller for half a minute: the jobs end meanwhile, and Snakemake learns of it when somebody can be asked
    end("slurmctld", RUN / "slurmctld.pid")
    untrained.pace(None, *cells)
    wait("end of both", lambda: all(untrained.status(cell) == "FINISHED" for cell in cells), 120)
    time.sleep(30)
    assert untrained.process.poll() is None
    cluster.start_controller()
    untrained.finish()
    check(untrained, undisturbed, *cells)
    assert [cluster.state(job) for job in jobs] == ["COMPLETED"] * 2
