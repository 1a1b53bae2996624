"""Training a method on a fold: episodes, objective, schedule, selection; a run that may be stopped at any moment.

Everything a step does is a function of its number, the weights and the generators' state, all of which a checkpoint holds; so a run
that was killed and started again ends with the bytes of one that was not (on a CPU with the same number of threads).
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symnet.artifacts import Provenance
from symnet.base_learner import BaseLearner, load_base
from symnet.checkpoint import load_latest, save_state, save_tensors
from symnet.config import Settings
from symnet.data.episodes import Episode, TrainingEpisodes, holdout
from symnet.data.folds import FoldList, read_fold_list
from symnet.embeddings import read_embeddings
from symnet.errors import UserError
from symnet.journal import Journal
from symnet.methods import method_class
from symnet.methods.base import Method
from symnet.metrics import mean_iou
from symnet.progress import progress
from symnet.runtime import StopSignal
from symnet.schedule import poly_rate
from symnet.scoring import Counts
from symnet.sources import Request, Source, ahead, make_batch, open_source, requests_of

STAGE = "train"
LOG_SECONDS = 5.0


class Stopped(Exception):
    """The run saved its state and left before its end; the message says why."""


@dataclass(frozen=True)
class Inputs:
    """Files a training job reads. `features`: the training cache, None to recompute; `test_list`: for selection test_best only."""

    train_list: Path
    base: Path
    embeddings: Path
    features: Path | None = None


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


class Trainer:
    """Weights, optimiser and position of one run. `tensors` and `load` are all of it, but for the global generator."""

    def __init__(self, method: Method, settings: Settings, steps: int) -> None:
        self.method, self.settings, self.steps, self.step = method, settings.train, steps, 0
        self.best: tuple[float, dict[str, Tensor]] | None = None
        t = settings.train
        self.parameters = [p for p in method.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(self.parameters, lr=t.lr, momentum=t.momentum, weight_decay=t.weight_decay)

    def advance(self, objective: Tensor) -> None:
        """One step of SGD at the decayed rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = poly_rate(self.settings.lr, self.step, self.steps, self.settings.power)
        self.optimiser.zero_grad(set_to_none=True)
        objective.backward()
        self.optimiser.step()
        self.step += 1

    def weights(self) -> dict[str, Tensor]:
        """A copy of the method's weights on the CPU."""
        return {name: value.detach().cpu().clone() for name, value in self.method.state_dict().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs."""
        found = {f"weights.{n}": v for n, v in self.method.state_dict().items()}
        for i, parameter in enumerate(self.parameters):
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum.{i}"] = momentum
        found["generator.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            found["generator.cuda"] = torch.cuda.get_rng_state()
        if self.best is not None:
            found |= {f"best.{n}": v for n, v in self.best[1].items()}
        return found

    def load(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Continue from a checkpoint."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}

        self.method.load_state_dict(part("weights."), strict=True)
        for i, parameter in enumerate(self.parameters):
            if f"momentum.{i}" in tensors:
                self.optimiser.state[parameter]["momentum_buffer"] = tensors[f"momentum.{i}"].to(parameter.device)
        torch.set_rng_state(tensors["generator.cpu"])
        if torch.cuda.is_available() and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"])
        self.step = meta["step"]
        self.best = None if meta["best"] is None else (meta["best"], part("best."))


def train(
    settings: Settings, data_root: Path, inputs: Inputs, run: Run, out: Path, device: torch.device, deadline: float | None = None
) -> None:
    """Train and write the selected weights to `out`. Raises `Stopped` on a signal or the deadline, `UserError` on bad input or NaN."""
    with _only_writer(run.state):
        train_list, held = holdout(read_fold_list(inputs.train_list), settings.base.holdout, settings.base.seed)
        if settings.train.selection == "last":
            held = FoldList(())
        _, vectors = read_embeddings(inputs.embeddings)
        torch.manual_seed(settings.train.seed)
        base = load_base(inputs.base).to(device)
        source = open_source(settings, data_root, "train", inputs.features, base, device)
        method = method_class(run.method)(settings, base.backbone, run.shots, vectors.shape[1], source.side).to(device)
        trainer = Trainer(method, settings, settings.train.total_steps(len(train_list.rows)))
        found = load_latest(run.state, STAGE, run.provenance.settings)
        if found is not None:
            trainer.load(*found)
        journal = Journal(run.journal, run.provenance.settings, run.params, {"code": run.provenance.code, "resumed_at": str(trainer.step)})
        stop = StopSignal(deadline)
        try:
            _loop(settings, trainer, base, source, train_list, held, torch.from_numpy(vectors), run, journal, stop)
        except Stopped as reason:
            journal.end("KILLED", str(reason))
            raise
        except (UserError, RuntimeError) as error:
            journal.end("FAILED", str(error))
            raise
        finally:
            stop.restore()
        weights = trainer.weights() if trainer.best is None else trainer.best[1]
        meta = {"method": run.method, "shots": run.shots, "steps": trainer.steps, "selection": settings.train.selection}
        save_tensors(out, weights, meta | {"score": None if trainer.best is None else trainer.best[0]}, run.provenance)
        journal.end("FINISHED")


def _loop(
    settings: Settings,
    trainer: Trainer,
    base: BaseLearner,
    source: Source,
    train_list: FoldList,
    held: FoldList,
    vectors: Tensor,
    run: Run,
    journal: Journal,
    stop: StopSignal,
) -> None:
    """Steps from the trainer's position to the end."""
    t = settings.train
    episodes = TrainingEpisodes(train_list, run.shots, t.seed, t.class_sampling)
    validation = _validation(held, run.shots, settings)
    every = t.validate_every or max(len(train_list.rows) // t.batch_size, 1)
    watch = Watch(journal)
    saved = time.monotonic()

    def work() -> Iterator[tuple[list[Episode], list[Request]]]:
        for step in range(trainer.step, trainer.steps):
            batch = [episodes[step * t.batch_size + i] for i in range(t.batch_size)]
            yield batch, requests_of(batch, (t.seed, step))

    trainer.method.train()
    steps = progress(ahead(source, work()), trainer.steps - trainer.step, f"train {run.method} {run.shots}-shot, steps")
    for batch_episodes, loaded in steps:
        batch = make_batch(batch_episodes, source.features(loaded), vectors, base.classes)
        objective, parts, outputs = trainer.method.losses(base.backbone, batch)
        trainer.advance(objective)
        watch.add(trainer.step, objective, parts, outputs, last=trainer.step == trainer.steps)
        if validation and (trainer.step % every == 0 or trainer.step == trainer.steps):
            score = validate(trainer.method, source, validation, base, vectors, settings.train.batch_size)
            journal.log(trainer.step, **{"base_val.miou": score})
            if trainer.best is None or score > trainer.best[0]:
                trainer.best = (score, trainer.weights())
        if stop.requested or time.monotonic() - saved > run.checkpoint_seconds:
            meta = {"best": None if trainer.best is None else trainer.best[0]}
            save_state(run.state, trainer.step, trainer.tensors(), meta, run.provenance)
            saved = time.monotonic()
        if stop.requested and trainer.step < trainer.steps:
            raise Stopped(f"{stop.reason} at step {trainer.step} of {trainer.steps}; its state is saved, run the same command again")


class Watch:
    """Logs mean losses at intervals, and tells of a run that learns nothing, or breaks. One wait for the device an interval."""

    def __init__(self, journal: Journal) -> None:
        self.journal, self.sums, self.count, self.since = journal, {}, 0, time.monotonic()  # type: ignore[var-annotated]
        self.told = False

    def add(self, step: int, objective: Tensor, parts: dict[str, Tensor], outputs: dict[str, Tensor], last: bool) -> None:
        """Take in a step; log when the interval is over. Raises `UserError` for a loss that is not finite."""
        values = {"loss": objective.detach()} | {f"loss.{name}": value.detach() for name, value in parts.items()}
        values |= {f"foreground.{name}": (o[:, 1] > o[:, 0]).float().mean() for name, o in outputs.items()}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1
        elapsed = time.monotonic() - self.since
        if elapsed < LOG_SECONDS and not last:
            return
        names = list(self.sums)
        means = dict(zip(names, (torch.stack([self.sums[n] for n in names]) / self.count).tolist(), strict=True))
        if not all(abs(value) < float("inf") for value in means.values()):  # NaN compares false
            raise UserError(f"training: loss is {means['loss']} at step {step}; lower train.lr, or look at the inputs")
        self.journal.log(step, **means, steps_per_second=self.count / max(elapsed, 1e-9))
        shares = [value for name, value in means.items() if name.startswith("foreground.")]
        if max(shares) == 0 and self.count >= 20 and not self.told:
            self.told = True
            print(
                f"warning: step {step}: only background was predicted in the last {self.count} steps; the run may have collapsed",
                flush=True,
            )
        self.sums, self.count, self.since = {}, 0, time.monotonic()


def _validation(held: FoldList, shots: int, settings: Settings) -> list[Episode]:
    """Fixed episodes of base classes on held-out training images; none where no class has enough of them."""
    if not held.rows:
        return []
    try:
        episodes = TrainingEpisodes(held, shots, settings.train.seed + 1, "image")
    except UserError:
        print(f"warning: no base class has {shots + 1} held-out images; the last weights are taken (raise base.holdout)", flush=True)
        return []
    return [episodes[i] for i in range(settings.train.validation_episodes)]


@torch.no_grad()
def validate(method: Method, source: Source, episodes: list[Episode], base: BaseLearner, vectors: Tensor, batch_size: int) -> float:
    """mIoU (percent, padded square) of the method's best output over validation episodes."""
    method.eval()
    counts = Counts()
    for start in range(0, len(episodes), batch_size):
        piece = episodes[start : start + batch_size]
        batch = make_batch(piece, source.features(source.load(requests_of(piece))), vectors, base.classes)
        for name, logits in method.predict(base.backbone, batch).items():
            counts.add_padded(name, logits, batch.query_mask, [str(e.class_index) for e in piece])
    method.train()
    return max(mean_iou(per_class) for per_class in counts.of("padded").values())


@contextmanager
def _only_writer(state: Path) -> Iterator[None]:
    """Hold the state folder's lock: a second trainer of the same run is refused, never interleaved. Freed when the process ends."""
    state.mkdir(parents=True, exist_ok=True)
    with open(state / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{state}: another process trains this run; wait for it, or stop it") from None
        for left in state.glob(".*.partial"):  # of a trainer killed while it saved
            left.unlink()
        yield
