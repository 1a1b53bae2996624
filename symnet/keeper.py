"""What is kept of a run while it trains: its place, its journal, its states; all by the first of its processes."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from symnet.artifacts import Provenance
from symnet.checkpoint import save_state
from symnet.journal import Journal
from symnet.lease import Lease
from symnet.trainer import Trainer
from symnet.watch import Watch


@dataclass(frozen=True)
class Run:
    """Who is trained, where its state and journal lie, and how often it is saved."""

    method: str
    shots: int
    state: Path
    journal: Path
    provenance: Provenance
    params: dict[str, Any]
    checkpoint_seconds: float = 300.0


@dataclass
class Keeper:
    """What the first of the processes does for all: it holds the lease, writes the journal, and saves."""

    run: Run
    lease: Lease
    journal: Journal
    watch: Watch
    selection: str
    saved: float = field(default_factory=time.monotonic)

    def see(self, trainer: Trainer, seen: dict[str, Tensor]) -> None:
        """A step was made."""
        self.lease.check()
        self.watch.add(trainer.step, seen, last=trainer.step == trainer.steps)

    def judge(self, trainer: Trainer, score: float) -> None:
        """Keep the weights where they are the best so far."""
        self.journal.log(trainer.step, **{f"{self.selection}.miou": score})
        if trainer.best is None or score > trainer.best[0]:
            trainer.best = (score, trainer.weights())

    def save(self, trainer: Trainer, now: bool) -> None:
        """Save the state: now, or if it is time."""
        if now or time.monotonic() - self.saved > self.run.checkpoint_seconds:
            self.lease.check()
            meta = {"best": None if trainer.best is None else trainer.best[0], "parts": trainer.parts}
            save_state(self.run.state, trainer.step, trainer.tensors(), meta, self.run.provenance)
            self.saved = time.monotonic()
