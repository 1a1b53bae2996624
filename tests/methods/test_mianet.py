"""MIANet's own parts against plain loops in float64; its shots; micro-batches."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from symnet.backbones.loading import build_backbone
from symnet.config import Settings
from symnet.methods import METHODS
from symnet.methods.base import EpisodeBatch
from symnet.methods.mianet import MIANetMethod, MIANetOutput, local_side, whole_positions
from symnet.model.divisors import Divisors

SIZE, SIDE, TEXT = 97, 13, 3  # local features of side 3
BACKBONE = "efficientnet_lite0"


def method_of(shots: int) -> MIANetMethod:
    torch.manual_seed(0)
    settings = Settings.model_validate({"pixels": {"size": SIZE}, "mianet": {"channels": 8}})
    return MIANetMethod(settings, build_backbone(BACKBONE), shots, TEXT, SIDE).double().eval()


def batch_of(episodes: int, shots: int) -> EpisodeBatch:
    draw = torch.Generator().manual_seed(5)
    mask = torch.zeros(episodes, 1 + shots, SIZE, SIZE, dtype=torch.uint8)
    mask[:, :, :60, :50] = 1
    mask[:, :, 40:44] = 255
    mask[0, 1:] = 0  # a support without an object: it has no triplet
    channels = build_backbone(BACKBONE).block_channels
    return EpisodeBatch(
        query=[torch.randn(episodes, c, SIDE, SIDE, generator=draw).double() for c in channels],
        support=[torch.randn(episodes, shots, c, SIDE, SIDE, generator=draw).double() for c in channels],
        query_mask=mask[:, 0],
        support_mask=mask[:, 1:],
        base_logits=None,
        text=torch.randn(episodes, TEXT, generator=draw).double(),
        base_index=torch.zeros(episodes, dtype=torch.int64),
    )


def asked(method: MIANetMethod, batch: EpisodeBatch, **named: bool | Divisors) -> MIANetOutput:
    return method.answer(method.head, method.freeze(build_backbone(BACKBONE), batch), **named)


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


@pytest.mark.parametrize("shots", [1, 3])
def test_the_triplet_reads_local_positions(shots: int) -> None:
    """Anchor is the general prototype; the farthest whole position and the mean of the rest; mean over usable supports, then shots."""
    method, batch = method_of(shots), batch_of(3, shots)
    out = asked(method, batch, with_triplet=True)
    assert out.local is not None
    assert out.triplet is not None
    side = out.local.shape[-1]
    assert side == local_side(SIDE) == 3
    mask = (batch.support_mask[..., ::8, ::8] == 1).double()  # at side 13
    at = [int(i * SIDE / side) for i in range(side)]
    terms = []
    for k in range(shots):
        of_shot = []
        for b in range(3):
            anchor = unit(out.general_prototype[b])
            places = [(y, x) for y in range(side) for x in range(side)]
            found = {p: unit(out.local.unflatten(0, (3, shots))[b, k, :, p[0], p[1]]) for p in places}
            inside = [p for p in places if mask[b, k, at[p[0]], at[p[1]]] == 1]
            rest = [found[p] for p in places if p not in inside]
            if inside and rest:
                far = max(torch.dist(anchor + 1e-6, found[p]).item() for p in inside)
                of_shot.append(max(0.0, 0.5 + far - torch.dist(anchor + 1e-6, torch.stack(rest).mean(0)).item()))
        assert len(of_shot) == 2
        terms.append(sum(of_shot) / 2)
    assert out.triplet.item() == pytest.approx(sum(terms) / shots, rel=1e-6)
    assert out.triplet.item() > 0


def test_positions_of_the_border_are_background() -> None:
    mask = torch.tensor([[[[1.0, 0.999], [0.5, 0.0]]]])
    assert whole_positions(mask, 2).tolist() == [[[[True, False], [False, False]]]]


def test_shots_are_averaged() -> None:
    """Instance prototypes and the priors of each scale; the general prototype is made of the average."""
    method, batch = method_of(3), batch_of(2, 3)
    whole = asked(method, batch)
    alone = [
        asked(method, replace(batch, support=[m[:, k : k + 1] for m in batch.support], support_mask=batch.support_mask[:, k : k + 1]))
        for k in range(3)
    ]
    instance = torch.stack([one.instance_prototype for one in alone]).mean(0)
    torch.testing.assert_close(whole.instance_prototype, instance)
    for n, prior in enumerate(whole.priors):
        torch.testing.assert_close(prior, torch.stack([one.priors[n] for one in alone]).mean(0))
    first, _, _, second, _ = method.head.generalise
    hidden = torch.cat([batch.text, instance], 1) @ first.weight.T + first.bias
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    torch.testing.assert_close(whole.general_prototype, hidden @ second.weight.T + second.bias)


def test_losses_of_parts_of_a_batch_add_up() -> None:
    method, batch, backbone = method_of(2), batch_of(3, 2), build_backbone(BACKBONE)
    whole = method.losses(backbone, batch)[1]
    divisors = method.divisors(batch.query_mask, batch.support_mask)
    assert divisors.usable.tolist() == [2, 2]
    pieces = []
    for part in (slice(0, 2), slice(2, 3)):  # one usable support each
        cut = {name: getattr(batch, name)[part] for name in ("query_mask", "support_mask", "text", "base_index")}
        maps = {"query": [m[part] for m in batch.query], "support": [m[part] for m in batch.support]}
        pieces.append(method.losses(backbone, replace(batch, **cut, **maps), divisors)[1])
    assert whole.keys() == {"prediction", "inner", "triplet"}
    for name, value in whole.items():
        assert sum(piece[name].item() for piece in pieces) == pytest.approx(value.item(), rel=1e-6)


def test_other_sides_have_no_records() -> None:
    """Records hold the priors of the usual sides."""
    for scales, expected in ((None, ("hpm",)), ([13, 6], ())):
        settings = Settings.model_validate({"mianet": {"scales": scales and tuple(scales)}})
        assert METHODS["mianet"].records(settings) == expected
