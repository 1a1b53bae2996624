"""An experiment's runs in MLflow, and the one way in which they change.

A run in the store is found by its tags `symnet.key` (which cell, which seed) and `symnet.hash` (which training, which file); another hash
supersedes it. `symnet.content` is written last: where it agrees there is nothing to do. So a store or a server that fails half way loses
nothing: the next time goes on.
"""

import json
import logging
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from symnet.runs import NOTE, Data, Record
from symnet.runs_page import page_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Stored

METRICS_A_BATCH, PARAMS_A_BATCH, LONGEST_DIGEST = 900, 100, 36  # MLflow's limits: 1000 metrics and params in one call, 100 params


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
