"""One process at a time trains a run: whoever comes second waits, and takes over when the first is gone.

    {state}/lock         locked (flock) by the process that trains
    {state}/lease.json   who that is: {"host": .., "pid": .., "job": SLURM's, "token": .., "locked": has it the lock}; touched every `beat`
                         seconds; gone at its end

The lock tells at once that a process of this node is gone. Of another node only the heartbeat tells, since some shared filesystems
keep locks to themselves; its age is the difference of two times that the filesystem itself gave, so no node's clock matters. A process that
was suspended until its lease was stale, and then goes on, finds another's token in the file: `check` stops it before it writes.
"""

import fcntl
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from symnet.artifacts import write_text
from symnet.journal import Run, is_alive
from symnet.progress import duration

BEAT = 10.0
STALE = 120.0  # longer than a client of NFS may show an old time of a file: 60 s
TELL = 60.0


class Lost(Exception):
    """Another process holds the lease now: nothing more may be written. The message says who."""


class Lease:
    """Held by this process, as `hold` gives it."""

    def __init__(self, folder: Path, beat: float, stale: float) -> None:
        self.path, self.beat, self.stale = folder / "lease.json", beat, stale
        self.me: dict[str, str | int] = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID", "")}
        self.me["token"] = secrets.token_hex(8)
        self._renewed = 0.0  # monotonic, of the last heartbeat
        self._ended = threading.Event()

    def check(self) -> None:
        """Raise `Lost` where the lease is another's. Asks the file only if the heartbeat rested so long that it may be."""
        if time.monotonic() - self._renewed > self.stale / 2:
            self._renew()

    def _renew(self) -> None:
        moment = time.monotonic()
        holder = _read(self.path)
        if holder != self.me:
            self._renewed = float("-inf")
            raise Lost(_words(holder) if holder else f"somebody who deleted {self.path}")
        os.utime(self.path)  # the filesystem's now
        self._renewed = moment

    def _beat(self) -> None:
        """The thread that keeps the lease fresh, through long validations and slow loads."""
        while not self._ended.wait(self.beat):
            try:
                self._renew()
            except Lost:
                return
            except OSError:
                continue  # a filesystem that hangs for a moment; for how long, `check` sees

    def _acquire(self, lock: int, ask: Callable[[], None]) -> None:
        told = float("-inf")
        while True:
            locked, holder = _flock(lock), _read(self.path)
            if holder is None:
                free, sure = locked is not False, locked is True
            elif locked and holder["locked"] and holder["host"] == self.me["host"]:
                free = sure = True
            else:
                age = age_of(self.path)
                free, sure = age > self.stale, False
                if free or time.monotonic() - told > TELL:
                    told = time.monotonic()
                    doing = "taking over from" if free else "waiting for"
                    print(f"symnet: {doing} {_words(holder)}; last sign of life {duration(age)} ago", file=sys.stderr, flush=True)
            if free:
                self._renewed = time.monotonic()
                self.me["locked"] = locked is True
                write_text(self.path, json.dumps(self.me))
                if not sure:  # another may have claimed it as well: the last one has it
                    time.sleep(self.beat / 5)
                if _read(self.path) == self.me:
                    return
            ask()
            time.sleep(self.beat / 5)


@contextmanager
def hold(folder: Path, ask: Callable[[], None], beat: float = BEAT, stale: float = STALE) -> Iterator[Lease]:
    """Hold the lease of a folder, which is made. While another process has it, wait, tell who, and call `ask`, which may raise to leave."""
    folder.mkdir(parents=True, exist_ok=True)
    lease = Lease(folder, beat, stale)
    with open(folder / "lock", "w") as file:
        lease._acquire(file.fileno(), ask)
        thread = threading.Thread(target=lease._beat, daemon=True)
        thread.start()
        try:
            yield lease
        finally:
            lease._ended.set()
            thread.join()
            if _read(lease.path) == lease.me:
                lease.path.unlink(missing_ok=True)


def age_of(lease: Path) -> float:
    """Seconds since its last heartbeat, by the filesystem's clock; 0 where it ended just now."""
    with tempfile.TemporaryFile(dir=lease.parent) as probe:
        os.utime(probe.fileno())
        now = os.fstat(probe.fileno()).st_mtime
    with suppress(FileNotFoundError), open(lease) as file:  # opened: a client of NFS asks the server then
        return now - os.fstat(file.fileno()).st_mtime
    return 0.0


def is_trained(run: Run, state: Path) -> bool | None:
    """Whether a process still trains a run without an end: of this host by its number, of another by its lease in the folder `state`.
    None where neither tells.
    """
    found = is_alive(run)
    if found is not None:
        return found
    lease = state / "lease.json"
    try:
        return age_of(lease) <= STALE if lease.is_file() else (False if state.is_dir() else None)
    except OSError:  # a folder that may not be written to has no clock for us
        return None


def holder_of(lease: Path) -> str:
    """Who holds or held it, in words."""
    holder = _read(lease)
    return _words(holder) if holder else "nobody"


def _flock(handle: int) -> bool | None:
    """Whether the lock is ours now; None where the filesystem has none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read(path: Path) -> dict[str, str | int] | None:
    """Who holds the lease; None where nobody does."""
    try:
        found: dict[str, str | int] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found


def _words(holder: dict[str, str | int]) -> str:
    job = f", SLURM job {holder['job']}" if holder["job"] else ""
    return f"process {holder['pid']} on {holder['host']}{job}, which trains this run"
