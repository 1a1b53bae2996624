"""The decoder's answer in a test on a CPU: its convolutions against the library's, itself against the plain twin and the decoder."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from symnet.bench import twins
from symnet.model import winograd
from symnet.model.answer import answer, shares_of
from symnet.model.decoder import Decoder
from symnet.model.winograd import convolve


def layer_of(channels: int, out: int) -> nn.Conv2d:
    torch.manual_seed(channels)
    return nn.Conv2d(channels, out, 3, padding=1, bias=False)


# images, channels in and out, side: tiles that fit and that overhang, several images a piece, an image in several, chunks of channels
SHAPES = [(2, 5, 7, 24), (3, 33, 65, 25), (1, 3, 2, 81), (9, 4, 4, 19), (2, 70, 4, 29)]


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_convolution_is_the_librarys(shape: tuple[int, int, int, int]) -> None:
    batch, channels, out, side = shape
    layer = layer_of(channels, out)
    x = torch.randn(batch, channels, side, side)
    found, exact = convolve(layer, x), F.conv2d(x.double(), layer.weight.double(), padding=1)
    assert side > winograd.TILE * (winograd.LEAST - 1)
    assert found.is_contiguous()
    assert (found - exact).abs().max() <= 2e-5 * exact.abs().max()


@torch.no_grad()
def test_the_maps_are_exact() -> None:
    """One tile of 8x8, in float64: nothing but rounding is between the 64 products and the sums by definition."""
    maps, rng = winograd._maps(), torch.Generator().manual_seed(0)
    tile, weight = (torch.randn(n, n, generator=rng, dtype=torch.float64) for n in (8, 3))
    products = (maps.weight @ weight.flatten()) * (maps.tile.double() @ tile.flatten())
    expected = F.conv2d(tile[None, None], weight[None, None])[0, 0]
    torch.testing.assert_close((maps.products.double() @ products).view(6, 6), expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_small_maps_are_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_by_tiles", lambda *_: pytest.fail("by tiles"))
    layer, x = layer_of(4, 4), torch.randn(9, 4, 18, 18)
    assert torch.equal(convolve(layer, x), layer(x))


@torch.no_grad()
def test_weights_that_change_are_transformed_anew() -> None:
    """An optimiser changes them in place, loading too; `to` puts others in their stead. Else they are transformed once."""
    layer, x = layer_of(4, 4), torch.randn(1, 4, 20, 20)
    first = winograd._weight(layer)
    assert winograd._weight(layer) is first
    layer.weight.mul_(2)
    torch.testing.assert_close(convolve(layer, x), layer(x), rtol=0, atol=1e-4)
    layer.load_state_dict({"weight": torch.ones(4, 4, 3, 3)})
    torch.testing.assert_close(convolve(layer, x), layer(x), rtol=0, atol=1e-4)
    layer.weight.data = torch.full((4, 4, 3, 3), -1.0)
    torch.testing.assert_close(convolve(layer, x), layer(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("side", "scales"), [(29, (29, 15, 8, 4)), (30, (60, 30, 15, 8))], ids=["29", "VGG at 473"])
@pytest.mark.parametrize("hyper", [0, 5], ids=["no TDC", "TDC"])
@pytest.mark.parametrize("priors", [1, 4], ids=["one prior", "a prior a scale"])
@torch.no_grad()
def test_an_answer_is_the_decoders(side: int, scales: tuple[int, ...], hyper: int, priors: int) -> None:
    """Against the decoder, and where the twin knows the case against it."""
    torch.manual_seed(side)
    decoder = Decoder(16, hyper, scales).eval()
    query, prototype = torch.randn(2, 16, side, side).relu(), torch.randn(2, 16)
    maps = torch.randn(2, hyper, side, side) if hyper else None
    given = [torch.rand(2, 1, scale, scale) for scale in scales[:priors]]
    found = answer(decoder, side, shares_of(decoder, query), prototype, maps, given)
    expected = decoder(query, prototype, maps, given, with_inner=False)
    torch.testing.assert_close(found, expected.meta, rtol=0, atol=1e-5 * float(expected.meta.abs().max()))
    if maps is not None and priors == 1:
        twin = twins.decode(decoder, query, prototype, maps, given[0])
        torch.testing.assert_close(found, twin.meta, rtol=0, atol=1e-5 * float(twin.meta.abs().max()))
