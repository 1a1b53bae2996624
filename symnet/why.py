"""Why a file of an experiment is out of date: which setting, input or line of code is not what it was made from.

Looks at the experiment file, the code and the files as they are now, and at the notes of the jobs (`symnet.made`). Writes nothing, and
needs no Snakemake: it names the cause of what `snakemake -n` lists. Two causes are not seen: an edited command of a rule, and a marker of
fetched data that is gone.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from symnet.artifacts import file_digest, read_table
from symnet.cells import Cell
from symnet.data.folds import refresh_folds
from symnet.errors import UserError
from symnet.graph import Job, jobs
from symnet.made import Note, kept_list, place, read_note
from symnet.plan import Plan
from symnet.stages import restrict, source_of
from symnet.status import journal_words

SHOWN = 8  # causes of one kind that are told

Chain = tuple[Path, ...]


class Whys:
    """The jobs of an experiment and what became of them. `fresh`: lists as they would be made now, by their place."""

    def __init__(self, plan: Plan, fresh: Mapping[Path, Path]) -> None:
        self.plan, self.root, self.fresh, self.jobs = plan, plan.folder, fresh, jobs(plan)
        self._own: dict[Path, list[str]] = {}
        self._stale: dict[Path, bool] = {}

    def job(self, words: Sequence[str]) -> tuple[Path, Job]:
        """The file that `words` name, a path or a cell (dataset fold row shot [seed]), and its job. Raises `UserError`."""
        path = self._cell_file(words) if len(words) > 1 else Path(words[0])
        known = {place(self.root, output): output for output in self.jobs}
        for name in (place(self.root, path), path.as_posix()):
            if name in known:
                return known[name], self.jobs[known[name]]
        raise UserError(
            f"{' '.join(words)}: not a file that experiment {self.plan.experiment.experiment} makes; give a path under {self.root}, or "
            "the words of a cell: dataset fold row shot [seed]"
        )

    def _cell_file(self, words: Sequence[str]) -> Path:
        names = [word for word in words if not word.isdecimal()]
        numbers = [int(word) for word in words if word.isdecimal()]
        dataset = next((name for name in names if name in self.plan.datasets), None)
        row = next((name for name in names if name in self.plan.rows), None)
        if dataset is None or row is None or len(names) != 2 or len(numbers) not in (2, 3):
            raise UserError(
                f"{' '.join(words)}: expected a path, or the words of a cell: dataset ({', '.join(self.plan.datasets)}), fold, "
                f"row ({', '.join(self.plan.rows)}), shot, and perhaps a seed"
            )
        cell = Cell(dataset, self.plan.backbone(dataset), numbers[0], row, numbers[1])
        return cell.metrics(self.root, numbers[2] if len(numbers) == 3 else self.plan.seeds[0])

    def stale(self, job: Job) -> bool:
        """Whether `snakemake -n` would list the job: for a reason of its own, or since one before it is listed."""
        name = job.outputs[0]
        if name not in self._stale:
            self._stale[name] = bool(self.own(job)) or any(map(self.stale, self._before(job)))
        return self._stale[name]

    def _before(self, job: Job) -> list[Job]:
        found = {self.jobs[path].outputs[0]: self.jobs[path] for path in (*job.inputs, *job.after) if path in self.jobs}
        return list(found.values())

    def own(self, job: Job) -> list[str]:
        """What of a job's own settings, code, inputs and options is not as it was, in words."""
        name = job.outputs[0]
        if name not in self._own:
            self._own[name] = self._compare(job)
        return self._own[name]

    def _compare(self, job: Job) -> list[str]:
        note = read_note(self.root, job.outputs[0].parent, job.stage)
        absent = [path for path in job.outputs if not path.is_file()]
        if note is None:
            return [self._missing(job) if absent else "made by hand, or by a job that did not end: no note says from what"]
        told = _settings(note.settings, job.now.settings) + _code(note.code, job.now.code) + _options(note.options, job.now.options)
        return told + self._inputs(job, note)

    def _missing(self, job: Job) -> str:
        """Why an output that no note tells of is not there."""
        if job.stage == "train":
            one = next(cell for cell in self.plan.cells() if Path(*self.plan.model_file(*_of(cell))) == job.outputs[0])
            return f"missing: {journal_words(self.root, one) or 'never made'}"
        return "missing: never made"

    def _inputs(self, job: Job, note: Note) -> list[str]:
        now, told = {place(self.root, path): path for path in job.inputs}, []
        for name, path in now.items():
            at = self.fresh.get(path, path)
            if name not in note.inputs:
                told.append(f"input {name}: was not read before")
            elif at.is_file() and _digest(at) != note.inputs[name]:
                told.append(f"input {name}: {_difference(self.root, note.inputs[name], at)}")
        return told + [f"input {name}: is no longer read" for name in note.inputs if name not in now]

    def chains(self, target: Path) -> list[tuple[Job, Chain]]:
        """The first causes of a file: every job before it with reasons of its own, and the files from there to the target, shortest way."""
        found: list[tuple[Job, Chain]] = []
        waiting: list[tuple[Job, Chain]] = [(self.jobs[target], (target,))]
        seen = set()
        for job, chain in waiting:  # grows
            if job.outputs[0] in seen or not self.stale(job):
                continue
            seen.add(job.outputs[0])
            if self.own(job):
                found.append((job, chain))
            waiting += [(before, (before.outputs[0], *chain)) for before in self._before(job)]
        return found

    def explain(self, target: Path, job: Job) -> Iterator[str]:
        """The answer for a file, line by line."""
        name = place(self.root, target)
        if not self.stale(job):
            gone = "" if target.is_file() else "missing: was made and is gone; Snakemake makes it again where something needs it; else "
            yield f"{name}: {gone}up to date"
            return
        yield f"{name}: {'out of date' if target.is_file() else 'missing'}"
        causes = self.chains(target)
        for cause, chain in reversed(causes):  # what comes first in the flow first
            reasons = self.own(cause)
            if len(chain) > 1 and reasons[0].startswith("missing") and any(map(self.stale, self._before(cause))):
                continue  # waits for what is told anyway
            for reason in reasons[:SHOWN]:
                yield f"  {reason}"
            if len(reasons) > SHOWN:
                yield f"  and {len(reasons) - SHOWN} more"
            if len(chain) > 1:
                yield f"    {' -> '.join(place(self.root, path) for path in chain)}"


