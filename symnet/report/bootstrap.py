"""How far a row's mIoU would have gone with other luck: a paired bootstrap over episodes and over classes.

Two kinds of luck, drawn apart, each for all rows alike:

* episodes: of each class as many query images are drawn as it has, less one, with replacement, an image with all of its episodes in all
  rounds, so that episodes of one image, which are not independent, come and go together;
* classes: of each fold as many classes are drawn as it has, less one, with replacement.

One less than there are, as Rao and Wu (JASA 1988) draw: with five classes a fold the usual bootstrap finds four fifths of the variance.
What classes differ by holds the luck of their episodes already. So of a difference between two rows the classes' part is made smaller by as
much, and their sum has the variance between classes, and that of the episodes at least.

Assumed: images of a class are exchangeable, and classes within a fold; folds are given (they are a partition, and no sample). Left out:
that episodes share supports, and the luck of training: weights are given.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from symnet.report.paired import Paired

RESAMPLES, SEED = 10_000, 0
AT_ONCE = 1 << 18  # weights at a time: what a cache holds


@dataclass(frozen=True)
class Luck:
    """By how much the mIoU of each row was off in each resample, in points: of other episodes, of other classes; float64 [B, R] each."""

    episodes: np.ndarray
    classes: np.ndarray

    def of(self, one: int, other: int) -> tuple[np.ndarray, np.ndarray]:
        """Deviations [B] of the difference between two rows: of other episodes alone, and of other episodes and classes."""
        episodes, classes = (part[:, one] - part[:, other] for part in (self.episodes, self.classes))
        spread = classes.var()
        left = max(0.0, 1 - episodes.var() / spread) if spread > 0 else 0.0
        return episodes, episodes + left**0.5 * classes


@dataclass(frozen=True)
class Interval:
    """A difference, the ends of its interval, and the p-value of there being none. The interval leaves 0 out where p is not above the
    level.
    """

    difference: float
    low: float
    high: float
    p: float


def luck(found: Paired, resamples: int = RESAMPLES, seed: int = SEED) -> Luck:
    """Resample. The same seed gives the same draws, whatever the rows."""
    episodes = np.zeros((resamples, len(found.rows)))
    borders = np.searchsorted(found.unit_class, range(len(found.classes) + 1))
    for c in range(len(found.classes)):
        own = found.sums[borders[c] : borders[c + 1]].astype(np.float64)  # [m, S, R, 2]
        for at, weights in _draws(len(own), resamples, np.random.default_rng((seed, 0, c))):
            sums = (weights @ own.reshape(len(own), -1)).reshape(len(weights), *own.shape[1:])  # [b, S, R, 2]
            ious = np.broadcast_to(found.ious[c], sums.shape[:-1]).copy()  # a round of which no image was drawn keeps its own
            np.divide(100 * sums[..., 0], sums[..., 1], out=ious, where=sums[..., 1] > 0)
            episodes[at] += np.einsum("s,bsr->br", found.share[c], ious - found.ious[c])
    classes = np.zeros_like(episodes)
    means = np.einsum("cs,csr->cr", found.share, found.ious)  # what each class adds to the mIoU
    for fold in range(found.fold.max() + 1):
        own = means[found.fold == fold]
        if len(own) > 1:
            for at, weights in _draws(len(own), resamples, np.random.default_rng((seed, 1, fold))):
                classes[at] += (weights * (len(own) / (len(own) - 1)) - 1) @ own
    return Luck(episodes, classes)


def _draws(count: int, resamples: int, rng: np.random.Generator) -> Iterator[tuple[slice, np.ndarray]]:
    """How often each of `count` things is drawn, `count` - 1 times in all (a single one: once), float64 [b, count]; and which resamples."""
    step = max(1, AT_ONCE // count)
    for start in range(0, resamples, step):
        at = slice(start, min(start + step, resamples))
        rows = at.stop - start
        drawn = (
            rng.integers(count, size=(rows, max(count - 1, 1)), dtype=np.int32) + np.arange(0, rows * count, count, dtype=np.int32)[:, None]
        )
        yield at, np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def interval(difference: float, deviations: np.ndarray, level: float) -> Interval:
    """Symmetric: the share 1 - `level` of the deviations lies within it. p: the share of them that goes as far as the difference."""
    half = float(np.quantile(np.abs(deviations), 1 - level, method="higher"))
    as_far = np.count_nonzero(np.abs(deviations) >= abs(difference))
    return Interval(difference, difference - half, difference + half, (1 + as_far) / (1 + len(deviations)))


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected for their number (Holm 1979), in their order: each at most 1, none below one that was smaller."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    raised = np.minimum(1, values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(raised)
    return corrected
