"""Which way to run a step: the one asked for, or what a trial on the device finds fastest. What a way is, the caller says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from symnet.errors import UserError, one_line

Step = TypeVar("Step")
GAIN = 0.97  # what is tried later has to take less than this share of the time of the best before it
PAYS = 20  # a way is tried where all steps, run the best way so far, take so many times what setting it up costs


@dataclass(frozen=True)
class Way(Generic[Step]):
    """`build` makes the step, and may raise `RuntimeError` where it cannot be; `cost`: seconds that this is expected to take."""

    name: str
    build: Callable[[], Step]
    cost: float = 0.0


@dataclass(frozen=True)
class Chosen(Generic[Step]):
    """`why`: in words. `seconds`: a step's, by the names of the ways that were tried."""

    name: str
    step: Step
    why: str
    seconds: dict[str, float] = field(default_factory=dict)


def choose(wanted: str, ways: Sequence[Way[Step]], seconds: Callable[[Step], float], steps: int) -> Chosen[Step]:
    """The way called `wanted`; of `auto` the fastest, if the first of `ways` works. seconds: times a step; steps: still to be made.

    Of several ways one lives at a time, but for the best so far. Raises `UserError` for a way that is not there, or fails though asked for.
    """
    if wanted != "auto":
        return _asked_for(wanted, ways)
    first, *others = ways
    best = Chosen(first.name, first.build(), "the only way on this device")
    if not others:
        return best
    least = seconds(best.step)
    found, told = {first.name: least}, [f"{first.name} {1000 * least:.1f} ms"]
    for way in others:
        if way.cost * PAYS > steps * least:
            told.append(f"{way.name} not tried, the run is too short to pay for it")
            continue
        step = None  # the one before, which may hold a step's memory
        try:
            step = way.build()
            found[way.name] = seconds(step)
        except RuntimeError as error:  # memory that is too small, too
            told.append(f"{way.name} failed ({one_line(error)[:100]})")
            continue
        told.append(f"{way.name} {1000 * found[way.name]:.1f} ms")
        if found[way.name] < GAIN * least:
            best, least = Chosen(way.name, step, ""), found[way.name]
    return Chosen(best.name, best.step, "a step took: " + ", ".join(told), found)


def _asked_for(wanted: str, ways: Sequence[Way[Step]]) -> Chosen[Step]:
    for way in ways:
        if way.name == wanted:
            try:
                return Chosen(wanted, way.build(), "asked for")
            except torch.OutOfMemoryError:  # a smaller step may do
                raise
            except RuntimeError as error:
                raise UserError(f"train.compile: {wanted} failed ({one_line(error)[:200]}); use auto or off") from None
    raise UserError(f"train.compile: found {wanted}, which needs a GPU; use auto or off")
