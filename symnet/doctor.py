"""What a run stands on, looked at before it is needed: each finding with what to do about it."""

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from symnet.errors import UserError, one_line
from symnet.experiment import load_experiment, read_plain
from symnet.journal import code_version
from symnet.lease import STALE, age_of, holder_of
from symnet.plan import Plan
from symnet.progress import duration, size
from symnet.status import standings

ROOT = Path(__file__).resolve().parent.parent
FINE, NOTE, BAD = "ok", "note", "BAD"
LITTLE = 20e9  # bytes free below which a disk is told
OLD = 3600.0  # seconds after which an unfinished file is a dead writer's


@dataclass(frozen=True)
class Finding:
    """`mark`: ok, note (works, but know it), BAD (will fail). `advice`: what to do, where there is something."""

    mark: str
    what: str
    told: str
    advice: str = ""

    def __str__(self) -> str:
        """`BAD  store     results/mlflow.db: not a database; move it away, ...`"""
        return f"{self.mark:4}  {self.what:9}  {one_line(self.told)}" + (f"; {self.advice}" if self.advice else "")


def examine(config: Path, results: Path) -> Iterator[Finding]:
    """Every finding, for one experiment file. A check that breaks is a finding itself."""
    checks = (_program(), _packages(), _machine(), _slurm(), _experiment(config), _disks(config, results), _results(results))
    for check in checks:
        try:
            yield from check
        except UserError as error:
            yield Finding(BAD, "check", str(error))


def _program() -> Iterator[Finding]:
    found = code_version()
    dirty = found.get("git_dirty") == "true"
    commit = f", commit {found['git_commit'][:9]}" if "git_commit" in found else ""
    advice = "commit, so that a result can be traced to its code" if dirty else ""
    yield Finding(NOTE if dirty else FINE, "symnet", f"{found['version']}{commit}{', edited' if dirty else ''}", advice)


def _packages() -> Iterator[Finding]:
    """Each dependency against its floor in pyproject.toml."""
    from packaging.requirements import Requirement

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wrong = []
    for requirement in map(Requirement, wanted):
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, needed: {requirement.specifier}")
    if wrong:
        yield Finding(BAD, "packages", ", ".join(wrong), "make .venv/ready, or pip install -c constraints.txt -e .")
    else:
        yield Finding(FINE, "packages", f"{len(wanted)} as pyproject.toml asks for")


def _machine() -> Iterator[Finding]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding(FINE, "machine", f"{len(os.sched_getaffinity(0))} CPU cores, {size(memory)} memory, torch {torch.__version__}")
    if not torch.cuda.is_available():
        yield Finding(NOTE, "gpu", "none visible here", "jobs run on the CPU; config/config.yaml is meant for a GPU")
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        yield Finding(FINE, "gpu", f"{card.name}, {size(card.total_memory)}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")


def _slurm() -> Iterator[Finding]:
    if not shutil.which("sinfo"):
        yield Finding(NOTE, "slurm", "no sinfo on the path", "`--profile slurm` works on a cluster's login node only")
        return
    try:
        done = subprocess.run(["sinfo", "-h", "-o", "%P %a %D %G"], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        yield Finding(BAD, "slurm", "sinfo gives no answer within 20 s", "ask for the state of the controller")
        return
    if done.returncode:
        yield Finding(BAD, "slurm", f"sinfo: {one_line(done.stderr)}", "ask for the state of the controller")
        return
    up = [line for line in done.stdout.splitlines() if line.split()[1:2] == ["up"]]
    gpus = any("gpu" in line for line in up)
    advice = "" if gpus else "no partition shows GPUs: the profile's jobs ask for one"
    yield Finding(FINE if gpus else NOTE, "slurm", f"{len(up)} partitions up: {', '.join(line.split()[0] for line in up)}", advice)


def _experiment(config: Path) -> Iterator[Finding]:
    """The experiment file, and what it needs under the data root."""
    plan = Plan(read_plain(config), str(config), write=False)
    yield Finding(FINE, "settings", f"{config}: {plan.experiment.experiment}, {len(plan.cells())} cells, {len(plan.metric_files())} rounds")
    told = ((BAD, plan.supplies.missing()), (NOTE, plan.supplies.to_fetch()))
    found = [Finding(level, "data", line) for level, lines in told for line in lines]
    yield from found or [Finding(FINE, "data", f"all that is needed is under {plan.experiment.root}")]


def _disks(config: Path, results: Path) -> Iterator[Finding]:
    for what, folder in (("results", results), ("data root", load_experiment(config).root)):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK):
            mark = BAD if what == "results" else NOTE
            yield Finding(mark, "disk", f"{what} {folder}: cannot be written", "fine for a data root that holds all" * (mark == NOTE))
        elif free < LITTLE:
            yield Finding(NOTE, "disk", f"{what} {folder}: {size(free)} free", "features of a PASCAL fold take 46 GB on a GPU's settings")
        else:
            yield Finding(FINE, "disk", f"{what} {folder}: {size(free)} free")


