"""Where every cell of an experiment stands, from its journals, metric files and logs alone: no Snakemake, no tracker.

Training keeps a journal. Of the other jobs that a cell waits for, a failure is told by the last line of their logs, which the next try
overwrites.
"""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from symnet.cells import Cell
from symnet.errors import UserError, one_line
from symnet.journal import Run, read_journal
from symnet.lease import is_trained
from symnet.methods import METHODS
from symnet.progress import duration

# In the order in which a cell passes through them; the last three say that something is to be done.
STATES = ("waiting", "training", "testing", "done", "stopped", "died", "failed")
SILENT = 600.0  # seconds without a line after which a run on another host is told to be silent
RECENT = 10  # logged points that the speed is taken from
FAILURE = re.compile(r"symnet: |[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b")  # how a log ends: a line for the user, or a traceback's last
WAITS = ("symnet: waiting for ", "symnet: taking over from ", "symnet: stopped by ")  # no failures (lease.py, cli/learn.py)


@dataclass(frozen=True)
class Standing:
    """One cell: its state, how many of its test rounds are there, and a word on it (progress, or what went wrong and where to look)."""

    cell: Cell
    state: str
    tested: int
    seeds: int
    told: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self.cell.as_dict(), **{k: v for k, v in asdict(self).items() if k != "cell"}}


def standings(root: Path, now: float | None = None) -> list[Standing]:
    """Every cell that the experiment `root` (results/{experiment}) expects. Raises `UserError` where none is known."""
    now = time.time() if now is None else now
    path = root / "settings" / "tables.json"
    try:
        expected = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{root}: no experiment there; `snakemake -n all` with its file makes it known") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); `snakemake -n all` writes it anew") from None
    trained = {name for name, method in expected.get("rows", {}).items() if METHODS[method].trained}
    ending = lru_cache(None)(_ending)  # cells share the logs of their folds
    return [_standing(root, Cell(**cell), expected["seeds"], trained, now, ending) for cell in expected["cells"]]


def _standing(root: Path, cell: Cell, seeds: Sequence[int], trained: Iterable[str], now: float, ending: Callable[[Path], str]) -> Standing:
    tested = sum(cell.metrics(root, seed).is_file() for seed in seeds)
    if tested == len(seeds):
        return Standing(cell, "done", tested, len(seeds))
    run = _last_run(cell.journal(root)) if cell.method in trained else None
    logs = root / "logs" / cell.folder(Path()).parent
    if run is None:
        state, told = "testing" if tested else "waiting", ""
    else:
        state, told = _of_run(run, cell.state(root, run.id), now)
    if state in ("failed", "died"):
        told = f"{told}; log: {logs / f'train-shot{cell.shot}.log'}"
    elif state in ("waiting", "testing"):
        for log in _logs_before(logs, cell.shot) if state == "waiting" else [logs / f"evaluate-shot{cell.shot}.log"]:
            if reason := ending(log):
                state, told = "failed", f"{log.stem}: {reason}; log: {log}"
                break
    return Standing(cell, state, tested, len(seeds), one_line(told))


def _logs_before(row: Path, shot: int) -> list[Path]:
    """Logs of what a cell without a training run waits for, in the order of the jobs; `row`: folder of the logs of its row."""
    fold, dataset = row.parent, row.parents[2]
    lists = dataset / fold.name / f"make_episodes-shot{shot}.log"
    shared = [*dataset.glob("*.log"), lists, fold / "train_base.log", *fold.glob("cache_features-*.log")]
    return [*shared, *fold.glob(f"make_records-*-shot{shot}.log"), row / f"train-shot{shot}.log", row / f"evaluate-shot{shot}.log"]


def _ending(log: Path) -> str:
    """The last line of a log where it tells a failure, else empty."""
    try:
        with open(log, "rb") as file:
            file.seek(-min(os.fstat(file.fileno()).st_size, 4096), os.SEEK_END)
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last.removeprefix("symnet: ") if FAILURE.match(last) and not last.startswith(WAITS) else ""


def journal_words(root: Path, cell: Cell) -> str:
    """What the cell's journal says of its training, `its journal says KILLED: deadline at step 50 of 200`; empty without one."""
    run = _last_run(cell.journal(root))
    return "" if run is None else f"its journal says {run.status}: {_of_run(run, cell.state(root, run.id), time.time())[1]}"


def _last_run(path: Path) -> Run | None:
    try:
        runs = read_journal(path)
    except OSError:
        return None
    return runs[-1] if runs else None


def _of_run(run: Run, folder: Path, now: float) -> tuple[str, str]:
    """State and words of a training run whose cell is not wholly tested; `folder` holds its lease."""
    if run.status == "FINISHED":
        return "testing", "trained"
    if run.status == "FAILED":
        return "failed", run.reason
    if run.status == "KILLED":
        return "stopped", run.reason
    if is_trained(run, folder) is False:
        return "died", f"{_progress(run)}; its state is saved, run again"
    quiet = now - run.last
    silent = f", silent for {duration(quiet)}" if quiet > SILENT else ""
    return "training", f"{_progress(run)}, on {run.host}{silent}"


def _progress(run: Run) -> str:
    """`epoch 3 of 10, step 120 of 500, 13 episodes/s, ETA 4 min`, as far as the journal tells."""
    points = sorted((moment, step) for step, (_, moment) in run.metrics.get("loss", {}).items())[-RECENT:]
    if not points:
        return "before its first steps"
    (first, start), (last, step) = points[0], points[-1]
    total, batch = run.tags.get("steps", ""), run.params.get("train", {}).get("batch_size")
    words = [f"step {step}" + (f" of {total}" if total else "")]
    if (epoch := run.tags.get("epoch_steps", "")).isdecimal() and total.isdecimal():
        words.insert(0, f"epoch {-(-step // int(epoch))} of {-(-int(total) // int(epoch))}")
    if last > first:
        rate = (step - start) / (last - first)  # steps a second
        words += [f"{rate * batch:.3g} episodes/s"] if batch else []
        words += [f"ETA {duration((int(total) - step) / rate)}"] if total.isdecimal() and rate > 0 else []
    return ", ".join(words)


def in_text(found: Sequence[Standing]) -> str:
    """The standings as plain columns, after a line that counts them."""
    counts = Counter(one.state for one in found)
    head = f"{len(found)} cells: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    rows = [("dataset", "backbone", "fold", "row", "shot", "state", "tested", "")]
    for one in found:
        cell = one.cell
        rows.append(
            (cell.dataset, cell.backbone, str(cell.fold), cell.method, str(cell.shot), one.state, f"{one.tested}/{one.seeds}", one.told)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([head, "", *("  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)).rstrip() for row in rows)])
