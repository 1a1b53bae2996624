"""Training a method on a fold: episodes, objective, schedule, selection; a run that may be stopped at any moment.

Everything a step does is a function of its number, the weights and the generators' state, all of which a checkpoint holds; so a run
that was killed and started again ends with the bytes of one that was not (on a CPU with the same number of threads).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from symnet.artifacts import Provenance
from symnet.base_learner import BaseLearner, load_base
from symnet.checkpoint import load_latest, load_tensors, save_tensors
from symnet.class_prototypes import class_prototypes
from symnet.config import Settings
from symnet.data.episodes import TrainingEpisodes, holdout
from symnet.data.folds import read_fold_list
from symnet.data.stored import Store
from symnet.embeddings import read_embeddings
from symnet.errors import UserError
from symnet.features import forward
from symnet.feeding import feed
from symnet.gradients import Gradients
from symnet.journal import Journal
from symnet.keeper import Keeper, Run
from symnet.lease import Lease, hold
from symnet.methods import METHODS, method_class, own_settings, recipe_of
from symnet.parallel import ALONE, Ranks, check_shares
from symnet.precision import answering, precision_of, to_channels_last
from symnet.prefetch import Stall
from symnet.progress import progress
from symnet.rates import Advisor, Rates, measure
from symnet.runtime import StopSignal, now
from symnet.sources import Source
from symnet.surroundings import capture
from symnet.system import Usage
from symnet.trainer import Trainer
from symnet.validation import Validation, validation_episodes
from symnet.watch import Watch

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


def train(
    settings: Settings,
    data_root: Path,
    inputs: Inputs,
    run: Run,
    out: Path,
    device: torch.device,
    deadline: float | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train and write the selected weights to `out`; nothing is done where it is there already. Waits while another process trains the run.

    ranks: the processes that do this together, all with the same arguments.

    Raises `Stopped` on a signal to one of them or the deadline, `Lost` where another process took over, `UserError` on bad input or NaN.
    """
    inputs.check(settings.protocol.selection)
    check_shares(settings.train, ranks.count, method_class(run.method).whole_batch)
    with StopSignal(deadline) as stop, _hold(run.state, stop, ranks) as lease:
        if _is_made(out, run.provenance):
            if ranks.first:
                print(f"{out}: there already, trained by another process with the same settings, code and inputs", flush=True)
            return
        _train(settings, data_root, inputs, run, out, device, stop, lease, ranks)


@contextmanager
def _hold(state: Path, stop: StopSignal, ranks: Ranks) -> Iterator[Lease | None]:
    """The lease of a run, for the first process to hold; the others wait until it does. Raises `Stopped` in all of them."""

    def held(mine: bool = False) -> bool:
        """Whether the first holds it. The others ask as often as it does."""
        if ranks.any(stop.requested):
            raise Stopped(f"{stop.reason or 'a signal'} while another process trains this run")
        return ranks.any(mine)

    def ask() -> None:
        held()

    if not ranks.first:
        while not held():
            pass
        yield None
        return
    with hold(state, ask) as lease:
        for left in state.glob(".step-*.partial"):  # of a trainer killed while it saved
            left.unlink()
        if ranks.count > 1:
            held(True)
        yield lease


def _is_made(out: Path, provenance: Provenance) -> bool:
    """Whether `out` is whole and of this run."""
    try:
        return load_tensors(out, STAGE)[2].model_copy(update={"content": ""}) == provenance
    except UserError:
        return False


