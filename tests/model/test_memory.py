"""The memory of vectors against plain lists, and the contrast against a loop."""

import math
from collections import deque

import pytest
import torch
from torch import Tensor

from symnet.model.memory import Memory, contrast
from symnet.parallel import ALONE, Ranks

CLASSES, SIZE, CHANNELS = 3, 12, 2


def numbered(start: int, *shape: int) -> Tensor:
    """Vectors of one number each, counted on from `start`."""
    return (start + torch.arange(math.prod(shape))).view(*shape, 1).expand(*shape, CHANNELS).float()


def held(memory: Memory) -> list[set[float]]:
    """What is kept of each class."""
    return [{v[0].item() for v in of_class[: min(int(n), SIZE)]} for of_class, n in zip(memory.vectors, memory.count, strict=True)]


def test_the_newest_are_kept() -> None:
    """As by a list a class; of a step in parts, in the order of the batch."""
    draw, memory = torch.Generator().manual_seed(3), Memory(CLASSES, SIZE, CHANNELS)
    expected: list[deque[float]] = [deque(maxlen=SIZE) for _ in range(CLASSES)]
    for step in range(20):
        memory.begin(4 * 3)
        for piece in range(2):
            classes, wanted = torch.randint(CLASSES, (2,), generator=draw), torch.rand(2, 3, generator=draw) < 0.6
            vectors = numbered(1 + step * 12 + piece * 6, 2, 3)
            memory.bring(classes, vectors, wanted)
            for n in range(2):
                for m in range(3):
                    if wanted[n, m]:
                        expected[classes[n]].append(vectors[n, m, 0].item())
        before = held(memory)
        memory.end(ALONE)
        assert held(memory) == list(map(set, expected))
        assert step < 1 or held(memory) != before
    assert [len(found) for found in held(memory)] == [SIZE] * CLASSES
    assert int(memory.count.sum()) > 3 * CLASSES * SIZE


def test_what_is_begun_again_brings_nothing_twice() -> None:
    memory = Memory(CLASSES, SIZE, CHANNELS)
    memory.begin(4)
    memory.bring(torch.tensor([1]), numbered(1, 1, 2), torch.ones(1, 2, dtype=torch.bool))
    memory.begin(4)
    memory.bring(torch.tensor([2]), numbered(7, 1, 2), torch.tensor([[False, True]]))
    assert memory.count.tolist() == [0, 0, 0]  # it waits
    memory.end(ALONE)
    assert held(memory) == [set(), set(), {8.0}]


class Other(Ranks):
    """The first of two processes; adds what the second has."""

    def __init__(self, others: list[Tensor]) -> None:
        super().__init__(0, 2)
        object.__setattr__(self, "others", iter(others))

    def sum(self, values: list[Tensor]) -> None:
        for value in values:
            value += next(self.others)


def test_processes_keep_the_same() -> None:
    """What one process would, of all their episodes."""
    classes, vectors, wanted = (
        torch.tensor([1, 1, 2, 1]),
        numbered(1, 4, 3),
        torch.rand(4, 3, generator=torch.Generator().manual_seed(1)) < 0.7,
    )
    whole, first = Memory(CLASSES, SIZE, CHANNELS), Memory(CLASSES, SIZE, CHANNELS)
    whole.begin(12)
    whole.bring(classes, vectors, wanted)
    whole.end(ALONE)
    first.begin(6)
    first.bring(classes[:2], vectors[:2], wanted[:2])
    owner = classes[2:, None].where(wanted[2:], -1).flatten()
    first.end(Other([torch.stack([torch.zeros(6, CHANNELS), vectors[2:].flatten(0, 1)]), torch.stack([torch.zeros_like(owner), owner])]))
    assert torch.equal(first.vectors, whole.vectors)
    assert torch.equal(first.count, whole.count)
    assert int(whole.count.sum()) == int(wanted.sum()) < 12


def test_draws_are_of_the_class_and_without_replacement() -> None:
    memory = Memory(CLASSES, SIZE, CHANNELS)
    memory.begin(9)
    memory.bring(torch.tensor([0]), numbered(1, 1, 7), torch.ones(1, 7, dtype=torch.bool))
    memory.bring(torch.tensor([2]), numbered(50, 1, 2), torch.ones(1, 2, dtype=torch.bool))
    memory.end(ALONE)
    torch.manual_seed(4)
    seen = set()
    for _ in range(20):
        vectors, there = memory.draw(torch.tensor([0, 2, 1]), 4)
        assert there.sum(1).tolist() == [4, 2, 0]
        first, second = (set(vectors[n, there[n], 0].tolist()) for n in range(2))
        assert len(first) == 4
        assert second == {50.0, 51.0}
        seen |= first
    assert seen == set(map(float, range(1, 8)))
    torch.manual_seed(4)
    one = memory.draw(torch.tensor([0]), 4)[0]
    torch.manual_seed(4)
    assert torch.equal(memory.draw(torch.tensor([0]), 4)[0], one)
    vectors, there = memory.draw(torch.tensor([0]), 100)  # more than there is room for
    assert set(vectors[there][:, 0].tolist()) == seen


def test_contrast_by_its_definition() -> None:
    draw = torch.Generator().manual_seed(2)
    anchor, positive = torch.randn(2, 3, 5, generator=draw, dtype=torch.float64).unbind()
    negatives, there = (
        torch.randn(3, 6, 5, generator=draw, dtype=torch.float64),
        torch.tensor([[1] * 6, [1, 0, 1, 0, 0, 1], [0] * 6]).bool(),
    )
    anchor.requires_grad_()
    found = contrast(anchor, positive, negatives, there)
    for n in range(2):
        others = sum(math.exp(torch.cosine_similarity(anchor[n], v, dim=0).item()) for v in negatives[n][there[n]])
        alike = math.exp(torch.cosine_similarity(anchor[n], positive[n], dim=0).item())
        assert found[n].item() == pytest.approx(-math.log(alike / others + 1e-8), rel=1e-9)
    assert found[2].item() == 0
    found.sum().backward()
    assert anchor.grad is not None
    assert anchor.grad[:2].abs().amin(1).min() > 0
    assert torch.equal(anchor.grad[2], torch.zeros(5, dtype=torch.float64))
