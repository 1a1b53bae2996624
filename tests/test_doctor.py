"""The doctor: a healthy place, and each fault it knows, told with what to do."""

import fcntl
import os
import sqlite3
import time
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from symnet import cli, doctor
from symnet.doctor import BAD, FINE, NOTE, Finding, examine, in_text

CONFIG = Path(__file__).parents[1] / "config"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with an empty data root and a place for results; no SLURM."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYMNET_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    (tmp_path / "results").mkdir()
    return tmp_path


def found(what: str, config: str = "demo.yaml") -> list[Finding]:
    return [one for one in examine(CONFIG / config, Path("results")) if one.what == what]


def only(what: str, config: str = "demo.yaml") -> Finding:
    (one,) = found(what, config)
    return one


def test_a_place_for_the_demo_is_healthy(place: Path) -> None:
    everything = list(examine(CONFIG / "demo.yaml", Path("results")))
    assert [one for one in everything if one.mark == BAD] == []
    assert {"symnet", "packages", "machine", "slurm", "settings", "data", "disk"} <= {one.what for one in everything}
    assert only("settings").told.endswith("demo, 16 cells, 80 rounds")
    assert only("data").mark == FINE
    assert in_text(everything).splitlines()[-1].startswith("0 to mend, ")


def test_data_that_is_missing_and_data_that_will_be_fetched(place: Path) -> None:
    notes = found("data", "config.yaml")
    assert {one.mark for one in notes} == {NOTE}
    assert any("VOCdevkit/VOC2012: 2.0 GB from https://" in one.told for one in notes)
    bad = found("data", "pascal_mini.yaml")
    assert [one.mark for one in bad] == [BAD, BAD]  # the photographs and the vectors: no catalogue has them
    assert "voc2012" in bad[0].told


def test_a_package_that_is_too_old_or_absent(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "gensim":
            raise metadata.PackageNotFoundError(name)
        return "3.16.0" if name == "mlflow" else real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    one = only("packages")
    assert one.mark == BAD
    assert "gensim>=4.4 is not installed" in one.told
    assert "mlflow is 3.16.0, needed: >=3.16.1" in one.told


def test_a_broken_experiment_file_is_one_line(place: Path) -> None:
    (place / "wrong.yaml").write_text("experiment: x\ndatasets: {shapes: {}}\nlr: 3\n")
    lines = [one for one in examine(place / "wrong.yaml", Path("results")) if one.what == "check"]
    assert {one.mark for one in lines} == {BAD}
    assert "lr: unknown key" in lines[0].told


def test_a_lock_of_a_snakemake_that_is_gone(place: Path) -> None:
    assert found("lock") == []
    (place / ".snakemake" / "locks").mkdir(parents=True)
    (place / ".snakemake" / "locks" / "0.output.lock").touch()
    assert (only("lock").mark, only("lock").advice) == (BAD, "snakemake --unlock, with the same --configfile")


def test_unfinished_files_of_killed_jobs(place: Path) -> None:
    fresh, old = place / "results" / ".a.1-f.partial", place / "results" / "demo" / ".b.2-e.partial"
    old.parent.mkdir()
    for path in (fresh, old):
        path.write_bytes(b"x" * 1500)
    assert found("leftover") == []
    os.utime(old, (time.time() - 7200,) * 2)
    assert (only("leftover").mark, only("leftover").told) == (NOTE, "1 unfinished files of killed jobs, 1.5 kB")


def test_leases_that_live_and_leases_that_are_stale(place: Path) -> None:
    assert found("lease") == []
    for name, age in (("a", 5), ("b", 3600)):
        lease = place / "results" / "demo" / "state" / "shapes" / name / "lease.json"
        lease.parent.mkdir(parents=True)
        lease.write_text('{"host": "node7", "pid": 12, "job": "345", "token": "", "locked": true}')
        os.utime(lease, (time.time() - age,) * 2)
    stale, living = found("lease")
    assert (stale.mark, living.mark, living.told) == (NOTE, FINE, "1 runs are being trained")
    told = "left by process 12 on node7, SLURM job 345, which trains this run; last sign of life 60 min ago"
    assert stale.told == f"results/demo/state/shapes/b/lease.json: {told}"
    assert "the next trainer takes over" in stale.advice
    lease.write_text("{")
    assert any("b/lease.json: cannot be read" in one.told and "delete it" in one.advice for one in found("lease"))


def test_a_sync_that_holds_its_lock(place: Path) -> None:
    path = place / "results" / "mlflow.db"
    with sqlite3.connect(path) as store:
        store.execute("create table runs (lifecycle_stage text)")
    with open(path.with_name("mlflow.db.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is held by a sync" in only("lock").told
    assert found("lock") == []


def test_the_store_of_mlflow(place: Path) -> None:
    assert found("mlflow") == []
    path = place / "results" / "mlflow.db"
    with sqlite3.connect(path) as store:
        store.execute("create table runs (lifecycle_stage text)")
        store.executemany("insert into runs values (?)", [("active",), ("active",), ("deleted",)])
    assert (only("mlflow").mark, only("mlflow").told) == (FINE, "results/mlflow.db: 2 runs")
    path.write_bytes(b"not a database, whatever its name says" * 40)
    assert only("mlflow").mark == BAD
    assert "symnet track sync" in only("mlflow").advice


def test_a_disk_that_is_nearly_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil.disk_usage(place)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1_500_000_000))
    assert [(one.mark, "1.5 GB free" in one.told) for one in found("disk")] == [(NOTE, True)] * 2


@pytest.mark.parametrize(
    ("script", "mark", "told"),
    [
        ("echo 'main* up 4 gpu:a100:2'; echo 'old down 1 (null)'", FINE, "1 partitions up: main*"),
        ("echo 'main* up 4 (null)'", NOTE, "1 partitions up: main*"),
        ("echo 'no controller' >&2; exit 1", BAD, "sinfo: no controller"),
    ],
)
def test_what_slurm_says(place: Path, monkeypatch: pytest.MonkeyPatch, script: str, mark: str, told: str) -> None:
    program = place / "bin" / "sinfo"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(program))
    assert (only("slurm").mark, only("slurm").told) == (mark, told)


def test_the_command_ends_with_1_where_something_is_bad(place: Path) -> None:
    def run(config: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["doctor", "--config", str(CONFIG / config)], catch_exceptions=False)
        return done.exit_code, done.output.splitlines()[-1]

    assert run("demo.yaml")[0] == 0
    code, last = run("pascal_mini.yaml")
    assert (code, last.split(",")[0]) == (1, "2 to mend")
