"""Where cells stand: one case of every state, made by the journal's own writer, and the speed of a large benchmark."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from symnet import cli
from symnet.cells import Cell
from symnet.errors import UserError
from symnet.journal import Journal
from symnet.lease import STALE
from symnet.status import STATES, Standing, journal_words, standings

SEEDS = [510, 365]


def cell(fold: int = 0, method: str = "mine", shot: int = 1) -> Cell:
    return Cell("shapes", "efficientnet_lite0", fold, method, shot)


def expect(root: Path, *cells: Cell, seeds: list[int] = SEEDS) -> None:
    (root / "settings").mkdir(parents=True, exist_ok=True)
    rows = {one.method: "prototype" if one.method == "prototype" else "symnet" for one in cells}
    (root / "settings" / "tables.json").write_text(json.dumps({"cells": [one.as_dict() for one in cells], "seeds": seeds, "rows": rows}))


def test_round(root: Path, one: Cell, *seeds: int) -> None:
    for seed in seeds:
        path = one.metrics(root, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


test_round.__test__ = False


def journal(root: Path, one: Cell, end: str = "", reason: str = "", **edits: object) -> None:
    """Steps 10, 20, ... of 200, one a second, the last of them now."""
    path = one.journal(root)
    writer = Journal(path, "r", {"train": {"batch_size": 8}}, {"steps": "200", "epoch_steps": "30"})
    for step in range(10, 60, 10):
        writer.log(step, loss=1.0 / step)
    if end:
        writer.end(end, reason)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    now, shift = time.time(), float(edits.pop("ago", 0.0))  # type: ignore[arg-type]
    for line in lines:
        line["time"] = now - shift - (50 - line["step"]) / 10 if "step" in line else line["time"] - shift
        if line["event"] == "start":
            line |= edits
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def only(root: Path) -> Standing:
    (one,) = standings(root)
    return one


def state(root: Path) -> tuple[str, str]:
    return only(root).state, only(root).told


def test_a_cell_waits_trains_is_tested_and_done(tmp_path: Path) -> None:
    expect(tmp_path, cell())
    assert state(tmp_path) == ("waiting", "")
    journal(tmp_path, cell())
    found, told = state(tmp_path)
    assert found == "training"
    assert told.startswith("epoch 2 of 7, step 50 of 200, 80 episodes/s, ETA 15 s, on ")
    Journal(cell().journal(tmp_path), "r", {}, {}).end("FINISHED")
    assert state(tmp_path) == ("testing", "trained")
    test_round(tmp_path, cell(), 510)
    assert (only(tmp_path).state, only(tmp_path).tested, only(tmp_path).seeds) == ("testing", 1, 2)
    test_round(tmp_path, cell(), 365)
    assert state(tmp_path) == ("done", "")


def test_what_went_wrong_is_told_with_its_log(tmp_path: Path) -> None:
    expect(tmp_path, cell())
    journal(tmp_path, cell(), "FAILED", "loss is nan at step 7")
    log = tmp_path / "logs" / "shapes" / "efficientnet_lite0" / "fold0" / "mine" / "train-shot1.log"
    assert state(tmp_path) == ("failed", f"loss is nan at step 7; log: {log}")


def test_a_stopped_run_and_one_whose_process_is_gone(tmp_path: Path) -> None:
    expect(tmp_path, cell(0))
    journal(tmp_path, cell(0), "KILLED", "deadline at step 50 of 200")
    assert state(tmp_path) == ("stopped", "deadline at step 50 of 200")
    expect(tmp_path, cell(1))
    journal(tmp_path, cell(1), born=1)
    found, told = state(tmp_path)
    assert found == "died"
    assert told.startswith("epoch 2 of 7, step 50 of 200, 80 episodes/s, ETA 15 s; its state is saved, run again; log: ")


@pytest.mark.parametrize(
    ("log", "last", "reason"),
    [
        ("shapes/make_folds.log", "symnet: index.csv: no image", "index.csv: no image"),
        ("shapes/fold0/make_episodes-shot1.log", "symnet: class 'cat': one image", "class 'cat': one image"),
        ("shapes/b/fold0/train_base.log", "symnet: base mIoU 3.1 is below base.floor", "base mIoU 3.1 is below base.floor"),
        (
            "shapes/b/fold0/cache_features-test.log",
            "OSError: no space left",
            "OSError: no space left",
        ),
        (
            "shapes/b/fold0/make_records-spm-shot1.log",
            "torch.OutOfMemoryError: 2 GiB",
            "torch.OutOfMemoryError: 2 GiB",
        ),
        ("shapes/b/fold0/mine/train-shot1.log", "symnet: base.safetensors: sum is wrong", "base.safetensors: sum is wrong"),
        ("shapes/b/fold0/mine/evaluate-shot1.log", "symnet: model.safetensors: not there", "model.safetensors: not there"),
        ("shapes/b/fold0/make_records-spm-shot5.log", "symnet: of the other shot", ""),
        ("shapes/b/fold1/train_base.log", "symnet: of the other fold", ""),
        ("shapes/b/fold0/train_base.log", "step 20 of 400, ETA 3 min", ""),
        ("shapes/b/fold0/mine/train-shot1.log", "symnet: waiting for process 7 on n1, which trains this run", ""),
        ("shapes/b/fold0/mine/train-shot1.log", "", ""),
    ],
)
def test_a_failure_of_what_a_cell_waits_for_is_read_from_the_end_of_its_log(tmp_path: Path, log: str, last: str, reason: str) -> None:
    expect(tmp_path, Cell("shapes", "b", 0, "mine", 1))
    path = tmp_path / "logs" / log
    path.parent.mkdir(parents=True)
    path.write_text("100 of 900 images\n" * 1000 + f"{last}\n\n")
    assert state(tmp_path) == (("failed", f"{path.stem}: {reason}; log: {path}") if reason else ("waiting", ""))


def test_a_failed_test_of_a_trained_cell(tmp_path: Path) -> None:
    expect(tmp_path, cell())
    journal(tmp_path, cell(), "FINISHED")
    logs = tmp_path / "logs" / "shapes" / "efficientnet_lite0" / "fold0" / "mine"
    logs.mkdir(parents=True)
    (logs / "train-shot1.log").write_text("symnet: of an earlier try\n")
    assert state(tmp_path) == ("testing", "trained")
    (logs / "evaluate-shot1.log").write_text("Traceback (most recent call last):\n  ...\nKeyError: 'cat'\n")
    assert state(tmp_path) == ("failed", f"evaluate-shot1: KeyError: 'cat'; log: {logs / 'evaluate-shot1.log'}")
    test_round(tmp_path, cell(), *SEEDS)
    assert state(tmp_path) == ("done", "")


@pytest.mark.parametrize(("ago", "silent"), [(0.0, False), (300.0, False), (1800.0, True)])
def test_a_run_on_another_host_may_be_silent(tmp_path: Path, ago: float, silent: bool) -> None:
    expect(tmp_path, cell())
    journal(tmp_path, cell(), host="elsewhere", ago=ago)
    found, told = state(tmp_path)
    assert (found, ", on elsewhere" in told, "silent for 30 min" in told) == ("training", True, silent)


def test_a_run_on_another_host_whose_lease_is_stale_has_died(tmp_path: Path) -> None:
    expect(tmp_path, cell())
    journal(tmp_path, cell(), host="elsewhere")
    lease = cell().state(tmp_path, "r") / "lease.json"
    lease.parent.mkdir(parents=True)
    lease.write_text("{}")
    assert state(tmp_path)[0] == "training"
    os.utime(lease, (time.time() - STALE - 10,) * 2)
    assert state(tmp_path)[0] == "died"
    assert journal_words(tmp_path, cell()).startswith("its journal says RUNNING: epoch 2 of 7, step 50 of 200, ")
    assert journal_words(tmp_path, cell(1)) == ""


def test_a_method_that_is_not_trained_needs_no_journal(tmp_path: Path) -> None:
    expect(tmp_path, cell(method="prototype"))
    assert state(tmp_path) == ("waiting", "")
    test_round(tmp_path, cell(method="prototype"), *SEEDS)
    assert state(tmp_path) == ("done", "")


def test_no_experiment_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no experiment there; `snakemake -n all` with its file"):
        standings(tmp_path)
    expect(tmp_path, cell())
    (tmp_path / "settings" / "tables.json").write_text("{")
    with pytest.raises(UserError, match=r"tables\.json: cannot be read"):
        standings(tmp_path)


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.app, ["status", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_command(tmp_path: Path) -> None:
    expect(tmp_path, cell(0), cell(1), cell(2))
    journal(tmp_path, cell(1), "FAILED", "no\nroom")
    test_round(tmp_path, cell(2), *SEEDS)
    lines = run("--results", str(tmp_path)).splitlines()
    assert lines[0] == "3 cells: 1 waiting, 1 done, 1 failed"
    assert lines[2].split() == ["dataset", "backbone", "fold", "row", "shot", "state", "tested"]
    assert lines[3].split() == ["shapes", "efficientnet_lite0", "0", "mine", "1", "waiting", "0/2"]
    assert "no room; log: " in lines[4]  # one line, whatever a reason holds
    assert len(lines) == 6
    (failed,) = json.loads(run("--results", str(tmp_path), "--state", "failed,died", "--json"))
    assert (failed["fold"], failed["state"], failed["tested"]) == (1, "failed", 0)
    with pytest.raises(UserError, match=f"--state: found 'lost', allowed: {', '.join(STATES)}"):
        run("--results", str(tmp_path), "--state", "lost")


def test_a_large_benchmark_is_told_at_once(tmp_path: Path) -> None:
    """2 data sets x 4 folds x 5 shots x 25 seeds: 1,000 rounds."""
    cells = [Cell(dataset, "b", fold, "mine", shot) for dataset in ("a", "c") for fold in range(4) for shot in range(1, 6)]
    expect(tmp_path, *cells, seeds=list(range(25)))
    for one in cells:
        path = one.journal(tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        start = {"event": "start", "run": "r", "time": 0.0, "host": "h", "pid": 1, "born": 1, "params": {}, "tags": {}}
        steps = [{"event": "metric", "run": "r", "step": n, "time": float(n), "values": {"loss": 1.0}} for n in range(250)]
        path.write_text("".join(json.dumps(line) + "\n" for line in [start, *steps]))
    started = time.process_time()
    found = standings(tmp_path)
    assert time.process_time() - started < 2
    assert [one.state for one in found] == ["training"] * 40


def test_the_program_starts_without_torch() -> None:
    """Importing it takes two seconds, several times what most commands need."""
    code = "import sys, symnet.cli, symnet.plan; print('torch' in sys.modules, 'mlflow' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3
