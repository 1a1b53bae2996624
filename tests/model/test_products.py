"""What an episode gets does not depend, to the last bit, on its batch: records and tests without them batch otherwise."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from symnet.model.correlation import correlation_maps
from symnet.model.layers import reduction
from symnet.model.prior import hpm, max_cosine, pfenet_prior, spm
from symnet.model.products import ROWS, Pointwise, batched
from symnet.model.shots import dissimilarity

EPISODES, CHANNELS, SIDE = 7, 96, 21


def stacked(maps: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([m.flatten(2) for m in maps], 2)


PARTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "spm": spm,
    "hpm": lambda q, s, m: stacked(hpm(q, s, m, (21, 11, 6))),
    "pfenet": pfenet_prior,
    "cosine": max_cosine,
    "psi": lambda q, s, m: dissimilarity(q, s),
    "tdc": lambda q, s, m: correlation_maps([q], [s], m),
}


@pytest.mark.parametrize("shots", [1, 2, 3, 5])
@pytest.mark.parametrize("part", PARTS)
def test_an_episode_in_a_batch_is_one_alone(part: str, shots: int) -> None:
    torch.manual_seed(shots)
    query, support = torch.randn(EPISODES, CHANNELS, SIDE, SIDE), torch.randn(EPISODES, shots, CHANNELS, SIDE, SIDE)
    mask = (torch.rand(EPISODES, shots, SIDE, SIDE) > 0.4).float()
    found = PARTS[part](query, support, mask)
    for one in (slice(0, 1), slice(1, 4), slice(4, 7)):
        assert torch.equal(PARTS[part](query[one], support[one], mask[one]), found[one])


@torch.no_grad()
def test_reduced_in_a_batch_is_reduced_alone() -> None:
    torch.manual_seed(0)
    reduce, maps = reduction(CHANNELS, 64).eval(), torch.randn(EPISODES, CHANNELS, SIDE, SIDE)
    found = reduce(maps)
    assert all(torch.equal(reduce(maps[place : place + 1]), found[place : place + 1]) for place in range(EPISODES))
    assert torch.allclose(found, torch.conv2d(maps, reduce[0].weight).relu(), atol=1e-5)


@pytest.mark.parametrize("rows", range(1, ROWS + 2))
def test_few_rows_are_the_product(rows: int) -> None:
    torch.manual_seed(rows)
    a, b = torch.randn(4, rows, 50, requires_grad=True), torch.randn(4, 50, 33, requires_grad=True)
    found = batched(a, b)
    assert torch.allclose(found, a @ b, atol=1e-5)
    ours = torch.autograd.grad(found.square().sum(), (a, b))
    theirs = torch.autograd.grad((a @ b).square().sum(), (a, b))
    assert all(torch.allclose(x, y, atol=1e-3) for x, y in zip(ours, theirs, strict=True))


def test_with_a_gradient_it_is_the_librarys_convolution() -> None:
    torch.manual_seed(0)
    layer, x = Pointwise(8, 4), torch.randn(3, 8, 5, 5)
    assert torch.equal(layer(x), torch.conv2d(x, layer.weight))
    assert layer.state_dict().keys() == {"weight"}
