"""The copy of a network that a method trains: what it computes, what of it learns."""

import functools

import pytest
import torch
from torch import fx, nn

from symnet.backbones.base import Backbone
from symnet.backbones.folded import Folded
from symnet.backbones.loading import build_backbone
from symnet.backbones.trunk import trunk_of
from tests.marks import EVERY_BACKBONE

IMAGES = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(6))


@functools.cache
def built(name: str) -> tuple[Backbone, fx.GraphModule]:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    return backbone, trunk_of(backbone)


@pytest.mark.parametrize("name", EVERY_BACKBONE)
@torch.no_grad()
def test_it_is_the_network_up_to_its_third_stage(name: str) -> None:
    backbone, trunk = built(name)
    weights = trunk.state_dict()
    assert torch.equal(trunk(IMAGES), backbone.until_last(IMAGES)[0][-1])
    whole = backbone.state_dict()
    assert all(torch.equal(value, whole[entry]) for entry, value in weights.items())
    assert not {p.data_ptr() for p in weights.values()} & {p.data_ptr() for p in whole.values()}  # a copy
    answering = trunk_of(Folded(backbone, torch.bfloat16, False)).state_dict()
    assert answering.keys() == weights.keys()
    assert all(torch.equal(value, answering[entry]) for entry, value in weights.items())  # of the network, not of its rounded form


@pytest.mark.parametrize("name", EVERY_BACKBONE)
@torch.no_grad()
def test_what_learns_is_every_convolution_from_the_second_stage_on(name: str) -> None:
    _, trunk = built(name)
    entered: dict[str, int] = {}  # convolutions in the order of their calls, and the side of what enters
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, part=part: entered.update({part: x[0].shape[-1]}))
        for part, layer in trunk.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    trunk(IMAGES)
    for hook in hooks:
        hook.remove()
    called = list(entered)
    learns = {part.rpartition(".")[0] for part, p in trunk.named_parameters() if p.requires_grad}
    assert learns == set(called[-len(learns) :])
    assert entered[called[-len(learns)]] == 17  # the second stage's first: after it, features are at stride 8
    assert max(entered[part] for part in called[: -len(learns)]) > 17
    assert len(hooks) == len(called)  # the fourth stage is not there


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50", 8_290_304),
        ("resnet50_tv", 8_290_304),
        ("resnet101", 27_230_208),
        ("vgg16_bn", 7_375_104),  # with biases
        ("efficientnet_lite0", 670_032),
    ],
)
def test_how_many_weights_learn(name: str, count: int) -> None:
    assert sum(p.numel() for p in built(name)[1].parameters() if p.requires_grad) == count
