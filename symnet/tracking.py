"""From journals, metric files and tables to MLflow: the only module that imports it.

Runs write their own files and know nothing of a tracker; `sync` reads those files and brings the store in step with them, one writer
at a time, as often as one likes. What is to stand there are `Record`s: a parent run a cell, below it one run a seed, and a benchmark
run with the tables. A run in the store is found by its tags `symnet.key` (which cell, which seed) and `symnet.hash` (which training,
which file); another hash supersedes it. `symnet.content` is written last: where it agrees there is nothing to do.
"""

import fcntl
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symnet.artifacts import canonical, digest, file_digest
from symnet.cells import Cell
from symnet.errors import UserError, one_line
from symnet.journal import Run, is_alive, read_journal
from symnet.metrics import class_iou, fb_iou, mean_iou
from symnet.protocols import SCORINGS
from symnet.report import Round, read_round

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Stored

METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100  # MLflow's limits
LONGEST_PARAM = 6000  # MLflow's limit, characters


@dataclass
class Summary:
    """What a sync did, and what it had to leave out."""

    new: int = 0
    updated: int = 0
    unchanged: int = 0
    superseded: int = 0
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line, and one for each warning."""
        told = f"mlflow: {self.new} runs new, {self.updated} updated, {self.unchanged} as they were, {self.superseded} superseded"
        return "\n".join([told, *(f"warning: {line}" for line in self.warnings)])


@dataclass
class Record:
    """A run as it is to stand in the store. Times in seconds; `metrics[name, step]` is (value, time)."""

    key: str
    hash: str
    kind: str
    name: str
    status: str
    start: float
    end: float | None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    children: list["Record"] = field(default_factory=list)

    def all_tags(self, parent: str | None) -> dict[str, str]:
        """Tags to store, but for the content's."""
        own = {"symnet.key": self.key, "symnet.hash": self.hash, "symnet.kind": self.kind}
        return self.tags | own | ({"mlflow.parentRunId": parent} if parent else {})

    def content(self, parent: str | None) -> str:
        """Digest of all that is stored, except times, which a copy of the files may change."""
        values = [[name, step, value] for (name, step), (value, _) in sorted(self.metrics.items())]
        return digest([self.status, self.params, self.all_tags(parent), values])


