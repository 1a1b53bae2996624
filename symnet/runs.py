"""Runs as they are to stand in a tracker, read from journals, metric files and tables. Knows nothing of MLflow.

A parent run a cell, below it one run a seed, and a benchmark run with the tables.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from pathlib import Path
from typing import Any

from symnet.artifacts import canonical, digest, file_digest, read_manifest
from symnet.cells import Cell, lists_folder
from symnet.curves import by_epoch
from symnet.errors import UserError, one_line
from symnet.journal import Run, read_journal
from symnet.lease import is_trained
from symnet.metrics import class_iou, fb_iou, mean_iou
from symnet.overlays import read_overlay
from symnet.progress import progress
from symnet.protocols import SCORINGS
from symnet.report import Round, read_round
from symnet.report.tables import format_table
from symnet.surroundings import captured

LONGEST_PARAM = 6000  # MLflow's limit, characters
NOTE, LONGEST_TAG = "mlflow.note.content", 8000  # MLflow's tag of a description; its limit, characters
IOU = re.compile(r"(miou|fb_iou)$|\.iou\.")  # in the names of metrics that are percent
AGGREGATED = ("dataset", "backbone", "protocol", "shot", "method", "seeds")  # columns of main.csv that say what its means are over


@dataclass(frozen=True)
class Data:
    """A list of images or episodes that a run read. source: its place below the experiment's folder; context: training or testing."""

    name: str
    sha: str
    source: str
    context: str


@dataclass
class Record:
    """A run as it is to stand in the store. Times in seconds; `metrics[name, step]` is (value, time); `files`: path to its folder there."""

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
    data: list[Data] = field(default_factory=list)
    files: dict[Path, str] = field(default_factory=dict)
    children: list["Record"] = field(default_factory=list)

    def all_tags(self, parent: str | None) -> dict[str, str]:
        """Tags to store, but for the content's."""
        own = {"symnet.key": self.key, "symnet.hash": self.hash, "symnet.kind": self.kind}
        return self.tags | own | ({"mlflow.parentRunId": parent} if parent else {})

    def content(self, parent: str | None) -> str:
        """Digest of all that is stored, except times, which a copy of the files may change."""
        values = [[name, step, value] for (name, step), (value, _) in sorted(self.metrics.items())]
        files = sorted([folder, path.name, file_digest(path)] for path, folder in self.files.items())
        data = [[one.name, one.sha, one.source, one.context] for one in self.data]
        return digest([self.status, self.params, self.all_tags(parent), values, data, files])


def collect(root: Path, warnings: list[str]) -> Iterator[Record]:
    """What is to stand in the store, from the files under `root`. What has to be left out is told in `warnings`."""
    runs = _journals(root, warnings)
    rounds = _rounds(root, warnings)
    cells = sorted({*runs, *rounds})
    for cell in progress(cells, len(cells), "tracking, cells"):
        yield _rounded(_cell_record(root, cell, runs.get(cell), _of_one_make(rounds.get(cell, []), warnings), warnings))
    if (root / "tables" / "tables.json").is_file():
        try:
            yield _benchmark(root)
        except (UserError, OSError, ValueError, KeyError) as error:  # being made anew, or damaged
            warnings.append(f"{root / 'tables'}: left out: {one_line(error)}")


