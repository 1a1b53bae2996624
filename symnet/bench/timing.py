"""Checking and timing two ways to the same values."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from symnet.errors import UserError
from symnet.runtime import wait_for

BLOCK = 0.05  # seconds that a timed block of calls takes at least
SMALL = 8  # numbers of a parameter that is compared with its like
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A figure: `amount` of `unit` a call, by the fast path and by its plain twin.

    `compare` gives what both compute, with nothing left to chance; None: what `fast` and `plain` return. `tolerance`: of a value's
    difference, over the largest value of its tensor. `by_plain`: how many the twin does in a call, where not `amount`. `tf32`: whether what
    is timed lets a GPU round what convolutions of float32 multiply (`runtime.tune_cudnn`). A twin does, as the released code does.
    """

    name: str
    unit: str
    amount: int
    fast: Callable[[], Any]
    plain: Callable[[], Any]
    compare: Callable[[], Iterable[tuple[Values, Values]]] | None = None
    tolerance: float = 1e-4
    by_plain: int | None = None
    tf32: bool = False


@dataclass(frozen=True)
class Side:
    """How one of the two did: seconds a call, and the peak of device memory (bytes; None on a CPU)."""

    seconds: list[float]
    memory: int | None

    def told(self, amount: int) -> dict[str, Any]:
        """Median and spread, as plain values."""
        middle = median(self.seconds)
        times = {"amount": amount, "median_s": middle, "least_s": min(self.seconds), "most_s": max(self.seconds)}
        return {"rate": amount / middle, **times, "rounds": len(self.seconds), "peak_memory": self.memory}


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, Any]:
    """Check a case, then time it: the row of the report. Raises `UserError` where the two ways differ, and times nothing then."""
    error, where = largest_error(case)
    if not error <= case.tolerance:
        raise UserError(
            f"bench: {case.name}: the fast path differs from its plain twin in {where} by {error:.1e}, allowed {case.tolerance:g}"
        )
    fast, plain = alternate(_timed(case.fast, case.tf32), _timed(case.plain, True), rounds, device)
    sides = {"fast": fast.told(case.amount), "plain": plain.told(case.by_plain or case.amount)}
    row = {"name": case.name, "unit": case.unit}
    return {
        **row,
        **sides,
        "ratio": sides["fast"]["rate"] / sides["plain"]["rate"],
        "largest_relative_error": error,
        "tolerance": case.tolerance,
    }


def convolving(tf32: bool = False, tuned: bool = False) -> AbstractContextManager[None]:
    """How cuDNN convolves float32: rounding or not; by what it finds fastest, or, for a shape, always in the same way."""
    return torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, benchmark=tuned, allow_tf32=tf32)


def _timed(way: Callable[[], Any], tf32: bool) -> Callable[[], None]:
    def run() -> None:
        with convolving(tf32, tuned=True):
            way()

    return run


def largest_error(case: Case) -> tuple[float, str]:
    """Of all values compared, the largest difference over the largest value of its tensor; and that tensor's name.

    In float32 throughout: what a GPU would round to TF32 is not. NaN or another shape counts as infinite.
    """
    with convolving():
        pairs = [(case.fast(), case.plain())] if case.compare is None else list(case.compare())
    errors = []
    for ours, twins in pairs:
        assert ours.keys() == twins.keys(), (case.name, ours.keys(), twins.keys())
        errors += [(_relative(ours[name], twins[name]), name) for name in twins]
    return max(errors)


def _relative(ours: Tensor, twin: Tensor) -> float:
    if ours.shape != twin.shape:
        return float("inf")
    ours, twin = ours.detach().double(), twin.detach().double()
    largest, difference = float(twin.abs().max()), float((ours - twin).abs().max())
    error = difference / largest if largest > 0 else difference
    return error if error == error else float("inf")


def numbered(name: str, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Tensors under names to compare them by."""
    return {f"{name} {i}": tensor for i, tensor in enumerate(tensors)}


def values_of(held: Any) -> dict[str, Tensor]:
    """The tensors of a dataclass, those in lists and tuples numbered; what is none left out."""
    found: dict[str, Tensor] = {}
    for name, value in vars(held).items():
        if isinstance(value, (list, tuple)):
            found |= numbered(name, value)
        elif isinstance(value, Tensor):
            found[name] = value
    return found


def gradients(module: nn.Module, loss: Tensor, features: Tensor | None = None) -> dict[str, Tensor]:
    """Of every parameter that trains, by name, and of features.

    Those of a few numbers are joined: sums over all pixels, they may nearly cancel.
    """
    wanted = {name: p for name, p in module.named_parameters() if p.requires_grad} | ({} if features is None else {"features": features})
    whole = dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))
    small = [gradient.flatten() for gradient in whole.values() if gradient.numel() < SMALL]
    found = {f"gradient of {name}": gradient for name, gradient in whole.items() if gradient.numel() >= SMALL}
    return found | ({"gradient of small parameters": torch.cat(small)} if small else {})


def alternate(fast: Callable[[], Any], plain: Callable[[], Any], rounds: int, device: torch.device) -> tuple[Side, Side]:
    """Time both in turn, `rounds` times, after a call or two of each that are not counted."""
    ways = (fast, plain)
    calls = []
    memory = []
    for way in ways:
        seconds = seconds_a_call(way, 1, device)
        memory.append(_peak(way, device))
        if seconds < 20 * BLOCK:  # the first call was not itself yet
            seconds = seconds_a_call(way, 1, device)
        calls.append(max(1, round(BLOCK / seconds)))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for found, way, count in zip(times, ways, calls, strict=True):
            found.append(seconds_a_call(way, count, device))
    return Side(times[0], memory[0]), Side(times[1], memory[1])


def seconds_a_call(way: Callable[[], Any], count: int, device: torch.device) -> float:
    """Of `count` calls, all that they started done."""
    wait_for(device)
    start = time.perf_counter()
    for _ in range(count):
        way()
    wait_for(device)
    return (time.perf_counter() - start) / count


def _peak(way: Callable[[], Any], device: torch.device) -> int | None:
    """Most device memory allocated while it runs, all that lives there counted; the call is made on a GPU only."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    way()
    wait_for(device)
    return torch.cuda.max_memory_allocated(device)
