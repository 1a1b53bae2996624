"""Training a method on a fold: episodes, objective, schedule, selection; a run that may be stopped at any moment.

Everything a step does is a function of its number, the weights and the generators' state, all of which a checkpoint holds; so a run
that was killed and started again ends with the bytes of one that was not (on a CPU with the same number of threads).
"""

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symnet.artifacts import Provenance
from symnet.base_learner import BaseLearner, load_base
from symnet.checkpoint import load_latest, load_tensors, save_state, save_tensors
from symnet.config import Settings
from symnet.data.episodes import TrainingEpisodes, holdout
from symnet.data.folds import FoldList, read_fold_list
from symnet.data.stored import Store
from symnet.embeddings import read_embeddings
from symnet.errors import UserError
from symnet.journal import Journal
from symnet.lease import Lease, hold
from symnet.methods import METHODS, method_class
from symnet.methods.base import Method
from symnet.prefetch import Stall
from symnet.progress import progress
from symnet.runtime import StopSignal
from symnet.sources import Source, make_batch, open_source
from symnet.steps import MicroBatch, micro_batches
from symnet.trainer import Trainer
from symnet.validation import Validation, validation_episodes
from symnet.watch import Watch, observe

STAGE = "train"


class Stopped(Exception):
    """The run saved its state and left before its end; the message says why."""


@dataclass(frozen=True)
class Inputs:
    """Files a training job reads. `features`: the training cache, None to recompute. `test_list`, and `test_features` where the test
    images are cached: for selection test_best, and for no other. `store`: where images are kept decoded, None to decode them.
    """

    train_list: Path
    base: Path
    embeddings: Path
    features: Path | None = None
    test_list: Path | None = None
    test_features: Path | None = None
    store: Store | None = None

    def check(self, selection: str) -> None:
        """Raises `UserError` where they do not fit `protocol.selection`."""
        if selection == "test_best" and self.test_list is None:
            raise UserError(
                "protocol.selection is test_best, which keeps the weights that are best on the fold's test list: that list is missing, "
                "give --test-list (and --test-features where the test images are cached)"
            )
        if selection != "test_best" and (self.test_list or self.test_features):
            raise UserError(f"--test-list, --test-features: found one, but protocol.selection is {selection}; only test_best reads them")


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


def train(
    settings: Settings, data_root: Path, inputs: Inputs, run: Run, out: Path, device: torch.device, deadline: float | None = None
) -> None:
    """Train and write the selected weights to `out`; nothing is done where it is there already. Waits while another process trains the run.

    Raises `Stopped` on a signal or the deadline, `Lost` where another process took over, `UserError` on bad input or NaN.
    """
    inputs.check(settings.protocol.selection)
    with StopSignal(deadline) as stop:

        def ask() -> None:
            if stop.requested:
                raise Stopped(f"{stop.reason} while another process trains this run")

        with hold(run.state, ask) as lease:
            if _is_made(out, run.provenance):
                print(f"{out}: there already, trained by another process with the same settings, code and inputs", flush=True)
                return
            for left in run.state.glob(".step-*.partial"):  # of a trainer killed while it saved
                left.unlink()
            _train(settings, data_root, inputs, run, out, device, stop, lease)


def _is_made(out: Path, provenance: Provenance) -> bool:
    """Whether `out` is whole and of this run."""
    try:
        return load_tensors(out, STAGE)[2].model_copy(update={"content": ""}) == provenance
    except UserError:
        return False


