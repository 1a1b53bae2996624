"""Many cells, many metrics, many writers. Bounds are of CPU time, several times what is needed: a busy machine fails none of them."""

import copy
import gc
import json
import multiprocessing
import resource
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from symnet.cells import Cell
from symnet.journal import Journal, read_journal
from symnet.status import standings
from symnet.tracking import sync
from tests.workflow.conftest import TINY, Project

CELLS = [Cell("shapes", "efficientnet_lite0", fold, "symnet", shot) for fold in range(4) for shot in range(1, 6)]


def children() -> float:
    """CPU seconds of the processes that this one started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.whole
def test_a_thousand_rounds_are_planned_and_told_at_once(tmp_path: Path) -> None:
    """2 data sets x 4 folds x 5 shots x 25 seeds."""
    project = Project(tmp_path)
    settings = copy.deepcopy(TINY) | {"shots": [1, 2, 3, 4, 5], "seeds": list(range(25)), "methods": ["symnet"]}
    settings["data"]["folds"] = 4
    settings["datasets"] = {"one": {}, "two": {"data": {"root": "data/two"}}}
    project.configure(settings)
    before = children()
    planned = project.planned()
    assert children() - before < 15
    assert {rule: planned[rule] for rule in ("train_base", "make_episodes", "train_method", "evaluate_method")} == {
        "train_base": 8,
        "make_episodes": 40,
        "train_method": 40,
        "evaluate_method": 40,  # of 25 rounds each
    }
    before = children()
    words = [sys.executable, "-m", "symnet", "status", "--results", str(project.results), "--json"]
    told = subprocess.run(words, cwd=project.folder, capture_output=True, text=True, check=True).stdout
    assert children() - before < 2
    assert sum(cell["seeds"] for cell in json.loads(told)) == 1000
    assert {cell["state"] for cell in json.loads(told)} == {"waiting"}


def test_snakemake_reads_the_plan_without_torch(tmp_path: Path) -> None:
    """Every job starts it twice, and importing torch takes longer than all the rest."""
    project = Project(tmp_path)
    with open(project.folder / "workflow" / "Snakefile", "a") as file:
        file.write("\nimport atexit\n\natexit.register(lambda: print('torch' in sys.modules, 'mlflow' in sys.modules))\n")
    assert project.snakemake("-n", "--quiet").stdout.splitlines()[-1] == "False False"


def write(root: Path, cell: Cell, steps: int) -> None:
    """A training's journal, 20 metrics a step."""
    journal = Journal(cell.journal(root), f"run-{cell.fold}-{cell.shot}", {"fold": cell.fold}, {"code": "c0de"})
    for step in range(1, steps + 1):
        journal.log(step, **{f"loss.part{i}": i / step for i in range(20)})
    journal.end("FINISHED")


def write_and_sync(root: Path, cell: Cell, steps: int) -> None:
    write(root, cell, steps)
    print(sync(root, root.parent / "mlflow.db", root.parent / "mlartifacts"))


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_twenty_writers_that_all_make_the_store_lose_nothing(tmp_path: Path) -> None:
    """Each writes a journal and then fills MLflow, whose store none of them finds; 10,000 metrics in all, each there once."""
    import mlflow  # here, so that the children find it loaded

    assert mlflow.__version__
    root, steps = tmp_path / "bench", 25
    root.mkdir()
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=write_and_sync, args=(root, cell, steps)) for cell in CELLS]
    before = children()
    for process in started:
        process.start()
    for process in started:
        process.join(250)
    assert [process.exitcode for process in started] == [0] * 20
    assert children() - before < 60
    summary = sync(root, tmp_path / "mlflow.db", tmp_path / "mlartifacts")
    assert (summary.new, summary.updated, summary.unchanged, summary.superseded, summary.warnings) == (0, 0, 20, 0, [])
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        (stored,) = store.execute("select count(*) from metrics").fetchone()
        rows = store.execute(
            "select t.value, m.key, m.step, m.value from metrics m join tags t using (run_uuid) where t.key = 'symnet.key'"
        )
        found = {(cell, name, step): value for cell, name, step, value in rows}
        assert store.execute("select distinct status from runs").fetchall() == [("FINISHED",)]
    assert stored == len(found) == 10_000
    keys = [cell.folder(Path()).as_posix() for cell in CELLS]
    assert found == {(key, f"loss.part{i}", step): i / step for key in keys for step in range(1, steps + 1) for i in range(20)}


def grown(work: Callable[[], object], times: int) -> int:
    """Bytes that are held after `times` calls more than after three."""
    for _ in range(2):
        work()
    tracemalloc.start()
    held = []
    for count in (1, times):
        for _ in range(count):
            work()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held[1] - held[0]


@pytest.mark.whole
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Of a run that tells of itself, however long, and of those who read what it told."""
    cells = CELLS[:4]
    journal = Journal(cells[0].journal(tmp_path), "run", {}, {})
    steps = iter(range(10_000))
    assert grown(lambda: journal.log(next(steps), loss=0.5, rate=0.1), 1000) < 10_000
    for cell in cells[1:]:
        write(tmp_path, cell, 20)
    (tmp_path / "settings").mkdir()
    expected = {"cells": [cell.as_dict() for cell in cells], "seeds": [1], "rows": {"symnet": "symnet"}}
    (tmp_path / "settings" / "tables.json").write_text(json.dumps(expected))
    assert grown(lambda: standings(tmp_path), 20) < 100_000  # one call reads that much
    assert grown(lambda: read_journal(cells[1].journal(tmp_path)), 20) < 100_000  # one call reads that much
