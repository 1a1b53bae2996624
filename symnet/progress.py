"""How far long work has come: a bar on a terminal, a plain line now and then in a log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    total: int,
    what: str,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    interval: float = 10.0,
) -> Iterator[Item]:
    """Yield `items`, telling on `stream` (standard error) how many of `total` are done, how fast, and the time to go.

    On a terminal a bar; elsewhere one line every `interval` seconds of `clock`, so that short work says nothing.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        yield from _bar(items, total, what, stream)
        return
    start = told = clock()
    for done, item in enumerate(items, start=1):
        yield item
        now = clock()
        if now - told >= interval:
            told = now
            print(progress_line(what, done, total, now - start), file=stream, flush=True)


def progress_line(what: str, done: int, total: int, seconds: float) -> str:
    """`folds: 1200/12031 (10%), 230/s, ETA 47 s`, after `done` of `total` items in `seconds`."""
    rate = done / max(seconds, 1e-9)
    speed = f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
    return f"{what}: {done}/{total} ({100 * done // max(total, 1)}%), {speed}, ETA {duration((total - done) / max(rate, 1e-9))}"


@contextlib.contextmanager
def byte_progress(
    total: int | None,
    what: str,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    interval: float = 10.0,
) -> Iterator[Callable[[int], None]]:
    """As `progress`, of bytes: yields a function to be told how many of `total` (None: unknown) are done.

    What it is told first was done before, and does not count as speed.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        with _byte_bar(total, what, stream) as advance:
            yield advance
        return
    first: int | None = None
    start = told = clock()

    def tell(done: int) -> None:
        nonlocal first, told
        first = done if first is None else first
        now = clock()
        if now - told >= interval:
            told = now
            print(bytes_line(what, done, total, done - first, now - start), file=stream, flush=True)

    yield tell


def bytes_line(what: str, done: int, total: int | None, new: int, seconds: float) -> str:
    """`voc2012: 1.0 GB/2.0 GB (50%), 11 MB/s, ETA 91 s`, after `new` of `done` bytes came in `seconds`."""
    rate = max(new, 0) / max(seconds, 1e-9)
    if total is None:
        return f"{what}: {size(done)}, {size(rate)}/s"
    eta = duration((total - done) / rate) if rate else "unknown"
    return f"{what}: {size(done)}/{size(total)} ({100 * done // max(total, 1)}%), {size(rate)}/s, ETA {eta}"


def size(count: float) -> str:
    """`812 B`, `1.5 MB` or `13.5 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """`47 s`, `12 min` or `3 h 20 min`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _bar(items: Iterable[Item], total: int, what: str, stream: TextIO) -> Iterator[Item]:
    from rich.console import Console  # here: most runs have no terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)


@contextlib.contextmanager
def _byte_bar(total: int | None, what: str, stream: TextIO) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
