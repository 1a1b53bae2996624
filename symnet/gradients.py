"""The gradients of a step: of this process's share of the batch, in as many parts as its memory asks for, summed over all processes."""

import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from symnet.base_learner import BaseLearner
from symnet.config import TrainSettings
from symnet.data.episodes import TrainingEpisodes
from symnet.errors import UserError
from symnet.forward_backward import ForwardBackward, Step, divided_by
from symnet.journal import Journal
from symnet.model.divisors import Divisors
from symnet.parallel import Ranks
from symnet.prefetch import Stall
from symnet.sources import Columns, Source
from symnet.step_modes import Chosen
from symnet.steps import MicroBatch, micro_batches
from symnet.trainer import Trainer


class Gradients:
    """Gathers them in the trainer's parameters, one step after another.

    A step that is too much for the memory of a GPU is begun again in more parts, which add up to the same; later steps keep to that.
    """

    def __init__(
        self,
        trainer: Trainer,
        base: BaseLearner,
        source: Source,
        episodes: TrainingEpisodes,
        vectors: Tensor,
        train: TrainSettings,
        ranks: Ranks,
        stall: Stall,
        journal: Journal | None,
    ) -> None:
        """train: with a batch that the processes can share (`check_shares`). journal: None but in the first of them."""
        self.trainer, self.source, self.episodes = trainer, source, episodes
        self.train, self.ranks, self.stall, self.journal = train, ranks, stall, journal
        self._work = ForwardBackward(trainer.method, base, source, vectors)
        self._step = Step(self._work, train.compile, trainer.steps - trainer.step, self._tell)
        self._pieces: Iterator[MicroBatch]
        if train.batch_size // ranks.count % trainer.parts:  # found by another number of processes
            trainer.parts = train.accumulate
        self._open()

    def gather(self) -> dict[str, Tensor]:
        """Of the trainer's next step. Returns what was seen of the whole batch, as `observe` sees it.

        Raises `UserError` where memory is not enough for one episode at a time.
        """
        generators = self.trainer.generators()
        while (seen := self._attempt()) is None:
            self._divide_more()
            self.trainer.restore(generators)
        self.trainer.method.end_step(self.ranks)
        if self.ranks.count > 1:
            self.ranks.sum([p.grad for p in self.trainer.parameters if p.grad is not None])  # which have one, the settings say
            total = torch.stack(list(seen.values()))
            self.ranks.sum([total])
            return dict(zip(seen, total, strict=True))
        return seen

    def _attempt(self) -> dict[str, Tensor] | None:
        """The gradients of this process's share; None where memory was not enough for that of some process."""
        if self.ranks.count > 1:  # else they would all drop the same
            key = (self.train.seed, self.trainer.step, self.ranks.rank)
            torch.manual_seed(int(np.random.default_rng(key).integers(1 << 62)))
        self.trainer.method.begin_step(self.train.batch_size // self.ranks.count)
        self._whole: Divisors | None = None
        seen: dict[str, Tensor] = {}
        enough = True
        try:
            for piece in islice(self._pieces, self.trainer.parts):
                for name, value in self._add(piece).items():
                    seen[name] = seen[name] + value if name in seen else value
        except torch.OutOfMemoryError:
            enough = False
        if self.ranks.count > 1 and self._whole is None:  # the others wait for ours
            self._sum(torch.zeros(1 + self.trainer.method.shots, dtype=torch.int64, device=self.source.device))
        return None if self.ranks.any(not enough) else seen

    def _add(self, piece: MicroBatch) -> dict[str, Tensor]:
        """Add the gradients of a micro-batch. Returns what was seen; features and graph are freed with this frame."""
        columns = self._work.send(piece.episodes, piece.loaded, None)
        divisors = self._divisors(piece, columns)
        return self._step(columns if divisors is None else columns | divided_by(divisors, self.source.device))

    def _divisors(self, piece: MicroBatch, columns: Columns) -> Divisors | None:
        """Of the whole batch; None where `columns` are it."""
        if self.ranks.count == 1:
            return piece.divisors
        if self._whole is None:
            own = piece.divisors or self.trainer.method.divisors(*self._work.masks(columns))
            self._sum(torch.cat([own.pixels[None], own.usable]).to(self.source.device))
        return self._whole

    def _sum(self, own: Tensor) -> None:
        """Of [1 + K] counts of the shares, the divisors of the batch."""
        self.ranks.sum([own])
        self._whole = Divisors(own[0], self.train.batch_size, own[1:])

    def _tell(self, chosen: Chosen) -> None:
        """Which way steps are run, and why."""
        if self.journal:
            print(f"train.compile: {chosen.name}; {chosen.why}", flush=True)
            seconds = {f"step_seconds.{name}": value for name, value in chosen.seconds.items()}
            self.journal.log(self.trainer.step, **{f"step_mode.{chosen.name}": 1.0}, **seconds)

    def _open(self) -> None:
        """Load from the trainer's step on, in its parts."""
        self._pieces = iter(())  # ends a loader that is there
        steps = range(self.trainer.step, self.trainer.steps)
        pieces = micro_batches(self.source, self.trainer.method, self.episodes, self.train, steps, self.trainer.parts, self.ranks)
        self._pieces = self.stall.watch(pieces)

    def _divide_more(self) -> None:
        """Forget the step that memory was not enough for, and cut this and all later ones into more parts."""
        trainer, share = self.trainer, self.train.batch_size // self.ranks.count
        trainer.forget()
        if self.source.device.type == "cuda":
            torch.cuda.empty_cache()
        step = trainer.step + 1
        if trainer.parts == share or trainer.method.whole_batch:
            lower = "with one episode at a time; lower"
            if trainer.method.whole_batch:
                lower = "with a batch that this method's batch norm needs whole; lower train.batch_size or"
            raise UserError(
                f"training: out of memory at step {step} {lower} pixels.size, take a smaller backbone.name, or a GPU with more memory"
            )
        trainer.parts = next(parts for parts in range(trainer.parts + 1, share + 1) if share % parts == 0)
        if self.journal:
            line = f"step {step}: out of memory; from here on in {trainer.parts} parts, as train.accumulate does, with the same gradients"
            print(f"warning: {line}", file=sys.stderr, flush=True)
            self.journal.log(step, **{"warning.memory": 1.0, "parts": trainer.parts})
        self._open()
