"""VGG-16 behind the doors, against a plain reading of the methods' descriptions: their reference outputs are not here."""

from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from symnet import methods

ALLOWED = 2e-5  # of an array's largest value
BATCH, SHOTS, SIZE = 2, 2, 129
NO_TEXT = torch.zeros(BATCH, 300)

pytestmark = pytest.mark.xdist_group("released")


class Reading:
    """The released code's entries, and what is done with them, written down plainly."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.w = {name: torch.as_tensor(value) for name, value in entries.items()}

    def convolve(self, name: str, x: Tensor, padding: int = 0, dilation: int = 1) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), padding=padding, dilation=dilation)

    def norm(self, name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (self.w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, variance, weight, bias, False)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """3x3 convolutions with bias, batch norm, ReLU; a pool that rounds up after all but the last."""
        for place in (0, 3) if number < 2 else (0, 3, 6):
            x = F.relu(self.norm(f"layer{number}.{place + 1}", self.convolve(f"layer{number}.{place}", x, padding=1)))
        return F.max_pool2d(x, 2, 2, ceil_mode=True) if number < 4 else x

    def stages(self, images: Tensor) -> list[Tensor]:
        found = [self.stage(0, images)]
        for number in range(1, 5):
            found.append(self.stage(number, found[-1]))
        return found

    def mid(self, name: str, stages: list[Tensor]) -> Tensor:
        """The third stage beside the second, reduced."""
        return F.relu(self.convolve(f"{name}.0", torch.cat([stages[3], larger(stages[2], stages[3].shape[-1])], 1)))

    def twice(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self.convolve(f"{name}.2", F.relu(self.convolve(f"{name}.0", x, 1)), 1))

    def classify(self, name: str, x: Tensor) -> Tensor:
        return self.convolve(f"{name}.3", F.relu(self.convolve(f"{name}.0", x, 1)))


def larger(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=True)


def scaled(x: Tensor) -> Tensor:
    """To 0..1 within each image."""
    flat = x.flatten(1)
    low, high = flat.amin(1, True), flat.amax(1, True)
    return ((flat - low) / (high - low + 1e-7)).view_as(x)


def prior(query: Tensor, support: Tensor) -> Tensor:
    """The largest cosine of each query position, scaled: [B, 1, H, H]."""
    q, s = query.flatten(2), support.flatten(2)
    cosines = s.transpose(1, 2) @ q / (s.norm(dim=1).unsqueeze(2) * q.norm(dim=1, keepdim=True) + 1e-7)
    return scaled(cosines.amax(1).view(len(query), 1, *query.shape[2:]))


def mean_inside(x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum((2, 3), True) / (mask.sum((2, 3), True) + 5e-4)


@pytest.fixture(scope="module")
def episode(reference: ModuleType) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in reference.episode(SIZE, SHOTS, BATCH, 3, 15).items()}


def called(model: Any, episode: dict[str, Tensor], shots: int = SHOTS) -> tuple[Any, dict[str, Tensor]]:
    """Its outputs, and its losses."""
    inputs = (episode["query"], episode["support"][:, :shots], episode["support_mask"][:, :shots], NO_TEXT)
    return model(*inputs), model.losses(*inputs, episode["query_mask"], episode["base_mask"], episode["base_index"])


def supports(net: Reading, episode: dict[str, Tensor], query: list[Tensor], reduction: str, shots: int) -> tuple[Tensor, Tensor]:
    """The mean over shots of the support vector, and of the prior, whose support is masked before the last stage and after it."""
    vectors, priors = [], []
    for k in range(shots):
        stages = net.stages(episode["support"][:, k])
        mask = larger((episode["support_mask"][:, k : k + 1] == 1).float(), stages[3].shape[-1])
        vectors.append(mean_inside(net.mid(reduction, stages), mask))
        priors.append(prior(query[4], net.stage(4, stages[3] * mask) * mask))
    return torch.stack(vectors).mean(0), torch.stack(priors).mean(0)


def near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= ALLOWED * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("scales", [(17, 9, 5, 3), (1.0, 0.5, 0.25, 0.125)])
def test_pfenet(state: Any, episode: dict[str, Tensor], scales: tuple[float, ...]) -> None:
    """Features at stride 16, scales of stride 8 as they are, or shares of the features' side."""
    entries = state("PFENet", "released_state_dict_vgg16")
    net, stages = Reading(entries), Reading(entries).stages(episode["query"])
    query, side = net.mid("down_query", stages), stages[3].shape[-1]
    vector, guide = supports(net, episode, stages, "down_supp", SHOTS)
    outs: list[Tensor] = []
    inner: list[Tensor] = []
    for i, scale in enumerate(scales):
        own = int(side * scale) if scale <= 1 else int(scale)
        x = torch.cat([F.adaptive_avg_pool2d(query, own), vector.expand(-1, -1, own, own), larger(guide, own)], 1)
        x = F.relu(net.convolve(f"init_merge.{i}.0", x))
        if outs:
            x = x + F.relu(net.convolve(f"alpha_conv.{i - 1}.0", torch.cat([x, larger(outs[-1], own)], 1)))
        x = x + net.twice(f"beta_conv.{i}", x)
        inner.append(net.classify(f"inner_cls.{i}", x))
        outs.append(larger(x, side))
    x = F.relu(net.convolve("res1.0", torch.cat(outs, 1)))
    logits = net.classify("cls", x + net.twice("res2", x))
    out, losses = called(methods.PFENet.from_released(entries, SHOTS, SIZE, scales), episode)
    near(out.final, larger(logits, SIZE))
    near(out.prior, guide)
    main, *each = (F.cross_entropy(larger(x, SIZE), episode["query_mask"].long(), ignore_index=255) for x in (logits, *inner))
    assert float(losses["prediction"]) == pytest.approx(float(main), rel=1e-5)
    assert float(losses["inner"]) == pytest.approx(float(sum(each)) / 4, rel=1e-5)