def _train(
    settings: Settings, data_root: Path, inputs: Inputs, run: Run, out: Path, device: torch.device, stop: StopSignal, lease: Lease
) -> None:
    """The run, from its last checkpoint on; the lease is ours."""
    selection = settings.protocol.selection
    train_list, held = holdout(read_fold_list(inputs.train_list), settings.base.holdout, settings.base.seed)
    _, vectors = read_embeddings(inputs.embeddings)
    torch.manual_seed(settings.train.seed)
    base = load_base(inputs.base).to(device)
    if not base.classes:
        raise UserError(f"{inputs.base}: was imported without its fold, so its base classes are not known; import it with --fold")
    source = open_source(settings, data_root, "train", inputs.features, base, device, inputs.store)
    tested = source
    if selection == "test_best":
        tested = open_source(settings, data_root, "test", inputs.test_features, base, device, inputs.store)
    chosen_on = validation_episodes(settings, held, inputs.test_list, run.shots)
    size = settings.train.batch_size // settings.train.accumulate
    validation = Validation(chosen_on, tested, base, torch.from_numpy(vectors), size)
    method = method_class(run.method)(settings, base.backbone, run.shots, vectors.shape[1], source.side).to(device)
    trainer = Trainer(method, settings, settings.train.total_steps(len(train_list.rows)))
    found = load_latest(run.state, STAGE, run.provenance.settings)
    if found is not None:
        trainer.load(*found)
    tags = {"code": run.provenance.code, "resumed_at": str(trainer.step), "steps": str(trainer.steps)}
    lease.check()
    journal = Journal(run.journal, run.provenance.settings, run.params, tags)
    try:
        _loop(settings, trainer, base, source, train_list, validation, torch.from_numpy(vectors), run, journal, stop, lease)
    except Stopped as reason:
        journal.end("KILLED", str(reason))
        raise
    except (UserError, RuntimeError) as error:
        journal.end("FAILED", str(error))
        raise
    weights = trainer.weights() if trainer.best is None else trainer.best[1]
    meta = {"method": run.method, "shots": run.shots, "steps": trainer.steps, "selection": selection}
    meta["model"] = settings.model.model_dump(mode="json") if "model" in METHODS[run.method].settings else None
    save_tensors(out, weights, meta | {"score": None if trainer.best is None else trainer.best[0]}, run.provenance)
    journal.end("FINISHED")


def _loop(
    settings: Settings,
    trainer: Trainer,
    base: BaseLearner,
    source: Source,
    train_list: FoldList,
    validation: Validation,
    vectors: Tensor,
    run: Run,
    journal: Journal,
    stop: StopSignal,
    lease: Lease,
) -> None:
    """Steps from the trainer's position to the end."""
    t = settings.train
    every = t.validate_every or max(len(train_list.rows) // t.batch_size, 1)
    stall = Stall(source.device)
    watch = Watch(journal, trainer.method.supervised, stall=stall.interval)
    saved = time.monotonic()
    steps = range(trainer.step, trainer.steps)
    episodes = TrainingEpisodes(train_list, run.shots, t.seed, t.class_sampling)
    pieces = stall.watch(micro_batches(source, trainer.method, episodes, t, steps))
    trainer.method.train()
    for _ in progress(steps, len(steps), f"train {run.method} {run.shots}-shot, steps"):
        seen: dict[str, Tensor] = {}
        for piece in islice(pieces, t.accumulate):
            for name, value in _gather(trainer.method, base, source, piece, vectors).items():
                seen[name] = seen[name] + value if name in seen else value
        trainer.advance()
        lease.check()
        watch.add(trainer.step, seen, last=trainer.step == trainer.steps)
        if validation.episodes and (trainer.step % every == 0 or trainer.step == trainer.steps):
            score = validation.score(trainer.method)
            journal.log(trainer.step, **{f"{settings.protocol.selection}.miou": score})
            if trainer.best is None or score > trainer.best[0]:
                trainer.best = (score, trainer.weights())
        if stop.requested or time.monotonic() - saved > run.checkpoint_seconds:
            lease.check()
            meta = {"best": None if trainer.best is None else trainer.best[0]}
            save_state(run.state, trainer.step, trainer.tensors(), meta, run.provenance)
            saved = time.monotonic()
        if stop.requested and trainer.step < trainer.steps:
            raise Stopped(f"{stop.reason} at step {trainer.step} of {trainer.steps}; its state is saved, run the same command again")
    stall.tell(f"train {run.method} {run.shots}-shot")


def _gather(method: Method, base: BaseLearner, source: Source, piece: MicroBatch, vectors: Tensor) -> dict[str, Tensor]:
    """Add the gradients of a micro-batch to those of its step. Returns what was seen; features and graph are freed with this frame."""
    batch = make_batch(piece.episodes, source.features(piece.loaded), vectors, base.classes)
    divisors = None if piece.divisors is None else piece.divisors.to(batch.query_mask.device)
    objective, parts, outputs = method.losses(base.backbone, batch, divisors)
    objective.backward()
    return observe(objective, parts, outputs, batch.query_mask)
