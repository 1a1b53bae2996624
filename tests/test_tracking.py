"""A real sqlite store: what is synced is seen back through MlflowClient."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from symnet.artifacts import Provenance, write_json, write_manifest
from symnet.cells import Cell
from symnet.errors import UserError
from symnet.journal import Journal
from symnet.metrics import protocol_stamp
from symnet.runs import flatten, metric_name
from symnet.tracking import sync, ui_command

PROTOCOL = {"name": "symnet-1", "episodes": 50, "scoring": "padded"}
COUNTS = {"cat": [60, 40, 0, 160], "dog": [40, 60, 0, 60]}  # IoU 60 % and 40 %; FB-IoU (100 / 200 + 220 / 320) / 2


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and no run; making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "template").mkdir()
    print(sync(folder / "template", folder / "mlflow.db", folder / "mlartifacts"))
    return folder / "mlflow.db"


class Place:
    """Results with a store, and what is in it."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.root, self.store, self.artifacts = folder / "bench", folder / "mlflow.db", folder / "mlartifacts"
        self.root.mkdir(parents=True)
        shutil.copy(template, self.store)

    def sync(self) -> str:
        """The summary's first line without its head; the rest are warnings."""
        return str(sync(self.root, self.store, self.artifacts)).removeprefix("mlflow: ")

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=f"sqlite:///{self.store}")

    def runs(self, deleted: bool = False) -> dict[str, Any]:
        from mlflow.entities import ViewType

        experiment = self.client.get_experiment_by_name("bench")
        kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        found = self.client.search_runs([experiment.experiment_id], run_view_type=kind)
        keys = [run.data.tags["symnet.key"] for run in found]
        assert deleted or len(set(keys)) == len(keys)
        return dict(zip(keys, found, strict=True))

    def history(self, run: Any, name: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.client.get_metric_history(run.info.run_id, name)]


@pytest.fixture
def place(tmp_path: Path, empty_store: Path) -> Place:
    return Place(tmp_path / "a b'c$(x)", empty_store)


def symnet(fold: int = 0) -> Cell:
    return Cell("shapes", "efficientnet_lite0", fold, "symnet", 1)


def key(cell: Cell) -> str:
    return cell.folder(Path()).as_posix()


def write_journal(place: Place, cell: Cell, run: str = "run-a", steps: int = 3, scale: float = 1.0, end: str = "FINISHED") -> Journal:
    params = {"fold": cell.fold, "train": {"lr": 0.05, "steps": None, "selection": ""}, "pixels": {"scale": [0.9, 1.1]}}
    journal = Journal(cell.journal(place.root), run, params, {"code": "c0de"})
    for step in range(1, steps + 1):
        journal.log(step, loss=scale / step, rate=0.5)
    if end:
        journal.end(end)
    return journal


def write_round(place: Place, cell: Cell, seed: int, add: int = 0, **provenance: Any) -> Path:
    counts = {name: [tp + add, fp - add, fn, tn] for name, (tp, fp, fn, tn) in COUNTS.items()}
    outputs = ("prediction",) if cell.method == "prototype" else ("ensemble", "meta")
    payload = {
        "cell": {"experiment": "bench", **cell.as_dict(), "seed": seed},
        "variant": "",
        "protocol": PROTOCOL,
        "protocol_stamp": protocol_stamp(PROTOCOL),
        "classes": ["cat", "dog", "tv/monitor"],
        "outputs": {output: {"padded": counts, "original": counts | {"tv/monitor": [1, 1, 0, 0]}, "400": counts} for output in outputs},
        "left_out": {},
        "episodes": 50,
    }
    path = cell.metrics(place.root, seed)
    write_json(path, payload, Provenance(stage="evaluate", settings="5e7", code="c0de", **provenance))
    return path


