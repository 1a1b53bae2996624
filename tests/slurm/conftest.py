import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from symnet.artifacts import write_text
from symnet.cells import Cell
from symnet.journal import Run, is_alive, read_journal
from tests.slurm.cluster import Cluster, run, stop, wait, why_not
from tests.workflow.conftest import SECRETS, TINY, Project, copy_results, finished

__all__ = ["finished"]  # a fixture

STEPS = 12
FOLDER = "results/tiny/shapes/efficientnet_lite0"

Trained = tuple[int, str]  # fold and row of a cell that is trained

# For `lease.py` of a project: a file `pace/fold0/symnet` says how long a step of that cell lasts, so that there is time to disturb it.
# No code hash holds it.
PACE = """

_check = Lease.check


def _slow_check(self: Lease) -> None:
    began, in_steps = time.monotonic(), hasattr(self, "checked")
    self.checked = True  # the first is before them
    pace = Path("pace", *self.path.parts[-5:-3])
    with suppress(FileNotFoundError):
        while in_steps and time.monotonic() - began < float(pace.read_text()):
            time.sleep(0.1)
    _check(self)


Lease.check = _slow_check
"""

# For its Snakefile: jobs are asked for every two seconds, not after 2, 14, 36, 68, ..
POLL = """

import asyncio
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor


async def _soon(self):
    await asyncio.sleep(2)


RemoteExecutor.sleep = _soon
"""


class OnSlurm:
    """A project whose snakemake sends its jobs to the cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.project, self.folder, self.cluster = Project.__new__(Project), folder, cluster
        self.project.folder, self.project.environment = folder, {}
        self.log = self.folder / "snakemake.log"
        self.process: subprocess.Popen | None = None
        self.configure()

    def configure(self, **more: object) -> None:
        """The cluster's own file, with some keys more."""
        (self.folder / "mine.yaml").write_text(yaml.safe_dump({"slurm-init-seconds-before-status-checks": 2, **more}))

    def pace(self, seconds: float | None, *cells: Trained) -> None:
        """How long a step of these cells' training lasts; None: as long as it does."""
        for fold, row in cells:
            path = self.folder / "pace" / f"fold{fold}" / row
            if seconds is None:
                path.unlink(missing_ok=True)
            else:
                write_text(path, str(seconds))

    def start(self, *words: str) -> None:
        """`snakemake --profile slurm`, with the cluster's file."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SYMNET_", "SLURM_"))}
        environment |= {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", **SECRETS}
        command = [sys.executable, "-m", "snakemake", "--profile", "slurm", "--profile", "mine.yaml", *words, "--configfile", "tiny.yaml"]
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, seconds: float = 400) -> None:
        """Wait for snakemake, which has to succeed."""
        assert self.process is not None
        assert self.process.wait(seconds) == 0, self.log.read_text()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def cell(self, cell: Trained) -> Cell:
        fold, row = cell
        return Cell("shapes", "efficientnet_lite0", fold, row, 1)

    def of(self, cell: Trained) -> Run | None:
        """The cell's training run, as its journal tells."""
        journal = self.cell(cell).journal(self.project.results)
        return read_journal(journal)[-1] if journal.exists() else None

    def status(self, cell: Trained) -> str:
        run = self.of(cell)
        return run.status if run else ""

    def stops(self, cell: Trained) -> list[str]:
        """Why the run saved its state and left, each time; it may have gone on since."""
        events = [json.loads(line) for line in self.cell(cell).journal(self.project.results).read_text().splitlines()]
        return [event["reason"] for event in events if event["event"] == "end" and event["status"] == "KILLED"]

    def job(self, cell: Trained) -> str:
        """SLURM's id of the job that trains the cell now, not of one that waits for it; empty where none does, or its process has not begun
        the run.
        """
        run = self.of(cell)
        if run and run.status == "RUNNING" and is_alive(run):
            lease = self.cell(cell).state(self.project.results, run.id) / "lease.json"
            with suppress(FileNotFoundError):
                job = json.loads(lease.read_text())["job"]
                return job if self.cluster.state(job) == "RUNNING" else ""
        return ""

    def jobs(self, *cells: Trained) -> list[str]:
        """As `job`, of several; waits for them."""
        wait(f"trainers of {cells}", lambda: all(map(self.job, cells)), 240)
        return list(map(self.job, cells))

    def train_log(self, cell: Trained) -> str:
        """Of the last job that trains the cell; empty where Snakemake has just removed that of the one before."""
        fold, row = cell
        path = self.project.results / "logs" / "shapes" / "efficientnet_lite0" / f"fold{fold}" / row / "train-shot1.log"
        with suppress(FileNotFoundError):
            return path.read_text()
        return ""


def metrics(folder: Path) -> dict[str, bytes]:
    """Every file of counts, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("shot1/seed*.json"))}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not():
        pytest.fail(reason)
    try:
        cluster = Cluster(tmp_path_factory.mktemp("slurm"))
        cluster.start()
        yield cluster
    finally:
        stop()


@pytest.fixture(scope="session")
def undisturbed(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny benchmark with a row and a few steps more, run on this machine alone, from the finished one on: its folder."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    copy_results(finished.folder, project.folder)
    settings = copy.deepcopy(TINY)
    settings["train"]["steps"] = STEPS
    settings["methods"] = ["prototype", "symnet", "bare"]
    settings["variants"] = {"bare": {"method": "symnet", "model": {"apa": False, "tdc": False}}}
    project.configure(settings)
    for name, code in (("symnet/lease.py", PACE), ("workflow/Snakefile", POLL)):
        with open(project.folder / name, "a") as file:
            file.write(code)
    project.run("results/tiny/tables/main.csv")
    return project.folder


@pytest.fixture
def fresh(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> Iterator[OnSlurm]:
    """A copy of it with no results."""
    shutil.copytree(undisturbed, tmp_path / "own", symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    yield from _on(cluster, tmp_path / "own")


@pytest.fixture
def untrained(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> Iterator[OnSlurm]:
    """A copy of it in which all but training and testing Sym-Net is done."""
    shutil.copytree(undisturbed, tmp_path / "own", symlinks=True)
    for fold in (0, 1):
        shutil.rmtree(tmp_path / "own" / FOLDER / f"fold{fold}" / "symnet")
    for name in ("state", "journals"):
        shutil.rmtree(tmp_path / "own" / "results" / "tiny" / name)
    yield from _on(cluster, tmp_path / "own")


def _on(cluster: Cluster, folder: Path) -> Iterator[OnSlurm]:
    made = OnSlurm(folder, cluster)
    yield made
    made.kill()
    shutil.rmtree(folder / "pace", ignore_errors=True)  # what is held goes on, and hears that it is cancelled
    run("scancel", "--user=root", check=False)
    wait("end of its jobs", lambda: not cluster.steps())
