"""What fetching and unpacking ask of the file system: one process at a time, and names that appear whole."""

import contextlib
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from symnet.artifacts import sync_folder
from symnet.errors import UserError


@contextlib.contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Hold `lock`, a file that stays; while another process does, wait, and say which. A killed one holds nothing."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "a+", encoding="utf-8")  # noqa: SIM115 (closed below: closing lets go)
    except OSError as error:
        raise UserError(f"{lock}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"{what}: waiting for process {file.read().strip() or '(unknown)'}, which is at it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def publish(partial: Path, final: Path) -> None:
    """Give a finished file its final name, durably."""
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    partial.replace(final)
    sync_folder(final.parent)


def tally(place: Path) -> tuple[int, int]:
    """Number of files, and their bytes, of a file or in a folder."""
    paths = (Path(folder, name) for folder, _, names in os.walk(place) for name in names) if place.is_dir() else iter([place])
    sizes = [path.stat().st_size for path in paths]
    return len(sizes), sum(sizes)
