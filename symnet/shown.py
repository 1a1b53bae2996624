"""Which test episodes the figures show, and of which rows: the settings `gallery` of a fold with nothing left open, and the rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symnet.cells import Cell, lists_folder
from symnet.data.episodes import Episode
from symnet.episode_counts import EpisodeCounts
from symnet.errors import UserError
from symnet.experiment import Experiment
from symnet.methods import METHODS

FIRST = "first:"  # and a number of classes


@dataclass(frozen=True)
class Choice:
    """What is shown of a fold, to these `rows`, of the round `seed`: `episodes`, by number (`3,17`) or the first one of each of so many
    classes (`first:2`); and so many `failures` of each class, those of the row `subject`.
    """

    rows: tuple[str, ...]
    subject: str
    seed: int
    episodes: str
    failures: int

    @property
    def empty(self) -> bool:
        """Whether nothing is shown."""
        return not (self.failures or self.shows_chosen)

    @property
    def shows_chosen(self) -> bool:
        """Whether there are episodes beside failures."""
        return self.episodes != f"{FIRST}0"

    def at_most(self, classes: int) -> int:
        """How many episodes there can be beside failures, in a fold of so many classes."""
        if self.episodes.startswith(FIRST):
            return min(classes, int(self.episodes.removeprefix(FIRST)))
        return self.episodes.count(",") + 1

    def words(self, scoring: str) -> str:
        """For a caption."""
        worst = "episode" if self.failures == 1 else f"{self.failures} episodes"
        rule = f"of each class the {worst} on which the best output of {self.subject} has the lowest IoU (scoring {scoring})"
        return f"round of seed {self.seed}; failures are {rule if self.failures else 'not shown'}"

    def options(self) -> dict[str, str]:
        """As the command takes it."""
        return {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in vars(self).items()}

    def numbers(self, episodes: Sequence[Episode]) -> list[int]:
        """The episodes of a round that are shown whatever came out. Raises `UserError` for a number that it does not have."""
        try:
            if self.episodes.startswith(FIRST):
                return first_of_classes(episodes, int(self.episodes.removeprefix(FIRST)))
            numbers = [int(number) for number in self.episodes.split(",")]
        except ValueError:
            raise UserError(f"gallery: episodes: found '{self.episodes}', expected first:N, or numbers joined by commas") from None
        _one_of("gallery: episodes", numbers, range(len(episodes)))
        return numbers


def choice_of(experiment: Experiment, dataset: str, fold: int) -> Choice:
    """What the figures show of a fold. Raises `UserError` for a row, seed or fold that the experiment does not have."""
    settings = experiment.settings(dataset)
    gallery, where = settings.gallery, f"datasets.{dataset}: gallery"
    rows = gallery.rows or experiment.methods
    seed = experiment.seeds[0] if gallery.seed is None else gallery.seed
    subject = gallery.subject or rows[-1]
    _one_of(f"{where}.rows", rows, experiment.methods)
    _one_of(f"{where}.subject", [subject], rows)
    _one_of(f"{where}.seed", [seed], experiment.seeds)
    _one_of(f"{where}.episodes", gallery.episodes, range(settings.data.folds))
    numbers = gallery.episodes.get(fold, ())
    _one_of(f"{where}.episodes.{fold}", numbers, range(settings.protocol.episodes))
    return Choice(tuple(rows), subject, seed, ",".join(map(str, numbers)) or f"{FIRST}{gallery.classes}", gallery.failures)


def files_of(root: Path, cells: Mapping[Cell, str], seed: int) -> list[Path]:
    """The files that a fold's figures are made of, beside the images. cells: those of the rows, with the method behind each."""
    first = next(iter(cells))
    shared = [lists_folder(root, first.dataset, first.fold) / f"shot{first.shot}" / f"seed{seed}.csv"]
    shared += [first.base(root).with_suffix(".safetensors"), root / first.dataset / "embeddings.csv"]
    trained = [cell.folder(root) / "model.safetensors" for cell, method in cells.items() if METHODS[method].trained]
    return [*shared, *(cell.episodes(root, seed) for cell in cells), *trained]


def first_of_classes(episodes: Iterable[Episode], count: int) -> list[int]:
    """The numbers of the first episode of each of the first `count` classes, in the order of a round."""
    first: dict[int, int] = {}
    for number, episode in enumerate(episodes):
        first.setdefault(episode.class_index, number)
    return list(first.values())[:count]


def failures(found: EpisodeCounts, scoring: str, count: int) -> list[int]:
    """The numbers of a round's `count` worst episodes of each class: those whose best output has the lowest IoU, the worst first.

    Classes in order of names. Of equal ones the earlier is taken; episodes without a pixel of the object are none.
    """
    best = np.nan_to_num(np.stack([found.iou(scoring, output) for output in found.outputs])).max(0)  # [E]
    tp, _, fn, _ = found.of(scoring, found.outputs[0]).T
    chosen: list[int] = []
    for name in sorted(set(found.classes)):
        own = [number for number, other in enumerate(found.classes) if other == name and tp[number] + fn[number]]
        chosen += sorted(own, key=lambda number: best[number])[:count]
    return chosen


def _one_of(where: str, found: Iterable[object], allowed: Iterable[object]) -> None:
    known = list(allowed)
    if wrong := [one for one in found if one not in known]:
        told = f"{known[0]} to {known[-1]}" if isinstance(allowed, range) else ", ".join(map(str, known))
        raise UserError(f"{where}: found {wrong[0]}, allowed: {told}")
