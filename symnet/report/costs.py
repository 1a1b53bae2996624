"""What every row costs, beside its mIoU: parameters, products, memory, hours of training, speed of testing.

Parameters and products are counted here (`symnet.flops`); the rest was measured by the jobs themselves: journals of training, and what
tests wrote beside their metric files (`symnet.costs`). What no job has told is not known: `--`. Times and memory are of a machine, which
is named; a rerun measures them anew.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from symnet.artifacts import Provenance, file_digest, read_manifest, write_manifest, write_text
from symnet.base_learner import load_base
from symnet.cells import Cell, fold_folder
from symnet.costs import read_spent, spent_beside
from symnet.embeddings import read_embeddings
from symnet.flops import Work, work_of
from symnet.journal import Run, read_journal
from symnet.methods import METHODS, method_class
from symnet.report import Round, read_rounds
from symnet.report.html import html
from symnet.report.latex import Printed, caption, footnotes, latex, ranked
from symnet.report.pareto import SPEED, TRAINING, fronts
from symnet.stages import read_slice

STAGE = "costs"
FAMILY = ["dataset", "shot"]
PEAKS = ("system.gpu_memory_peak_megabytes", "system.host_memory_peak_megabytes")  # of a journal: the first that it has


def make_costs(root: Path, out: Path, cells: Sequence[Cell], seeds: Sequence[int], methods: Mapping[str, str]) -> None:
    """Write costs.csv, .tex and .html, a line a line of the main table, and costs.json, which vouches for them, into `out`.

    methods: the one behind each row. Raises `UserError` for tables or metric files that are missing or broken.
    """
    read_manifest(root / "tables" / "tables.json", "tables")
    main = pd.read_csv(root / "tables" / "main.csv")
    rounds = read_rounds([cell.metrics(root, seed) for cell in cells for seed in seeds])
    table = cost_table(root, main, cells, seeds[0], methods)
    printed = costs_printed(table, rounds)
    texts = {"costs.csv": table.to_csv(index=False, float_format="%.6g", lineterminator="\n"), "costs.tex": latex(printed)}
    texts["costs.html"] = html(printed, ranked(printed))
    for name, text in texts.items():
        write_text(out / name, text)
    read = [root / "tables" / "main.csv", *(one.path for one in rounds)]
    read += [path for cell in cells for path in (cell.journal(root), spent_beside(cell.metrics(root, seeds[0]))) if path.is_file()]
    inputs = {path.relative_to(root).as_posix(): file_digest(path) for path in read}
    write_manifest(out / "costs.json", [out / name for name in texts], Provenance(stage=STAGE, inputs=inputs))


def cost_table(root: Path, main: pd.DataFrame, cells: Sequence[Cell], seed: int, methods: Mapping[str, str]) -> pd.DataFrame:
    """The lines of the main table: dataset, shot, method, backbone, mean (mIoU), and what they cost. Operations are of one episode, memory
    in bytes, the most of any fold; hours are the mean of the folds. on_front: of which Pareto fronts it is.

    seed: of the round beside which tests wrote what they took.
    """
    rows: dict[tuple[str, int, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.dataset, cell.shot, cell.method), []).append(cell)
    costs = [dict(zip((*FAMILY, "row"), key, strict=True)) | _costs(root, own, seed, methods[key[2]]) for key, own in rows.items()]
    lines = main[[*FAMILY, "method", "backbone", "mean"]].assign(row=main["method"].str.replace(r" \(.*\)$", "", regex=True))
    table = lines.merge(pd.DataFrame(costs), on=[*FAMILY, "row"], how="left").drop(columns="row")
    table["on_front"] = ""
    for _, own in table.groupby(FAMILY, sort=False):
        for name, on in fronts(own).items():
            told = table.loc[own.index[on], "on_front"]
            table.loc[told.index, "on_front"] = told.where(told == "", told + ", ") + name
    return table


def _costs(root: Path, folds: Sequence[Cell], seed: int, method: str) -> dict[str, object]:
    """Of a row on a data set, of the cells of its folds."""
    work = _work(root, folds[0], method)
    found = {"trained_parameters": work.trained, "frozen_parameters": work.frozen}
    found |= {"flops_cached": work.cached, "flops_whole": work.whole}
    return found | _training(root, folds, work.trained > 0) | _testing(root, folds, seed)


def _work(root: Path, cell: Cell, name: str) -> Work:
    settings = read_slice(root / "settings" / cell.dataset / f"fold{cell.fold}" / f"evaluate-{cell.method}.json", "evaluate", name)
    base = load_base(fold_folder(root, cell.dataset, cell.backbone, cell.fold) / "base.safetensors")
    _, vectors = read_embeddings(root / cell.dataset / "embeddings.csv")
    size, text = settings.pixels.size, vectors.shape[1]
    method = method_class(name)(settings, base.backbone, cell.shot, text, base.backbone.side(size))
    return work_of(method, base, size, text, METHODS[name].images)


def _training(root: Path, folds: Sequence[Cell], trained: bool) -> dict[str, object]:
    """From the journals. A row that trains nothing took no hours; one of whose folds a journal is missing has no figures."""
    if not trained:
        return {"train_memory": np.nan, "train_hours": 0.0, "trained_on": ""}
    runs = [run for cell in folds if cell.journal(root).is_file() for run in read_journal(cell.journal(root))[-1:]]
    if len(runs) < len(folds) or any(run.status != "FINISHED" for run in runs):
        return {"train_memory": np.nan, "train_hours": np.nan, "trained_on": ""}
    devices = dict.fromkeys(str(run.params.get("device", "not known")) for run in runs)
    hours = float(np.mean([run.worked for run in runs])) / 3600
    return {"train_memory": max(map(_peak, runs)), "train_hours": hours, "trained_on": " + ".join(devices)}


def _peak(run: Run) -> float:
    """Bytes."""
    for name in PEAKS:
        if name in run.metrics:
            return 1e6 * max(value for value, _ in run.metrics[name].values())
    return np.nan


def _testing(root: Path, folds: Sequence[Cell], seed: int) -> dict[str, object]:
    """From what the tests wrote, where all did."""
    tests = [found for cell in folds if (found := read_spent(cell.metrics(root, seed)))]
    if len(tests) < len(folds):
        return {"test_memory": np.nan, "episodes_per_second": np.nan, "read": "", "tested_on": ""}
    rate = sum(one.episodes for one in tests) / sum(one.seconds for one in tests)
    read, devices = (" + ".join(dict.fromkeys(values)) for values in ((one.read for one in tests), (one.device for one in tests)))
    memory = max(one.memory for one in tests) or np.nan
    return {"test_memory": memory, "episodes_per_second": rate, "read": read, "tested_on": devices}


def costs_printed(table: pd.DataFrame, rounds: Sequence[Round]) -> Printed:
    """In units that people read; machines by letters, which a note spells out."""
    machines = [name for name in dict.fromkeys([*table["tested_on"], *table["trained_on"]]) if name]
    letters = {"": "--"} | {name: chr(ord("a") + number) for number, name in enumerate(machines)}
    pairs = zip(table["trained_on"].map(letters), table["tested_on"].map(letters), table["train_hours"], strict=True)
    shown = table.astype({"dataset": str, "shot": str})[[*FAMILY, "method"]].assign(mIoU=table["mean"])
    for name, column, unit in (
        ("trained, M", "trained_parameters", 1e6),
        ("frozen, M", "frozen_parameters", 1e6),
        ("GFLOPs", "flops_cached", 1e9),
        ("+ network", "flops_whole", 1e9),
        ("train GB", "train_memory", 1e9),
        ("test GB", "test_memory", 1e9),
        ("train h", "train_hours", 1.0),
        ("episodes/s", "episodes_per_second", 1.0),
    ):
        shown[name] = table[column] / unit
    shown["read"] = table["read"].replace("", "--")
    shown["machine"] = [test if train == test or hours == 0 else f"{train}, {test}" for train, test, hours in pairs]
    shown["front"] = table["on_front"].replace(f"{SPEED}, {TRAINING}", "both")
    what = (
        "What the rows cost. Parameters in millions: trained, and of the frozen network that is read. GFLOPs: products of one episode, "
        "two operations a multiply-add, with its features at hand, and from images on (+ network). GB: the most memory of training and "
        "of testing, on a GPU of tensors, on a CPU of the process. Hours: of training a fold, from its journal; base learners and "
        "feature caches, which rows share, are left out. Episodes/s: of the tests, which read records, features or images. Machine: of "
        "training, testing, shared with whatever ran beside; values of different machines are not to be compared. Front: no row on the "
        "machine beats it at once in mIoU and speed of testing (speed), in mIoU and hours of training (training)"
    )
    notes = [f"{letter}: {name}." for name, letter in letters.items() if name]
    unmarked = [name for name in shown.columns if name != "mIoU"]
    networks = table.drop_duplicates(["dataset", "backbone"])
    told = [f"Networks: {', '.join(f'{line.dataset}: {line.backbone}' for line in networks.itertuples())}."]
    told += [f"Machines: {' '.join(notes)}"] if notes else []
    return Printed(shown, FAMILY, caption(what, rounds), [*told, *footnotes(rounds)], unmarked, narrow=True, decimals={"train h": 3})
