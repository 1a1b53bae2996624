"""Counting pixels: against brute force, in any order, and on cases done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from symnet import scoring
from symnet.bench import twins
from symnet.data.transforms import fitted_size, unfit
from symnet.protocols import SCORINGS
from symnet.scoring import Counts, Originals, confusion, lead_of, of_class, sides, warp


def counted(predicted: np.ndarray, truth: np.ndarray) -> list[int]:
    """[tp, fp, fn, tn], pixel by pixel."""
    found = [0, 0, 0, 0]
    for p, t in zip(predicted.ravel().tolist(), truth.ravel().tolist(), strict=True):
        if t != 255:
            found[{(True, 1): 0, (True, 0): 1, (False, 1): 2, (False, 0): 3}[(bool(p), t)]] += 1
    return found


@given(st.integers(0, 2**32 - 1))
def test_confusion_against_brute_force(seed: int) -> None:
    """Of two outputs that share a truth; the truth as it is, and as index masks with a class each."""
    rng = np.random.default_rng(seed)
    count, h, w = (int(n) for n in rng.integers(1, 6, 3))
    predicted, truth = rng.random((count, 2, h, w)) < 0.5, rng.choice(np.array([0, 1, 255], np.uint8), (count, h, w))
    found = confusion(torch.from_numpy(predicted), *sides(torch.from_numpy(truth)))
    assert found.dtype == torch.int64
    assert found.tolist() == [[counted(p, t) for p in outputs] for outputs, t in zip(predicted, truth, strict=True)]
    classes = rng.integers(1, 21, count)
    index = np.where(truth == 1, classes[:, None, None], np.where(truth == 0, (classes[:, None, None] + 5) % 25, 255)).astype(np.uint8)
    masks, wanted = torch.from_numpy(index), torch.from_numpy(classes)
    assert torch.equal(confusion(torch.from_numpy(predicted), *sides(masks, wanted)), found)
    assert torch.equal(of_class(masks, wanted), torch.from_numpy(truth))


def test_nothing_but_ignored_pixels() -> None:
    ignored = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert confusion(torch.ones(1, 1, 2, 2, dtype=torch.bool), *sides(ignored)).tolist() == [[[0, 0, 0, 0]]]


def tally(
    lead: Tensor, truth: Tensor, classes: list[int], originals: list[Tensor] | None = None, outputs: tuple[str, ...] = ("meta",)
) -> Counts:
    """Counts of one batch; keys are classes."""
    counts = Counts(outputs, 1 + max(classes), CPU)
    found = None if originals is None else Originals.of([(mask, warp(mask)) for mask in originals], CPU)
    counts.add(lead, truth, classes, classes, found)
    return counts


# columns lead by 1, -1, -3; the first two rows hold the placed part of a 1 x 2 image
STEPS = torch.tensor([[[[1.0, -1, -3]] * 3]])
CPU = torch.device("cpu")


def test_padded_by_hand() -> None:
    truth = torch.tensor([[[1, 1, 0], [1, 255, 0], [0, 0, 0]]], dtype=torch.uint8)
    counts = tally(STEPS, truth, [3])
    assert counts.of("padded") == {"meta": {3: [2, 1, 1, 4]}}
    assert counts.of("original") == counts.of("400") == {}


def test_original_by_hand() -> None:
    """An image of 16 x 32 fills the upper half of a square of 33, of which 16 x 32 hold it: nothing is resized."""
    lead = torch.full((33, 33), 5.0)  # what lies outside the image has no say
    lead[:16, :32] = -1
    lead[2:4, 10:20] = 1
    mask = torch.zeros(16, 32, dtype=torch.uint8)
    mask[3:5, 10:20], mask[0, 0:4], mask[15] = 7, 3, 255
    counts = tally(lead[None, None], torch.zeros(1, 33, 33, dtype=torch.uint8), [7], [mask])
    assert counts.of("original") == {"meta": {7: [10, 10, 10, 15 * 32 - 30]}}


def test_warped_against_a_plain_twin() -> None:
    """HSNet's 400x400: the placed part stretched by hand, one output pixel after the other; the truth by its nearest pixel."""
    rng = np.random.default_rng(3)
    part = rng.standard_normal((2, 8, 16)).astype(np.float32)  # what lies in the 17 x 17 square of an image of 26 x 40
    square = torch.zeros(1, 1, 17, 17)
    square[0, 0, :8, :16] = lead_of(torch.from_numpy(part))
    truth = rng.choice(np.array([0, 1, 255], np.uint8), (26, 40))
    counts = tally(square, torch.zeros(1, 17, 17, dtype=torch.uint8), [1], [torch.from_numpy(truth)])

    def places(count: int) -> list[tuple[int, int, float]]:
        centres = [min(max((i + 0.5) * count / 400 - 0.5, 0.0), count - 1.0) for i in range(400)]
        return [(int(c), min(int(c) + 1, count - 1), c - int(c)) for c in centres]

    lead = (part[1] - part[0]).astype(np.float64)
    found = np.empty((400, 400), bool)
    for y, (up, down, dy) in enumerate(places(8)):
        for x, (left, right, dx) in enumerate(places(16)):
            above = lead[up, left] * (1 - dx) + lead[up, right] * dx
            found[y, x] = above * (1 - dy) + (lead[down, left] * (1 - dx) + lead[down, right] * dx) * dy > 0
    nearest = truth[np.arange(400) * 26 // 400][:, np.arange(400) * 40 // 400]
    expected = counted(found, nearest)
    assert np.abs(np.array(counts.of("400")["meta"][1]) - expected).max() <= 2  # float32 against float64, at the border
    assert sum(expected) == sum(counts.of("400")["meta"][1]) == int((nearest != 255).sum())


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_a_batch_counts_what_image_by_image_does(seed: int) -> None:
    """Against the plain twin, which resizes both logits to the square and from there: any sizes, in any order, of two outputs.

    In float64, to the last pixel but for those where neither logit leads by more than float32 rounds: mostly none.
    """
    rng = np.random.default_rng(seed)
    count, side = int(rng.integers(1, 6)), int(rng.integers(3, 13))
    size = 8 * side - 7
    sizes = [(int(h), int(w)) for h, w in rng.integers(9, 60, (3, 2))]
    masks = [torch.from_numpy(rng.choice(np.array([0, 1, 2, 255], np.uint8), sizes[rng.integers(3)])) for _ in range(count)]
    logits = torch.from_numpy(rng.standard_normal((count, 2, 2, side, side)).astype(np.float32))
    truth = torch.from_numpy(rng.choice(np.array([0, 1, 255], np.uint8), (count, size, size)))
    classes = rng.integers(1, 3, count).tolist()
    counts = tally(lead_of(logits), truth, classes, masks, ("meta", "ensemble"))
    full = twins.resize(logits.double().flatten(0, 1), size).unflatten(0, (count, 2))
    for name in ("original", "400"):
        for number, output in enumerate(("meta", "ensemble")):
            expected, close = {c: [0] * 4 for c in sorted(set(classes))}, 0
            for square, mask, wanted in zip(full[:, number], masks, classes, strict=True):
                target = (400, 400) if name == "400" else (mask.shape[0], mask.shape[1])
                close += int((lead_of(unfit(square[None], fitted_size(*mask.shape, size), target)).abs() < 1e-5).sum())
                for i, n in enumerate(twins.at_original(square, mask, wanted)[name].tolist()):
                    expected[wanted][i] += n
            found = counts.of(name)[output]
            assert list(found) == list(expected)
            moved = np.abs(np.array(list(found.values())) - np.array(list(expected.values())))
            assert moved.sum() <= 2 * close


def test_a_tie_is_background() -> None:
    assert tally(torch.zeros(1, 1, 1, 1), torch.tensor([[[1]]], dtype=torch.uint8), [0]).of("padded") == {"meta": {0: [0, 0, 1, 0]}}


def test_sums_by_output_and_key() -> None:
    """Each episode counts for its own key; outputs come out in order of names, keys in their own, values as plain integers."""
    truth = torch.ones(3, 3, 3, dtype=torch.uint8)
    truth[2] = 0
    counts = Counts(("meta", "ensemble"), 9, CPU)
    both = torch.cat([STEPS, -STEPS], 1)
    counts.add(both.repeat(3, 1, 1, 1), truth, [1, 1, 1], [8, 2, 8])
    counts.add(both, truth[:1], [1], [8])
    found = counts.of("padded")
    assert found == {"ensemble": {2: [6, 0, 3, 0], 8: [12, 6, 6, 3]}, "meta": {2: [3, 0, 6, 0], 8: [6, 3, 12, 6]}}
    assert list(found) == ["ensemble", "meta"]
    assert {type(n) for keys in found.values() for row in keys.values() for n in row} == {int}


def test_a_batch_is_counted_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that runs out half way through leaves the sums as they were: the batch comes again, and would count twice."""
    counts = Counts(("meta",), 2, CPU)
    mask = torch.ones(9, 9, dtype=torch.uint8)
    of = (STEPS.repeat(1, 1, 3, 3), torch.ones(1, 9, 9, dtype=torch.uint8), [1], [1], Originals.of([(mask, warp(mask))], CPU))
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "_at_original", lambda *_: raise_out_of_memory())
        with pytest.raises(torch.OutOfMemoryError):
            counts.add(*of)
    assert counts.of("padded") == {}
    counts.add(*of)
    assert sum(counts.of("padded")["meta"][1]) == 81
    assert sum(counts.of("400")["meta"][1]) == 400 * 400


def raise_out_of_memory() -> None:
    raise torch.OutOfMemoryError("made up")


def test_a_class_for_every_episode() -> None:
    with pytest.raises(AssertionError):
        tally(STEPS, torch.ones(1, 3, 3, dtype=torch.uint8), [1, 2])


@given(st.permutations(range(6)), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_order_and_batches_do_not_matter(order: list[int], batch: int) -> None:
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.standard_normal((6, 1, 17, 17)).astype(np.float32))
    truth = torch.from_numpy(rng.choice(np.array([0, 1, 255], np.uint8), (6, 17, 17)))
    originals = [torch.from_numpy(rng.choice(np.array([0, 1, 255], np.uint8), (12 + i % 2, 14))) for i in range(6)]
    classes = [0, 1, 0, 2, 1, 0]

    def total(order: list[int], batch: int) -> list[dict[str, dict[int, list[int]]]]:
        counts = Counts(("meta",), 3, CPU)
        for start in range(0, 6, batch):
            piece = order[start : start + batch]
            keys = [classes[i] for i in piece]
            found = Originals.of([(originals[i], warp(originals[i])) for i in piece], CPU)
            counts.add(maps[piece], truth[piece], [1] * len(piece), keys, found)
        return [counts.of(scoring) for scoring in SCORINGS]

    assert total(order, batch) == total(list(range(6)), 6)
