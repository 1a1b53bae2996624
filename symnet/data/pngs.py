"""A folder of PNGs, made in parallel: it appears whole or not at all, and a run that was killed goes on where it was.

    .{name}.partial/          what is made so far, in the final folder's layout; renamed to {name} at the end
    .{name}.partial.lock      held by the one who makes it

Any number of workers gives the same bytes.
"""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from symnet.artifacts import sync_folder, write_text
from symnet.data.forked import forked_map
from symnet.data.images import BadFile
from symnet.data.readers import MARK
from symnet.errors import UserError, one_line
from symnet.progress import progress

_HEAD, _TAIL = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"


def make_folder(
    target: Path, mark: str, begin: Callable[[Path], None], names: Sequence[str], make: Callable[[str], bytes], workers: int, skip: bool
) -> None:
    """Make `target` unless it is there: `names` are its PNGs, paths in it; `make` gives the bytes of one.

    mark: text of `MARK`, which says what all is made from: what an earlier run left under another mark is discarded. begin: writes what
    else belongs in the folder it is given. skip: a PNG whose `make` raises `BadFile` is left out and told. Raises `UserError`.
    """
    unfinished = target.with_name(f".{target.name}.partial")
    lock = unfinished.with_name(f"{unfinished.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(lock, target):
            if not target.exists():
                _prepare(unfinished, mark, begin)
                _fill(unfinished, names, make, workers, skip)
                os.sync()
                unfinished.replace(target)
                sync_folder(target.parent)
            lock.unlink(missing_ok=True)  # who waits for it, or makes it anew, finds the target
    except OSError as error:
        raise UserError(f"{target}: cannot be made ({one_line(error)})") from None


@contextlib.contextmanager
def _alone(lock: Path, target: Path) -> Iterator[None]:
    """Wait until no other process makes `target`. Workers inherit the lock: those of a killed run have ended when it is free."""
    with open(lock, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"masks: waiting for the process that makes {target}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(folder: Path, mark: str, begin: Callable[[Path], None]) -> None:
    """`folder` with all but the PNGs in it; the mark is written last, so that without it nothing there counts."""
    if (folder / MARK).is_file() and (folder / MARK).read_text(encoding="utf-8") == mark:
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    begin(folder)
    write_text(folder / MARK, mark)


def _fill(folder: Path, names: Sequence[str], make: Callable[[str], bytes], workers: int, skip: bool) -> None:
    made = progress(forked_map(partial(_make_one, folder, make, skip), names, workers), len(names), "masks")
    for reason in list(filter(None, made)):
        print(f"masks: left out: {reason}", file=sys.stderr)


def _make_one(folder: Path, make: Callable[[str], bytes], skip: bool, name: str) -> str:
    """Make one PNG, or find it whole from a run before. Returns why it is left out, if it is."""
    path = folder / name
    if is_whole(path):
        return ""
    try:
        data = make(name)
    except BadFile as error:
        if not skip:
            raise
        return str(error)
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_bytes(data)
    fresh.replace(path)
    return ""


def is_whole(path: Path) -> bool:
    """Whether `path` is a PNG from its first mark to its end mark: a machine that stops may leave an empty or torn file."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(_HEAD))
            file.seek(-len(_TAIL), os.SEEK_END)
            return head == _HEAD and file.read() == _TAIL
    except OSError:  # none, or shorter than its end
        return False