def write_tables(root: Path) -> None:
    columns = ["dataset", "method", "backbone", "variant", "protocol", "shot", "fold0", "mean", "std", "seeds"]
    row = ["shapes", "symnet (meta)", "efficientnet_lite0", "paper", "symnet-1-x", "1", "52.50", "52.50", "0.25", "2"]
    (root / "tables").mkdir(parents=True)
    (root / "tables" / "main.csv").write_text(f"{','.join(columns)}\n{','.join(row)}\n")
    write_manifest(root / "tables" / "tables.json", [root / "tables" / "main.csv"], Provenance(stage="tables"))


def kill(journal: Path) -> None:
    """Make a journal look like that of a process that is gone."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        if "born" in line:
            line["born"] += 1
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_three_folds_are_seen_back_and_a_second_sync_changes_nothing(place: Place) -> None:
    for fold in range(3):
        write_journal(place, symnet(fold), f"run-{fold}", scale=fold + 1)
        for k, seed in enumerate((510, 365)):
            write_round(place, symnet(fold), seed, add=6 * k)
    prototype = Cell("shapes", "efficientnet_lite0", 0, "prototype", 1)
    write_round(place, prototype, 510)
    write_tables(place.root)
    assert place.sync() == "12 runs new, 0 updated, 0 as they were, 0 superseded"  # 3 parents, 6 + 1 seeds, prototype, benchmark
    runs = place.runs()
    parent = runs[key(symnet(1))]
    assert (parent.info.status, parent.data.tags["symnet.hash"], parent.data.tags["symnet.code"]) == ("FINISHED", "run-1", "c0de")
    assert parent.info.run_name == "shapes symnet fold 1 1-shot"
    assert 0 <= time.time() - parent.info.start_time / 1000 < 600
    assert parent.info.end_time >= parent.info.start_time
    wanted = {
        "fold": "1",
        "method": "symnet",
        "train.lr": "0.05",
        "train.steps": "null",
        "train.selection": "",
        "pixels.scale": "[0.9,1.1]",
    }
    assert {name: parent.data.params[name] for name in wanted} == wanted
    assert place.history(parent, "loss") == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert place.history(parent, "test/meta.padded.fb_iou") == [(2, 61.54)]  # of 59.375 and 63.7143
    assert place.history(parent, "test/meta.padded.miou") == [(2, 53.0)]  # the step is the number of seeds
    child = runs[f"{key(symnet(1))}/seed365"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.params["seed"] == "365"
    assert child.data.params["protocol"] == protocol_stamp(PROTOCOL)
    found = child.data.metrics
    assert (found["test/meta.padded.miou"], found["test/meta.padded.iou.cat"], found["test/ensemble.padded.iou.dog"]) == (56.0, 66.0, 46.0)
    assert found["test/ensemble.original.iou.tv_2fmonitor"] == 50.0
    assert runs[f"{key(symnet(1))}/seed510"].data.metrics["test/meta.padded.fb_iou"] == 59.38  # as tables print 59.375
    assert runs[key(prototype)].data.metrics["test/prediction.padded.miou"] == 50.0
    files = place.client.list_artifacts(runs["benchmark"].info.run_id)
    assert [file.path for file in files] == ["main.csv", "tables.json"]
    found = runs["benchmark"].data
    assert found.metrics == {"shapes.1-shot.symnet.meta.miou.mean": 52.5, "shapes.1-shot.symnet.meta.miou.std": 0.25}
    assert (found.params["shot"], found.params["seeds"], found.params["protocol"]) == ("1", "2", "symnet-1-x")

    before = place.store.read_bytes()
    assert place.sync() == "0 runs new, 0 updated, 12 as they were, 0 superseded"
    assert place.store.read_bytes() == before


def test_a_run_that_goes_on_is_added_to(place: Place) -> None:
    journal = write_journal(place, symnet(), end="")
    assert place.sync() == "1 runs new, 0 updated, 0 as they were, 0 superseded"
    run = place.runs()[key(symnet())]
    assert (run.info.status, run.info.end_time) == ("RUNNING", None)
    journal.log(4, loss=0.25)
    kill(journal.path)
    assert place.sync() == "0 runs new, 1 updated, 0 as they were, 0 superseded"
    assert place.runs()[key(symnet())].info.status == "KILLED"
    journal = Journal(journal.path, "run-a", {"fold": 0, "train": {"lr": 0.05, "steps": None, "selection": ""}}, {"code": "c0de"})
    journal.log(4, loss=0.25)
    journal.log(5, loss=0.2)
    place.sync()
    assert place.runs()[key(symnet())].info.status == "RUNNING"
    journal.end("FINISHED")
    write_round(place, symnet(), 510)
    assert place.sync() == "1 runs new, 1 updated, 0 as they were, 0 superseded"
    after = place.runs()[key(symnet())]
    assert (after.info.run_id, after.info.status, after.data.tags["symnet.resumed"]) == (run.info.run_id, "FINISHED", "1")
    assert place.history(after, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25), (5, 0.2)]
    write_round(place, symnet(), 365, add=10)
    place.sync()
    assert place.history(after, "test/meta.padded.miou") == [(1, 50.0), (2, 55.0)]
    assert place.runs(deleted=True) == {}


def test_another_training_supersedes_the_cell_and_its_rounds(place: Place) -> None:
    write_journal(place, symnet())
    write_round(place, symnet(), 510)
    write_round(place, symnet(), 365)
    place.sync()
    old = place.runs()
    journal = write_journal(place, symnet(), "run-b", scale=2.0, end="")
    message = place.sync()
    assert message.startswith("1 runs new, 0 updated, 0 as they were, 3 superseded\nwarning: ")
    assert "2 metric files of an earlier run are left out: its training is RUNNING" in message
    assert set(place.runs()) == {key(symnet())}
    journal.end("FINISHED")
    write_round(place, symnet(), 510, add=10, inputs={"model": "b"})
    message = place.sync()
    assert "seed365.json: of another model, settings or code than newer seeds beside it; left out" in message
    write_round(place, symnet(), 365, add=10, inputs={"model": "b"})
    assert place.sync() == "1 runs new, 1 updated, 1 as they were, 0 superseded"
    new = place.runs()
    assert set(new) == set(old)
    assert place.history(new[key(symnet())], "loss")[0] == (1, 2.0)
    assert place.history(new[key(symnet())], "test/meta.padded.miou") == [(1, 60.0), (2, 60.0)]
    gone = place.runs(deleted=True)
    assert {run.info.run_id for run in gone.values()} == {run.info.run_id for run in old.values()}
    assert gone[key(symnet())].data.tags["superseded"] == new[key(symnet())].info.run_id


def test_a_value_that_changed_makes_another_run_and_keeps_its_rounds(place: Place) -> None:
    journal = write_journal(place, symnet(), end="")
    place.sync()
    journal = Journal(journal.path, "run-a", {"fold": 0}, {})  # resumed: its mean over another interval
    journal.log(3, loss=9.0)
    journal.end("FINISHED")
    write_round(place, symnet(), 510)
    assert place.sync() == "2 runs new, 0 updated, 0 as they were, 1 superseded"
    first = place.runs()
    assert place.history(first[key(symnet())], "loss") == [(1, 1.0), (2, 0.5), (3, 9.0)]
    write_round(place, symnet(), 510, add=1)  # tested anew
    assert place.sync() == "2 runs new, 0 updated, 0 as they were, 2 superseded"
    second = place.runs()
    assert place.history(second[key(symnet())], "test/meta.padded.miou") == [(1, 51.0)]
    assert second[f"{key(symnet())}/seed510"].data.tags["mlflow.parentRunId"] == second[key(symnet())].info.run_id
    assert set(second) == set(first)


def test_a_sync_that_died_is_finished_by_the_next(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from symnet.shelf import Shelf

    write_journal(place, symnet())
    write_round(place, symnet(), 510)
    for name in ("_log", "_log_data", "_retire"):
        with monkeypatch.context() as patch:
            patch.setattr(Shelf, name, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            if name == "_retire":
                write_journal(place, symnet(), "run-b", scale=2.0)
            with pytest.raises(KeyboardInterrupt):
                place.sync()
    place.sync()
    runs = place.runs()
    assert place.history(runs[key(symnet())], "loss") == [(1, 2.0), (2, 1.0), (3, 2 / 3)]
    assert place.history(runs[f"{key(symnet())}/seed510"], "test/meta.padded.miou") == [(0, 50.0)]
    assert place.sync() == "0 runs new, 0 updated, 2 as they were, 0 superseded"


@pytest.mark.whole
def test_a_store_is_made_whole_or_not_at_all(place: Place) -> None:
    write_round(place, symnet(), 510)
    place.store.unlink()
    make = f"from pathlib import Path; from symnet.tracking import make_store; make_store(Path({str(place.store)!r}))"
    with subprocess.Popen([sys.executable, "-c", make]) as maker:
        while not any(each.stat().st_size > 100_000 for each in place.store.parent.glob("*.partial")):  # its first tables are there
            assert maker.poll() is None
            time.sleep(0.002)
        maker.kill()
    assert not place.store.exists()
    assert place.sync() == "2 runs new, 0 updated, 0 as they were, 0 superseded"


def test_broken_files_cost_themselves_and_a_warning(place: Place) -> None:
    journal = write_journal(place, symnet())
    with open(journal.path, "ab") as file:
        file.write(b'{"event": "met')
    write_round(place, symnet(), 510)
    broken = write_round(place, symnet(), 365)
    broken.write_text(broken.read_text()[:100])
    shutil.copy(symnet().metrics(place.root, 510), symnet().metrics(place.root, 322))
    symnet(1).journal(place.root).parent.mkdir(parents=True)
    symnet(1).journal(place.root).write_bytes(b"\x00\xff")
    (place.root / "journals" / "notes.jsonl").write_text("{}\n")
    first, *warnings = place.sync().splitlines()
    assert first == "2 runs new, 0 updated, 0 as they were, 0 superseded"
    assert len(warnings) == 5
    told = "\n".join(warnings)
    for expected in (
        f"{journal.path}: 1 torn lines left out",
        f"{broken}: not a whole JSON file",
        "seed322.json: holds another round, which belongs at",
        f"{symnet(1).journal(place.root)}: no whole line in it",
        "notes.jsonl: not a place for a cell's journal",
    ):
        assert expected in told


@pytest.mark.whole
def test_ten_thousand_metrics_in_less_than_a_minute(place: Place) -> None:
    path = symnet().journal(place.root)
    write_journal(place, symnet(), steps=0, end="")
    with open(path, "a") as file:
        for step in range(2500):
            values = {"loss": 1 / (step + 1), "loss.ce": 0.5, "loss.base": 0.25, "rate": float(step)}
            file.write(json.dumps({"event": "metric", "run": "run-a", "time": 2e9, "step": step, "values": values}) + "\n")
    start = time.monotonic()
    place.sync()
    assert time.monotonic() - start < 60
    assert len(place.history(place.runs()[key(symnet())], "rate")) == 2500


def test_a_store_that_is_none_is_told_in_one_line(place: Place) -> None:
    place.store.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="MLflow refused") as caught:
        place.sync()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such folder of results"):
        sync(place.root / "none", place.store, place.artifacts)


def test_names_that_mlflow_takes() -> None:
    assert metric_name("test/meta.padded.iou.tv/monitor") == "test/meta.padded.iou.tv_2fmonitor"
    assert metric_name("a%b") != metric_name("a&b")
    assert metric_name("system.gpu_memory_megabytes") == "system/gpu_memory_megabytes"  # MLflow's pages show these apart
    assert metric_name("epoch/loss.a/b") == "epoch/loss.a_2fb"
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": "x", "f": True}) == {"a.b.c": "1", "a.d": "[1,2]", "e": "x", "f": "true"}


def test_the_pages_are_served_on_loopback_only(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    command = ui_command(tmp_path / "mlflow.db", tmp_path / "art", 5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "5001"
    assert f"sqlite:///{tmp_path}/mlflow.db" in command
    assert not {"--disable-security-middleware", "--allowed-hosts"} & set(command)
    with pytest.raises(UserError, match="run the workflow first"):
        ui_command(tmp_path / "none" / "mlflow.db", tmp_path, 5000)
