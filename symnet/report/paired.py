"""All rows of a data set and shot on the same episodes, which every test of their differences is made of.

The unit that luck deals out is a query image of a class: a round draws each of a fold's images several times, and all rounds draw the same
images. So the counts of a unit are the sums over its episodes, kept by seed, since a class has an IoU in each round.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from symnet.episode_counts import EpisodeCounts
from symnet.errors import UserError

Rounds = Mapping[tuple[int, int], EpisodeCounts]  # fold, seed: what was tested


@dataclass(frozen=True)
class Paired:
    """R rows, S seeds, C classes (a name in a fold), U units. Units of a class stand together, classes of a fold too."""

    rows: tuple[str, ...]
    classes: tuple[str, ...]
    fold: np.ndarray  # int [C], counted from 0
    unit_class: np.ndarray  # int [U]
    there: np.ndarray  # bool [C, S]: whether the class had an episode in the round
    sums: np.ndarray  # int64 [U, S, R, 2]: intersection, union

    @cached_property
    def share(self) -> np.ndarray:
        """Of the mIoU, the weight of each class and seed, float64 [C, S] of sum 1: the main table's means over classes, folds, seeds."""
        in_fold = np.eye(self.fold.max() + 1)[self.fold]  # [C, folds]
        present = in_fold.T @ self.there  # [folds, S]
        return self.there / present[self.fold] / present.size

    @cached_property
    def ious(self) -> np.ndarray:
        """In percent, float64 [C, S, R]; 0 where the class had no episode."""
        sums = np.add.reduceat(self.sums, np.flatnonzero(np.diff(self.unit_class, prepend=-1)))  # [C, S, R, 2]
        return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1)

    @cached_property
    def by_class(self) -> np.ndarray:
        """IoU of each class over its seeds, in percent, float64 [C, R]."""
        return np.einsum("cs,csr->cr", self.share / self.share.sum(1, keepdims=True), self.ious)

    @cached_property
    def by_fold(self) -> np.ndarray:
        """mIoU of each fold, in percent, float64 [folds, R]."""
        folds = range(self.fold.max() + 1)
        found = np.einsum("cs,csr->cr", self.share * len(folds), self.ious)
        return np.stack([found[self.fold == fold].sum(0) for fold in folds])

    @property
    def miou(self) -> np.ndarray:
        """As in main.csv, float64 [R]."""
        return np.einsum("cs,csr->r", self.share, self.ious)


def paired(rounds: Mapping[str, Rounds], scoring: str) -> Paired:
    """Of rows of the experiment, by name; an output of a method is a row here. Raises `UserError` where they saw other episodes."""
    first = next(iter(rounds.values()))
    for row, own in rounds.items():
        for key, found in first.items():
            if (own[key].queries, own[key].classes) != (found.queries, found.classes):
                raise UserError(f"{row}, fold {key[0]}, seed {key[1]}: other episodes than {next(iter(rounds))}; test both again")
    folds, seeds = (sorted({key[place] for key in first}) for place in (0, 1))
    outputs = [(row, output, name) for row, own in rounds.items() for output, name in own[folds[0], seeds[0]].named(row).items()]
    units = sorted({(fold, *unit) for (fold, _), found in first.items() for unit in zip(found.classes, found.queries, strict=True)})
    place = {unit: number for number, unit in enumerate(units)}
    classes = sorted({unit[:2] for unit in units})
    number = {name: at for at, name in enumerate(classes)}
    sums = np.zeros((len(units), len(seeds), len(outputs), 2), np.int64)
    there = np.zeros((len(classes), len(seeds)), bool)
    for (fold, seed), found in first.items():
        at = [place[fold, name, query] for name, query in zip(found.classes, found.queries, strict=True)]
        s = seeds.index(seed)
        there[[number[fold, name] for name in found.classes], s] = True
        for r, (row, output, _) in enumerate(outputs):
            tp, fp, fn, _ = rounds[row][fold, seed].of(scoring, output).T
            np.add.at(sums[:, s, r], at, np.stack([tp, tp + fp + fn], 1))
    return Paired(
        rows=tuple(name for _, _, name in outputs),
        classes=tuple(name for _, name in classes),
        fold=np.array([folds.index(fold) for fold, _ in classes]),
        unit_class=np.array([number[unit[:2]] for unit in units]),
        there=there,
        sums=sums,
    )