def _results(results: Path) -> Iterator[Finding]:
    """What earlier runs left: locks, unfinished files, cells that need a look, the store of MLflow."""
    if locks := list(Path(".snakemake", "locks").glob("*")):
        if _snakemakes():
            yield Finding(NOTE, "lock", "a snakemake works in this folder", "start no second one here")
        else:
            yield Finding(BAD, "lock", f"{len(locks)} locks of a snakemake that is gone", "snakemake --unlock, with the same --configfile")
    for folder in sorted(path for path in results.glob("*") if (path / "settings" / "tables.json").is_file()):
        counts = Counter(one.state for one in standings(folder))
        bad = {state: counts[state] for state in ("failed", "died") if counts[state]}
        told = f"{folder}: {', '.join(f'{n} {state}' for state, n in sorted(counts.items()))}"
        yield Finding(NOTE if bad else FINE, "cells", told, f"symnet status --results {folder}" if bad else "")
    yield from _leases(results)
    now = time.time()
    left = [path for path in results.rglob(".*.partial") if now - path.stat().st_mtime > OLD] if results.is_dir() else []
    if left:
        total = sum(path.stat().st_size for path in left if path.is_file())
        yield Finding(NOTE, "leftover", f"{len(left)} unfinished files of killed jobs, {size(total)}", f"may be deleted, as {left[0]}")
    yield from _store(results / "mlflow.db")


def _leases(results: Path) -> Iterator[Finding]:
    """Leases of trainers: living ones are counted, stale ones told one by one."""
    living = 0
    for lease in sorted(results.glob("*/state/**/lease.json")):
        try:
            age, holder = age_of(lease), holder_of(lease)
        except (OSError, ValueError) as error:
            yield Finding(NOTE, "lease", f"{lease}: cannot be read ({one_line(error)})", "delete it, if no job trains there")
            continue
        if age > STALE:
            told = f"{lease}: left by {holder}; last sign of life {duration(age)} ago"
            yield Finding(NOTE, "lease", told, "its process is gone or suspended: run the workflow again, the next trainer takes over")
        else:
            living += 1
    if living:
        yield Finding(FINE, "lease", f"{living} runs are being trained")


def _store(path: Path) -> Iterator[Finding]:
    if not path.is_file():
        return
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as store:
            told = store.execute("pragma quick_check").fetchone()[0]
            (runs,) = store.execute("select count(*) from runs where lifecycle_stage = 'active'").fetchone()
    except sqlite3.Error as error:
        told, runs = str(error), 0
    if told != "ok":
        yield Finding(
            BAD, "mlflow", f"{path}: {told}", "move it away and run `symnet track sync`: journals and metric files hold everything"
        )
        return
    waiting = _is_held(path.with_name(f"{path.name}.lock"))
    yield Finding(FINE, "mlflow", f"{path}: {runs} runs{', being written' if waiting else ''}")
    if waiting:
        yield Finding(NOTE, "lock", f"{path}.lock is held by a sync", "wait for it: the lock goes with its process; the file may stay")


def _is_held(lock: Path) -> bool:
    """Whether some process holds the lock file."""
    if not lock.is_file():
        return False
    with open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _snakemakes() -> bool:
    """Whether a snakemake runs with this folder as its own."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            here = (process / "cwd").resolve() == Path.cwd()
        except OSError:
            continue
        if here and any(re.search(rb"(^|/)snakemake$", word) for word in words[:4]):
            return True
    return False


def in_text(findings: list[Finding]) -> str:
    """The findings, one a line, and a last line that sums them up."""
    counts = Counter(one.mark for one in findings)
    return "\n".join([*map(str, findings), "", f"{counts[BAD]} to mend, {counts[NOTE]} to know, {counts[FINE]} fine"])
