"""CyCTR's and QPENet's own parts against plain twins: Dice, losses in parts, the cycle of K shots, the adapted prototype."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.backbones.frozen import ResNet50Frozen
from symnet.backbones.loading import build_backbone
from symnet.backbones.resnet import ResNet50
from symnet.config import Settings
from symnet.methods import method_class
from symnet.methods.base import EpisodeBatch
from symnet.methods.cyctr import dice
from symnet.methods.guided import Guided
from symnet.methods.qpenet import QPENetMethod
from symnet.model.background import background_loss
from symnet.model.dynamic import TEMPERATURE, DynamicConvolution
from symnet.model.prototypes import support_prototype
from symnet.model.resize import resize, resize_mask

SIZE, BATCH, SHOTS = 65, 4, 2
BACKBONE = "efficientnet_lite0"


def method_of(name: str, **own: Any) -> Guided:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, name: {"channels": 16, **own}})
    return method_class(name)(settings, build_backbone(BACKBONE), SHOTS, 3, 9).eval()


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    draw = torch.Generator().manual_seed(5)
    mask = torch.randint(0, 2, (BATCH, 1 + SHOTS, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    mask[:, :, :9] = 255
    mask[1, 0, :50] = 255  # known pixels differ from episode to episode
    shapes = [(channels, 9, 9) for channels in build_backbone(BACKBONE).block_channels]
    return EpisodeBatch(
        query=[torch.randn(BATCH, *shape, generator=draw) for shape in shapes],
        support=[torch.randn(BATCH, SHOTS, *shape, generator=draw) for shape in shapes],
        query_mask=mask[:, 0],
        support_mask=mask[:, 1:],
        base_logits=None,
        text=torch.zeros(BATCH, 3),
        base_index=torch.zeros(BATCH, dtype=torch.int64),
    )


def part(batch: EpisodeBatch, rows: slice) -> EpisodeBatch:
    found = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, query=[m[rows] for m in batch.query], support=[m[rows] for m in batch.support], **found)


@pytest.mark.parametrize("name", ["cyctr", "qpenet"])
def test_losses_of_parts_add_up_to_those_of_the_batch(batch: EpisodeBatch, name: str) -> None:
    method, backbone = method_of(name), build_backbone(BACKBONE).eval()
    loss, parts, _ = method.losses(backbone, batch)
    torch.testing.assert_close(loss, torch.stack(list(parts.values())).sum())
    divisors = method.divisors(batch.query_mask, batch.support_mask)
    each = [method.losses(backbone, part(batch, rows), divisors)[1] for rows in (slice(0, 1), slice(1, 4))]
    for key, value in parts.items():
        torch.testing.assert_close(sum(one[key] for one in each), value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", ["cyctr", "qpenet"])
@torch.no_grad()
def test_an_answer_does_not_depend_on_the_batch(batch: EpisodeBatch, name: str) -> None:
    method, backbone = method_of(name), build_backbone(BACKBONE).eval()
    found = method.predict(backbone, batch)["prediction"]
    assert found.shape == (BATCH, 2, 9, 9)
    alone = method.predict(backbone, part(batch, slice(2, 3)))["prediction"]
    torch.testing.assert_close(alone[0], found[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cyctr", "qpenet"])
@torch.no_grad()
def test_the_order_of_the_shots_does_not_matter(batch: EpisodeBatch, name: str) -> None:
    """All positions are sampled here: of 162 no more than 1200 are wanted."""
    method, backbone = method_of(name), build_backbone(BACKBONE).eval()
    found = method.predict(backbone, batch)["prediction"]
    turned = replace(batch, support=[m.flip(1) for m in batch.support], support_mask=batch.support_mask.flip(1))
    torch.testing.assert_close(method.predict(backbone, turned)["prediction"], found, rtol=1e-4, atol=1e-5)


def test_dice_by_its_definition() -> None:
    torch.manual_seed(1)
    logits, mask = torch.randn(2, 2, 9, 9), torch.tensor([0, 1, 255])[torch.randint(0, 3, (2, 17, 17))]
    expected = 0.0
    for n in range(2):
        for channel in range(2):
            p = F.interpolate(logits[n : n + 1], size=17, mode="bilinear", align_corners=True)[0, channel].sigmoid()
            target = (mask[n] == channel).float()
            expected += 1 - 2 * (p * target).sum().item() / (p.square().sum() + target.square().sum()).item()
    assert dice(logits, mask).item() == pytest.approx(expected, rel=1e-5)
    nothing = torch.full((1, 2, 17, 17), -200.0)
    assert dice(nothing, torch.full((1, 17, 17), 255)).item() == 2  # no division by 0


@torch.no_grad()
def test_the_auxiliary_branch_sees_the_query_through_its_own_mask(batch: EpisodeBatch) -> None:
    """The prediction does not read the query's mask, the supports' does."""
    method, backbone = method_of("cyctr"), build_backbone(BACKBONE).eval()
    other = replace(batch, query_mask=torch.where(batch.query_mask == 1, 0, batch.query_mask))
    out = method.answer(method.head, method.freeze(backbone, batch))
    one, two = (method.parts_of(out, b, None)["auxiliary"].item() for b in (batch, other))
    assert one != two
    supports = method.head.auxiliary(out, resize_mask(batch.query_mask == 1, 9))
    each = [dice(supports[n : n + 1, k], batch.support_mask[n : n + 1, k]).item() for n in range(BATCH) for k in range(SHOTS)]
    assert one == pytest.approx(sum(each) / len(each), rel=1e-5)
    inside = torch.rand(BATCH, 9, 9)
    found = method.head.auxiliary(out, inside)
    assert found.shape == (BATCH, SHOTS, 2, 9, 9)
    vector = support_prototype(F.relu(method.head.project(out.fused)) + out.query, inside, "released")
    x = torch.cat([out.support[:, 1], vector[:, :, None, None].expand(-1, -1, 9, 9)], 1)
    x = F.relu(method.head.merge_auxiliary(x))
    torch.testing.assert_close(found[:, 1], method.head.classify_auxiliary(x + method.head.refine_auxiliary(x)))


def test_background_loss_by_its_definition() -> None:
    torch.manual_seed(2)
    logits, mask = torch.randn(2, 2, 9, 9), torch.tensor([0, 1, 255])[torch.randint(0, 3, (2, 17, 17))]
    mask[1] = 0  # no object at all
    expected = 0.0
    for n in range(2):
        log = resize(logits[n : n + 1], 17)[0].log_softmax(0)
        if (mask[n] == 1).any():
            expected -= log[0][mask[n] == 1].mean().item()
        expected -= 0.5 * log[1].mean().item()
    assert background_loss(logits, mask).item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_dynamic_convolution_of_a_vector_is_that_of_a_map() -> None:
    torch.manual_seed(3)
    layer, vector, deciding = DynamicConvolution(8), torch.randn(8), 30 * torch.randn(3, 8, 5, 6)
    found = layer(vector, deciding)
    shares = (layer.choose(F.relu(layer.squeeze(deciding.mean((2, 3))))) / TEMPERATURE).softmax(1)
    assert not torch.allclose(shares[0], shares[1], atol=1e-3)
    for n in range(3):
        kernel = (shares[n, :, None, None, None, None] * layer.weight).sum(0)
        expected = F.conv2d(vector[None, :, None, None].expand(1, -1, 5, 6), kernel, padding=1)[0]
        torch.testing.assert_close(found[n], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_groups_of_support_positions_and_their_activations(batch: EpisodeBatch) -> None:
    """By positions: right, missed, false and the rest, of each shot by itself; then averaged."""
    method, backbone = method_of("qpenet"), build_backbone(BACKBONE).eval()
    assert isinstance(method, QPENetMethod)
    inputs = method.freeze(backbone, batch)
    out = method.answer(method.head, inputs)
    query, support = method.head.reduced(inputs)
    support, b = support.unflatten(0, (BATCH, SHOTS)), 1
    found = {name: torch.zeros(16) for name in ("alpha", "vector", "beta", "delta", "gamma")}
    for k in range(SHOTS):
        inside, answer = inputs.mask[b, k] == 1, out.support_logits[b, k].argmax(0) == 1
        kinds = {
            "alpha": inside & answer,
            "vector": inside,
            "beta": inside & ~answer,
            "delta": answer & ~inside,
            "gamma": ~(inside | answer),
        }
        for name, places in kinds.items():
            found[name] += support[b, k][:, places].sum(1) / (places.sum() + 5e-4) / SHOTS
    for place, vector in enumerate(found.values()):
        expected = torch.cosine_similarity(query[b], vector[:, None, None], dim=0)
        torch.testing.assert_close(out.activations[b, place], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_the_released_network_dilates_late() -> None:
    """As the plain trunk, but for the first block of layer3 and of layer4, and for the order of its mid features."""
    torch.manual_seed(4)
    ours, plain = ResNet50Frozen().eval(), ResNet50().eval()
    found = [(block.conv2.dilation[0], block.conv2.padding[0]) for stage in (ours.layer3, ours.layer4) for block in stage]
    assert found == [(1, 1), *[(2, 2)] * 6, *[(4, 4)] * 2]
    counters = {name: value for name, value in plain.state_dict().items() if name.endswith("num_batches_tracked")}
    plain.load_state_dict(ours.state_dict() | counters)
    for network in (ours, plain):
        network.layer3[0].conv2.padding = network.layer3[0].conv2.dilation = (2, 2)
        network.layer4[0].conv2.padding = network.layer4[0].conv2.dilation = (4, 4)
    image = torch.randn(1, 3, SIZE, SIZE)
    maps, expected = ours(image), plain(image)
    torch.testing.assert_close(maps, expected)
    mid = plain.levels(expected).mid
    torch.testing.assert_close(ours.levels(maps).mid, torch.cat([mid[:, 1024:], mid[:, :1024]], 1))
    assert {name for name, _ in ours.named_parameters()} == {name for name, p in plain.named_parameters() if p.dim() == 4}
