"""Counting pixels: against brute force, in any order, and on cases done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from symnet.protocols import SCORINGS
from symnet.scoring import Counts, confusion

SIDE = 3


def counted(predicted: np.ndarray, truth: np.ndarray) -> list[int]:
    """[tp, fp, fn, tn], pixel by pixel."""
    found = [0, 0, 0, 0]
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != 255:
            found[{(True, 1): 0, (True, 0): 1, (False, 1): 2, (False, 0): 3}[(bool(p), t)]] += 1
    return found


@given(st.integers(0, 2**32 - 1))
def test_confusion_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    predicted, truth = rng.random(shape) < 0.5, rng.choice(np.array([0, 1, 255], np.uint8), shape)
    found = confusion(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert found.dtype == torch.int64
    assert found.tolist() == [counted(p, t) for p, t in zip(predicted, truth, strict=True)]
    assert found.sum(1).tolist() == (truth != 255).sum((1, 2)).tolist()


def test_nothing_but_ignored_pixels() -> None:
    assert confusion(torch.ones(1, 4, dtype=torch.bool), torch.full((1, 4), 255, dtype=torch.uint8)).tolist() == [[0, 0, 0, 0]]


def logits(margin: list[list[float]]) -> Tensor:
    """[1, 2, h, w] whose foreground leads by `margin`."""
    lead = torch.tensor(margin)
    return torch.stack([torch.full_like(lead, 2.0), lead + 2.0])[None]


# columns lead by 1, -1, -3 once 2 columns became 3; the corners stay where they are
STEPS = logits([[1, -3], [1, -3]])


def test_padded_by_hand() -> None:
    truth = torch.tensor([[[1, 1, 0], [1, 255, 0], [0, 0, 0]]], dtype=torch.uint8)
    counts = Counts()
    counts.add_padded("meta", STEPS, truth, ["cat"])
    assert counts.of("padded") == {"meta": {"cat": [2, 1, 1, 4]}}
    assert counts.of("original") == {}


def test_original_by_hand() -> None:
    """3x3 logits, of which 3x2 hold the image, go to 2x4: the lead 1, -1 becomes 1, 0.5, -0.5, -1 about pixel centres."""
    truth = np.array([[1, 0, 1, 255], [0, 1, 0, 0]], np.uint8)
    counts = Counts()
    counts.add_original("meta", STEPS, [truth], torch.tensor([[3, 2]]), SIDE, ["cat"])
    assert counts.of("original") == {"meta": {"cat": [2, 2, 1, 2]}}


def test_warped_against_a_plain_twin() -> None:
    """HSNet's 400x400: the placed part stretched by hand, one output pixel after the other; the truth by its nearest pixel."""
    rng = np.random.default_rng(3)
    part = rng.standard_normal((2, 5, 7)).astype(np.float32)  # what lies in the 9x9 square
    square = torch.zeros(1, 2, 9, 9)
    square[0, :, :5, :7] = torch.from_numpy(part)
    truth = rng.choice(np.array([0, 1, 255], np.uint8), (13, 10))
    counts = Counts()
    counts.add_original("meta", square, [truth], torch.tensor([[5, 7]]), 9, ["cat"])

    def places(count: int) -> list[tuple[int, int, float]]:
        centres = [min(max((i + 0.5) * count / 400 - 0.5, 0.0), count - 1.0) for i in range(400)]
        return [(int(c), min(int(c) + 1, count - 1), c - int(c)) for c in centres]

    lead = (part[1] - part[0]).astype(np.float64)
    found = np.empty((400, 400), bool)
    for y, (up, down, dy) in enumerate(places(5)):
        for x, (left, right, dx) in enumerate(places(7)):
            above = lead[up, left] * (1 - dx) + lead[up, right] * dx
            found[y, x] = above * (1 - dy) + (lead[down, left] * (1 - dx) + lead[down, right] * dx) * dy > 0
    nearest = truth[np.arange(400) * 13 // 400][:, np.arange(400) * 10 // 400]
    (expected,) = [counted(found, nearest)]
    assert np.abs(np.array(counts.of("400")["meta"]["cat"]) - expected).max() <= 2  # float32 against float64, at the border
    assert sum(expected) == sum(counts.of("400")["meta"]["cat"]) == int((nearest != 255).sum())


def test_a_tie_is_background() -> None:
    counts = Counts()
    counts.add_padded("meta", logits([[0.0]]), torch.tensor([[[1]]], dtype=torch.uint8), ["cat"])
    assert counts.of("padded") == {"meta": {"cat": [0, 0, 1, 0]}}


def test_sums_by_output_and_class() -> None:
    """Each episode counts for its own class; names come out in order, values as plain integers."""
    batch = STEPS.repeat(3, 1, 1, 1)
    truth = torch.ones(3, SIDE, SIDE, dtype=torch.uint8)
    truth[2] = 0
    counts = Counts()
    counts.add_padded("meta", batch, truth, ["dog", "cat", "dog"])
    counts.add_padded("meta", batch[:1], truth[:1], ["dog"])
    counts.add_padded("ensemble", -batch[:1], truth[:1], ["cat"])
    found = counts.of("padded")
    assert found == {"ensemble": {"cat": [6, 0, 3, 0]}, "meta": {"cat": [3, 0, 6, 0], "dog": [6, 3, 12, 6]}}
    assert list(found) == ["ensemble", "meta"]
    assert {type(n) for classes in found.values() for row in classes.values() for n in row} == {int}


def test_a_class_for_every_episode() -> None:
    with pytest.raises(ValueError, match="zip"):
        Counts().add_padded("meta", STEPS, torch.ones(1, SIDE, SIDE), ["cat", "dog"])


@given(st.permutations(range(6)), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_order_and_batches_do_not_matter(order: list[int], batch: int) -> None:
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.standard_normal((6, 2, 2, 2)).astype(np.float32))
    truth = torch.from_numpy(rng.choice(np.array([0, 1, 255], np.uint8), (6, SIDE, SIDE)))
    originals = [rng.choice(np.array([0, 1, 255], np.uint8), (2 + i % 2, 4)) for i in range(6)]
    placed = torch.tensor([[3, 2], [2, 3], [3, 3], [1, 3], [3, 1], [2, 2]])
    classes = ["a", "b", "a", "c", "b", "a"]

    def total(order: list[int], batch: int) -> list[dict[str, dict[str, list[int]]]]:
        counts = Counts()
        for start in range(0, 6, batch):
            piece = order[start : start + batch]
            names = [classes[i] for i in piece]
            counts.add_padded("meta", maps[piece], truth[piece], names)
            counts.add_original("meta", maps[piece], [originals[i] for i in piece], placed[piece], SIDE, names)
        return [counts.of(scoring) for scoring in SCORINGS]

    assert total(order, batch) == total(list(range(6)), 6)
