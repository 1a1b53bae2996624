"""DCAMA's parts against plain loops; shots that share one softmax; memory; dropout."""

import math
from dataclasses import replace

import pytest
import torch

from symnet.backbones.loading import build_backbone
from symnet.backbones.strided import ResNet50FromFirst, ResNet50Strided
from symnet.config import Settings
from symnet.methods.base import EpisodeBatch
from symnet.methods.dcama import DCAMAMethod
from symnet.model import aggregation
from symnet.model.aggregation import HEADS, Aggregation, MaskAttention, positions
from tests.methods.dense_batch import SHOTS, SIZE, noise_batch, randn


def test_positions_are_sines_and_cosines_in_turn() -> None:
    found = positions(5, 6, torch.device("cpu"), torch.float32)
    for place in range(5):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            assert found[place, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert found[place, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


@torch.no_grad()
def test_an_answer_is_the_mean_of_the_mask_over_what_is_attended_to() -> None:
    """Query by query, head by head; positions of each support counted from 0, one softmax over all of them."""
    torch.manual_seed(0)
    attend, channels, side, shots = MaskAttention(16, 0.5).eval(), 16, 3, 2
    query, support, mask = (
        randn(2, channels, side, side, seed=1),
        randn(2, shots, channels, side, side, seed=2),
        torch.rand(2, shots, side, side),
    )
    found = attend(query, support, mask)
    at, width = positions(side**2, channels, torch.device("cpu"), torch.float32), channels // HEADS
    for b in range(2):
        keys = torch.stack(
            [attend.key(support[b, k, :, v, u] + at[v * side + u]) for k in range(shots) for v in range(3) for u in range(3)]
        )
        for y in range(side):
            for x in range(side):
                asked, total = attend.query(query[b, :, y, x] + at[y * side + x]), 0.0
                for head in range(HEADS):
                    part = slice(head * width, (head + 1) * width)
                    total += ((keys[:, part] @ asked[part] / width**0.5).softmax(0) * mask[b].flatten()).sum().item() / HEADS
                assert found[b, y, x].item() == pytest.approx(total, abs=1e-5)


def test_a_module_serves_the_blocks_of_a_stage_that_are_as_wide() -> None:
    head = Aggregation([[16, 16], [16, 24, 24], [32]], 0, 0.5)
    assert head.serves == [[0, 0], [1, 2, 2], [3]]
    assert [attend.query.in_features for attend in head.attend] == [16, 16, 24, 32]


def method_of(**own: object) -> DCAMAMethod:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "dcama": own})
    return DCAMAMethod(settings, build_backbone("efficientnet_lite0"), SHOTS, 3, 9).eval()


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    return noise_batch()


@torch.no_grad()
def test_shots_are_a_set_and_attention_is_made_in_pieces(batch: EpisodeBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    method, backbone = method_of(), build_backbone("efficientnet_lite0")
    found = method.predict(backbone, batch)["prediction"]
    assert found.shape == (2, 2, 72, 72)
    turned = replace(batch, support=[m.flip(1) for m in batch.support], support_mask=batch.support_mask.flip(1))
    torch.testing.assert_close(method.predict(backbone, turned)["prediction"], found, rtol=1e-4, atol=1e-5)
    fewer = replace(batch, support=[m[:, :1] for m in batch.support], support_mask=batch.support_mask[:, :1])
    alone = method.predict(backbone, fewer)["prediction"]
    assert not torch.allclose(alone, found, atol=1e-3)
    torch.testing.assert_close(method.from_first(backbone, batch), alone)  # what is trained
    made = []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(aggregation.F, "scaled_dot_product_attention", lambda *a, **named: made.append(a[0].shape[2]) or plain(*a, **named))
    monkeypatch.setattr(aggregation, "BUDGET", 2 * HEADS * 9 * 9 * SHOTS * 20)  # twenty rows of the largest
    torch.testing.assert_close(method.predict(backbone, batch)["prediction"], found, rtol=1e-4, atol=1e-5)
    assert made[:5] == [20, 20, 20, 20, 1]


@torch.no_grad()
def test_what_a_test_keeps_is_enough(batch: EpisodeBatch) -> None:
    method, backbone = method_of(), build_backbone("efficientnet_lite0")
    kept = [method.keep(backbone, maps, False) for maps in (list(batch.query), [m.flatten(0, 1) for m in batch.support])]
    assert [m.shape[-1] for m in kept[0]] == [9] * 2 + [5] * 6 + [3] * 5
    again = replace(batch, query=kept[0], support=[m.unflatten(0, (2, SHOTS)) for m in kept[1]])
    torch.testing.assert_close(method.predict(backbone, again)["prediction"], method.predict(backbone, batch)["prediction"])


def test_every_weight_has_a_gradient_and_dropout_is_a_setting(batch: EpisodeBatch) -> None:
    backbone = build_backbone("efficientnet_lite0")
    method = method_of(dropout=0.0)
    loss, _, _ = method.losses(backbone, batch)
    loss.backward()
    flat = {name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9}
    assert {name for name in flat if not name.endswith("key.bias")} == set()  # which a softmax does not see
    assert method.train().losses(backbone, batch)[0].item() == pytest.approx(loss.item(), rel=1e-6)
    plain, dropped = (one.train().answer(backbone, batch, 1).masks for one in (method, method_of()))
    assert [(x - y).abs().max().item() > 0.01 for x, y in zip(plain, dropped, strict=True)] == [True] * 3


@torch.no_grad()
def test_its_own_network_gives_the_first_stage_too() -> None:
    torch.manual_seed(0)
    network = ResNet50FromFirst().eval()
    plain = ResNet50Strided().eval()
    plain.load_state_dict(network.state_dict())
    images = randn(1, 3, 64, 64, seed=0)
    first, *maps = network(images)
    assert first.shape == (1, 256, 16, 16)
    assert network.block_channels == tuple(m.shape[1] for m in (first, *maps))
    for one, other in zip(maps, plain(images), strict=True):
        assert torch.equal(one, other)
    after = plain.layer2[0](torch.relu(first))  # a map before its ReLU
    assert torch.equal(after, maps[0])
