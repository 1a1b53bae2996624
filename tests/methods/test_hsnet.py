"""HSNet's parts against plain loops and against what defines them; its votes; pixels of 255."""

import pytest
import torch

from symnet.backbones.loading import build_backbone
from symnet.backbones.strided import ResNet50Strided
from symnet.config import Settings
from symnet.methods import voting
from symnet.methods.base import EpisodeBatch
from symnet.methods.hsnet import HSNetMethod
from symnet.methods.voting import votes
from symnet.model.squeeze import CentrePivot, correlations_4d
from tests.methods.dense_batch import SHOTS, SIZE, noise_batch, randn


def test_correlations_are_clamped_cosines() -> None:
    query, support, weight = randn(2, 6, 3, 3, seed=0), randn(2, 6, 3, 3, seed=1), torch.rand(2, 3, 3)
    weight[:, 0] = 0.0
    found = correlations_4d([query], [support], weight)
    assert found.shape == (2, 1, 3, 3, 3, 3)
    assert not found[:, :, :, :, 0].any()
    for b, y, x, v, u in ((0, 0, 1, 2, 2), (1, 2, 0, 1, 1), (1, 1, 1, 2, 0)):
        expected = torch.cosine_similarity(query[b, :, y, x], support[b, :, v, u] * weight[b, v, u], dim=0).clamp(min=0)
        assert found[b, 0, y, x, v, u].item() == pytest.approx(expected.item(), abs=1e-4)


def test_a_centre_pivot_is_a_4d_convolution_with_a_cross_of_weights() -> None:
    """At one output position: sums over the query's neighbours at the support's position, and the other way round."""
    layer = CentrePivot(2, 3, 3, stride=2)
    x = randn(1, 2, 4, 4, 5, 5, seed=0)
    found = layer(x)
    assert found.shape == (1, 3, 4, 4, 3, 3)
    y, z, v, u = 1, 2, 1, 2  # support position 2, 4 of the input
    total = layer.conv1.bias + layer.conv2.bias
    for dy in range(3):
        for dx in range(3):
            inside = 0 <= y + dy - 1 < 4 and 0 <= z + dx - 1 < 4
            if inside:
                total = total + layer.conv1.weight[:, :, dy, dx] @ x[0, :, y + dy - 1, z + dx - 1, 2 * v, 2 * u]
            if 0 <= 2 * v + dy - 1 < 5 and 0 <= 2 * u + dx - 1 < 5:
                total = total + layer.conv2.weight[:, :, dy, dx] @ x[0, :, y, z, 2 * v + dy - 1, 2 * u + dx - 1]
    torch.testing.assert_close(found[0, :, y, z, v, u], total)


def test_votes_are_shares_of_the_largest_number() -> None:
    on = torch.tensor([[[1, 0, 1]], [[1, 0, 0]], [[1, 0, 0]]])  # [K, 1, 3]
    logits = torch.stack([torch.zeros(1, 3, 1, 3), on[None].float() - 0.5], 2)
    torch.testing.assert_close(votes(logits), torch.tensor([[[1.0, 0.0, 1 / 3]]]))
    assert not votes(logits - logits).any()  # nothing found: no division by 0


def method_of(border: str = "ignore") -> HSNetMethod:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "hsnet": {"border": border}})
    return HSNetMethod(settings, build_backbone("efficientnet_lite0"), SHOTS, 3, 9).eval()


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    return noise_batch()


@torch.no_grad()
def test_shots_vote_and_what_a_test_keeps_is_enough(batch: EpisodeBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    method, backbone = method_of(), build_backbone("efficientnet_lite0")
    found = method.predict(backbone, batch)["prediction"]
    assert found.shape == (2, 2, SIZE, SIZE)
    shown = method.shown(backbone, batch)
    assert torch.equal(found[:, 1] > found[:, 0], shown["vote"].bool())
    assert torch.equal(shown["vote"].bool(), votes(shown["logits"]) >= 0.5)
    kept = [method.keep(backbone, maps, False) for maps in (list(batch.query), [m.flatten(0, 1) for m in batch.support])]
    assert [m.shape[-1] for m in kept[0]] == [9] * 2 + [5] * 6 + [3] * 5
    again = EpisodeBatch(**vars(batch) | {"query": kept[0], "support": [m.unflatten(0, (2, SHOTS)) for m in kept[1]]})
    torch.testing.assert_close(method.predict(backbone, again)["prediction"], found)
    monkeypatch.setattr(voting, "BUDGET", 1)  # one pair at a time
    torch.testing.assert_close(method.each(backbone, batch), method.each(backbone, again), rtol=1e-4, atol=1e-5)


def test_pixels_of_255_are_left_out_or_background(batch: EpisodeBatch) -> None:
    found = {}
    for border in ("ignore", "background"):
        method = method_of(border)
        loss, parts, outputs = method.losses(build_backbone("efficientnet_lite0"), batch)
        assert parts == {"prediction": loss}
        pixels = torch.nn.functional.interpolate(outputs["prediction"], size=SIZE, mode="bilinear", align_corners=True)
        target = batch.query_mask.long() if border == "ignore" else (batch.query_mask == 1).long()
        expected = torch.nn.functional.cross_entropy(pixels, target, ignore_index=255)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert method.divisors(batch.query_mask, batch.support_mask).pixels == (target != 255).sum()
        found[border] = loss.item()
    assert found["ignore"] != found["background"]


@torch.no_grad()
def test_its_own_network_is_not_dilated() -> None:
    maps = ResNet50Strided().eval()(torch.randn(1, 3, SIZE, SIZE))
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 9, 9)] * 4 + [(1024, 5, 5)] * 6 + [(2048, 3, 3)] * 3
