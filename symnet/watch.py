"""What a run tells of itself while it trains: mean losses at intervals, and whether it breaks, or learns nothing.

Of a batch whose known pixels are foreground to a share p, a model that looks at nothing can do no better than to say p everywhere: its
cross-entropy is then the entropy of that prior, H(p). A run that stays there has learned the prior and nothing else.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from symnet.errors import UserError
from symnet.journal import Journal

LOG_SECONDS = 5.0
WARM_UP = 50  # steps that are not judged: every run starts at the prior
LEAST = 20  # steps of an interval that is judged
# Of the prior's entropy. Of six runs on PASCAL-5i (Lite0, 209 px, batch 8; `paper` with and without meta_loss, `released`) five were
# below it by step 100; one, of eq. 15 alone, sat at 1.00 until step 125 and then learned: so this is told, and stops nothing.
NEAR = 0.98
ADVICE = "try a lower train.lr (or the recipe's), model.meta_loss true, or model.triplet_distance normalised"


@torch.no_grad()
def observe(objective: Tensor, parts: dict[str, Tensor], outputs: dict[str, Tensor], query_mask: Tensor) -> dict[str, Tensor]:
    """What a micro-batch adds to its step, float64 scalars on the device: losses, and counts of pixels and positions.

    outputs: logits [B, 2, H, W] by name; query_mask [B, S, S] in {0, 1, 255}. `known` and `inside` count pixels of the masks,
    `predicted.NAME` those of `positions.NAME` that an output takes for foreground.
    """
    seen = {"loss": objective, **{f"loss.{name}": value for name, value in parts.items()}}
    seen |= {"known": (query_mask != 255).sum(), "inside": (query_mask == 1).sum()}
    for name, logits in outputs.items():
        foreground = logits[:, 1] > logits[:, 0]
        seen[f"predicted.{name}"] = foreground.sum()
        seen[f"positions.{name}"] = torch.full((), foreground.numel(), device=foreground.device)
    return {name: value.detach().double() for name, value in seen.items()}


@dataclass(frozen=True)
class Interval:
    """The steps up to `step`, each as `observe` saw it, summed over its micro-batches."""

    step: int
    rows: list[dict[str, float]]

    def __add__(self, later: "Interval") -> "Interval":
        return Interval(later.step, self.rows + later.rows)

    def total(self, name: str) -> float:
        """Sum over the steps."""
        return math.fsum(row[name] for row in self.rows)

    @property
    def losses(self) -> dict[str, float]:
        """Means over the steps: `loss`, and `loss.NAME` of each part."""
        return {name: self.total(name) / len(self.rows) for name in self.rows[0] if name.partition(".")[0] == "loss"}

    @property
    def predicted(self) -> dict[str, float]:
        """Share of positions taken for foreground, by output."""
        names = [name.partition(".")[2] for name in self.rows[0] if name.startswith("predicted.")]
        return {name: self.total(f"predicted.{name}") / self.total(f"positions.{name}") for name in names}

    @property
    def foreground(self) -> float:
        """p, the share of foreground among the known pixels; 0 where none is known."""
        return self.total("inside") / max(self.total("known"), 1)

    @property
    def prior_entropy(self) -> float:
        """H(p), in nats."""
        return -sum(p * math.log(p) for p in (self.foreground, 1 - self.foreground) if p > 0)

    def cross_entropy(self, output: str) -> float:
        """Mean over the known pixels of all steps, as H(p) is; the mean over steps would weigh a step with few of them as the others."""
        return math.fsum(row[f"loss.{output}"] * row["known"] for row in self.rows) / max(self.total("known"), 1)


class Guard:
    """Finds, in intervals of `LEAST` steps, a run that learns nothing. Each kind is told once, when it held for two intervals.

    prior: the cross-entropy of an output in `supervised` is near H(p), or above. Others are not judged: where the objective leaves the
    meta logits out, a run that learns may keep theirs above it. background: no output predicts any foreground.
    """

    def __init__(self, supervised: tuple[str, ...]) -> None:
        self.supervised = supervised
        self._open: Interval | None = None  # too short to be judged
        self._before: dict[str, set[str]] = {}  # kind to outputs found in the interval before
        self._told: set[str] = set()

    def see(self, interval: Interval) -> dict[str, str]:
        """Take in the next interval. Returns what is to be told, a line a kind."""
        if interval.step - len(interval.rows) < WARM_UP:
            return {}
        whole = interval if self._open is None else self._open + interval
        self._open = whole if len(whole.rows) < LEAST else None
        if self._open is not None:
            return {}
        lines = {}
        for kind, outputs in _suspects(whole, self.supervised).items():
            stuck = outputs & self._before.get(kind, set())
            self._before[kind] = outputs
            if stuck and kind not in self._told:
                self._told.add(kind)
                lines[kind] = _line(kind, sorted(stuck), whole)
        return lines


def _suspects(interval: Interval, supervised: tuple[str, ...]) -> dict[str, set[str]]:
    """The outputs to which each kind applies."""
    bound = NEAR * interval.prior_entropy
    near = {name for name in supervised if bound > 0 and interval.cross_entropy(name) >= bound}
    shares = interval.predicted
    return {"prior": near, "background": set(shares) if shares and max(shares.values()) == 0 else set()}


def _line(kind: str, outputs: list[str], interval: Interval) -> str:
    losses = ", ".join(f"{name} {interval.cross_entropy(name):.4f}" for name in outputs)
    predicted = ", ".join(f"{name} {share:.4f}" for name, share in interval.predicted.items())
    what = {"prior": "has learned nothing but the class prior so far", "background": "predicts background only"}[kind]
    return (
        f"step {interval.step}: the run {what} and may have collapsed: over {len(interval.rows)} steps, as before, cross-entropy of "
        f"{losses}, the prior's entropy {interval.prior_entropy:.4f}, foreground share {interval.foreground:.4f}, predicted {predicted}; "
        f"{ADVICE}"
    )


class Watch:
    """Logs means at intervals and tells what the guard finds. One wait for the device an interval."""

    def __init__(
        self,
        journal: Journal,
        supervised: tuple[str, ...],
        *,
        stall: Callable[[], float] | None = None,
        usage: Callable[[float], dict[str, float]] | None = None,
        seconds: float = LOG_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stall: gives the share of time since it was last asked in which the device waited for input; usage: metrics of the machine,
        from the steps a second. Both are logged with the rest.
        """
        self.stall, self.usage = stall, usage
        self.journal, self.guard, self.seconds, self.clock = journal, Guard(supervised), seconds, clock
        self._steps: list[Tensor] = []  # [n] each, on the device
        self._since = clock()

    def add(self, step: int, seen: dict[str, Tensor], last: bool) -> None:
        """Take in a step as `observe` saw it; log when the interval is over. Raises `UserError` for a loss that is not finite."""
        self._steps.append(torch.stack(list(seen.values())))
        elapsed = self.clock() - self._since
        if elapsed < self.seconds and not last:
            return
        rows = [dict(zip(seen, values, strict=True)) for values in torch.stack(self._steps).tolist()]
        elapsed = self.clock() - self._since  # when the steps were done, not when they were asked for
        for number, row in enumerate(rows, start=step - len(rows) + 1):
            _check_finite(number, row)
        interval = Interval(step, rows)
        found = self.guard.see(interval)
        values = interval.losses | {f"foreground.{name}": share for name, share in interval.predicted.items()}
        values |= {"foreground.truth": interval.foreground, "prior_entropy": interval.prior_entropy}
        values |= {f"warning.{kind}": 1.0 for kind in found}
        values |= {"input_stall": self.stall()} if self.stall else {}
        rate = len(rows) / max(elapsed, 1e-9)
        values |= self.usage(rate) if self.usage else {}
        self.journal.log(step, **values, steps_per_second=rate)
        for line in found.values():
            print(f"warning: {line}", flush=True)
        self._steps, self._since = [], self.clock()


def _check_finite(step: int, row: dict[str, float]) -> None:
    """Raises `UserError` naming the parts that are not: of the first such step, before it spread to all of them."""
    broken = [f"{name.removeprefix('loss.')} is {value}" for name, value in row.items() if not math.isfinite(value) and name != "loss"]
    if broken or not math.isfinite(row["loss"]):
        parts = f" ({', '.join(broken)})" if broken else ""
        raise UserError(f"training: loss is {row['loss']} at step {step}{parts}; lower train.lr (or the recipe's), or look at the inputs")