def sync(root: Path, store: Path, artifacts: Path) -> Summary:
    """Bring the experiment `root` (results/{experiment}) into the sqlite `store`; files of runs go under `artifacts`.

    Makes the store and the experiment where they are absent. May run while jobs run, and twice at once: the second waits. A broken
    file costs itself and a warning. Raises `UserError` where there is no such experiment or the store cannot be used.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of results; run the workflow first")
    summary = Summary()
    store.parent.mkdir(parents=True, exist_ok=True)
    with _locked(store.with_name(f"{store.name}.lock")), _telling(store):
        shelf = Shelf(store, root.absolute().name, artifacts, summary)
        for record in collect(root, summary.warnings):
            shelf.put(record)
    return summary


def ui_command(store: Path, artifacts: Path, port: int) -> list[str]:
    """The command that serves the runs on 127.0.0.1, MLflow's security middleware on. Raises `UserError` without a store's folder."""
    if not store.parent.is_dir():
        raise UserError(f"{store.parent}: no such folder, so there are no runs to show; run the workflow first")
    _hush()
    places = ["--backend-store-uri", _uri(store), "--artifacts-destination", artifacts.absolute().as_uri()]
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *places]


def collect(root: Path, warnings: list[str]) -> Iterator[Record]:
    """What is to stand in the store, from the files under `root`. What has to be left out is told in `warnings`."""
    runs = _journals(root, warnings)
    rounds = _rounds(root, warnings)
    for cell in sorted({*runs, *rounds}):
        yield _cell_record(cell, runs.get(cell), _of_one_make(rounds.get(cell, []), warnings), warnings)
    tables = sorted(path for path in (root / "tables").glob("*") if path.is_file())
    if tables:
        times = [path.stat().st_mtime for path in tables]
        content = digest({path.name: file_digest(path) for path in tables})
        yield Record("benchmark", content, "benchmark", f"{root.absolute().name} tables", "FINISHED", min(times), max(times), files=tables)


def _journals(root: Path, warnings: list[str]) -> dict[Cell, Run]:
    """The run that was last started of every cell."""
    found = {}
    for path in sorted((root / "journals").rglob("*.jsonl")):
        parts = re.fullmatch(r"([^/]+)/([^/]+)/fold(\d+)/([^/]+)/shot(\d+)\.jsonl", path.relative_to(root / "journals").as_posix())
        try:
            runs = read_journal(path)
        except OSError as error:
            warnings.append(f"{path}: cannot be read ({error.strerror})")
            continue
        if torn := sum(run.torn for run in runs):
            warnings.append(f"{path}: {torn} torn lines left out")
        if parts is None or not runs:
            warnings.append(f"{path}: " + ("no whole line in it" if parts else "not a place for a cell's journal"))
            continue
        dataset, backbone, fold, method, shot = parts.groups()
        found[Cell(dataset, backbone, int(fold), method, int(shot))] = runs[-1]
    return found


def _rounds(root: Path, warnings: list[str]) -> dict[Cell, list[Round]]:
    """The metric files of every cell, by seed."""
    found: dict[Cell, list[Round]] = {}
    for path in sorted(root.glob("*/*/fold*/*/shot*/seed*.json")):
        try:
            one = read_round(path)
        except UserError as error:
            warnings.append(str(error))
            continue
        if one.cell.metrics(root, one.seed) != path:
            warnings.append(f"{path}: holds another round, which belongs at {one.cell.metrics(root, one.seed)}; left out")
            continue
        found.setdefault(one.cell, []).append(one)
    return {cell: sorted(rounds, key=lambda one: one.seed) for cell, rounds in found.items()}


def _make(one: Round) -> str:
    """What the rounds of a cell share: settings, code, and every input but the episodes and their records."""
    found = one.provenance
    own = ("episodes", "records")
    return digest([found.settings, found.code, {name: value for name, value in found.inputs.items() if not name.startswith(own)}])


def _of_one_make(rounds: Sequence[Round], warnings: list[str]) -> list[Round]:
    """The rounds made as the newest was: a mean over two models, while a cell is tested anew, would be of neither."""
    if not rounds:
        return []
    newest = _make(max(rounds, key=lambda one: one.path.stat().st_mtime))
    warnings += [
        f"{one.path}: of another model, settings or code than newer seeds beside it; left out" for one in rounds if _make(one) != newest
    ]
    return [one for one in rounds if _make(one) == newest]


def _cell_record(cell: Cell, run: Run | None, rounds: list[Round], warnings: list[str]) -> Record:
    """The parent run: training from the journal, where the method is trained, and the mean over the rounds below it."""
    key = cell.folder(Path()).as_posix()
    name = f"{cell.dataset} {cell.method} fold {cell.fold} {cell.shot}-shot"
    params = {name: str(value) for name, value in cell.as_dict().items()}
    if run is None:
        times = [one.path.stat().st_mtime for one in rounds]
        tags = {"symnet.settings": rounds[0].provenance.settings, "symnet.code": rounds[0].provenance.code}
        record = Record(key, _make(rounds[0]), "cell", name, "FINISHED", min(times), max(times), params, tags)
    else:
        status = "KILLED" if run.status == "RUNNING" and is_alive(run) is False else run.status
        end = None if status == "RUNNING" else run.ended or run.last
        record = Record(key, run.id, "cell", name, status, run.started, end, params | flatten(run.params), _run_tags(run))
        record.metrics = {(metric_name(key), step): at for key, steps in run.metrics.items() for step, at in steps.items()}
        if rounds and status != "FINISHED":
            warnings.append(f"{key}: {len(rounds)} metric files of an earlier run are left out: its training is {status}")
            return record
    record.children = [_round_record(key, one) for one in rounds]
    for name in sorted({name for child in record.children for name, _ in child.metrics if name.endswith(("miou", "fb_iou"))}):
        values = [child.metrics[name, 0][0] for child in record.children if (name, 0) in child.metrics]
        # the step is the number of seeds: a seed that comes later adds a point and changes none
        record.metrics[name, len(values)] = (fsum(values) / len(values), max(child.start for child in record.children))
    return record


def _run_tags(run: Run) -> dict[str, str]:
    tags = {f"symnet.{name}": str(value) for name, value in run.tags.items()}
    tags |= {"symnet.settings": run.id, "symnet.resumed": str(run.resumed), "symnet.host": run.host}
    if run.reason:
        tags["symnet.reason"] = run.reason[:LONGEST_PARAM]
    if "git_commit" in run.tags:
        tags["mlflow.source.git.commit"] = run.tags["git_commit"]  # the column Version of MLflow's pages
    return tags


def _round_record(parent: str, one: Round) -> Record:
    """The run of one seed: mIoU, FB-IoU and per-class IoU of each output, at both scorings."""
    made = one.path.stat().st_mtime
    params = {"seed": str(one.seed), "episodes": str(one.payload["episodes"]), "protocol": str(one.payload["protocol_stamp"])}
    params |= flatten({"protocol": one.payload["protocol"], "left_out": one.payload["left_out"]})
    tags = {"symnet.settings": one.provenance.settings, "symnet.code": one.provenance.code}
    record = Record(f"{parent}/seed{one.seed}", file_digest(one.path), "seed", f"seed {one.seed}", "FINISHED", made, made, params, tags)
    for output, scored in one.payload["outputs"].items():
        for scoring in SCORINGS:
            counts, prefix = scored[scoring], f"{output}.{scoring}"
            values = {f"{prefix}.miou": mean_iou(counts), f"{prefix}.fb_iou": fb_iou(counts)}
            values |= {f"{prefix}.iou.{name}": value for name, value in class_iou(counts).items()}
            record.metrics |= {(metric_name(name), 0): (value, made) for name, value in values.items()}
    return record


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"train": {"lr": 0.05}} -> {"train.lr": "0.05"}: MLflow's params. What is not text is written as JSON."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[metric_name(f"{prefix}{name}")] = (value if isinstance(value, str) else canonical(value))[:LONGEST_PARAM]
    return found


def metric_name(name: str) -> str:
    """`name` with what MLflow refuses in a name of a metric or param as `_` and its code point, so that two names stay two."""
    return re.sub(r"[^A-Za-z0-9_.\- ]", lambda found: f"_{ord(found[0]):x}", name)


class Shelf:
    """The runs of one experiment in the store, and the one way in which they change: `put`."""

    def __init__(self, store: Path, experiment: str, artifacts: Path, summary: Summary) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.summary = summary
        self.client = MlflowClient(tracking_uri=_uri(store))
        self.experiment = _experiment(self.client, experiment, artifacts)
        self.runs = self._active()

    def put(self, record: Record, parent: str | None = None) -> None:
        """Make the store hold `record`, and below it its children, once."""
        olds = self.runs.pop(record.key, [])
        same = next((old for old in olds if old.data.tags.get("symnet.hash") == record.hash), None)
        content = record.content(parent)
        if same is not None and same.data.tags.get("symnet.content") == content:
            run = same.info.run_id
            self.summary.unchanged += 1
        else:
            run = self._write(same, record, parent, content)
        for child in record.children:
            self.put(child, run)
        for old in olds:
            if old.info.run_id != run:
                self._retire(old.info.run_id, run)

    def _write(self, same: "Stored | None", record: Record, parent: str | None, content: str) -> str:
        """Add to `same` what it lacks, or, where it holds something else, write a new run. Returns the id."""
        missing = None if same is None else self._missing(same, record)
        if same is None or missing is None:
            start = int(1000 * record.start)
            made = self.client.create_run(self.experiment, start_time=start, tags=record.all_tags(parent), run_name=record.name)
            run, missing = made.info.run_id, record.metrics
            self._log_params(run, record.params)
            self.summary.new += 1
        else:
            run = same.info.run_id
            self._log_params(run, {name: value for name, value in record.params.items() if name not in same.data.params})
            self.summary.updated += 1
        self._log_metrics(run, missing)
        for path in record.files:
            self.client.log_artifact(run, str(path))
        if record.end is None:
            self.client.update_run(run, status=record.status)
        else:
            self.client.set_terminated(run, record.status, int(1000 * record.end))
        self._log_tags(run, record.all_tags(parent) | {"symnet.content": content})
        return run

    def _missing(self, same: "Stored", record: Record) -> dict[tuple[str, int], tuple[float, float]] | None:
        """The metrics that `same` lacks; None where a value differs: MLflow's are never changed, so the run has to be another."""
        if any(same.data.params.get(name, value) != value for name, value in record.params.items()):
            return None
        held: dict[tuple[str, int], float] = {}
        for name in sorted({name for name, _ in record.metrics} & set(same.data.metrics)):
            held |= {(name, point.step): point.value for point in self.client.get_metric_history(same.info.run_id, name)}
        if any(at in record.metrics and record.metrics[at][0] != value for at, value in held.items()):
            return None
        return {at: value for at, value in record.metrics.items() if at not in held}

    def _log_metrics(self, run: str, metrics: dict[tuple[str, int], tuple[float, float]]) -> None:
        from mlflow.entities import Metric

        points = [Metric(name, value, int(1000 * time), step) for (name, step), (value, time) in metrics.items()]
        for i in range(0, len(points), METRICS_A_BATCH):
            self.client.log_batch(run, metrics=points[i : i + METRICS_A_BATCH])

    def _log_params(self, run: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(name, value) for name, value in params.items()]
        for i in range(0, len(entries), PARAMS_A_BATCH):
            self.client.log_batch(run, params=entries[i : i + PARAMS_A_BATCH])

    def _log_tags(self, run: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def _retire(self, old: str, new: str) -> None:
        """Mark a run, and those below it that were not taken over, as superseded, and take them out of sight (MLflow can restore them)."""
        orphans = [one for runs in self.runs.values() for one in runs if one.data.tags.get("mlflow.parentRunId") == old]
        for run in [*(one.info.run_id for one in orphans), old]:
            self.client.set_tag(run, "superseded", new)
            self.client.delete_run(run)
            self.summary.superseded += 1
        self.runs = {key: [one for one in runs if one not in orphans] for key, runs in self.runs.items()}

    def _active(self) -> dict[str, list["Stored"]]:
        """The experiment's runs by key."""
        found: dict[str, list[Stored]] = {}
        token: str | None = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            for run in page:
                if key := run.data.tags.get("symnet.key"):
                    found.setdefault(key, []).append(run)
            token = page.token
            if not token:
                return found


def _experiment(client: "MlflowClient", name: str, artifacts: Path) -> str:
    """Its id; made, or brought back, where it is absent. Runs are always written by id: a name may be taken by a race."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, artifact_location=artifacts.absolute().as_uri())
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _uri(store: Path) -> str:
    return f"sqlite:///{store.absolute()}"


def _hush() -> None:
    """No telemetry and no chatter, set before mlflow is imported."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; wait while another process does."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _telling(store: Path) -> Iterator[None]:
    """Turn what MLflow and its database raise into one line."""
    _hush()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        hint = "no run is lost: the journals and metric files hold everything; sync again, with the store moved away if it is broken"
        raise UserError(f"{store}: MLflow refused: {one_line(error)[:300]}; {hint}") from None