@contextmanager
def whys(plan: Plan) -> Iterator[Whys]:
    """The reasons as of now. Lists of folds are refreshed in a copy, as the workflow would refresh them in place."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {}
        for dataset in plan.datasets:
            lists, copies = plan.folder / dataset / "lists", Path(folder, dataset)
            for path in [*lists.glob("*.csv"), *lists.glob(".stat.json"), *lists.glob("fold*/*.csv")]:
                fresh[path] = copies / path.relative_to(lists)
                fresh[path].parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, fresh[path])
            refresh_folds(restrict(plan.settings(dataset), "folds"), plan.data_root(dataset), copies)
        _digest.cache_clear()
        yield Whys(plan, fresh)


def _difference(root: Path, was: str, now: Path) -> str:
    """What differs between the file that was read and the one that is there."""
    old = kept_list(root, was) if now.name in ("train.csv", "test.csv") else None
    if old is None:
        kind = {"base.safetensors": "another base learner", "model.safetensors": "another model"}.get(now.name, "another file")
        return f"{kind} than it was made from (sha256 was {was[:8]}, now {_digest(now)[:8]})"
    with tempfile.NamedTemporaryFile(suffix=".csv") as copy:
        copy.write(old)
        copy.flush()
        before, after = ({row["image"]: row for row in read_table(path)[0]} for path in (Path(copy.name), now))
    counts = {
        "new": len(after.keys() - before.keys()),
        "gone": len(before.keys() - after.keys()),
        "changed": sum(before[image] != after[image] for image in before.keys() & after.keys()),
    }
    first = next((f"{n} image{'s' * (n != 1)} {word}" for word, n in counts.items() if n), "its rules, and no image")
    return ", ".join([first, *[f"{n} {word}" for word, n in counts.items() if n and not first.endswith(word)]])


@cache
def _digest(path: Path) -> str:
    return file_digest(path)


def _of(cell: Cell) -> tuple[str, int, str, int]:
    return cell.dataset, cell.fold, cell.method, cell.shot


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _settings(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = _flat(was), _flat(now)
    told = [f"{key}: was {old[key]}, now {new[key]}" for key in old if key in new and old[key] != new[key]]
    told += [f"{key}: is asked for now, and was not: {new[key]}" for key in new if key not in old]
    return told + [f"{key}: was {old[key]}, and is not asked for now" for key in old if key not in new]


def _code(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    words = {name: "changed" for name in was if name in now and was[name] != now[name]}
    words |= {name: "is used now, and was not" for name in now if name not in was}
    words |= {name: "is no longer used" for name in was if name not in now}
    return [f"code of {source_of(name)} {word}" for name, word in sorted(words.items())]


def _options(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    told = []
    for name in [name for name in {**was, **now} if was.get(name) != now.get(name)]:
        if name in ("weights", "vectors", "published"):
            what = {"weights": "the backbone's weights file", "vectors": "the file of word vectors", "published": "the published figures"}
            told.append(f"{what[name]}: another one than before")
        else:
            told.append(f"{name}: was {was.get(name, 'not given')}, now {now.get(name, 'not given')}")
    return told
