"""Input made ahead of computing, and how long computing waits for it."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

AHEAD = 2  # pieces of work that loading runs ahead of computing
LEAST_SECONDS = 10.0  # shorter work says nothing, as with progress

Tag = TypeVar("Tag")
Wanted = TypeVar("Wanted")
Loaded = TypeVar("Loaded")
Item = TypeVar("Item")


def ahead(load: Callable[[Wanted], Loaded], work: Iterator[tuple[Tag, Wanted]]) -> Iterator[tuple[Tag, Loaded]]:
    """Load what is wanted of each (tag, wanted) `AHEAD` pieces before it is asked for, in a thread. Yields (tag, loaded)."""
    waiting: list[tuple[Tag, Future[Loaded]]] = []
    with ThreadPoolExecutor(1) as pool:
        for tag, wanted in work:
            waiting.append((tag, pool.submit(load, wanted)))
            if len(waiting) > AHEAD:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


class Stall:
    """The share of time in which the device had nothing to do but wait for input.

    A wait counts where the device is idle at its end, and then whole: what a GPU still had to do meanwhile is not known without asking
    all the time, so the share is an upper bound.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.monotonic) -> None:
        self._device, self._clock = device, clock
        self._start = self._since = clock()
        self._waited = self._before = 0.0  # since the last interval began, and before it

    def watch(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yield items, timing how long each is waited for."""
        while True:
            asked = self._clock()
            try:
                item = next(items)
            except StopIteration:
                return
            if _idle(self._device):
                self._waited += self._clock() - asked
            yield item

    def interval(self) -> float:
        """The share, 0 to 1, since it was last asked for."""
        now = self._clock()
        share = self._waited / max(now - self._since, 1e-9)
        self._since, self._before, self._waited = now, self._before + self._waited, 0.0
        return share

    def total(self) -> float:
        """The share, 0 to 1, of all the time."""
        return (self._before + self._waited) / max(self._clock() - self._start, 1e-9)

    def tell(self, what: str) -> None:
        """Print the total on standard error, unless no time has passed that is worth a word."""
        if self._clock() - self._start > LEAST_SECONDS:
            print(f"{what}: waited for input {self.total():.1%} of the time", file=sys.stderr, flush=True)


def _idle(device: torch.device) -> bool:
    """Whether the device has done all it was given; a CPU has, where anyone can ask."""
    return device.type != "cuda" or torch.cuda.current_stream(device).query()
