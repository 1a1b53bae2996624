"""The order in which episodes are tested: each once, its images in their slots, and no image made twice while there is room."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symnet.data.episodes import Episode
from symnet.order import FILL, Fill, Work, images_of, schedule


def drawn(count: int, images: int, shots: int, seed: int = 0) -> list[Episode]:
    rng = np.random.default_rng(seed)
    picks = (rng.choice(images, 1 + shots, replace=False) for _ in range(count))
    return [Episode(f"i{q}", 1, tuple(f"i{s}" for s in supports)) for q, *supports in picks]


def made(steps: list[Fill | Work]) -> Counter[str]:
    """How often each image is made."""
    return Counter(image for step in steps if isinstance(step, Fill) for image in step.images)


@given(st.integers(0, 30), st.integers(1, 4), st.integers(0, 10), st.integers(1, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=200)
def test_carried_out_by_hand_every_episode_finds_its_images(count: int, shots: int, more: int, batch: int, seed: int) -> None:
    """Slots as a dictionary; images that are in one before are not made unless they had to make room."""
    episodes, slots = drawn(count, shots + 8, shots, seed), 1 + shots + more
    there = {"i0": slots - 1} if seed % 2 else {}
    held = {slot: image for image, slot in there.items()}
    done: list[int] = []
    for step in schedule(episodes, slots, batch, there):
        if isinstance(step, Fill):
            assert 1 <= len(step.images) == len(set(step.slots)) <= FILL
            assert all(0 <= slot < slots for slot in step.slots)
            held |= dict(zip(step.slots, step.images, strict=True))
        else:
            assert 1 <= len(step.places) <= batch
            assert step.places == sorted(step.places)
            for place, query, supports in zip(step.places, step.queries, step.supports, strict=True):
                assert held[query] == episodes[place].query
                assert tuple(held[slot] for slot in supports) == episodes[place].supports
            done += step.places
    assert sorted(done) == list(range(count))


def test_with_room_for_all_each_image_is_made_once_and_the_order_is_the_lists() -> None:
    episodes = drawn(300, 40, 5)
    steps = list(schedule(episodes, 40, 8, {}))
    assert made(steps) == dict.fromkeys(set().union(*map(images_of, episodes)), 1)
    last = max(i for i, step in enumerate(steps) if isinstance(step, Fill))
    works = [step.places for step in steps if isinstance(step, Work)]
    assert {len(places) for places in works[:-1]} == {8}
    after = [place for step in steps[last + 2 :] if isinstance(step, Work) for place in step.places]  # all images are there
    assert len(after) > 20
    assert after == sorted(after)


@pytest.mark.parametrize("shots", [1, 5])
def test_without_room_few_images_are_made_again(shots: int) -> None:
    """A fold of 5 classes of 40 images, of which 60 have room: class by class hardly any is made twice; as they come, most are."""
    rng = np.random.default_rng(1)
    episodes = []
    for _ in range(1000):
        group = int(rng.integers(5))
        query, *supports = (f"{group}.{i}" for i in rng.choice(40, 1 + shots, replace=False))
        episodes.append(Episode(query, 1 + group, tuple(supports)))
    images = set().union(*map(images_of, episodes))
    steps = list(schedule(sorted(episodes, key=lambda e: e.class_index), 60, 8, {}))
    assert made(steps).total() == len(images) == 200
    unlike = made(list(schedule(sorted(drawn(1000, 200, shots), key=lambda e: e.query), 60, 8, {}))).total()
    assert unlike < 1000 * (1 + shots)  # any image with any: still less than anew for every episode


def work(episodes: int, images: int, shots: int) -> tuple[int, int, int]:
    """Counted work of a test with room for all: images through the backbone, episodes predicted, supports looked at."""
    steps = list(schedule(drawn(episodes, images, shots), images, 8, {}))
    works = [step for step in steps if isinstance(step, Work)]
    return made(steps).total(), sum(len(step.places) for step in works), sum(len(row) for step in works for row in step.supports)


def test_work_is_linear_in_episodes_images_and_shots() -> None:
    assert [work(n, 50, 2) for n in (200, 400, 800)] == [(50, n, 2 * n) for n in (200, 400, 800)]
    assert [work(900, n, 2) for n in (25, 50, 100)] == [(n, 900, 1800) for n in (25, 50, 100)]
    assert [work(400, 50, k) for k in (1, 2, 5)] == [(50, 400, 400 * k) for k in (1, 2, 5)]
