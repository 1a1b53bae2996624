"""Whether the maps of training views are kept in a cache, or computed whenever they are asked for: what this machine does faster.

Both are the same views of the same images, so the choice changes no more than the rounding of the cache's number format. Views that are
never the same twice (`features.train_views: 0`) are another training: that is the user's to choose, and never a machine's. `Advisor` tells
what it costs.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from symnet.runtime import wait_for

REPEATS = 3
FIRST, LAST = 3, 23  # of a run's steps, those after which its pace is taken
PAYS = 1.5  # how much faster cached views have to be for advice


@dataclass(frozen=True)
class Rates:
    """Images a second: `loaded` and augmented by training's threads, `computed` by the backbone, `read` from a cache to the device."""

    loaded: float
    computed: float
    read: float

    @property
    def keep(self) -> bool:
        """Whether a cache gives more of them. Threads load while the backbone computes, so the slower of the two is what counts."""
        return self.read > min(self.loaded, self.computed)

    def __str__(self) -> str:
        """What is done, and why."""
        done = "are kept in the cache" if self.keep else "are not kept, training computes them"
        return (
            f"maps of training views {done}: {self.read:.3g} images/s read, {self.computed:.3g}/s computed, {self.loaded:.3g}/s loaded "
            "and augmented (features.train_cache: auto)"
        )


def measure(
    count: int,
    load: Callable[[], object],
    threads: int,
    compute: Callable[[], object],
    maps: np.ndarray,
    folder: Path,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """load: reads and augments `count` images, in one of `threads`; compute: their maps on the device; maps: as they would be kept.

    folder: where the cache is to be. What was written a moment ago comes from memory: a disk gives less than is measured here.
    """

    def seconds(work: Callable[[], object]) -> float:
        """The median of a few times, after one that is not counted."""
        found = []
        for _ in range(1 + REPEATS):
            start = clock()
            work()
            wait_for(device)
            found.append(clock() - start)
        return max(statistics.median(found[1:]), 1e-9)

    loaded, computed = count * threads / seconds(load), count / seconds(compute)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rates-", dir=folder) as place:
        path = Path(place, "maps.h5")
        with h5py.File(path, "w") as file:
            file["maps"] = maps

        def read() -> None:
            with h5py.File(path) as file:
                torch.from_numpy(file["maps"][:]).to(device).float()

        return Rates(loaded, computed, count / seconds(read))


class Advisor:
    """Tells, once, where a run that computes all features anew would be much faster on cached views."""

    def __init__(self, images: int, rates: Callable[[], Rates], clock: Callable[[], float] = time.monotonic) -> None:
        """images: of a step; rates: measures them, when it is time; clock: asked twice, so it may wait for the device."""
        self.images, self.rates, self.clock = images, rates, clock
        self._steps, self._since = 0, 0.0

    def step(self) -> str:
        """A step was made. Returns what is to be told: mostly nothing."""
        self._steps += 1
        if self._steps == FIRST:
            self._since = self.clock()
        if self._steps != LAST:
            return ""
        took = (self.clock() - self._since) / (LAST - FIRST)
        rates = self.rates()
        backbone, reading = self.images / rates.computed, self.images / rates.read
        cached = max(took - backbone, reading, took / 20)
        if took < PAYS * cached:
            return ""
        return (
            f"a step takes {took:.3g} s, {min(backbone, took):.3g} of them for the backbone. With cached views (features.train_views: 1 or "
            f"more; {rates.read:.3g} images/s read here) it would take about {cached:.2g}; they are fixed, which is another training"
        )
