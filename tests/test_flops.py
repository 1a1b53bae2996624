"""What a method has to compute: parameters as printed, products by hand and as a run with values has them."""

import pytest
import torch
from torch import nn

from symnet.backbones.loading import build_backbone
from symnet.base_learner import BaseLearner, PSPHead
from symnet.config import Settings
from symnet.flops import operations, parameters, work_of
from symnet.methods import METHODS, method_class
from symnet.methods.base import EpisodeBatch, Method
from tests.marks import some

SIZE, TEXT = 33, 20


def base_learner(name: str = "efficientnet_lite0") -> BaseLearner:
    backbone = build_backbone(name)
    return BaseLearner(name, backbone, PSPHead(backbone.high_channels, 16, 16), tuple(range(1, 16)), "").to(torch.device("cpu"))


def method_of(name: str, shots: int, base: BaseLearner, size: int = SIZE, text: int = TEXT) -> Method:
    settings = Settings.model_validate({"pixels": {"size": size}, "backbone": {"name": base.name}})
    return method_class(name)(settings, base.backbone, shots, text, base.backbone.side(size))


def test_products_by_hand() -> None:
    layer, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.empty(2, 3, 7, 7)
    count, out = operations(lambda: layer(x).flatten(2) @ torch.empty(2, 49, 4))
    assert count == 2 * (2 * 49 * 5 * 3 * 9) + 2 * (2 * 5 * 49 * 4)
    assert out.shape == (2, 5, 4)
    assert (parameters(layer), parameters(layer.requires_grad_(False), trained=True)) == (135, 0)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", some(METHODS, "symnet", "pfenet", "hsnet"))
def test_every_method_is_counted(name: str, shots: int) -> None:
    base = base_learner()
    method, images = method_of(name, shots, base), METHODS[name].images
    learned = parameters(method, trained=True)
    network, head = parameters(method) - learned if images else parameters(base.backbone), parameters(base.head)
    found = work_of(method, base, SIZE, TEXT, images)
    reads = method_class(name).reads_base
    assert (found.trained, found.frozen) == (learned, network + head * reads)
    assert (found.trained > 0) == METHODS[name].trained
    image = torch.empty(1, 3, SIZE, SIZE, device="meta")
    of_image, maps = operations(lambda: base.backbone(image))
    of_logits, _ = operations(lambda: base.head(base.backbone.levels(maps).high))
    assert found.whole - found.cached == (1 + shots) * of_image * (not images) + reads * of_logits
    assert found.cached > 0
    assert not any(parameter.device.type != "meta" for parameter in base.backbone.parameters())


@pytest.mark.parametrize("shots", [1, 3])
@pytest.mark.parametrize("name", some(["prototype", "pfenet", "hsnet", "dcama"], "prototype", "pfenet"))
def test_counts_are_those_of_a_run_with_values(name: str, shots: int) -> None:
    base = base_learner()
    method = method_of(name, shots, base).eval().requires_grad_(False)  # with gradients on, a CPU computes as it is written
    maps = base.backbone(torch.rand(1 + shots, 3, SIZE, SIZE))
    blocks = method.blocks(base.backbone, False)
    kept = [maps[i] for i in blocks] if blocks else maps
    masks = torch.randint(0, 2, (1, 1 + shots, SIZE, SIZE), dtype=torch.uint8)

    def answer() -> object:
        own = method.keep(base.backbone, list(kept), False)
        text, index = torch.rand(1, TEXT), torch.zeros(1, dtype=torch.int64)
        query, support = [m[:1] for m in own], [m[None, 1:] for m in own]
        return method.predict(base.backbone, EpisodeBatch(query, support, masks[:, 0], masks[:, 1:], None, text, index))

    counted, _ = operations(answer)
    assert work_of(method_of(name, shots, base), base, SIZE, TEXT).cached == counted


@pytest.mark.parametrize(("name", "printed"), [("pfenet", 10_817_034), ("bam", 4_917_254), ("hsnet", 2_573_794), ("mianet", 12_297_610)])
def test_trained_parameters_are_as_printed(name: str, printed: int) -> None:
    base = base_learner("resnet50")
    found = work_of(method_of(name, 1, base, text=300), base, SIZE, 300)
    assert found.trained == printed
