"""Which images are where, and when: an order of episodes in which an image that is on the device is used before it makes room.

Plain planning, before anything is read. The order of episodes is free, since counts are integers.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from symnet.data.episodes import Episode

FILL = 8  # images that are made together


@dataclass(frozen=True)
class Fill:
    """Make these images and put them into these slots."""

    images: list[str]
    slots: list[int]


@dataclass(frozen=True)
class Work:
    """Do these episodes, by their places in the list; every image is in its slot."""

    places: list[int]
    queries: list[int]  # slots [B]
    supports: list[list[int]]  # slots [B, K]


def images_of(episode: Episode) -> set[str]:
    """The images that an episode shows, each once."""
    return {episode.query, *episode.supports}


def schedule(episodes: Sequence[Episode], slots: int, batch: int, there: Mapping[str, int]) -> Iterator[Fill | Work]:
    """All episodes, `batch` at a time or fewer where their images would need more than `slots`, which hold those of any one episode.

    there: images that are in slots before, with these.

    Next comes the episode that has the fewest images to wait for, the first of them in the list's order; room is made by the image that
    the fewest of the episodes left will want. So while there is room every image is made once, and the order is the list's as soon as all
    are there. Episodes of a batch are in the list's order. Time: E K log E for E episodes of K shots, and `slots` whenever room is made.
    """
    wanted = [images_of(episode) for episode in episodes]
    users: dict[str, list[int]] = {}
    for place, images in enumerate(wanted):
        for image in images:
            users.setdefault(image, []).append(place)
    left = Counter({image: len(found) for image, found in users.items()})  # episodes that will want it
    held = dict(there)
    free = [slot for slot in range(slots)[::-1] if slot not in held.values()]
    missing = [len(images - held.keys()) for images in wanted]
    waiting = [(count, place) for place, count in enumerate(missing)]
    heapq.heapify(waiting)
    done = [False] * len(episodes)

    def move(image: str, change: int) -> None:
        for place in users.get(image, ()):
            if not done[place]:
                missing[place] += change
                heapq.heappush(waiting, (missing[place], place))

    def settle(image: str, pinned: set[str]) -> int:
        if not free:
            out = min((other for other in held if other not in pinned), key=left.__getitem__)
            free.append(held.pop(out))
            move(out, +1)
        held[image] = free.pop()
        move(image, -1)
        return held[image]

    while waiting:
        chosen: list[int] = []
        pinned: set[str] = set()
        fresh: dict[str, int] = {}
        while waiting and len(chosen) < batch:
            count, place = heapq.heappop(waiting)
            if done[place] or count != missing[place]:
                continue  # what it waits for has changed: it is in the heap once more
            if len(pinned | wanted[place]) > slots:
                heapq.heappush(waiting, (count, place))
                break
            done[place] = True
            chosen.append(place)
            pinned |= wanted[place]
            for image in sorted(wanted[place] - held.keys()):
                fresh[image] = settle(image, pinned)
            left.subtract(wanted[place])
        order = list(fresh)
        for start in range(0, len(order), FILL):
            piece = order[start : start + FILL]
            yield Fill(piece, [fresh[image] for image in piece])
        if chosen:
            chosen.sort()
            at = [episodes[place] for place in chosen]
            yield Work(chosen, [held[e.query] for e in at], [[held[image] for image in e.supports] for e in at])
