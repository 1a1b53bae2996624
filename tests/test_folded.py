"""The answering form of backbones and base learners: the plain one's values, in float32 and in 16 bits; what of it is fused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from symnet.backbones import folded as module
from symnet.backbones.base import Backbone
from symnet.backbones.folded import Folded, _Added, _Joined, _Rectified, fold
from symnet.backbones.loading import build_backbone, load_backbone
from symnet.base_learner import BaseLearner
from symnet.bench.material import calibrated
from symnet.config import BackboneSettings
from symnet.errors import UserError
from symnet.model.base import PSPHead
from symnet.precision import Precision, answering, precision_of
from tests.marks import EVERY_BACKBONE

CPU = torch.device("cpu")
BF16 = {"vgg16_bn": 0.1}  # VGG has no shortcuts that keep what was exact
SIZE = 65


@pytest.fixture(scope="module", params=EVERY_BACKBONE)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    return calibrated(request.param).requires_grad_(False)


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def error(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference, over the largest value of its map."""
    assert [m.shape for m in found] == [m.shape for m in expected]
    return max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_a_folded_backbone_gives_the_plain_ones_maps_and_levels(backbone: Backbone) -> None:
    plain = backbone(images())
    for channels_last in (False, True):
        folded = Folded(backbone, torch.float32, channels_last)
        found = folded(images())
        assert error(found, plain) < 1e-4
        assert error(list(folded.levels(found)), list(backbone.levels(plain))) < 1e-4
        assert all(m.is_contiguous(memory_format=folded.order) for m in found)
    assert [getattr(folded, name) for name in Backbone.__annotations__] == [getattr(backbone, name) for name in Backbone.__annotations__]
    assert folded.side(SIZE) == backbone.side(SIZE)


@torch.no_grad()
def test_supports_masked_before_the_fourth_stage(backbone: Backbone) -> None:
    """Of ones: their own maps. Of any mask: what the fourth stage makes of masked features, for each support alone; folded as well."""
    own = backbone(images(4))
    support, side, known = [m.unflatten(0, (2, 2)) for m in own], own[-1].shape[-1], sum(backbone.groups[:2])
    assert side == backbone.side(SIZE)
    ones = backbone.masked(support, torch.ones(2, 2, side, side))
    assert error([m.flatten(0, 1) for m in ones], own) < 1e-5
    mask = torch.rand(2, 2, side, side, generator=torch.Generator().manual_seed(2)).round()
    expected = [backbone.last_stage(backbone.entering(own[known - 1][n : n + 1]) * mask.flatten(0, 1)[n]) for n in range(4)]
    found = backbone.masked(support[:known], mask)
    assert all(a is b for a, b in zip(found, support[:known], strict=False))
    assert error([m.flatten(0, 1) for m in found[known:]], [torch.cat(maps) for maps in zip(*expected, strict=True)]) < 1e-4
    folded = Folded(backbone, torch.float32, False).masked(support, mask)
    assert error([m.flatten(0, 1) for m in folded], [m.flatten(0, 1) for m in found]) < 1e-4


@torch.no_grad()
def test_in_16_bits_it_stays_near(backbone: Backbone, request: pytest.FixtureRequest) -> None:
    plain, name = backbone(images()), request.node.callspec.params["backbone"]
    for dtype, allowed in ((torch.bfloat16, BF16.get(name, 0.04)), (torch.float16, BF16.get(name, 0.04) / 5)):
        found = Folded(backbone, dtype, True)(images())
        assert {m.dtype for m in found} == {dtype}
        assert 1e-5 < error(found, plain) < allowed


@torch.no_grad()
def test_the_published_network_in_16_bits() -> None:
    plain = load_backbone(BackboneSettings(name="efficientnet_lite0", weights="package"), Path()).eval()
    expected = plain(images())
    assert error(Folded(plain, torch.float32, False)(images()), expected) < 1e-5
    assert error(Folded(plain, torch.bfloat16, True)(images()), expected) < 0.05
    assert error(Folded(plain, torch.float16, True)(images()), expected) < 0.01


def test_every_relu_of_a_resnet_is_part_of_a_convolution() -> None:
    """Of 3 blocks the sum is no map; of the last no ReLU is wanted. Three in the stem and two a block follow convolutions."""
    folded = Folded(build_backbone("resnet50").eval(), torch.float32, False)
    kinds = [type(part) for part in folded.nets.modules()]
    assert [kinds.count(kind) for kind in (_Added, _Joined, _Rectified)] == [3, 12, 3 + 2 * 16]
    calls = {str(node.target) for net in folded.nets for node in net.graph.nodes if node.op != "call_module"}
    assert not any("relu" in call for call in calls)
    assert not any(isinstance(part, (nn.ReLU, nn.BatchNorm2d, nn.Identity)) for part in folded.nets.modules())


