"""From journals, metric files and tables to MLflow: the only module that imports it.

Runs write their own files and know nothing of a tracker; `sync` reads those files and brings the store in step with them, one writer
at a time, as often as one likes. What is to stand there are the `Record`s of `symnet.runs`. A run in the store is found by its tags
`symnet.key` (which cell, which seed) and `symnet.hash` (which training, which file); another hash supersedes it. `symnet.content` is
written last: where it agrees there is nothing to do. So a store or a server that fails half way loses nothing: the next sync goes on.
"""

import fcntl
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from symnet.artifacts import replacing
from symnet.errors import UserError, one_line
from symnet.runs import NOTE, Data, Record, collect
from symnet.runs_page import headline, page_address, page_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Stored

METRICS_A_BATCH, PARAMS_A_BATCH, LONGEST_DIGEST = 900, 100, 36  # MLflow's limits: 1000 metrics and params in one call, 100 params
# Of requests to a server, where the user says nothing else: MLflow's own patience is many minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}


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


def sync(root: Path, store: Path, artifacts: Path) -> Summary:
    """Bring the experiment `root` (results/{experiment}) into the sqlite `store`; files of runs go under `artifacts`.

    Makes the store and the experiment where they are absent. May run while jobs run, and twice at once: the second waits. A broken
    file costs itself and a warning. Raises `UserError` where there is no such experiment or the store cannot be used.
    """
    make_store(store)
    return _sync(root, _lock(store), str(store), _uri(store), artifacts.absolute().as_uri())


def make_store(store: Path) -> None:
    """An empty sqlite store, where there is none: whole or not at all, for MLflow makes it in many steps and refuses what a kill left.

    Raises `UserError` where it cannot be made.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_lock(store)), _telling(str(store)):
        from mlflow import MlflowClient

        if not store.exists():
            with replacing(store) as partial:
                MlflowClient(tracking_uri=_uri(partial)).search_experiments()


def sync_to_server(root: Path, address: str) -> Summary:
    """As `sync`, to a tracking server. It keeps the files of runs where it likes; who we are it asks MLflow's own environment variables.

    Raises `UserError` also where the server cannot be reached, after a few tries.
    """
    check_address(address)
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    return _sync(root, root / "tracking.lock", address, address, None)


def check_address(address: str) -> None:
    """Raise `UserError` unless a tracking server may have this address; it is not repeated where it holds a password."""
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise UserError(
            "the address of the tracking server holds a name or password: give those as MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
        )
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(f"{address}: not the address of a tracking server; expected https://HOST or http://HOST:PORT")


def _sync(root: Path, lock: Path, place: str, uri: str, artifacts: str | None) -> Summary:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of results; run the workflow first")
    summary = Summary()
    with _locked(lock), _telling(place):
        shelf = Shelf(uri, root.absolute().name, artifacts, summary)
        shown: set[str] = set()
        for record in collect(root, summary.warnings):
            shelf.put(record)
            shown |= headline(record)
        shelf.describe(shown)
    return summary


def ui_command(store: Path, artifacts: Path, port: int) -> list[str]:
    """The command that serves the runs on 127.0.0.1, MLflow's security middleware on. Raises `UserError` without a store's folder."""
    if not store.parent.is_dir():
        raise UserError(f"{store.parent}: no such folder, so there are no runs to show; run the workflow first")
    make_store(store)
    places = ["--backend-store-uri", _uri(store), "--artifacts-destination", artifacts.absolute().as_uri()]
    return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *places]


def pages(store: Path) -> dict[str, str]:
    """The experiments in the store, by name: where the page of each is, below the server's address. Raises `UserError`."""
    if not store.is_file():
        return {}
    with _telling(str(store)):
        from mlflow import MlflowClient

        found = MlflowClient(tracking_uri=_uri(store)).search_experiments(order_by=["name ASC"])
        return {one.name: page_address(one.experiment_id) for one in found if one.name != "Default"}


