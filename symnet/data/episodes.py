"""Episodes: a query, a class and K supports. For testing a written manifest, for training a function of the episode's number.

Both are pure functions of (list, shot, seed): the same on every machine, whatever the number of workers, wherever a run resumes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from symnet.artifacts import Provenance, read_table, write_table
from symnet.data.folds import FoldList
from symnet.data.readers import place_of
from symnet.errors import UserError

# first word of every seed, so that no two kinds of draw share a stream
TEST, TRAIN, PERMUTATION = 1, 2, 3


@dataclass(frozen=True)
class Episode:
    """Segment class `class_index` (from 1) in image `query`, given its masks in the K images `supports`."""

    query: str
    class_index: int
    supports: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The episodes of one test round, and the classes that cannot have any, each with the reason."""

    episodes: tuple[Episode, ...]
    left_out: dict[int, str]


def left_out(fold_list: FoldList, shot: int, classes: Iterable[int] | None = None) -> dict[int, str]:
    """Classes with fewer than `shot` + 1 images, each with the reason. classes: those to look at; all in the list when None."""
    counts = {index: len(images) for index, images in fold_list.by_class.items()}
    looked_at = sorted(counts if classes is None else classes)
    return {
        index: f"{counts.get(index, 0)} images, {shot + 1} needed for {shot} shot" for index in looked_at if counts.get(index, 0) <= shot
    }


def make_manifest(fold_list: FoldList, shot: int, seed: int, episodes: int, sampling: Literal["image", "released", "balanced"]) -> Manifest:
    """Draw one test round from a fold's test list.

    image: queries in turn through the list, the class uniform among the query's, K supports uniform without replacement among the
    other images of the class; a round shorter than the list takes its queries from all of it, in an order that the seed draws. released:
    the same, but a short round takes the head of the list. balanced (HSNet): the class first, uniform, then the query uniform among its
    images. Classes with fewer than K + 1 images are left out. Raises `UserError` where none remains.
    """
    pool = _Pool(fold_list, shot)
    rng = _generator(TEST, seed, shot)
    count = len(pool.queries)
    order = pass_order(seed, 0, count) if sampling == "image" and episodes < count else range(count)
    drawn = []
    for number in range(episodes):
        query, index = pool.query_of_any_class(rng) if sampling == "balanced" else pool.query_in_turn(int(order[number % count]), rng)
        drawn.append(Episode(query, index, pool.supports(query, index, rng)))
    return Manifest(tuple(drawn), left_out(fold_list, shot))


def write_manifest(path: Path, manifest: Manifest, provenance: Provenance | None = None) -> bool:
    """Write a manifest as a table: query, class, support1..supportK. Left as it is where nothing changed; returns whether written.

    The classes left out are not in it: `left_out` tells them from the list.
    """
    columns = ["query", "class", *(f"support{k}" for k in range(1, len(manifest.episodes[0].supports) + 1))]
    rows = [[e.query, e.class_index, *e.supports] for e in manifest.episodes]
    return write_table(path, columns, rows, provenance or Provenance(stage="episodes"), if_changed=True)


def read_manifest(path: Path) -> tuple[Episode, ...]:
    """Read and check what `write_manifest` wrote. Raises `UserError`."""
    table, _ = read_table(path, "episodes")
    return tuple(
        Episode(row["query"], int(row["class"]), tuple(image for name, image in row.items() if name.startswith("support"))) for row in table
    )


class TrainingEpisodes:
    """Training episodes by number, without end: `episodes[n]` needs nothing but n, so that a resumed run goes on exactly.

    image: every pass goes once through all usable images in an order of its own, the class uniform among the query's. uniform: the
    class first. `len` is one pass: the images with a class of K + 1 images or more.
    """

    def __init__(self, fold_list: FoldList, shot: int, seed: int, sampling: Literal["image", "uniform"]) -> None:
        """fold_list: the fold's train list. Raises `UserError` where no class has K + 1 images."""
        self._pool = _Pool(fold_list, shot)
        self._seed = seed
        self._sampling = sampling

    def __len__(self) -> int:
        return len(self._pool.queries)

    def __getitem__(self, number: int) -> Episode:
        if number < 0:
            raise IndexError(f"episode {number}: numbers start at 0")
        rng = _generator(TRAIN, self._seed, number)
        if self._sampling == "image":
            turn, place = divmod(number, len(self))
            query, index = self._pool.query_in_turn(int(pass_order(self._seed, turn, len(self))[place]), rng)
        else:
            query, index = self._pool.query_of_any_class(rng)
        return Episode(query, index, self._pool.supports(query, index, rng))


def holdout(fold_list: FoldList, share: float, seed: int) -> tuple[FoldList, FoldList]:
    """Split a train list into (train, held out), about `share` held out.

    Each image is placed by a hash of its own id, so that one image more or less moves no other.
    """
    places = [place_of(row.image, seed) < share for row in fold_list.rows]
    held = tuple(row for row, out in zip(fold_list.rows, places, strict=True) if out)
    return FoldList(tuple(row for row, out in zip(fold_list.rows, places, strict=True) if not out)), FoldList(held)


class _Pool:
    """The classes with K + 1 images, and the images in which one of them counts."""

    def __init__(self, fold_list: FoldList, shot: int) -> None:
        self.shot = shot
        self.by_class = {index: images for index, images in fold_list.by_class.items() if len(images) > shot}
        self.classes = tuple(self.by_class)
        if not self.classes:
            raise UserError(f"no class of the list has the {shot + 1} images that {shot} shot needs: {len(fold_list)} images in all")
        usable = ((row.image, tuple(index for index in row.classes if index in self.by_class)) for row in fold_list.rows)
        self.queries = [(image, classes) for image, classes in usable if classes]
        self.places = {index: {image: i for i, image in enumerate(images)} for index, images in self.by_class.items()}

    def query_in_turn(self, number: int, rng: Generator) -> tuple[str, int]:
        image, classes = self.queries[number % len(self.queries)]
        return image, classes[int(rng.integers(len(classes)))]

    def query_of_any_class(self, rng: Generator) -> tuple[str, int]:
        index = self.classes[int(rng.integers(len(self.classes)))]
        return self.by_class[index][int(rng.integers(len(self.by_class[index])))], index

    def supports(self, query: str, index: int, rng: Generator) -> tuple[str, ...]:
        """K of the class's other images, uniform without replacement."""
        images, own = self.by_class[index], self.places[index][query]
        places = rng.choice(len(images) - 1, self.shot, replace=False)
        return tuple(images[place + (place >= own)] for place in places)


def _generator(*words: int) -> Generator:
    return Generator(PCG64(SeedSequence(words)))


@lru_cache(maxsize=4)
def pass_order(seed: int, turn: int, length: int) -> np.ndarray:
    """The order of one pass through a list: a permutation of range(length) that (seed, turn) decides."""
    return _generator(PERMUTATION, seed, turn).permutation(length)
