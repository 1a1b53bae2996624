"""Cost against what it is to be linear in: episodes tested, images through the backbone, shots of an episode; and a plot of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from symnet.artifacts import replacing
from symnet.bench.material import BASE_CLASSES, Material
from symnet.bench.timing import seconds_a_call
from symnet.data.episodes import Episode
from symnet.features import forward
from symnet.scoring import Counts
from symnet.sources import Features, Request
from symnet.testing import Tester, predicted

STEPS = (1, 2, 3, 4, 5)
ROUNDS = 3


@dataclass
class Made:
    """Images whose features are at hand: what a test asks a source for, without reading."""

    names: list[str]
    found: Features
    device: torch.device
    blocks: Sequence[int] | None = None
    kept_as: torch.dtype = torch.float32

    def load(self, requests: Sequence[Request]) -> list[int]:
        """Their places."""
        return [self.names.index(request.image) for request in requests]

    def features(self, loaded: list[int]) -> Features:
        """Rows of what is at hand."""
        base = self.found.base
        return Features([m[loaded] for m in self.found.maps], None if base is None else base[loaded], self.found.mask[loaded])


def costs(material: Material) -> dict[str, dict[str, list[float]]]:
    """For each of the three, counts and the seconds they take, medians of rounds; what is timed is made one after another."""
    batch = material.sizes.batch
    of: dict[str, dict[int, Callable[[], Callable[[], Any]]]] = {
        "episodes tested, 1-shot": {n * batch: partial(_testing, material, 1, n * batch) for n in STEPS},
        "images through the backbone": {n * batch: partial(_passing, material, n * batch) for n in STEPS},
        f"shots, of {batch} episodes tested": {k: partial(_testing, material, k, batch) for k in STEPS},
    }
    return {name: _measured(makers, material.device) for name, makers in of.items()}


def _passing(material: Material, count: int) -> Callable[[], Any]:
    """What passes `count` images through the backbone."""
    return partial(forward, material.base, material.images(count))


def _testing(material: Material, shots: int, count: int) -> Callable[[], None]:
    """What tests `count` episodes, all of different images, from features on."""
    method, names = material.method(shots).eval(), [f"i{i}" for i in range(material.sizes.batch * (1 + shots))]
    source = Made(names, material.features(material.images(len(names)), material.masks(len(names))), material.device)
    step = 1 + shots
    starts = [(i * step) % len(names) for i in range(count)]
    episodes = [Episode(names[start], BASE_CLASSES[0], tuple(names[start + 1 : start + step])) for start in starts]
    tester = Tester(material.base, method, source, material.vectors, material.sizes.batch, memory=1 << 50)  # or batches would differ

    def run() -> None:
        counts = Counts(method.outputs, 1, material.device)

        def use(places: list[int], batch: Any, _: Any) -> None:
            wanted = [episodes[place].class_index for place in places]
            counts.add(predicted(method, material.backbone, batch), batch.query_mask, wanted, [0] * len(places))

        for _ in tester.run(episodes, lambda places: None, use):
            pass
        counts.of("padded")

    return run


def _measured(makers: dict[int, Callable[[], Callable[[], Any]]], device: torch.device) -> dict[str, list[float]]:
    seconds = []
    for make in makers.values():
        way = make()
        way()  # warm
        seconds.append(median(seconds_a_call(way, 1, device) for _ in range(ROUNDS)))
    return {"counts": list(makers), "seconds": seconds}


def plot(found: dict[str, dict[str, list[float]]], title: str, out: Path) -> None:
    """Points and the straight line nearest to them, one panel each; the file's ending says the format."""
    from matplotlib.figure import Figure  # here: the bench runs without it

    figure = Figure(figsize=(4 * len(found), 3.5), layout="constrained")
    for axes, (name, of) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        counts, times = np.array(of["counts"]), 1000 * np.array(of["seconds"])
        slope, start = np.polyfit(counts, times, 1)
        axes.plot(counts, slope * counts + start, color="0.6", label=f"{slope:.3g} ms each, {start:.3g} ms to begin with")
        axes.plot(counts, times, "o", color="C0")
        axes.set(xlabel=name, ylabel="milliseconds", ylim=(0, None), xlim=(0, None))
        axes.legend()
    figure.suptitle(title)
    with replacing(out) as partial:
        figure.savefig(partial, format=out.suffix.removeprefix(".") or "png")