class Shelf:
    """The runs of one experiment in the store, and the one way in which they change: `put`."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None, summary: Summary) -> None:
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.summary, self.name = summary, experiment
        self.client = MlflowClient(tracking_uri=uri)
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

    def describe(self, metrics: set[str]) -> None:
        """Let the experiment's page open with these metrics; a description that is there already is somebody's, and stays."""
        held = self.client.get_experiment(self.experiment).tags
        for name, value in page_tags(self.experiment, self.name, metrics).items():
            if held.get(name) != value and not (name == NOTE and name in held):
                self.client.set_experiment_tag(self.experiment, name, value)

    def _write(self, same: "Stored | None", record: Record, parent: str | None, content: str) -> str:
        """Add to `same` what it lacks, or, where it holds something else, write a new run. Returns the id."""
        from mlflow.entities import RunTag

        missing = None if same is None else self._missing(same, record)
        if same is None or missing is None:
            start = int(1000 * record.start)
            made = self.client.create_run(self.experiment, start_time=start, tags=record.all_tags(parent), run_name=record.name)
            run = made.info.run_id
            self._log(run, record.metrics, record.params)
            self.summary.new += 1
        else:
            run = same.info.run_id
            self._log(run, missing, {name: value for name, value in record.params.items() if name not in same.data.params})
            self.client.log_batch(run, tags=[RunTag(name, value) for name, value in record.all_tags(parent).items()])
            self.summary.updated += 1
        self._log_data(run, record.data)
        for path, folder in record.files.items():
            self.client.log_artifact(run, str(path), folder or None)
        if record.end is None:
            self.client.update_run(run, status=record.status)
        else:
            self.client.set_terminated(run, record.status, int(1000 * record.end))
        self.client.set_tag(run, "symnet.content", content)
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

    def _log(self, run: str, metrics: dict[tuple[str, int], tuple[float, float]], params: dict[str, str]) -> None:
        """In as few calls as MLflow allows: each waits for the disk, or for the server."""
        from mlflow.entities import Metric, Param

        points = [Metric(name, value, int(1000 * time), step) for (name, step), (value, time) in metrics.items()]
        entries = [Param(name, value) for name, value in params.items()]
        for i in range(max(ceil(len(points) / METRICS_A_BATCH), ceil(len(entries) / PARAMS_A_BATCH))):
            some = slice(i * METRICS_A_BATCH, (i + 1) * METRICS_A_BATCH), slice(i * PARAMS_A_BATCH, (i + 1) * PARAMS_A_BATCH)
            self.client.log_batch(run, metrics=points[some[0]], params=entries[some[1]])

    def _log_data(self, run: str, data: list[Data]) -> None:
        """MLflow's dataset inputs; those that the run has it leaves as they are."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        found = []
        for one in data:
            source = json.dumps({"path": one.source, "sha256": one.sha})
            dataset = Dataset(one.name, one.sha[:LONGEST_DIGEST], "local", source)
            found.append(DatasetInput(dataset, [InputTag("mlflow.data.context", one.context)]))
        if found:
            self.client.log_inputs(run, datasets=found)

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


def _experiment(client: "MlflowClient", name: str, artifacts: str | None) -> str:
    """Its id; made, or brought back, where it is absent. Runs are always written by id: a name may be taken by a race."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return client.create_experiment(name, artifact_location=artifacts)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def _lock(store: Path) -> Path:
    """Held by whoever makes the store or writes to it."""
    return store.with_name(f"{store.name}.lock")


def _uri(store: Path) -> str:
    return f"sqlite:///{store.absolute()}"


def _hush() -> None:
    """No telemetry and no chatter, set before mlflow is imported."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ[name] = "true"
    logging.getLogger("alembic").setLevel(logging.WARNING)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; wait while another process does."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _telling(place: str) -> Iterator[None]:
    """Turn what MLflow, its database or the way to its server raise into one line."""
    _hush()
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, RequestException) as error:
        hint = "no run is lost: the journals and metric files hold everything; sync again, with the store moved away if it is broken"
        raise UserError(f"{place}: MLflow refused: {one_line(error)[:300]}; {hint}") from None