def test_the_plain_one_is_left_as_it_was() -> None:
    plain = calibrated("resnet50_tv")
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    Folded(plain, torch.bfloat16, True)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert all(p.requires_grad for p in plain.parameters())


def test_a_batch_norm_that_nothing_comes_before_is_found() -> None:
    with pytest.raises(AssertionError, match="batch norm without a convolution before it"):
        fold(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))


@torch.no_grad()
def test_a_base_learner_that_answers(backbone: Backbone) -> None:
    torch.manual_seed(2)
    head = PSPHead(backbone.high_channels, 6, 32)
    for part in head.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.uniform_(0.5, 2)
            part.bias.normal_()
    base = BaseLearner("x", backbone, head, (1, 2, 3, 4, 5), "").to(CPU)
    assert answering(base, torch.float32, True) is base  # the bytes it always gave
    expected = head(backbone.levels(backbone(images())).high)
    exact = fold(head)(backbone.levels(backbone(images())).high)
    torch.testing.assert_close(exact, expected, rtol=1e-4, atol=1e-4)
    quick = answering(base, torch.bfloat16, True)
    found = quick.head(quick.backbone.levels(quick.backbone(images())).high)
    assert found.dtype == torch.bfloat16
    assert error([found], [expected]) < 0.1
    assert quick.classes == base.classes


def test_what_a_precision_means(monkeypatch: pytest.MonkeyPatch) -> None:
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    assert [precision_of(name, CPU) for name in ("auto", "float32", "bfloat16", "float16")] == [
        Precision(f32, f32),
        Precision(f32, f32),
        Precision(bf16, bf16),
        Precision(f16, f32),
    ]
    gpu = torch.device("cuda")
    for has, expected in ((True, Precision(bf16, bf16)), (False, Precision(f16, f32))):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert precision_of("auto", gpu) == expected
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old")
    with pytest.raises(UserError, match="precision: found bfloat16, which Old lacks; use auto, float16 or float32"):
        precision_of("bfloat16", gpu)
    assert [str(p) for p in (Precision(f16, f32), Precision(bf16, bf16))] == ["float16, head float32", "bfloat16"]


def test_no_fused_call_is_asked_for_on_a_cpu() -> None:
    assert not module.cudnn_fuses(CPU, torch.bfloat16)


@torch.no_grad()
def test_where_cudnn_has_no_fused_call_for_a_shape_the_plain_calls_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked once a convolution; of the image's three channels never."""
    asked: list[tuple[int, ...]] = []

    def relu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, **where: Any) -> torch.Tensor:
        asked.append(tuple(weight.shape))
        if where["dilation"] != (1, 1):
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return nn.functional.conv2d(x, weight, bias, **where).relu()

    def add_relu(x: torch.Tensor, weight: torch.Tensor, z: torch.Tensor, alpha: float, bias: torch.Tensor, **where: Any) -> torch.Tensor:
        asked.append(tuple(weight.shape))
        return (nn.functional.conv2d(x, weight, bias, **where) + alpha * z).relu()

    torch.manual_seed(0)
    plain = calibrated("resnet50").requires_grad_(False)
    monkeypatch.setattr(module, "cudnn_fuses", lambda device, dtype: True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    folded = Folded(plain, torch.float32, True)
    assert error(folded(images()), plain(images())) < 1e-4
    first = len(asked)
    assert all(shape[1] % 8 == 0 for shape in asked)
    assert error(folded(images()), plain(images())) < 1e-4
    dilated = [part for part in folded.modules() if isinstance(part, _Rectified) and part.where["dilation"] != (1, 1)]
    assert len(dilated) == 9
    assert not any(part.fused for part in dilated)
    assert len(asked) == 2 * first - len(dilated)
    told = capsys.readouterr().err
    assert told.count("cuDNN has no fused convolution of ") == 9
    assert "256 to 256 channels (GET was unable to find an engine" in told

    def short(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "cudnn_convolution_relu", short)
    with pytest.raises(torch.OutOfMemoryError):  # a smaller batch may do
        folded(images())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet50", "vgg16_bn", "efficientnet_lite0"])
def test_fused_calls_give_the_plain_calls_values(name: str) -> None:
    torch.manual_seed(0)
    plain = calibrated(name).cuda().requires_grad_(False)
    fused, apart = (Folded(plain, torch.bfloat16, last) for last in (True, False))  # fused in channels-last order only
    assert error(fused(images().cuda()), [m.float() for m in apart(images().cuda())]) < BF16.get(name, 0.04)
