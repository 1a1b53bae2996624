"""HDMNet's own parts: where supports are masked, its two priors, K shots, losses in parts; the door masks pixels."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from symnet.backbones.loading import build_backbone
from symnet.config import Settings
from symnet.methods import HDMNet
from symnet.methods.base import EpisodeBatch
from symnet.methods.hdmnet import HDMNetMethod
from symnet.model.base import PSPHead
from symnet.model.resize import resize_mask

SIZE, SIDE, BATCH, SHOTS = 65, 9, 3, 5
BACKBONE = "efficientnet_lite0"


def method_of(**own: Any) -> HDMNetMethod:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "hdmnet": {"channels": 16, "tokens": 16, **own}})
    return HDMNetMethod(settings, build_backbone(BACKBONE), SHOTS, 3, SIDE).eval()


@pytest.fixture(scope="module")
def batch() -> EpisodeBatch:
    torch.manual_seed(5)
    backbone = build_backbone(BACKBONE)
    mask = (torch.rand(BATCH, 1 + SHOTS, SIZE, SIZE) < 0.5).byte()
    mask[:, :, :9] = 255
    mask[1, 0, :50] = 255  # known pixels differ from episode to episode
    maps = [torch.randn(BATCH, 1 + SHOTS, channels, SIDE, SIDE) for channels in backbone.block_channels]
    for m in maps:
        m[:, 1:] *= torch.linspace(0.2, 2.0, SHOTS).view(1, -1, 1, 1, 1)  # psi differs from shot to shot
    return EpisodeBatch(
        query=[m[:, 0] for m in maps],
        support=[m[:, 1:] for m in maps],
        query_mask=mask[:, 0],
        support_mask=mask[:, 1:],
        base_logits=torch.randn(BATCH, 4, SIDE, SIDE),
        text=torch.zeros(BATCH, 3),
        base_index=torch.tensor([0, 2, 1]),
        base_head=PSPHead(backbone.high_channels, 4, 8).eval().requires_grad_(False),
    )


def part(batch: EpisodeBatch, rows: slice) -> EpisodeBatch:
    found = {name: value[rows] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, query=[m[rows] for m in batch.query], support=[m[rows] for m in batch.support], **found)


def turned(batch: EpisodeBatch) -> EpisodeBatch:
    return replace(batch, support=[m.roll(2, 1) for m in batch.support], support_mask=batch.support_mask.roll(2, 1))


def test_losses_of_parts_add_up_to_those_of_the_batch(batch: EpisodeBatch) -> None:
    method, backbone = method_of(), build_backbone(BACKBONE).eval()
    loss, parts, _ = method.losses(backbone, batch)
    assert parts.keys() == {"meta", "ensemble", "distillation"}
    torch.testing.assert_close(loss, torch.stack(list(parts.values())).sum())
    divisors = method.divisors(batch.query_mask, batch.support_mask)
    each = [method.losses(backbone, part(batch, rows), divisors)[1] for rows in (slice(0, 1), slice(1, 3))]
    for key, value in parts.items():
        torch.testing.assert_close(sum(one[key] for one in each), value, rtol=1e-4, atol=1e-6, msg=key)


def test_every_weight_has_a_gradient(batch: EpisodeBatch) -> None:
    method = method_of().train()
    assert method.head.weigh is not None
    torch.nn.init.constant_(method.head.weigh.layers[0].bias, 1.0)  # its hidden ReLU is on
    torch.nn.init.constant_(method.head.ensemble.with_psi.weight, 1.0)  # psi is read, as it is after the first step
    method.losses(build_backbone(BACKBONE).eval(), batch)[0].backward()
    assert {name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().max() > 0} == set()


@torch.no_grad()
def test_an_answer_does_not_depend_on_the_batch(batch: EpisodeBatch) -> None:
    method, backbone = method_of(), build_backbone(BACKBONE).eval()
    found, alone = method.predict(backbone, batch), method.predict(backbone, part(batch, slice(2, 3)))
    for name in method.outputs:
        assert found[name].shape == (BATCH, 2, SIDE, SIDE)
        torch.testing.assert_close(alone[name][0], found[name][2], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_order_of_the_shots_does_not_matter_but_for_the_slip(batch: EpisodeBatch) -> None:
    backbone = build_backbone(BACKBONE).eval()
    for weights in ("own", "sorted"):
        method = method_of(shot_weights=weights)
        assert method.head.weigh is not None
        method.head.weigh.layers[0].bias += 1  # its hidden ReLU is on
        method.head.weigh.layers[2].bias += torch.arange(SHOTS)
        method.head.ensemble.with_psi.weight.fill_(1.0)
        outs = [method.answer(method.head, method.freeze(backbone, b)) for b in (batch, turned(batch))]
        torch.testing.assert_close(outs[1].meta, outs[0].meta, rtol=1e-4, atol=1e-5)
        psi = method.freeze(backbone, batch).psi
        assert psi is not None
        smallest_first = method.head.weigh.layers(psi.sort(1).values).softmax(1)
        if weights == "own":
            torch.testing.assert_close(outs[1].psi, outs[0].psi)
            torch.testing.assert_close(outs[0].psi, (smallest_first * psi.sort(1).values).sum(1))
        else:
            assert (outs[1].psi - outs[0].psi).abs().min() > 1e-3
            torch.testing.assert_close(outs[0].psi, (smallest_first * psi).sum(1))


@torch.no_grad()
def test_a_row_reads_nothing_of_a_support_outside_its_mask(batch: EpisodeBatch) -> None:
    """Neither does it read the support's own maps of the fourth stage, which have seen all of the image."""
    method, backbone = method_of(), build_backbone(BACKBONE).eval()
    outside = (resize_mask(batch.support_mask == 1, SIDE) == 0).unsqueeze(2)
    known = sum(backbone.groups[:2])
    other = [torch.where(outside, 7.0, m) if place < known else m + 1 for place, m in enumerate(batch.support)]
    found, again = method.predict(backbone, batch), method.predict(backbone, replace(batch, support=other))
    for name in method.outputs:
        torch.testing.assert_close(again[name], found[name], rtol=1e-4, atol=1e-5)
    inside = [torch.where(outside, m, 7.0) for m in batch.support]
    assert (method.predict(backbone, replace(batch, support=inside))["meta"] - found["meta"]).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_frozen_by_its_definition(batch: EpisodeBatch, masked: bool) -> None:
    """Mid and low features, two priors position by position, psi; of supports masked at their pixels nothing is masked again but priors."""
    method, backbone = method_of(), build_backbone(BACKBONE).eval()
    batch = replace(batch, masked=masked)
    found = method.freeze(backbone, batch)
    assert found.psi is not None
    assert batch.base_head is not None
    b, k = 1, 3
    on = batch.support_mask[b, k] == 1
    at = [[on[8 * i, 8 * j].item() for j in range(SIDE)] for i in range(SIDE)]  # 65 to 9 pixels, corners aligned
    nearest = [[on[i * SIZE // SIDE, j * SIZE // SIDE].item() for j in range(SIDE)] for i in range(SIDE)]
    mask, known = torch.tensor(at).float(), sum(backbone.groups[:2])
    own = [m[b, k][None] for m in batch.support]
    if not masked:
        own = [m * mask for m in own[:known]]
        own += backbone.last_stage(backbone.entering(own[-1]))
    query, support = backbone.levels([m[b][None] for m in batch.query]), backbone.levels(own)
    torch.testing.assert_close(found.support_mid[b, k], support.mid[0])
    pairs = [(batch.base_head.features(query.high), batch.base_head.features(support.high)), (query.high, support.high)]
    for prior, (q, s) in zip(found.priors, pairs, strict=True):
        expected = torch.full((SIDE, SIDE), 0.0)  # there is background, and that is zeros
        for i in range(SIDE):
            for j in range(SIDE):
                if nearest[i][j]:
                    cosine = torch.cosine_similarity(q[0], s[0, :, i, j][:, None, None], dim=0)
                    expected = torch.maximum(expected, cosine)
        torch.testing.assert_close(prior[b, k], expected, rtol=1e-4, atol=1e-5)
    grams = []
    for low in (query.low, support.low):
        rows = low[0].flatten(1)
        grams.append(torch.cosine_similarity(rows[:, None], rows[None], dim=2))
    torch.testing.assert_close(found.psi[b, k], (grams[0] - grams[1]).norm() / len(grams[0]), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_the_base_learners_last_features_are_before_their_relu(batch: EpisodeBatch) -> None:
    head = batch.base_head
    assert head is not None
    high = torch.randn(2, head.classify[0].in_channels // 2, SIDE, SIDE)
    features = head.features(high)
    assert features.shape == (2, 8, SIDE, SIDE)
    assert features.min() < -0.1
    last = head.classify[4]
    logits = torch.einsum("bchw,oc->bohw", features.clamp(min=0), last.weight[:, :, 0, 0]) + last.bias.view(-1, 1, 1)
    torch.testing.assert_close(logits, head(high))


@torch.no_grad()
def test_the_door_masks_pixels() -> None:
    """What a support shows outside its mask is not seen, not even near the object's border; a row's features have seen it."""
    torch.manual_seed(3)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "hdmnet": {"channels": 16, "tokens": 16}})
    model = HDMNet(settings, backbone=BACKBONE, base_classes=3, base_width=8)
    query, support, text = torch.randn(1, 3, SIZE, SIZE), torch.randn(1, 1, 3, SIZE, SIZE), torch.zeros(1, 3)
    mask = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.uint8)
    mask[..., 20:45, 15:50], mask[..., 45:48, :] = 1, 255
    inside = (mask == 1).unsqueeze(2)

    def change(x: Tensor, y: Tensor) -> float:
        return ((x - y).abs().max() / y.abs().max()).item()

    found = model(query, support, mask, text)
    other = model(query, torch.where(inside, support, 3 + support), mask, text)
    assert torch.equal(other.final, found.final)
    assert torch.equal(other.similarity_x10, found.similarity_x10)
    assert change(model(query, torch.where(inside, 3 + support, support), mask, text).similarity_x10, found.similarity_x10) > 0.05
    queries = model.backbone(query)
    rest = {"query_mask": mask[:, 0], "support_mask": mask, "text": text, "base_index": torch.tensor([-1]), "base_head": model.base}
    rest["base_logits"] = model.base(model.backbone.levels(queries).high)
    of_row = [
        model.method.shown(model.backbone, EpisodeBatch(queries, [m.unflatten(0, (1, 1)) for m in model.backbone(image[0])], **rest))
        for image in (support, torch.where(inside, support, 3 + support))
    ]
    assert change(of_row[1]["similarity_x10"], of_row[0]["similarity_x10"]) > 0.05
