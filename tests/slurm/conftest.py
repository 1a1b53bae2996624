import copy
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from symnet.journal import Run, read_journal
from tests.slurm.cluster import Cluster, run, wait, why_not
from tests.workflow.conftest import TINY, Project

STEPS = 12
CELLS = "results/tiny/shapes/efficientnet_lite0/fold{fold}/symnet/shot1"

# For `lease.py` of a project: a file `pace` says how long a step lasts, so that there is time to disturb it. No code hash holds it.
PACE = """

_check = Lease.check


def _slow_check(self: Lease) -> None:
    began, in_steps = time.monotonic(), hasattr(self, "checked")
    self.checked = True  # the first is before them
    with suppress(FileNotFoundError):
        while in_steps and time.monotonic() - began < float(Path("pace").read_text()):
            time.sleep(0.1)
    _check(self)


Lease.check = _slow_check
"""


class OnSlurm:
    """A project whose snakemake sends its jobs to the cluster; everything but training and testing Sym-Net is done."""

    def __init__(self, project: Project, cluster: Cluster) -> None:
        self.project, self.cluster, self.folder = project, cluster, project.folder
        self.log = self.folder / "snakemake.log"
        self.process: subprocess.Popen | None = None
        self.configure()

    def configure(self, **more: object) -> None:
        """The cluster's own file, with some keys more."""
        (self.folder / "mine.yaml").write_text(yaml.safe_dump({"slurm-init-seconds-before-status-checks": 2, **more}))

    def pace(self, seconds: float | None) -> None:
        """How long a step of training lasts; None: as long as it does."""
        path = self.folder / "pace"
        if seconds is None:
            path.unlink()
        else:
            path.write_text(str(seconds))

    def start(self, *words: str) -> None:
        """`snakemake --profile slurm`, with the cluster's file."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SYMNET_", "SLURM_"))}
        environment |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--profile", "mine.yaml", *words, "--configfile", "tiny.yaml"]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, seconds: float = 300) -> None:
        """Wait for snakemake, which has to succeed."""
        assert self.process is not None
        assert self.process.wait(seconds) == 0, self.log.read_text()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def training(self) -> list[str]:
        """SLURM's ids of the jobs that train, fold 0 first, once both do: their runs have begun."""
        wait("two trainers", lambda: len(self.runs("RUNNING")) == 2, 240)
        found = {job["comment"]: job["id"] for job in self.cluster.jobs("train_method") if job["state"] == "RUNNING"}
        return [found[name] for name in sorted(found)]

    def runs(self, status: str = "") -> list[Run]:
        """The training runs of both folds, as their journals tell."""
        found = [run for path in sorted((self.project.results / "journals").rglob("*.jsonl")) for run in read_journal(path)]
        return [run for run in found if status in ("", run.status)]

    def logs(self) -> str:
        """What the trainers printed last."""
        return "".join(path.read_text() for path in sorted((self.project.results / "logs").rglob("train-shot1.log")))


def metrics(folder: Path) -> dict[str, bytes]:
    """Every file of counts, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("shot1/seed*.json"))}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.fail(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny benchmark with a few steps more, run on this machine alone."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    settings = copy.deepcopy(TINY)
    settings["train"]["steps"] = STEPS
    project.configure(settings)
    with open(project.folder / "symnet" / "lease.py", "a") as file:
        file.write(PACE)
    project.run()
    return project


@pytest.fixture
def untrained(cluster: Cluster, undisturbed: Project, tmp_path: Path) -> Iterator[OnSlurm]:
    """A copy of it without Sym-Net's cells."""
    shutil.copytree(undisturbed.folder, tmp_path / "own", symlinks=True)
    project = copy.copy(undisturbed)
    project.folder = tmp_path / "own"
    for fold in (0, 1):
        shutil.rmtree(project.folder / CELLS.format(fold=fold))
    for name in ("state", "journals"):
        shutil.rmtree(project.results / name)
    made = OnSlurm(project, cluster)
    yield made
    made.kill()
    run("scancel", "--user=root", check=False)
