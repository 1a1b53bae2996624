"""Snakemake and its jobs killed by SIGKILL in every stage, and at random: the same command ends with the bytes of a run left alone."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.kill_demo import Victim, differences, files, killed_at_random
from tests.workflow.conftest import Project

pytestmark = [pytest.mark.xdist_group("whole"), pytest.mark.timeout(900)]  # one benchmark, run once

FOLD = "shapes/efficientnet_lite0/fold0"
# One job of every stage, in the order in which they come: its log, which it opens first of all, and an output.
STAGES = {
    "shapes/draw_shapes.log": "data/shapes/shapes.json",
    "shapes/make_folds.log": "shapes/lists/index.csv",
    "shapes/fold0/make_episodes-shot1.log": "shapes/lists/fold0/shot1/seed7.csv",
    f"{FOLD}/train_base.log": f"{FOLD}/base.safetensors",
    f"{FOLD}/cache_features-test.log": f"{FOLD}/features_test.json",
    f"{FOLD}/make_records-tdc-shot1.log": f"{FOLD}/records/tdc/shot1/seed7.json",
    f"{FOLD}/symnet/train-shot1.log": f"{FOLD}/symnet/shot1/model.safetensors",
    f"{FOLD}/symnet/evaluate-shot1.log": f"{FOLD}/symnet/shot1/seed7.json",
    f"{FOLD}/make_gallery-shot1.log": f"{FOLD}/gallery/shot1/episodes.safetensors",
    "make_tables.log": "tables/main.csv",
    "sync_tracking.log": "tracking.json",
}


@pytest.fixture
def reference(finished: Project) -> Victim:
    return Victim(finished.folder, "tiny", "tiny.yaml")


@pytest.fixture
def victim(finished: Project, tmp_path: Path) -> Victim:
    """A copy without results, in a folder that a shell would trip over."""
    folder = tmp_path / "a b'c$(touch owned)"
    shutil.copytree(finished.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake", "*.log"))
    return Victim(folder, "tiny", "tiny.yaml")


def jobs(victim: Victim) -> list[int]:
    """Processes of `symnet` commands that run in its folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if (path / "cwd").readlink() == victim.folder and words[1:3] == [b"-m", b"symnet"]:
                found.append(int(path.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def wait_for(log: Path, victim: Victim) -> None:
    """Until a job of the stage runs."""
    end = time.monotonic() + 300
    while not (log.exists() and jobs(victim)):
        assert victim.process.poll() is None, victim.log.read_text()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.whole
def test_killed_in_every_stage(victim: Victim, reference: Victim) -> None:
    """In turn all of its processes, snakemake alone, whose jobs live on beside those of the next one, and a job alone."""
    chance = random.Random(1)
    for number, (log, output) in enumerate(STAGES.items()):
        path = victim.results / "logs" / log
        for made in (path, victim.results / output):  # a stage may have passed while the one before was killed
            made.unlink(missing_ok=True)
        victim.start()
        wait_for(path, victim)
        if number == 0:
            second = subprocess.run(victim.process.args, cwd=victim.folder, capture_output=True, text=True, timeout=100, check=False)
            assert second.returncode == 1  # two at once in one folder: the second one leaves, and says why
            assert "Directory cannot be locked" in second.stderr
        time.sleep(chance.uniform(0, 1))
        if number % 3 == 2:
            for job in jobs(victim):
                os.kill(job, signal.SIGKILL)
            assert victim.finish() in (0, 1)
        else:
            victim.kill() if number % 3 == 0 else victim.process.kill()
            victim.process.wait()
            victim.run("--unlock")
    victim.run()
    assert differences(victim, reference) == []
    assert len(files(reference)) > 10
    assert not list(victim.folder.rglob("owned"))


@pytest.mark.whole
def test_kills_at_random(victim: Victim, reference: Victim, finished: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """What `python -m tests.kill_demo` does with the demo and twenty."""
    killed_at_random(victim, 3, finished.seconds / 2, random.Random(3))
    victim.run()
    assert differences(victim, reference) == []
    assert capsys.readouterr().out.count("kill ") == 3


@pytest.mark.whole
def test_differences_are_seen(victim: Victim, reference: Victim) -> None:
    shutil.copytree(reference.folder / "results", victim.folder / "results")
    assert differences(victim, reference) == []
    with open(victim.results / "tables" / "main.csv", "a") as file:
        file.write("\n")
    (victim.results / "tables" / "main.tex").unlink()
    (victim.results / "tables" / "more.csv").touch()
    with sqlite3.connect(victim.folder / "results" / "mlflow.db") as store:
        store.execute(
            "insert into metrics select key, value + 1, timestamp, run_uuid, step, is_nan from metrics where key like '%.miou' limit 1"
        )
        store.execute("update runs set status = 'KILLED' where name = 'seed 7'")
        store.execute("delete from tags where key = 'symnet.key' and value = 'benchmark'")
    told = differences(victim, reference)
    assert told[:3] == ["tables/main.csv: other bytes", "tables/main.tex: missing", "tables/more.csv: one too many"]
    assert "benchmark" in told[3]
    assert sum("a metric more than once" in line for line in told) == 1
    assert sum("not finished" in line for line in told) == 4
