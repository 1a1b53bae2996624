"""Episodes made up for tests of what is luck: some to go through in loops, some whose truth is known."""

import numpy as np

from symnet.episode_counts import EpisodeCounts
from symnet.protocols import SCORINGS
from symnet.report.paired import Paired

SEEDS = [510, 365]
NAMES = (("cat", "dog", "cow"), ("bus", "car", "boat"))


def round_of(outputs: tuple[str, ...], fold: int, seed: int, better: int) -> EpisodeCounts:
    """24 episodes of 10,000 pixels on nine images; the first seed has no episode of the fold's last class."""
    rng = np.random.default_rng((fold, seed))
    names = NAMES[fold][: 2 if seed == SEEDS[0] else 3]
    classes, queries = (tuple(rng.choice(own, 24).tolist()) for own in (names, [f"q{i}" for i in range(9)]))
    inside = rng.integers(500, 5000, (len(SCORINGS), 1, 24))
    rng = np.random.default_rng((fold, seed, better))
    tp = (inside * rng.uniform(0.2, 0.6, (len(SCORINGS), len(outputs), 24)) + inside * better / 10).astype(np.int64)
    fp = rng.integers(1, 900, tp.shape)
    return EpisodeCounts(outputs, queries, classes, np.stack([tp, fp, inside - tp, 10_000 - inside - fp], -1))


ROWS = {"prototype": (("prediction",), 0), "symnet": (("meta", "ensemble"), 3)}
ROUNDS = {
    row: {(fold, seed): round_of(outputs, fold, seed, better) for fold in (0, 1) for seed in SEEDS}
    for row, (outputs, better) in ROWS.items()
}


def made_up(
    rng: np.random.Generator, classes: float = 0.0, episodes: float = 0.1, effect: float = 0.0, units: int = 20, folds: int = 4
) -> Paired:
    """Two rows on five classes a fold. The second row's IoU is off the first's by `effect`, by deviations `classes` and `episodes`."""
    count = 5 * folds
    mean = rng.uniform(0.4, 0.6, count)
    means = np.stack([mean, mean + effect + rng.normal(0, classes, count)], 1).repeat(units, 0)  # [U, 2]
    union = rng.integers(500, 1500, (count * units, 1)).repeat(2, 1)
    shared = rng.normal(0, 0.1, (count * units, 1))  # an image is hard for both
    ious = np.clip(means + shared + rng.normal(0, episodes / 2**0.5, means.shape), 0, 1)
    sums = np.stack([(ious * union).round(), union], -1).astype(np.int64)[:, None]
    own = np.arange(count)
    return Paired(("a", "b"), tuple(f"c{i}" for i in own), own // 5, own.repeat(units), np.ones((count, 1), bool), sums)
