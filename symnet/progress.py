"""How far long work has come: a bar on a terminal, a plain line now and then in a log."""

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
