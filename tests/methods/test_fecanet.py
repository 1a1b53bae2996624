"""FECANet's parts against plain loops; its slips as settings; the earlier answer that a decoder sees."""

from dataclasses import replace

import pytest
import torch

from symnet.backbones.loading import build_backbone
from symnet.config import Settings
from symnet.methods.base import EpisodeBatch
from symnet.methods.fecanet import FECANetMethod
from symnet.model.context import Enhance, self_similarity
from tests.methods.dense_batch import SHOTS, SIZE, noise_batch, randn


def test_self_similarity_is_cosines_column_by_column() -> None:
    x = randn(2, 5, 3, 4, seed=0)
    found = self_similarity(x)
    assert found.shape == (2, 9, 3, 4)
    for b in range(2):
        for y in range(3):
            for z in range(4):
                for number in range(9):
                    v, u = y + number % 3 - 1, z + number // 3 - 1
                    inside = 0 <= v < 3 and 0 <= u < 4
                    expected = torch.cosine_similarity(x[b, :, y, z], x[b, :, v, u], dim=0).item() if inside else 0.0
                    assert found[b, number, y, z].item() == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("values", ["attended", "own"])
def test_enhanced_maps_position_by_position(values: str) -> None:
    torch.manual_seed(0)
    enhance = Enhance(32, values).eval()
    query, support = randn(2, 32, 3, 3, seed=1), randn(2, 32, 3, 3, seed=2)
    assert all(torch.equal(x, y) for x, y in zip(enhance(query, support), (query, support), strict=True))  # before it has learned
    for into in (enhance.into_query, enhance.into_support):
        torch.nn.init.normal_(into[1].weight)
        torch.nn.init.normal_(into[1].bias)
    for found, x, into in zip(enhance(query, support), (query, support), (enhance.into_query, enhance.into_support), strict=True):
        keys, asks = enhance.key(support).flatten(2), enhance.query(query).flatten(2)
        other = support if x is query else query
        gathered = enhance.value(x if values == "own" else other).flatten(2)
        gate = enhance.gate(x.mean((2, 3)))
        for b in range(2):
            for place in range(9):
                near = [keys[b, :, j] @ asks[b, :, place] if x is query else keys[b, :, place] @ asks[b, :, j] for j in range(9)]
                mean = (torch.stack(near).softmax(0) * gathered[b]).sum(1)
                change = into(mean[None, :, None, None])[0, :, 0, 0]
                expected = x[b].flatten(1)[:, place] + gate[b] * change
                torch.testing.assert_close(found[b].flatten(1)[:, place], expected, rtol=1e-4, atol=1e-5)


def method_of(**own: object) -> FECANetMethod:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "fecanet": own})
    method = FECANetMethod(settings, build_backbone("efficientnet_lite0"), SHOTS, 3, 9).eval()
    with torch.no_grad():
        method.head.refine1[1].weight[:, 128:] *= 100  # an earlier answer that is hard to overlook
    return method


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    return noise_batch()


@torch.no_grad()
def test_support_maps_are_masked_or_not(batch: EpisodeBatch) -> None:
    backbone = build_backbone("efficientnet_lite0")
    zeros = replace(batch, support_mask=torch.zeros_like(batch.support_mask))
    for masked in (True, False):
        out = method_of(masked=masked).first(backbone, zeros)
        assert [maps[:, :-1].any().item() for maps in out.correlations] == [not masked] * 3


@torch.no_grad()
def test_an_earlier_answer_is_read_where_there_is_one(batch: EpisodeBatch) -> None:
    method, backbone = method_of(), build_backbone("efficientnet_lite0")
    none = method.predict(backbone, batch)["prediction"]
    torch.testing.assert_close(method.predict(backbone, replace(batch, history=torch.zeros(2, 2, 18, 18)))["prediction"], none)
    history = randn(2, 2, 18, 18, seed=3).softmax(1)
    logits = method.first(backbone, replace(batch, history=history)).logits
    plain = method.first(backbone, batch).logits
    assert (logits - plain).abs().max() > 1e-3
    swapped = method.first(backbone, replace(batch, history=history.flip(0))).logits
    assert (logits - swapped).abs().max() > 1e-3  # each query its own


@torch.no_grad()
def test_in_training_some_see_what_was_answered_without(batch: EpisodeBatch) -> None:
    backbone = build_backbone("efficientnet_lite0")
    method = method_of(recall=1.0)
    plain = method.first(backbone, batch).logits
    seen = method.first(backbone, replace(batch, history=plain.softmax(1))).logits
    assert (seen - plain).abs().max() > 1e-3
    method.head.training = True  # and no part of it: batch norm as in a test
    torch.testing.assert_close(method.first(backbone, batch).logits, seen)
    method.head.recall = 0.0
    torch.testing.assert_close(method.first(backbone, batch).logits, plain)


def test_every_weight_has_a_gradient(batch: EpisodeBatch) -> None:
    method, backbone = method_of(recall=1.0).train(), build_backbone("efficientnet_lite0")
    for enhance in method.head.enhance:
        for into in (enhance.into_query, enhance.into_support):
            torch.nn.init.normal_(into[1].weight)
    method.losses(backbone, batch)[0].backward()
    still = {name for name, p in method.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()
