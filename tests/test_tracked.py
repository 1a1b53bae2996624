"""What a run in MLflow holds beside its metrics: data with digests, surroundings, system metrics, epochs, pictures; and killed runs."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from symnet.artifacts import Provenance, file_digest
from symnet.cells import Cell
from symnet.journal import Journal
from symnet.lease import STALE
from symnet.overlays import write_overlay
from symnet.surroundings import capture
from tests.test_tracking import Place, empty_store, key, symnet, write_round

__all__ = ["empty_store"]  # a fixture


@pytest.fixture
def place(tmp_path: Path, empty_store: Path) -> Place:
    return Place(tmp_path, empty_store)


def train(place: Place, cell: Cell, end: str = "FINISHED") -> Journal:
    """A journal as training writes it: six steps, two to an epoch."""
    path = cell.journal(place.root)
    tags = {"code": "c0de", "epoch_steps": "2", "input.list": "1" * 64, "input.base": "2" * 64} | capture(path.parent)
    journal = Journal(path, "run-a", {"fold": cell.fold}, tags)
    for step in range(1, 7):
        journal.log(step, **{"loss": 1 / step, "system.host_memory_megabytes": 100.0 + step})
    journal.log(6, **{"base_val.miou": 100 / 3})
    if end:
        journal.end(end)
    return journal


def draw(place: Place, cell: Cell, metrics: Path, name: str) -> None:
    made_by = Provenance(stage="overlays", inputs={"metrics": file_digest(metrics)})
    write_overlay(cell.folder(place.root) / "overlays" / name, Image.fromarray(np.zeros((4, 4, 3), np.uint8)), made_by)


def names(place: Place, run: Any, folder: str | None = None) -> list[str]:
    return [file.path for file in place.client.list_artifacts(run.info.run_id, folder) if not file.is_dir]


def data(run: Any) -> list[tuple[str, str, str, str]]:
    found = run.inputs.dataset_inputs
    return sorted((one.dataset.name, one.dataset.digest, json.loads(one.dataset.source)["path"], one.tags[0].value) for one in found)


def test_a_run_with_all_that_belongs_to_it(place: Place) -> None:
    cell = symnet()
    journal = train(place, cell)
    metrics = write_round(place, cell, 510, inputs={"list": "3" * 64, "episodes": "4" * 64, "model": "5" * 64})
    draw(place, cell, metrics, "00000-cat.png")
    draw(place, cell, journal.path, "00001-dog.png")  # drawn of another test
    assert place.sync() == "2 runs new, 0 updated, 0 as they were, 0 superseded"
    runs = place.runs()
    run, child = runs[key(cell)], runs[f"{key(cell)}/seed510"]
    assert data(run) == [("shapes fold 0 train", "1" * 36, "shapes/lists/fold0/train.csv", "training")]
    assert data(child) == [
        ("shapes fold 0 1-shot episodes, seed 510", "4" * 36, "shapes/lists/fold0/shot1/seed510.csv", "testing"),
        ("shapes fold 0 test", "3" * 36, "shapes/lists/fold0/test.csv", "testing"),
    ]
    (lock,) = [name for name in names(place, run) if name.startswith("environment-")]
    text = Path(place.client.download_artifacts(run.info.run_id, lock)).read_text()
    assert text.startswith("# python 3.")
    assert names(place, run, "overlays") == ["overlays/00000-cat.png"]
    assert place.history(run, "system/host_memory_megabytes")[0] == (1, 101.0)
    assert place.history(run, "epoch/loss") == [(1, 0.75), (2, (1 / 3 + 1 / 4) / 2), (3, (1 / 5 + 1 / 6) / 2)]
    assert place.history(run, "epoch/base_val.miou") == [(3, 33.33)]
    assert place.sync() == "0 runs new, 0 updated, 2 as they were, 0 superseded"

    draw(place, cell, metrics, "00002-car.png")  # a picture more is brought; the data it has stays once
    assert place.sync() == "0 runs new, 1 updated, 1 as they were, 0 superseded"
    run = place.runs()[key(cell)]
    assert names(place, run, "overlays") == ["overlays/00000-cat.png", "overlays/00002-car.png"]
    assert len(data(run)) == 1


def test_what_is_damaged_is_left_out_and_told(place: Place) -> None:
    cell = symnet()
    journal = train(place, cell)
    metrics = write_round(place, cell, 510)
    draw(place, cell, metrics, "00000-cat.png")
    picture = cell.folder(place.root) / "overlays" / "00000-cat.png"
    picture.write_bytes(picture.read_bytes()[:-1])
    (lock,) = journal.path.parent.glob("environment-*.txt")
    lock.write_text("numpy==0\n")
    told = place.sync()
    assert f"warning: {lock}: not there or damaged; left out" in told
    assert f"warning: {picture}: content does not match its sha256" in told
    run = place.runs()[key(cell)]
    assert not [name for name in names(place, run) if name.startswith("environment-")]
    assert names(place, run, "overlays") == []


def test_a_run_killed_on_another_node_ends_as_killed(place: Place) -> None:
    """Its process cannot be asked; its lease can."""
    cell = symnet()
    journal = train(place, cell, end="")
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    journal.path.write_text("".join(json.dumps(line | ({"host": "node7"} if "host" in line else {})) + "\n" for line in lines))
    lease = cell.state(place.root, "run-a") / "lease.json"
    lease.parent.mkdir(parents=True)
    lease.write_text("{}")
    place.sync()
    assert place.runs()[key(cell)].info.status == "RUNNING"
    os.utime(lease, (time.time() - STALE - 5,) * 2)
    assert place.sync() == "0 runs new, 1 updated, 0 as they were, 0 superseded"
    assert place.runs()[key(cell)].info.status == "KILLED"


def test_damaged_tables_are_no_run(place: Place) -> None:
    from tests.test_tracking import write_tables

    write_tables(place.root)
    table = place.root / "tables" / "main.csv"
    table.write_text(table.read_text().replace("52.50", "92.50"))
    told = place.sync()
    assert told.startswith("0 runs new, ")
    assert "main.csv: does not match its sha256 in tables.json" in told
