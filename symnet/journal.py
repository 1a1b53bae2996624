"""A run's journal: JSON lines, appended and fsync'd, that a kill at any moment can at worst tear in the last line.

    {"event": "start", "run": ID, "time": SECONDS, "host": .., "pid": .., "born": .., "params": {..}, "tags": {..}}
    {"event": "metric", "run": ID, "step": 40, "time": SECONDS, "values": {"loss": 0.31, ..}}
    {"event": "resume", ..as start..}
    {"event": "end", "run": ID, "time": SECONDS, "status": "FINISHED", "reason": ""}

A file may hold several runs, one after the other: a cell's settings changed. Training needs nothing but this file; trackers and
status tables are filled from it.
"""

import json
import math
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from symnet import __version__

STATUSES = ("FINISHED", "FAILED", "KILLED")


class Journal:
    """The writer. One process at a time writes a journal; several journals are independent of each other."""

    def __init__(self, path: Path | str, run: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Append `start`, or `resume` where the file knows `run`. `params`: plain settings; `tags`: code hash and the like."""
        self.path, self.run = Path(path), run
        self.path.parent.mkdir(parents=True, exist_ok=True)
        known = self.path.exists() and any(old.id == run for old in read_journal(self.path))
        process = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}
        self._append("resume" if known else "start", **process, params=dict(params), tags={**code_version(), **tags})

    def log(self, step: int, **values: float) -> None:
        """Append metrics of a step. Raises `ValueError` for one that is not finite: JSON has no such number."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise ValueError(f"{self.path}: {name} is {value} at step {step}, expected a finite number")
        self._append("metric", step=step, values={name: float(value) for name, value in values.items()})

    def end(self, status: str, reason: str = "") -> None:
        """Append the end: FINISHED, FAILED or KILLED, with the reason where there is one."""
        assert status in STATUSES, status
        self._append("end", status=status, reason=reason)

    def _append(self, event: str, **values: Any) -> None:
        """One write of one whole line, fsync'd. A line that was torn before is closed first, so that it costs only itself."""
        line = json.dumps({"event": event, "run": self.run, "time": round(time.time(), 3), **values}, allow_nan=False)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            whole = ("\n" if torn else "").encode() + line.encode() + b"\n"
            if os.write(handle, whole) != len(whole):
                raise OSError(f"{self.path}: the disk took only part of a line")
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass
class Run:
    """A run as its journal tells it. Times are seconds since 1970.

    `metrics[name][step]` is (value, time): each step once, the last one written, since a resumed run repeats the steps after its
    checkpoint. `status` is RUNNING where there is no end; ask `is_alive`. `torn`: unreadable lines met while it was written. `worked`:
    seconds of its processes, each from its start to its last line; the time between two of them is left out.
    """

    id: str
    started: float
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    status: str = "RUNNING"
    reason: str = ""
    ended: float | None = None
    last: float = 0.0
    worked: float = 0.0
    host: str = ""
    pid: int = 0
    born: int | None = None
    resumed: int = 0
    torn: int = 0
    metrics: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)


def read_journal(path: Path | str) -> list[Run]:
    """The runs of a journal in the order in which they were last started; steps in order. Lines that are not whole are counted.

    Raises `OSError` where the file cannot be read.
    """
    runs: dict[str, Run] = {}
    torn = 0  # lines before the first run
    current: Run | None = None
    for line in Path(path).read_bytes().splitlines():
        if not line.strip():
            continue
        try:
            current = _apply(runs, json.loads(line.decode()))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            if current is None:
                torn += 1
            else:
                current.torn += 1
    found = list(runs.values())
    if found:
        found[0].torn += torn
    for run in found:
        run.metrics = {name: dict(sorted(steps.items())) for name, steps in sorted(run.metrics.items())}
    return found


def is_alive(run: Run) -> bool | None:
    """Whether the process of a run without an end still exists; None where it ran on another host, or is not known."""
    if not run.pid or run.host != socket.gethostname():
        return None
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return run.born is None or _born(run.pid) == run.born  # another process may have got its number


def code_version() -> dict[str, str]:
    """Version of symnet and, where it runs from a git checkout, commit and whether the package differs from it."""
    found = {"version": __version__}
    package = Path(__file__).parent
    commit = git(package, "rev-parse", "HEAD")
    if commit and git(package, "ls-files", "__init__.py"):  # else: installed inside somebody else's repository
        dirty = git(package, "status", "--porcelain", "--", ".")
        found |= {"git_commit": commit} | ({} if dirty is None else {"git_dirty": str(bool(dirty)).lower()})
    return found


def _apply(runs: dict[str, Run], event: dict[str, Any]) -> Run:
    """Take in one event whole, or raise before anything is changed."""
    kind, name, moment = event["event"], str(event["run"]), float(event["time"])
    run = runs.get(name) or Run(name, moment)
    if kind in ("start", "resume"):
        host, pid, born, params, tags = (event[key] for key in ("host", "pid", "born", "params", "tags"))
        run.host, run.pid, run.born, run.params, run.tags = str(host), int(pid), born, dict(params), dict(tags)
        run.resumed += kind == "resume"
        run.status, run.reason, run.ended = "RUNNING", "", None
        runs.pop(name, None)  # the run that was started last stands last
    elif kind == "metric":
        step, values = int(event["step"]), {str(key): float(value) for key, value in event["values"].items()}
        if not all(map(math.isfinite, values.values())):
            raise ValueError("a value that is not finite")
        for key, value in values.items():
            run.metrics.setdefault(key, {})[step] = (value, moment)
    elif kind == "end" and event["status"] in STATUSES:
        run.status, run.reason, run.ended = event["status"], str(event["reason"]), moment
    else:
        raise ValueError(f"no such event: {kind}")
    if kind not in ("start", "resume") and run.last:
        run.worked += max(moment - run.last, 0.0)
    run.last = max(run.last, moment)
    return runs.setdefault(name, run)


def _born(pid: int) -> int | None:
    """When a process started, in ticks since boot; None where the system does not tell (only Linux does)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; None where there is no git, no repository, or no answer."""
    try:
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip("\n") if done.returncode == 0 else None
