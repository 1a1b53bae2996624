"""Work spread over processes that inherit what it needs."""

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 16  # items sent to a process at once

_work: Callable[[Any], Any]  # of this process, a worker


def forked_map(work: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`work` of every item, in order, in `workers` processes forked by this call; with one worker in this process.

    What `work` holds is inherited, so that parsed annotations are in memory once; items, results and errors are sent. Workers end with
    the process that forked them, however it ends. The first error in the order of the items is raised here.
    """
    if workers <= 1:
        return map(work, items)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (work,))
    chunk = max(1, min(CHUNK, len(items) // (4 * workers)))
    return _drained(pool, pool.map(_call, items, chunksize=chunk))  # forked here, before a bar of progress starts its thread


def _drained(pool: ProcessPoolExecutor, results: Iterator[Result]) -> Iterator[Result]:
    with pool:
        try:
            yield from results
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    gc.freeze()  # a collection would write to, and so copy, every page that is inherited
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    """End with the parent: a worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(item: Any) -> Any:
    return _work(item)
