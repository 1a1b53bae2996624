"""What a test round counted of each of its episodes: for scatters, for failures, for resampling over episodes and classes.

A table beside the round's metric file, `seed510-episodes.csv`, a row an episode in the order of the manifest, whose row it is (there the
supports stand). Of each scoring it holds whole numbers of pixels, the ignored ones left out:

    episode, query, class           the number from 0, the image, the name of the class
    padded.pixels, padded.object    all pixels; those of the object
    padded.meta.intersection        of the output `meta` with the object; `.union` likewise

and the same of `original` and `400`. Summed by class they are the metric file's counts, exactly: true positives are the intersection,
false positives union - object, false negatives object - intersection, true negatives pixels - union.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from symnet.artifacts import Provenance, read_table, write_table
from symnet.data.episodes import Episode
from symnet.errors import UserError, one_line
from symnet.protocols import SCORINGS

STAGE = "evaluate"

ByClass = dict[str, dict[str, list[int]]]  # output, class: [tp, fp, fn, tn]


@dataclass(frozen=True)
class EpisodeCounts:
    """Of a round of E episodes. `counts` int64 [scorings, outputs, E, 4]: tp, fp, fn, tn; the scorings are those of `SCORINGS`."""

    outputs: tuple[str, ...]
    queries: tuple[str, ...]  # image of each episode
    classes: tuple[str, ...]  # its class, by name
    counts: np.ndarray

    def named(self, row: str) -> dict[str, str]:
        """Output to its name in the tables: the row's own where there is one output, else `symnet (meta)`; in the tables' order."""
        return {output: row if len(self.outputs) == 1 else f"{row} ({output})" for output in sorted(self.outputs)}

    def of(self, scoring: str, output: str) -> np.ndarray:
        """int64 [E, 4]: tp, fp, fn, tn."""
        return self.counts[SCORINGS.index(scoring), self.outputs.index(output)]

    def iou(self, scoring: str, output: str) -> np.ndarray:
        """Foreground IoU of each episode, float64 [E] in [0, 1]; NaN where the union is empty."""
        tp, fp, fn, _ = self.of(scoring, output).T
        with np.errstate(invalid="ignore"):
            return tp / (tp + fp + fn)

    def sizes(self) -> np.ndarray:
        """Share of the object in the known pixels of its image at original size, float64 [E] in [0, 1]."""
        tp, fp, fn, tn = self.of("original", self.outputs[0]).T
        return (tp + fn) / np.maximum(tp + fp + fn + tn, 1)

    def by_class(self) -> dict[str, ByClass]:
        """The sums of a metric file: scoring, output, class, each in order of names but for the scorings."""
        places = {name: [i for i, own in enumerate(self.classes) if own == name] for name in sorted(set(self.classes))}
        return {
            scoring: {
                output: {name: self.of(scoring, output)[rows].sum(0).tolist() for name, rows in places.items()}
                for output in sorted(self.outputs)
            }
            for scoring in SCORINGS
        }


def counts_of(episodes: Sequence[Episode], names: Sequence[str], outputs: Sequence[str], counts: np.ndarray) -> EpisodeCounts:
    """Of a manifest's episodes. names: of the classes, in order of their index (from 1); counts: as the field."""
    classes = tuple(names[episode.class_index - 1] for episode in episodes)
    return EpisodeCounts(tuple(outputs), tuple(episode.query for episode in episodes), classes, counts)


def write_episode_counts(path: Path, found: EpisodeCounts, provenance: Provenance) -> None:
    """Write the table whole or not at all."""
    tp, fp, fn, tn = np.moveaxis(found.counts, -1, 0)  # [scorings, outputs, E] each
    columns, values = ["episode", "query", "class"], []
    for s, scoring in enumerate(SCORINGS):
        columns += [f"{scoring}.pixels", f"{scoring}.object"]
        values += [(tp + fp + fn + tn)[s, 0], (tp + fn)[s, 0]]
        for o, output in enumerate(found.outputs):
            columns += [f"{scoring}.{output}.intersection", f"{scoring}.{output}.union"]
            values += [tp[s, o], (tp + fp + fn)[s, o]]
    numbers = np.stack(values, 1).tolist()  # [E, columns]
    heads = zip(found.queries, found.classes, strict=True)
    rows = [[place, *head, *own] for place, (head, own) in enumerate(zip(heads, numbers, strict=True))]
    write_table(path, columns, rows, provenance)


def read_episode_counts(path: Path) -> EpisodeCounts:
    """Read and check a round's table. Raises `UserError`."""
    rows, _ = read_table(path, STAGE)
    try:
        outputs = [name.split(".")[1] for name in rows[0] if name.startswith("padded.") and name.endswith(".union")]
        counts = np.array([[_four(rows, scoring, output) for output in outputs] for scoring in SCORINGS], np.int64)
        return EpisodeCounts(tuple(outputs), tuple(row["query"] for row in rows), tuple(row["class"] for row in rows), counts)
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not the counts of a round's episodes ({one_line(error)}); delete it and run again") from None


def _four(rows: Sequence[dict[str, str]], scoring: str, output: str) -> list[list[int]]:
    """[E, 4] of the columns of an output."""
    names = (f"{scoring}.pixels", f"{scoring}.object", f"{scoring}.{output}.intersection", f"{scoring}.{output}.union")
    found = []
    for row in rows:
        pixels, inside, intersection, union = (int(row[name]) for name in names)
        found.append([intersection, union - inside, inside - intersection, pixels - union])
    return found
