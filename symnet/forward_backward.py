"""Losses and gradients of a micro-batch: all that the device does between reading and the optimiser, as a function of tensors alone.

Such a function can be recorded once and replayed (a CUDA graph): one launch for thousands. `symnet.step_modes` chooses.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from statistics import median
from typing import cast

import torch
from torch import Tensor

from symnet.arrange import asked, batch_of, masks_of
from symnet.base_learner import BaseLearner
from symnet.data.episodes import Episode
from symnet.methods.base import Method
from symnet.model.divisors import Divisors
from symnet.sources import Columns, Source
from symnet.step_modes import Chosen, Way, choose
from symnet.watch import observe

WARM_UP = 3  # runs before a recording or a timing
TIMED = 5
COMPILING = 180.0  # seconds that torch.compile is expected to take
Seen = dict[str, Tensor]
Run = Callable[[Columns], Seen]


class ForwardBackward:
    """Frozen part, head, losses, backward; gradients are left in the method's parameters. Nothing waits for the device."""

    def __init__(self, method: Method, base: BaseLearner, source: Source, vectors: Tensor) -> None:
        self.method, self.base, self.source, self.vectors = method, base, source, vectors

    def send(self, episodes: Sequence[Episode], loaded: object, divisors: Divisors | None) -> Columns:
        """All that a call reads, on the device: what the source loaded, what the episodes ask for. divisors: of the whole batch."""
        device = self.source.device
        columns = self.source.send(loaded) | asked(episodes, self.vectors, self.base.classes, device)
        return columns if divisors is None else columns | divided_by(divisors, device)

    @staticmethod
    def masks(columns: Columns) -> tuple[Tensor, Tensor]:
        """Of what was sent, the masks that divisors are made of: [B, S, S], [B, K, S, S]."""
        return masks_of(columns["classes"], columns["mask"])

    def __call__(self, columns: Columns) -> Seen:
        """What `observe` sees. Features and graph are freed with this frame."""
        # on a CPU of all rows, as always: the head's rounding depends on how many pass it together
        answered = None if self.source.device.type == "cpu" else len(columns["classes"])
        batch = batch_of(columns, self.source.made(columns, answered), self.base.head)
        divisors = None
        if "pixels" in columns:
            divisors = Divisors(columns["pixels"], cast(int, columns["episodes"]), columns["usable"])
        objective, parts, outputs = self.method.losses(self.base.backbone, batch, divisors)
        objective.backward()
        return observe(objective, parts, outputs, batch.query_mask)


def divided_by(divisors: Divisors, device: torch.device) -> Columns:
    """As tensors of the device, beside what is sent."""
    on = divisors.to(device)
    return {"pixels": on.pixels, "episodes": torch.full((), on.episodes, device=device), "usable": on.usable}


class Captured:
    """A call recorded as a CUDA graph, for columns of the shapes of `example`, and replayed.

    A replay writes to the same memory as the one before: gradients are handed over, or added to those that are there.
    """

    def __init__(self, work: Run, parameters: Sequence[Tensor], example: Columns, undo: Callable[[], None]) -> None:
        """undo: puts back what a call changes, gradients among it. Raises `RuntimeError` for work that cannot be recorded."""
        self.parameters = parameters
        self.columns = {name: value.clone() for name, value in example.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # tuning, lazy set-up and cached constants are no part of the recording
            for _ in range(WARM_UP):
                work(self.columns)
                undo()
        torch.cuda.current_stream().wait_stream(stream)
        gc.collect()
        torch.cuda.empty_cache()  # the recording has memory of its own
        self.graph = torch.cuda.CUDAGraph()
        with _recovering(), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # a thread is loading meanwhile
            seen = work(self.columns)
            self.names, self.seen = list(seen), torch.stack(list(seen.values()))
        self.gradients = [p.grad for p in parameters]
        _forget(parameters)

    def __call__(self, columns: Columns) -> Seen:
        """As what was recorded."""
        for name, value in columns.items():
            self.columns[name].copy_(value, non_blocking=True)
        own = [(p, g) for p, g in zip(self.parameters, self.gradients, strict=True) if g is not None]
        before = [(p, p.grad.clone()) for p, _ in own if p.grad is not None]  # of micro-batches of the same step
        self.graph.replay()
        for p, g in own:
            p.grad = g
        for p, gathered in before:
            cast(Tensor, p.grad).add_(gathered)
        return dict(zip(self.names, self.seen.clone().unbind(), strict=True))


class Step:
    """`ForwardBackward` in the way that `train.compile` asks for. Chosen at the first call, and anew for other shapes.

    The trials leave weights, gradients, buffers and generators as they are, and each begins with what the one before began with.
    """

    def __init__(self, work: ForwardBackward, wanted: str, steps: int, tell: Callable[[Chosen[Run]], None]) -> None:
        """steps: still to be made; tell: is told what was chosen, where there was a choice."""
        self.work, self.wanted, self.steps, self.tell = work, wanted, steps, tell
        self.parameters = [p for p in work.method.parameters() if p.requires_grad]
        self._shapes: dict[str, torch.Size] = {}
        self._run: Run | None = None

    def __call__(self, columns: Columns) -> Seen:
        """Add the gradients of a micro-batch. Returns what was seen."""
        shapes = {name: value.shape for name, value in columns.items()}
        if self._run is None or shapes != self._shapes:
            self._run = None  # a recording holds the memory of a step
            self._run, self._shapes = self._choose(columns), shapes
        return self._run(columns)

    def _choose(self, columns: Columns) -> Run:
        ways = [Way[Run]("off", lambda: self.work)]
        if self.work.source.device.type == "cuda":
            ways.append(Way("graph", lambda: Captured(self.work, self.parameters, columns, undo)))
            ways.append(Way("compile", lambda: self._compiled(columns, undo), COMPILING))
        elif self.wanted in ("auto", "off"):
            return self.work
        gathered, cpu, gpu = [p.grad for p in self.parameters], torch.get_rng_state(), _gpu_state(self.work.source.device)
        buffers = [(buffer, buffer.clone()) for buffer in self.work.method.buffers()]

        def undo() -> None:
            _forget(self.parameters)
            for buffer, value in buffers:
                buffer.copy_(value)

        undo()
        try:
            chosen = choose(self.wanted, ways, lambda run: self._seconds(run, columns, undo), self.steps)
        finally:
            undo()
            torch.set_rng_state(cpu)
            if gpu is not None:
                torch.cuda.set_rng_state(gpu)
            for p, gradient in zip(self.parameters, gathered, strict=True):
                p.grad = gradient
        self.tell(chosen)
        return chosen.step

    def _compiled(self, columns: Columns, undo: Callable[[], None]) -> Captured:
        """A recording of the step with its trained part compiled; what is not recorded runs as it is written."""
        self.work.method.compiled = True
        try:
            return Captured(self.work, self.parameters, columns, undo)
        finally:
            self.work.method.compiled = False

    def _seconds(self, run: Run, columns: Columns, undo: Callable[[], None]) -> float:
        """A call's, the median of some; what it does is undone after each."""
        times = []
        for _ in range(WARM_UP + TIMED):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run(columns)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            undo()
        return median(times[WARM_UP:])


@contextmanager
def _recovering() -> Iterator[None]:
    """After a recording that failed this thread works on its own stream again, and dropout draws: torch may leave both recording."""
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):  # its end is the end of theirs, before torch 2.13
            torch.zeros(1, device="cuda")
        torch.cuda.set_stream(stream)
        raise


def _gpu_state(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _forget(parameters: Sequence[Tensor]) -> None:
    for p in parameters:
        p.grad = None