def _benchmark(root: Path) -> Record:
    """The run with the tables, and the means over folds and seeds of the main one. Raises `UserError` where they are not whole."""
    manifest = root / "tables" / "tables.json"
    tables = [manifest, *read_manifest(manifest, "tables")]
    times = [path.stat().st_mtime for path in tables]
    content = digest({path.name: file_digest(path) for path in tables})
    record = Record("benchmark", content, "benchmark", f"{root.absolute().name} tables", "FINISHED", min(times), max(times))
    record.files = dict.fromkeys(tables, "")
    record.tags = {NOTE: f"```\n{format_table(manifest.with_name('main.csv'))[: LONGEST_TAG - 10]}\n```"}
    with open(manifest.with_name("main.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        method = re.sub(r" \((\w+)\)$", r".\1", row["method"])
        for name in ("mean", "std") if row["mean"] else ():  # no mean: of a row that has not all of its folds
            record.metrics[metric_name(f"{row['dataset']}.{row['shot']}-shot.{method}.miou.{name}"), 0] = (float(row[name]), max(times))
    record.params = {name: ", ".join(dict.fromkeys(row[name] for row in rows)) for name in AGGREGATED}
    return record


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


def _cell_record(root: Path, cell: Cell, run: Run | None, rounds: list[Round], warnings: list[str]) -> Record:
    """The parent run: training from the journal, where the method is trained, and the mean over the rounds below it."""
    key = cell.folder(Path()).as_posix()
    name = f"{cell.dataset} {cell.method} fold {cell.fold} {cell.shot}-shot"
    params = {name: str(value) for name, value in cell.as_dict().items()}
    if run is None:
        times = [one.path.stat().st_mtime for one in rounds]
        tags = {"symnet.settings": rounds[0].provenance.settings, "symnet.code": rounds[0].provenance.code}
        record = Record(key, _make(rounds[0]), "cell", name, "FINISHED", min(times), max(times), params, tags)
    else:
        status = "KILLED" if run.status == "RUNNING" and is_trained(run, cell.state(root, run.id)) is False else run.status
        end = None if status == "RUNNING" else run.ended or run.last
        record = Record(key, run.id, "cell", name, status, run.started, end, params | flatten(run.params), _run_tags(run))
        record.metrics = {(metric_name(key), step): at for key, steps in run.metrics.items() for step, at in steps.items()}
        record.metrics |= {(metric_name(f"epoch/{key}"), epoch): at for (key, epoch), at in by_epoch(run).items()}
        record.data = _data(cell, {name.removeprefix("input."): str(sha) for name, sha in run.tags.items()}, "training")
        named = [run.tags[tag] for tag in ("environment", "diff") if tag in run.tags]
        kept = {name: captured(cell.journal(root).parent, str(name)) for name in named}
        warnings += [f"{cell.journal(root).parent / str(name)}: not there or damaged; left out" for name in kept if kept[name] is None]
        record.files = {path: "" for path in kept.values() if path is not None}
        if rounds and status != "FINISHED":
            warnings.append(f"{key}: {len(rounds)} metric files of an earlier run are left out: its training is {status}")
            return record
    record.children = [_round_record(key, one) for one in rounds]
    record.files |= dict.fromkeys(_pictures(root, cell, rounds, warnings), "overlays")
    for name in sorted({name for child in record.children for name, _ in child.metrics if name.endswith(("miou", "fb_iou"))}):
        values = [child.metrics[name, 0][0] for child in record.children if (name, 0) in child.metrics]
        # the step is the number of seeds: a seed that comes later adds a point and changes none
        record.metrics[name, len(values)] = (fsum(values) / len(values), max(child.start for child in record.children))
    return record


def _rounded(record: Record) -> Record:
    """It and its children, every IoU as the tables print it: MLflow's pages show all digits; counts are in the files."""
    for one in (record, *record.children):
        one.metrics = {at: (round(value, 2) if IOU.search(at[0]) else value, time) for at, (value, time) in one.metrics.items()}
    return record


def _pictures(root: Path, cell: Cell, rounds: list[Round], warnings: list[str]) -> list[Path]:
    """The pictures of a cell that were drawn of one of these rounds."""
    now, found = {file_digest(one.path) for one in rounds}, []
    for path in sorted((cell.folder(root) / "overlays").glob("*.png")):
        try:
            if read_overlay(path).inputs.get("metrics") in now:
                found.append(path)
        except UserError as error:
            warnings.append(str(error))
    return found


def _data(cell: Cell, inputs: Mapping[str, str], context: str, seed: int | None = None) -> list[Data]:
    """What of a run's inputs is data: image lists and episodes."""
    lists = lists_folder(Path(), cell.dataset, cell.fold)
    split = "train" if context == "training" else "test"
    known = {"list": (split, lists / f"{split}.csv"), "test_list": ("test", lists / "test.csv")}
    known["episodes"] = (f"{cell.shot}-shot episodes, seed {seed}", lists / f"shot{cell.shot}" / f"seed{seed}.csv")
    return [
        Data(f"{cell.dataset} fold {cell.fold} {what}", inputs[role], path.as_posix(), context)
        for role, (what, path) in known.items()
        if role in inputs
    ]


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
    params = {name: str(value) for name, value in one.cell.as_dict().items()}
    params |= {"seed": str(one.seed), "episodes": str(one.payload["episodes"]), "protocol": str(one.payload["protocol_stamp"])}
    params |= flatten({"protocol": one.payload["protocol"], "left_out": one.payload["left_out"]})
    tags = {"symnet.settings": one.provenance.settings, "symnet.code": one.provenance.code}
    record = Record(f"{parent}/seed{one.seed}", file_digest(one.path), "seed", f"seed {one.seed}", "FINISHED", made, made, params, tags)
    record.data = _data(one.cell, one.provenance.inputs, "testing", one.seed)
    for output, scored in one.payload["outputs"].items():
        for scoring in SCORINGS:
            counts, prefix = scored[scoring], f"test/{output}.{scoring}"
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
    """`name` with what MLflow refuses in a name of a metric or param as `_` and its code point, so that two names stay two.

    `system.NAME` becomes `system/NAME`; it, `epoch/NAME` and `test/NAME` are what MLflow's pages show apart, after the other curves.
    """
    kind, _, rest = name.partition("/" if name.startswith(("epoch/", "test/")) else ".")
    if kind in ("system", "epoch", "test") and rest:
        return f"{kind}/{metric_name(rest)}"
    return re.sub(r"[^A-Za-z0-9_.\- ]", lambda found: f"_{ord(found[0]):x}", name)