@torch.no_grad()
def test_bam(state: Any, episode: dict[str, Tensor]) -> None:
    entries = state("BAM", "released_state_dict_1shot_vgg16")
    net, stages = Reading(entries), Reading(entries).stages(episode["query"])
    query, side = net.mid("down_query", stages), stages[3].shape[-1]
    vector, guide = supports(net, episode, stages, "down_supp", 1)
    x = F.relu(net.convolve("init_merge.0", torch.cat([query, vector.expand_as(query), guide], 1)))
    pooled = F.relu(net.convolve("ASPP_meta.layer6_0.0", x.mean((2, 3), True))).expand_as(x)
    wider = [F.relu(net.convolve(f"ASPP_meta.layer6_{i}.0", x, pad, max(pad, 1))) for i, pad in enumerate((0, 6, 12, 18), 1)]
    x = F.relu(net.convolve("res1_meta.0", torch.cat([pooled, *wider], 1)))
    meta = net.classify("cls_meta", x + net.twice("res2_meta", x))

    parts = [stages[4]]
    for i, bins in enumerate((1, 2, 3, 6)):
        name = f"learner_base.0.features.{i}"
        pool = net.convolve(f"{name}.1", F.adaptive_avg_pool2d(stages[4], bins))
        parts.append(larger(F.relu(net.norm(f"{name}.2", pool)), side))
    x = F.relu(net.norm("learner_base.1.1", net.convolve("learner_base.1.0", torch.cat(parts, 1), 1)))
    base = net.convolve("learner_base.1.4", x)

    def gram(low: Tensor) -> Tensor:
        flat = F.normalize(larger(low, side).flatten(2), dim=2)
        return flat @ flat.transpose(1, 2)

    support = net.stages(episode["support"][:, 0])[2]
    psi = (gram(stages[2]) - gram(support)).flatten(1).norm(dim=1) / support.shape[1]
    known = psi.view(-1, 1, 1, 1).expand(-1, 1, side, side)
    background, foreground = (net.convolve("gram_merge", torch.cat([p, known], 1)) for p in meta.softmax(1).split(1, 1))
    background = net.convolve("cls_merge", torch.cat([background, base.softmax(1)[:, 1:].sum(1, True)], 1))
    out, _ = called(methods.BAM.from_released(entries, 1, SIZE), episode, 1)
    for found, expected in ((out.final, torch.cat([background, foreground], 1)), (out.meta, meta), (out.base, base)):
        near(found, larger(expected, SIZE))
    near(out.psi, psi)


@torch.no_grad()
def test_hsnet(state: Any, episode: dict[str, Tensor]) -> None:
    """Torchvision's convolutions, each before its ReLU, and pools that round down."""
    entries = state("HSNet", "released_state_dict_vgg16")
    net = Reading(entries)

    def features(x: Tensor) -> dict[int, Tensor]:
        found = {}
        for place in range(31):
            if place in (4, 9, 16, 23, 30):
                x = F.max_pool2d(x, 2, 2)
            elif f"features.{place}.weight" in net.w:
                x = net.convolve(f"features.{place}", x, 1)
            else:
                x = F.relu(x)
            found[place] = x
        return found

    query, support = features(episode["query"]), features(episode["support"][:, 0])
    mask = (episode["support_mask"][:, :1] == 1).float()
    out, _ = called(methods.HSNet.from_released(entries, 1, SIZE), episode, 1)
    for layer, places in (("layer2", (17, 19, 21)), ("layer3", (24, 26, 28)), ("layer4", (30,))):
        largest = []
        for place in places:
            q, s = query[place].flatten(2), (support[place] * larger(mask, support[place].shape[-1])).flatten(2)
            q, s = (x / (x.norm(dim=1, keepdim=True) + 1e-5) for x in (q, s))
            largest.append((q.transpose(1, 2) @ s).clamp(min=0).amax(2).view(BATCH, *query[place].shape[2:]))
        near(getattr(out, f"corr_{layer}_max_over_support"), torch.stack(largest, 1))