def _train(
    settings: Settings,
    data_root: Path,
    inputs: Inputs,
    run: Run,
    out: Path,
    device: torch.device,
    stop: StopSignal,
    lease: Lease | None,
    ranks: Ranks,
) -> None:
    """The run, from its last checkpoint on; the lease is ours, or the first process's."""
    selection = settings.protocol.selection
    train_list, held = holdout(read_fold_list(inputs.train_list), settings.base.holdout, settings.base.seed)
    _, vectors = read_embeddings(inputs.embeddings)
    torch.manual_seed(settings.train.seed)
    precision = precision_of(settings.train.precision, device)
    last = device.type == "cuda" if settings.train.channels_last == "auto" else settings.train.channels_last
    base = answering(load_base(inputs.base).to(device), precision.frozen, last)
    if not base.classes:
        raise UserError(f"{inputs.base}: was imported without its fold, so its base classes are not known; import it with --fold")
    source = feed(run.method, settings, data_root, "train", inputs.features, base, device, inputs.store)
    tested = source
    if selection == "test_best":
        tested = feed(run.method, settings, data_root, "test", inputs.test_features, base, device, inputs.store)
    chosen_on = validation_episodes(settings, held, inputs.test_list, run.shots)
    size = settings.train.batch_size // settings.train.accumulate
    validation = Validation(chosen_on, tested, base, torch.from_numpy(vectors), size, ranks)
    method = method_class(run.method)(settings, base.backbone, run.shots, vectors.shape[1], source.side).to(device)
    if last:
        to_channels_last(method)
    method.dtype = precision.trained
    trainer = Trainer(method, settings, settings.train.total_steps(len(train_list.rows)), recipe_of(settings, run.method))
    found = load_latest(run.state, STAGE, run.provenance.settings)
    if found is None:
        method.prepare(lambda: class_prototypes(source, base, train_list, settings.train.seed, ranks))
    else:
        trainer.load(*found)
    every = settings.train.validate_every or max(len(train_list.rows) // settings.train.batch_size, 1)
    stall, keeper = Stall(source.device), None
    if lease is not None:
        lease.check()
        tags = {"code": run.provenance.code, "resumed_at": str(trainer.step), "steps": str(trainer.steps), "processes": str(ranks.count)}
        tags |= {"epoch_steps": str(max(len(train_list.rows) // settings.train.batch_size, 1))} | capture(run.journal.parent)
        tags |= {f"input.{name}": sha for name, sha in run.provenance.inputs.items()} | {"precision": str(precision)}
        journal = Journal(run.journal, run.provenance.settings, run.params, tags)
        usage = Usage(source.device, settings.train.batch_size)
        keeper = Keeper(run, lease, journal, Watch(journal, method.supervised, stall=stall.interval, usage=usage), selection)
    episodes = TrainingEpisodes(train_list, run.shots, settings.train.seed, settings.train.class_sampling)
    journal_of_first = None if keeper is None else keeper.journal
    gradients = Gradients(trainer, base, source, episodes, torch.from_numpy(vectors), settings.train, ranks, stall, journal_of_first)
    try:
        images = settings.train.batch_size // ranks.count * (1 + run.shots)
        advisor = Advisor(images, lambda: _rates(source, base, settings, run.state), lambda: now(device))
        advised = advisor if keeper and inputs.features is None and not METHODS[run.method].images else None
        _loop(trainer, gradients, validation, every, run, stop, keeper, ranks, advised)
    except Stopped as reason:
        if keeper:
            keeper.journal.end("KILLED", str(reason))
        raise
    except (UserError, RuntimeError) as error:
        if keeper:
            keeper.journal.end("FAILED", str(error))
        raise
    stall.tell(f"train {run.method} {run.shots}-shot")
    if keeper is None:
        return
    weights = trainer.weights() if trainer.best is None else trainer.best[1]
    meta = {"method": run.method, "shots": run.shots, "steps": trainer.steps, "selection": selection, "precision": str(precision)}
    meta["model"] = own_settings(settings, run.method)
    save_tensors(out, weights, meta | {"score": None if trainer.best is None else trainer.best[0]}, run.provenance)
    keeper.journal.end("FINISHED")


def _loop(
    trainer: Trainer,
    gradients: Gradients,
    validation: Validation,
    every: int,
    run: Run,
    stop: StopSignal,
    keeper: Keeper | None,
    ranks: Ranks,
    advisor: Advisor | None,
) -> None:
    """Steps from the trainer's position to the end; a validation after `every` of them."""
    trainer.method.train()
    steps = range(trainer.step, trainer.steps)
    for _ in progress(steps, len(steps), f"train {run.method} {run.shots}-shot, steps") if keeper else steps:
        seen = gradients.gather()
        trainer.advance()
        if keeper:
            keeper.see(trainer, seen)
        if advisor and (advice := advisor.step()):
            print(f"train: {advice}", flush=True)
        if validation.episodes and (trainer.step % every == 0 or trainer.step == trainer.steps):
            score = validation.score(trainer.method)
            if keeper:
                keeper.judge(trainer, score)
        stopping = ranks.any(stop.requested)
        if keeper:
            keeper.save(trainer, now=stopping)
        if stopping and trainer.step < trainer.steps:
            ranks.any(True)  # nobody leaves before the first has saved: torchrun then ends the rest
            reason = stop.reason or "a signal to another process"
            raise Stopped(f"{reason} at step {trainer.step} of {trainer.steps}; its state is saved, run the same command again")


@torch.no_grad()
def _rates(source: Source, base: BaseLearner, settings: Settings, folder: Path) -> Rates:
    """Of this machine, on two images of nothing."""
    images = torch.zeros(2, 3, settings.pixels.size, settings.pixels.size, device=source.device)
    maps = torch.cat([m.flatten(1) for m in base.backbone(images)], 1).half().cpu().numpy()
    return measure(2, lambda: None, 1, lambda: forward(base, images), maps, folder, source.device)
