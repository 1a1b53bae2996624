"""Scores against brute force over masks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symnet.artifacts import digest
from symnet.metrics import background_iou, class_iou, fb_iou, iou, mean_iou, protocol_stamp

counts = st.lists(st.integers(1, 10**12), min_size=4, max_size=4)
per_class = st.dictionaries(st.text(min_size=1, max_size=4), counts, min_size=1, max_size=20)


def count(predicted: np.ndarray, truth: np.ndarray) -> list[int]:
    """[tp, fp, fn, tn] pixel by pixel."""
    found = [0, 0, 0, 0]
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != 255:
            found[{(1, 1): 0, (1, 0): 1, (0, 1): 2, (0, 0): 3}[p, t]] += 1
    return found


def test_scores_of_random_masks_against_sets_of_pixels() -> None:
    generator = np.random.default_rng(0)
    sums: dict[str, list[int]] = {}
    sets: dict[str, dict[str, set[Any]]] = {}
    for episode in range(40):
        name = "abc"[episode % 3]
        predicted = generator.integers(0, 2, (9, 11))
        truth = generator.choice([0, 1, 255], (9, 11), p=[0.6, 0.3, 0.1])
        sums[name] = [a + b for a, b in zip(sums.get(name, [0] * 4), count(predicted, truth), strict=True)]
        own = sets.setdefault(name, {"p": set(), "t": set(), "valid": set()})
        own["valid"] |= {(episode, *at) for at in np.argwhere(truth != 255).tolist()}
        own["p"] |= {(episode, *at) for at in np.argwhere((predicted == 1) & (truth != 255)).tolist()}
        own["t"] |= {(episode, *at) for at in np.argwhere(truth == 1).tolist()}
    expected = {name: 100 * len(own["p"] & own["t"]) / len(own["p"] | own["t"]) for name, own in sets.items()}
    assert class_iou(sums) == pytest.approx(expected, abs=1e-12)
    assert mean_iou(sums) == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    whole = {key: set().union(*(own[key] for own in sets.values())) for key in ("p", "t", "valid")}
    back_p, back_t = whole["valid"] - whole["p"], whole["valid"] - whole["t"]
    foreground = len(whole["p"] & whole["t"]) / len(whole["p"] | whole["t"])
    assert fb_iou(sums) == pytest.approx(50 * (foreground + len(back_p & back_t) / len(back_p | back_t)), abs=1e-12)


def test_values_by_hand() -> None:
    assert iou([3, 1, 2, 94]) == 0.5
    assert background_iou([3, 1, 2, 9]) == 0.75
    assert class_iou({"cat": [3, 1, 2, 94], "dog": [1, 0, 0, 0]}) == {"cat": 50.0, "dog": 100.0}
    assert mean_iou({"cat": [3, 1, 2, 94], "dog": [1, 0, 0, 0]}) == 75.0
    assert fb_iou({"cat": [2, 1, 1, 4], "dog": [1, 0, 1, 5]}) == pytest.approx(50 * (3 / 6 + 9 / 12))
    assert iou(np.array([1, 1, 0, 0])) == 0.5  # numpy's integers are integers


@given(per_class, st.randoms())
def test_the_order_of_classes_changes_no_bit(found: dict[str, list[int]], random: Any) -> None:
    names = list(found)
    random.shuffle(names)
    other = {name: found[name] for name in names}
    assert mean_iou(other) == mean_iou(found)
    assert fb_iou(other) == fb_iou(found)


@given(st.lists(counts, min_size=2, max_size=12), st.randoms())
def test_the_order_of_episodes_changes_no_bit(episodes: list[list[int]], random: Any) -> None:
    other = list(episodes)
    random.shuffle(other)
    first, second = ([sum(column) for column in zip(*found, strict=True)] for found in (episodes, other))
    assert mean_iou({"cat": first}) == mean_iou({"cat": second})


@given(per_class)
def test_scores_are_percentages_and_the_mean_lies_between(found: dict[str, list[int]]) -> None:
    values = class_iou(found).values()
    assert 0 <= min(values) <= mean_iou(found) * (1 + 1e-12)
    assert mean_iou(found) <= max(values) * (1 + 1e-12) <= 100 * (1 + 1e-12)
    assert 0 <= fb_iou(found) <= 100


@pytest.mark.parametrize("score", [mean_iou, fb_iou])
def test_no_class_had_an_episode(score: Any) -> None:
    with pytest.raises(ValueError, match="no class had an episode"):
        score({})


def test_an_empty_union_names_the_class() -> None:
    with pytest.raises(ValueError, match="class cat: union is empty"):
        mean_iou({"dog": [1, 1, 1, 1], "cat": [0, 0, 0, 7]})
    with pytest.raises(ValueError, match="union is empty"):
        background_iou([4, 0, 0, 0])


@pytest.mark.parametrize("found", [[1, 2, 3], [1, 2, 3, -1], [1, 2, 3, 4.0], [1, 2, 3, float("nan")], [1, 2, 3, None], ["1", 2, 3, 4]])
def test_what_is_no_count_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        iou(found)


def test_a_stamp_is_the_name_and_the_digest_of_all() -> None:
    protocol = {"name": "symnet-1", "episodes": 1000}
    assert protocol_stamp(protocol) == f"symnet-1-{digest({'episodes': 1000, 'name': 'symnet-1'})[:8]}"
    assert protocol_stamp(protocol) != protocol_stamp(protocol | {"episodes": 999})
