"""The table of costs: numbers of journals and of tests by hand, what is not known, machines by letters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from symnet.artifacts import read_manifest
from symnet.cells import Cell
from symnet.costs import Spent, spent_beside, write_spent
from symnet.errors import UserError
from symnet.flops import Work
from symnet.journal import Journal
from symnet.report.costs import make_costs
from symnet.report.pareto import read_costs
from symnet.report.tables import make_tables
from tests.report.test_paper import compile_latex
from tests.report.test_tables import SEEDS, write_round

CPU, GPU = "AMD EPYC, 2 threads", "NVIDIA H100 80GB HBM3"
CELLS = [Cell("pascal5i", "resnet50", fold, method, 1) for method in ("prototype", "symnet") for fold in (0, 1)]
WORK = {
    "prototype": Work(0, 23_600_000, 300_000_000, 400_000_000_000),
    "symnet": Work(5_000_000, 46_700_000, 7_000_000_000, 381_000_000_000),
}


def journal(root: Path, cell: Cell, monkeypatch: pytest.MonkeyPatch, times: Sequence[float], device: str = GPU, **memory: float) -> None:
    """A training whose lines are written at these times, in seconds."""
    clock = iter(times)
    with monkeypatch.context() as patch:
        patch.setattr("symnet.journal.time.time", lambda: 1e9 + next(clock))
        found = Journal(cell.journal(root), "run", {"device": device}, {})
        for step, _ in enumerate(times[2:]):
            found.log(step, loss=0.5, **{f"system.{name}_memory_peak_megabytes": value + step for name, value in memory.items()})
        found.end("FINISHED")


def spend(root: Path, cell: Cell, episodes: int, seconds: float, memory: int, device: str = GPU, read: str = "records") -> None:
    write_spent(cell.metrics(root, SEEDS[0]), Spent(device, read, episodes, seconds, memory))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folds and two rows: tested on a GPU; trained there for one and two hours."""
    monkeypatch.setattr("symnet.report.costs._work", lambda root, cell, method: WORK[method])
    for cell in CELLS:
        for seed in SEEDS:
            outputs = {"prediction": 30} if cell.method == "prototype" else {"meta": 60, "ensemble": 64}
            write_round(tmp_path, cell, seed, {name: dict.fromkeys(("cat", "dog"), value) for name, value in outputs.items()})
        spend(tmp_path, cell, 2000, 50 + 50 * cell.fold, int(3e9) + cell.fold, read="records" if cell.method == "symnet" else "features")
    for cell in CELLS[2:]:
        journal(tmp_path, cell, monkeypatch, [0, 1800, 3600 * (1 + cell.fold)], gpu=9000.0 + cell.fold, host=1.0)
    make_tables(CELLS, SEEDS, tmp_path, tmp_path / "tables")
    return tmp_path


def made(root: Path) -> dict[str, dict[str, Any]]:
    make_costs(root, root / "tables", CELLS, SEEDS, {name: name for name in WORK})
    return {line["method"]: line for line in read_costs(root / "tables").to_dict("records")}


def test_numbers_by_hand(root: Path) -> None:
    found = made(root)
    assert list(found) == ["prototype", "symnet (ensemble)", "symnet (meta)"]
    both = {"dataset": "pascal5i", "shot": 1, "backbone": "resnet50", "tested_on": GPU}
    both |= {"test_memory": pytest.approx(3e9), "episodes_per_second": pytest.approx(4000 / 150, rel=1e-5)}
    assert found["prototype"] == {
        **both,
        **{"method": "prototype", "mean": 30, "trained_parameters": 0, "frozen_parameters": 23_600_000},
        **{"flops_cached": 300_000_000, "flops_whole": 400_000_000_000, "read": "features"},
        **{"train_memory": pytest.approx(float("nan"), nan_ok=True), "train_hours": 0, "trained_on": "", "on_front": "training"},
    }
    assert found["symnet (meta)"] == {
        **both,
        **{"method": "symnet (meta)", "mean": 60, "trained_parameters": 5_000_000, "frozen_parameters": 46_700_000},
        **{"flops_cached": 7_000_000_000, "flops_whole": 381_000_000_000, "read": "records"},
        **{"train_memory": 9001e6, "train_hours": 1.5, "trained_on": GPU, "on_front": ""},
    }
    assert (found["symnet (ensemble)"]["mean"], found["symnet (ensemble)"]["on_front"]) == (64, "speed, training")


def test_what_no_job_has_told_is_not_known(root: Path) -> None:
    CELLS[3].journal(root).unlink()
    spent_beside(CELLS[1].metrics(root, SEEDS[0])).unlink()
    write_round(root, CELLS[2], SEEDS[0], {"meta": {"cat": 60, "dog": 60}, "ensemble": {"cat": 64, "dog": 64}}, episodes=7)  # tested again
    found = made(root)
    for row, names in (
        ("prototype", ("test_memory", "episodes_per_second")),
        ("symnet (meta)", ("test_memory", "train_hours", "train_memory")),
    ):
        assert all(pd.isna(found[row][name]) for name in names)
    assert {line["tested_on"] for line in found.values()} == {""}
    assert {line["trained_on"] for line in found.values()} == {""}
    page = (root / "tables" / "costs.html").read_text()
    assert "--" in page
    assert "Machines" not in page


def test_a_run_that_has_not_ended_has_no_hours(root: Path) -> None:
    Journal(CELLS[3].journal(root), "run", {"device": GPU}, {})
    assert pd.isna(made(root)["symnet (meta)"]["train_hours"])


def test_a_cpu_s_memory_is_the_process_s_and_machines_have_letters(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cell in CELLS[2:]:
        cell.journal(root).unlink()
        journal(root, cell, monkeypatch, [0, 10, 3600], CPU, host=700.0)
    found = made(root)
    assert (found["symnet (meta)"]["trained_on"], found["symnet (meta)"]["train_memory"]) == (CPU, 700e6)
    page = (root / "tables" / "costs.html").read_text()
    assert f"Machines: a: {GPU}. b: {CPU}." in page
    assert "<td>b, a</td>" in page
    assert "<td>a</td>" in page  # of what trains nothing


def test_files_are_vouched_for_and_the_latex_compiles(root: Path) -> None:
    made(root)
    files = {path.name for path in read_manifest(root / "tables" / "costs.json", "costs")}
    assert files == {"costs.csv", "costs.tex", "costs.html"}
    compile_latex(root / "tables", ["costs.tex"])


def test_a_missing_round_is_refused(root: Path) -> None:
    CELLS[0].metrics(root, SEEDS[1]).unlink()
    with pytest.raises(UserError, match="seed365"):
        made(root)
    assert not (root / "tables" / "costs.csv").exists()
