"""What training steps read: their batches, in micro-batches whose gradients add up to the batch's, loaded ahead in a thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from symnet.arrange import episode_masks, requests_of
from symnet.config import TrainSettings
from symnet.data.episodes import Episode, TrainingEpisodes
from symnet.methods.base import Method
from symnet.model.divisors import Divisors
from symnet.parallel import ALONE, Ranks
from symnet.prefetch import ahead
from symnet.sources import Request, Source

Part = tuple[list[Episode], list[Request]]  # episodes and what they ask for


@dataclass(frozen=True)
class MicroBatch:
    """Episodes of a step and what the source loaded for them. `divisors`: of this process's share of the step; None where this is it."""

    episodes: list[Episode]
    loaded: Any
    divisors: Divisors | None


def micro_batches(
    source: Source, method: Method, episodes: TrainingEpisodes, train: TrainSettings, steps: range, parts: int, ranks: Ranks = ALONE
) -> Iterator[MicroBatch]:
    """`parts` micro-batches a step, in order, of this process's share of the batch. Which episodes and augmentations a step sees depends
    neither on their number nor on that of the processes.

    The masks of a whole share are read before its first micro-batch, and again with each: they are small, the maps are not.
    """

    def work() -> Iterator[tuple[list[Episode], tuple[list[Request], Part | None]]]:
        for step in steps:
            batch = [episodes[step * train.batch_size + i] for i in range(train.batch_size)]
            whole = list(divide(batch, requests_of(batch, (train.seed, step)), ranks.count))[ranks.rank]
            for i, (part, requests) in enumerate(divide(*whole, parts)):
                yield part, (requests, whole if i == 0 and parts > 1 else None)

    def load(wanted: tuple[list[Request], Part | None]) -> tuple[Any, Divisors | None]:
        requests, whole = wanted
        divisors = None if whole is None else method.divisors(*episode_masks(whole[0], source.masks(whole[1])))
        return source.load(requests), divisors

    divisors: Divisors | None = None
    for part, (loaded, found) in ahead(load, work()):
        divisors = found or divisors
        yield MicroBatch(part, loaded, divisors)


def divide(episodes: Sequence[Episode], requests: Sequence[Request], parts: int) -> Iterator[Part]:
    """Cut a batch and its `requests_of` into `parts` of consecutive episodes; each image keeps its own request, seed included."""
    assert len(episodes) % parts == 0, (len(episodes), parts)
    count, shots = len(episodes), len(episodes[0].supports)
    size = count // parts
    for start in range(0, count, size):
        stop = start + size
        supports = requests[count + start * shots : count + stop * shots]
        yield list(episodes[start:stop]), [*requests[start:stop], *supports]
