"""Every equation of the paper against a twin in float64, written from the print with loops over positions.

A twin here takes one image or episode, as NumPy arrays, channels first; those of `symnet.bench.twins`, which the bench times, take batches.
`paper` variant throughout.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray as Array
from torch import Tensor

from symnet.bench import twins
from symnet.config import ModelSettings
from symnet.model import correlation
from symnet.model.base import Ensemble, PSPHead, base_foreground
from symnet.model.correlation import Fusion, correlation_maps, hyper_correlations
from symnet.model.decoder import Decoder
from symnet.model.episode import EpisodeInputs
from symnet.model.head import Head
from symnet.model.prior import hpm, min_max, pfenet_prior, spm
from symnet.model.prototypes import Alignment, Regions, query_regions, region_weights, support_prototype
from symnet.model.segmentation import cross_entropy
from symnet.model.shots import ShotWeights, dissimilarity, mean_weights
from symnet.model.triplet import co_triplet

TAUS = (0.7, 0.4, 0.4, 0.55)
few = settings(max_examples=20, deadline=None, derandomize=True, database=None)


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Uniform in [0, 1), float64."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(*shape: int, seed: int = 0) -> Tensor:
    """As a resized mask: a third 0, a third 1, a third between."""
    return (rand(*shape, seed=seed) * 3 - 1).clamp(0, 1)


def close(ours: Tensor, twin: object, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), np.asarray(twin), rtol=tolerance, atol=tolerance)


def positions(x: Array) -> list[Array]:
    """[C, H, W] -> HW vectors [C]."""
    return [x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])]


def cosine(a: Array, b: Array, eps: float = 1e-7) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + eps))


# --- eqs. 1-3: the prior mask


def twin_norm(score: Array) -> Array:
    return (score - score.min()) / (score.max() - score.min() + 1e-7)


def test_spm_eq_1_to_3() -> None:
    query, support, mask = randn(2, 5, 8, 8), randn(2, 2, 5, 8, 8, seed=1), mask_of(2, 2, 8, 8)
    close(spm(query, support, mask), twins.spm(query, support, mask), 1e-6)


def test_pfenet_prior() -> None:
    query, support, mask = randn(2, 5, 4, 4), randn(2, 2, 5, 4, 4, seed=1), mask_of(2, 2, 4, 4)
    ours = pfenet_prior(query, support, mask)
    torch.testing.assert_close(pfenet_prior(query, support, mask, budget=100), ours)  # piece by piece
    for b in range(2):
        for k in range(2):
            support_positions = positions((support[b, k] * mask[b, k]).numpy())
            best = np.array([max(cosine(q, s) for s in support_positions) for q in positions(query[b].numpy())])
            close(ours[b, k], twin_norm(best).reshape(4, 4), 1e-6)


@given(seed=st.integers(0, 10_000), scale=st.sampled_from([1e-6, 1.0, 1e4]), kind=st.sampled_from(["any", "empty", "full", "signed"]))
@few
def test_priors_lie_in_0_to_1(seed: int, scale: float, kind: str) -> None:
    make = randn if kind == "signed" else rand
    query, support = make(1, 4, 6, 6, seed=seed).float() * scale, make(1, 2, 4, 6, 6, seed=seed + 1).float() * scale
    mask = {"empty": torch.zeros(1, 2, 6, 6), "full": torch.ones(1, 2, 6, 6)}.get(kind, mask_of(1, 2, 6, 6, seed=seed).float())
    for prior in (spm(query, support, mask), pfenet_prior(query, support, mask)):
        assert prior.shape == (1, 2, 6, 6)
        assert prior.min() >= 0
        assert prior.max() <= 1
    if kind == "empty":
        assert spm(query, support, mask).eq(0).all()


def twin_hpm(query: Array, support: Array, mask: Array, scales: tuple[int, ...]) -> list[Array]:
    """MIANet's hierarchy of one support, step by step."""

    def resized(x: Array, size: int) -> Array:
        return F.interpolate(torch.from_numpy(x)[None], (size, size), mode="bilinear", align_corners=True)[0].numpy()

    q, m, priors = query, mask[None], []
    for place, scale in enumerate(scales):
        if scale > query.shape[-1]:
            q = resized(query, scale)
        elif place:
            q = F.adaptive_avg_pool2d(torch.from_numpy(q), scale).numpy()
        m = resized(m, scale)
        support_positions = positions(resized(support, scale) * m)
        score = [np.mean([cosine(a, b) for b in support_positions]) for a in positions(q)]
        priors.append(twin_norm(np.array(score)).reshape(scale, scale))
        q = query if scale > query.shape[-1] else q * priors[-1]
    return priors


@pytest.mark.parametrize("scales", [(6, 3, 2, 1), (9, 6, 3, 2)], ids=["own side", "finer first, as VGG"])
def test_hpm(scales: tuple[int, ...]) -> None:
    query, support, mask = randn(2, 5, 6, 6), randn(2, 2, 5, 6, 6, seed=1), mask_of(2, 2, 6, 6)
    ours = hpm(query, support, mask, scales)
    assert [tuple(prior.shape) for prior in ours] == [(2, 2, s, s) for s in scales]
    for b in range(2):
        for k in range(2):
            twins = twin_hpm(query[b].numpy(), support[b, k].numpy(), mask[b, k].numpy(), scales)
            for prior, twin in zip(ours, twins, strict=True):
                close(prior[b, k], twin, 1e-5)


def test_each_scale_reads_its_own_prior() -> None:
    """HPM gives the decoder a prior a scale; APA's thresholds read the finest, at the features' side."""
    head, episode = head_of(), episode_of()
    finer = F.interpolate(episode.priors[0], (11, 11), mode="bilinear", align_corners=True)  # 11 and 6: corners and every second coincide
    priors = (finer, *(rand(2, 2, s, s, seed=s) for s in (3, 2, 1)))
    given: list[Tensor] = []
    hook = head.decode.register_forward_pre_hook(lambda _, args: given.extend(args[3]))
    out = head(EpisodeInputs(**vars(episode) | {"priors": priors}))
    hook.remove()
    for prior, at in zip(given, priors, strict=True):
        torch.testing.assert_close(prior, at.mean(1, keepdim=True))
    torch.testing.assert_close(out.query_prototype, head(episode).query_prototype)
    changed = EpisodeInputs(**vars(episode) | {"priors": (*priors[:3], priors[3] + 1)})
    assert not torch.equal(head(changed).meta, out.meta)


def test_a_constant_map_becomes_0() -> None:
    assert min_max(torch.full((1, 1, 3, 3), 7.0)).eq(0).all()


# --- eqs. 4-11: prototypes and regions


def twin_mean(features: Array, chosen: list[bool]) -> Array:
    picked = [f for f, c in zip(positions(features), chosen, strict=True) if c]
    return sum(picked, np.zeros(len(features))) / max(len(picked), 1)


def twin_regions(prior: Array) -> tuple[list[bool], list[bool], list[bool]]:
    tau1, tau2, tau3, tau4 = TAUS
    flat = prior.ravel()
    order = sorted(range(len(flat)), key=lambda i: flat[i])
    count, middle = min(12, len(flat)), max(len(flat) // 2 - 6, 0)
    return tuple(
        chosen if any(chosen) else [i in fallback for i in range(len(flat))]
        for chosen, fallback in (
            ([p > tau1 for p in flat], order[-count:]),
            ([p < tau2 for p in flat], order[:count]),
            ([tau3 < p < tau4 for p in flat], order[middle : middle + count]),
        )
    )


def test_support_prototype_eq_4() -> None:
    features, mask = randn(3, 5, 4, 4), mask_of(3, 4, 4)
    mask[1], mask[2] = mask[1] * 0.99, 1  # nowhere 1: a zero vector; 1 everywhere
    ours = support_prototype(features, mask, "paper")
    for b in range(3):
        close(ours[b], twin_mean(features[b].numpy(), [m == 1 for m in mask[b].flatten().tolist()]))
    assert ours[1].eq(0).all()


def test_released_support_prototype_weighs_by_the_mask() -> None:
    features, mask = randn(2, 5, 4, 4), mask_of(2, 4, 4)
    ours = support_prototype(features, mask, "released")
    for b in range(2):
        weights = mask[b].flatten().tolist()
        total = sum(w * f for w, f in zip(weights, positions(features[b].numpy()), strict=True))
        close(ours[b], total / (sum(weights) + 5e-4))


# Priors of which each threshold selects some; none is foreground; none is background; none is a hard positive
@pytest.mark.parametrize("low_high", [(0.0, 1.0), (0.0, 0.6), (0.45, 1.0), (0.6, 0.65), (0.1, 0.3)])
@pytest.mark.parametrize("side", [6, 3, 5])
def test_regions_eq_5_10_11(low_high: tuple[float, float], side: int) -> None:
    low, high = low_high
    prior = low + (high - low) * rand(2, side, side, seed=side)
    features = randn(2, 4, side, side)
    weights = region_weights(prior.flatten(1), *TAUS)
    regions = query_regions(features, prior, *TAUS)
    for b in range(2):
        for ours, mean, twin in zip(weights, regions, twin_regions(prior[b].numpy()), strict=True):
            assert ours[b].tolist() == twin
            close(mean[b], twin_mean(features[b].numpy(), twin))


def test_thresholds_are_strict() -> None:
    foreground, background, hard = region_weights(torch.tensor([[0.7, 0.71, 0.4, 0.39, 0.55, 0.41, 0.54]], dtype=torch.float64), *TAUS)
    assert foreground[0].nonzero().flatten().tolist() == [1]
    assert background[0].nonzero().flatten().tolist() == [3]
    assert hard[0].nonzero().flatten().tolist() == [5, 6]


def twin_align(module: Alignment, features: Array, prototype: Array, text: Array | None) -> Array:
    w = {name: value.detach().numpy() for name, value in module.named_parameters()}
    joined = prototype if text is None else np.concatenate([prototype, text])  # eq. 6
    query = w["query.weight"] @ joined  # eq. 7
    keys = [w["key.weight"][:, :, 0, 0] @ f for f in positions(features)]
    values = [w["value.weight"][:, :, 0, 0] @ f for f in positions(features)]
    scores = [math.exp(query @ k / math.sqrt(len(prototype))) for k in keys]
    attended = sum(s / sum(scores) * v for s, v in zip(scores, values, strict=True))
    return w["project.weight"] @ attended + w["project.bias"] + prototype  # eq. 8


@pytest.mark.parametrize("text", [True, False])
def test_alignment_eq_6_to_8(text: bool) -> None:
    torch.manual_seed(0)
    module = Alignment(6, 3 if text else 0, "paper").double().eval()
    features, prototype, vector = randn(2, 6, 4, 4) * 3, randn(2, 6, seed=1), randn(2, 3, seed=2)
    ours = module(features, prototype, vector if text else None)
    for b in range(2):
        close(ours[b], twin_align(module, features[b].numpy(), prototype[b].numpy(), vector[b].numpy() if text else None))


def test_released_alignment() -> None:
    """Keys serve as values; the score passes through a matrix, unscaled; the class vector comes first."""
    torch.manual_seed(0)
    module = Alignment(6, 3, "released").double().eval()
    features, prototype, vector = randn(1, 6, 4, 4), randn(1, 6, seed=1), randn(1, 3, seed=2)
    w = {name: value.detach().numpy() for name, value in module.named_parameters()}
    query = w["query.weight"] @ np.concatenate([vector[0].numpy(), prototype[0].numpy()])
    keys = [w["key.weight"][:, :, 0, 0] @ f for f in positions(features[0].numpy())]
    scores = [math.exp(query @ w["score"] @ k) for k in keys]
    attended = sum(s / sum(scores) * k for s, k in zip(scores, keys, strict=True))
    close(module(features, prototype, vector)[0], w["project.weight"] @ attended + w["project.bias"] + prototype[0].numpy())


# --- eq. 12: the co-triplet loss


@pytest.mark.parametrize("metric", ["normalised", "printed"])
@pytest.mark.parametrize("masks", ["some", "one empty", "one full", "all empty", "all full"])
def test_co_triplet_eq_12(metric: str, masks: str) -> None:
    query, positive, negative, support = (randn(3, 4, seed=i) for i in range(4))
    features, inside = randn(3, 2, 4, 4, 4, seed=9), rand(3, 2, 4, 4, seed=5) > 0.5
    if masks == "one empty":
        inside[1, 0] = False
    elif masks == "one full":
        inside[2] = True
    elif masks != "some":
        inside[:] = masks == "all full"
    given = query, Regions(query, negative, positive), support, features, inside
    twin = twins.co_triplet(*given, normalised=metric == "normalised")
    assert co_triplet(*given, 0.5, metric).item() == pytest.approx(twin.item(), abs=1e-9)


def test_the_farthest_foreground_position_is_the_positive() -> None:
    """On the unit circle, by hand: only the farthest foreground position gets the gradient of the first distance."""
    angles = torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=torch.float64)
    features = torch.stack([angles.cos(), angles.sin()]).view(1, 1, 2, 2, 2).requires_grad_()
    inside = torch.tensor([True, True, False, False]).view(1, 1, 2, 2)
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss = co_triplet(anchor, Regions(anchor, -anchor, anchor), anchor, features, inside, margin=3.0)
    mean = torch.stack([angles[2:].cos(), angles[2:].sin()]).mean(1)
    query_term = 0 + 3 - 2
    support_term = 2 * math.sin(0.5) + 3 - math.dist((1, 0), mean.tolist())
    assert loss.item() == pytest.approx(query_term + support_term, abs=1e-5)
    loss.backward()
    assert (features.grad[0, 0].flatten(1).norm(dim=0) > 1e-3).tolist() == [False, True, True, True]


# --- TDC and eq. 13


@pytest.mark.parametrize("budget", [1, 200, 1 << 24])
def test_correlation_maps(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query = [randn(3, c, 4, 4, seed=c) for c in (3, 6)]
    support = [randn(3, 2, c, 4, 4, seed=c + 1) for c in (3, 6)]
    mask = mask_of(3, 2, 4, 4)
    mask[1, 0], mask[1, 1], mask[2] = 0, 1, 0.5  # empty, full, and no position exactly 1
    ours = correlation_maps(query, support, mask, budget)
    assert ours.shape == (3, 2, 4, 4)
    assert ours[2].eq(0).all()
    monkeypatch.setattr(
        correlation, "_pair_by_pair", lambda q, s, _, b: correlation._all_at_once(q, s, (mask == 1).flatten(2).flatten(0, 1), b)
    )
    torch.testing.assert_close(correlation_maps(query, support, mask, budget), ours)  # as on a GPU
    close(ours, twins.correlation_maps(query, support, mask))


def test_block_maps_of_another_side_are_resized_after_the_correlation() -> None:
    query = [randn(2, 3, 7, 7), randn(2, 4, 4, 4, seed=1), randn(2, 2, 7, 7, seed=2)]
    support = [randn(2, 2, *q.shape[1:], seed=q.shape[1]) for q in query]
    mask = (rand(2, 2, 25, 25) > 0.3).double()  # 25 = 4 * 6 + 1 = 8 * 3 + 1
    ours = hyper_correlations(query, support, mask, 4)
    for n, (q, s) in enumerate(zip(query, support, strict=True)):
        step = 24 // (q.shape[-1] - 1)
        twin = twins.resize(twins.correlation_maps([q], [s], mask[..., ::step, ::step]), 4)
        close(ours[:, n], twin[:, 0], 1e-6)


def twin_conv(x: Array, layer: torch.nn.Conv2d) -> Array:
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    _, height, width = x.shape
    k = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((len(weight), height, width))
    for i in range(height):
        for j in range(width):
            out[:, i, j] = (weight * padded[:, i : i + k, j : j + k]).sum((1, 2, 3)) + bias
    return out


def twin_normalised_relu(x: Array, norm: torch.nn.GroupNorm) -> Array:
    scaled = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
    weight, bias = norm.weight.detach().numpy()[:, None, None], norm.bias.detach().numpy()[:, None, None]
    return np.maximum(scaled * weight + bias, 0)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_fusion_eq_13(variant: str) -> None:
    torch.manual_seed(0)
    module = Fusion((4, 3, 2), 10, variant, width=6).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    maps = rand(2, 9, 5, 5)
    ours = module(maps)
    for b in range(2):
        first, second, third = np.split(maps[b].numpy(), [4, 7])
        corr1, corr2, corr3 = (
            twin_conv(x, layer) for x, layer in ((third, module.reduce4), (second, module.reduce3), (first, module.reduce2))
        )  # the paper counts N_1 = 3 maps of layer4 first

        def join(a: Array, b: Array) -> Array:
            return np.concatenate([a, b]) if variant == "paper" else a + b

        merged = twin_normalised_relu(twin_conv(join(corr2, corr1), module.merge3[0]), module.merge3[1])
        merged = twin_normalised_relu(twin_conv(join(merged, corr3), module.merge2[0]), module.merge2[1])
        close(ours[b], twin_conv(merged, module.merge2[3]))


# --- the decoder, and eqs. 14-15


def test_decoder_tiles_the_prototype() -> None:
    """FEM as PFENet prints it: everything concatenated, scale by scale."""
    torch.manual_seed(0)
    decoder = Decoder(8, 5, (9, 5, 3, 2)).double().eval()
    query, prototype, hyper, prior = randn(2, 8, 9, 9), randn(2, 8, seed=1), randn(2, 5, 9, 9, seed=2), rand(2, 1, 9, 9)
    ours = decoder(query, prototype, hyper, [prior])
    twin = twins.decode(decoder, query, prototype, hyper, prior)
    close(ours.meta, twin.meta.detach(), 1e-6)
    for one, other in zip(ours.inner, twin.inner, strict=True):
        close(one, other.detach(), 1e-6)


def twin_bilinear(x: Array, size: int) -> Array:
    n = len(x)
    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            y, z = i * (n - 1) / (size - 1), j * (n - 1) / (size - 1)
            top, left = min(int(y), n - 2), min(int(z), n - 2)
            dy, dz = y - top, z - left
            out[i, j] = (x[top, left] * (1 - dz) + x[top, left + 1] * dz) * (1 - dy) + (
                x[top + 1, left] * (1 - dz) + x[top + 1, left + 1] * dz
            ) * dy
    return out


def twin_bce(logits: Array, masks: Array) -> float:
    """[B, 2, h, w], [B, S, S]."""
    terms = []
    for (background, foreground), mask in zip(logits, masks, strict=True):
        difference = twin_bilinear(foreground, len(mask)) - twin_bilinear(background, len(mask))
        for d, m in zip(difference.ravel(), mask.ravel(), strict=True):
            if m != 255:
                p = 1 / (1 + math.exp(-d))
                terms.append(-(m * math.log(p) + (1 - m) * math.log(1 - p)))
    return sum(terms) / max(len(terms), 1)


def labels(*shape: int, seed: int = 0) -> Tensor:
    return torch.tensor([0, 1, 255])[(rand(*shape, seed=seed) * 3).long()]


def test_cross_entropy_eq_14() -> None:
    logits, mask = randn(2, 2, 3, 3), labels(2, 9, 9)
    assert cross_entropy(logits, mask).item() == pytest.approx(twin_bce(logits.numpy(), mask.numpy()), rel=1e-5)


def test_cross_entropy_of_ignored_pixels_is_a_finite_0() -> None:
    logits = randn(2, 2, 3, 3).requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 9, 9), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


# --- K shots, psi, base learner, ensemble


def test_psi() -> None:
    query, support = randn(2, 6, 4, 4), randn(2, 3, 6, 4, 4, seed=1)
    support[0, 0] = query[0] * 2  # alike but for the scale
    ours = dissimilarity(query, support)
    close(ours, twins.dissimilarity(query, support))
    assert ours[0, 0].item() == pytest.approx(0, abs=1e-6)


def test_mean_weights() -> None:
    assert mean_weights(torch.rand(2, 4)).tolist() == [[0.25] * 4] * 2


@given(seed=st.integers(0, 1000))
@few
def test_shot_weights_follow_the_shots(seed: int) -> None:
    torch.manual_seed(seed)
    module, psi, order = ShotWeights(5), torch.rand(3, 5), torch.randperm(5)
    weights = module(psi)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(module(psi[:, order]), weights[:, order])


@pytest.mark.parametrize("side", [1, 2, 6, 9])
def test_the_base_head_convolves_before_it_resizes(side: int) -> None:
    torch.manual_seed(0)
    head, high = PSPHead(8, 4, width=6).double(), randn(3, 8, side, side).requires_grad_()
    found = []
    for way in (head, partial(twins.psp, head)):
        torch.manual_seed(1)  # the same dropout
        logits = way(high)
        weight = randn(*logits.shape, seed=2)
        found.append([logits, *torch.autograd.grad((logits * weight).sum(), [high, *head.parameters()])])
    for ours, twin in zip(*found, strict=True):
        close(ours, twin.detach(), 1e-6)


def test_base_foreground() -> None:
    logits = randn(2, 5, 2, 2)
    own = torch.tensor([0, 3])
    ours, ours_training = base_foreground(logits), base_foreground(logits, own)
    for b in range(2):
        for i in range(2):
            for j in range(2):
                e = [math.exp(v) for v in logits[b, :, i, j].tolist()]
                close(ours[b, i, j], sum(e[1:]) / sum(e), 1e-6)
                close(ours_training[b, i, j], sum(v for n, v in enumerate(e) if n not in (0, own[b] + 1)) / sum(e), 1e-6)


def twin_ensemble(module: Ensemble, meta: Array, psi: float, base: Array) -> Array:
    a, b = module.with_psi.weight.flatten().tolist()
    c, d = module.with_base.weight.flatten().tolist()
    odds = np.exp(meta)
    background, foreground = (a * p / odds.sum(0) + b * psi for p in odds)
    return np.stack([c * background + d * base, foreground])


def test_ensemble() -> None:
    module = Ensemble().double()
    meta, psi, base = randn(2, 2, 3, 3), rand(2), rand(2, 3, 3)
    close(module(meta, psi, base), meta.softmax(1), 1e-6)  # as it starts
    with torch.no_grad():
        module.with_psi.weight.copy_(torch.tensor([0.9, 0.2]).view(1, 2, 1, 1))
        module.with_base.weight.copy_(torch.tensor([0.7, -0.4]).view(1, 2, 1, 1))
    for b in range(2):
        close(module(meta, psi, base)[b], twin_ensemble(module, meta[b].numpy(), psi[b].item(), base[b].numpy()), 1e-6)


# --- all of it: the head


def head_of(shots: int = 2, **settings: object) -> Head:
    torch.manual_seed(0)
    model = ModelSettings(**{"channels": 8, "hyper_channels": 5} | settings)
    return Head(model, mid=10, groups=(1, 2, 1), shots=shots, text=3, scales=(6, 3, 2, 1)).double().eval()


def episode_of(batch: int = 2, shots: int = 2, seed: int = 0) -> EpisodeInputs:
    mask = mask_of(batch, shots, 6, 6, seed=seed)
    return EpisodeInputs(
        query_mid=randn(batch, 10, 6, 6, seed=seed + 1),
        support_mid=randn(batch, shots, 10, 6, 6, seed=seed + 2),
        mask=mask,
        foreground=mask > 0.5,
        whole=mask > 0.5,
        priors=(rand(batch, shots, 6, 6, seed=seed + 3),),
        correlations=rand(batch, 4, 6, 6, seed=seed + 4),
        psi=rand(batch, shots, seed=seed + 5),
        base=rand(batch, 6, 6, seed=seed + 7),
        text=randn(batch, 3, seed=seed + 8),
    )


def choose(episode: EpisodeInputs, shots: list[int], batch: list[int] | None = None) -> EpisodeInputs:
    """The same episodes with these shots."""
    own = {name: getattr(episode, name)[:, shots] for name in ("support_mid", "mask", "foreground", "whole", "psi")}
    return EpisodeInputs(**vars(episode) | own | {"priors": tuple(prior[:, shots] for prior in episode.priors)})


def twin_reduce(x: Array, layer: torch.nn.Module) -> Array:
    weight = layer[0].weight.detach().numpy()[:, :, 0, 0]
    return np.stack([np.maximum(weight @ f, 0) for f in positions(x)], 1).reshape(-1, *x.shape[1:])


def test_head_joins_the_pieces_as_printed() -> None:
    """K-shot means, one attention module for both branches, eq. 9, psi: what the decoder, the triplet and the ensemble are given."""
    head, episode = head_of(alpha=0.3, beta=0.6), episode_of()
    given_to_decoder: list[Tensor] = []
    head.decode.register_forward_pre_hook(lambda _, args: given_to_decoder.extend(args))
    out = head(episode, with_triplet=True)
    query, hybrid, _, (prior,) = given_to_decoder
    anchors, augmented_supports, means, supports = [], [], [[], []], []
    for b in range(2):
        reduced = twin_reduce(episode.query_mid[b].numpy(), head.reduce_query)
        close(query[b], reduced)
        mean_prior = episode.priors[0][b].numpy().mean(0)
        close(prior[b, 0], mean_prior)
        regions = [twin_mean(reduced, chosen) for chosen in twin_regions(mean_prior)]
        text = episode.text[b].numpy()
        anchors.append(twin_align(head.align, reduced * mean_prior, regions[0], text))
        close(out.query_prototype[b], anchors[-1])
        means[0].append(regions[1])
        means[1].append(regions[2])
        shots = []
        supports.append([twin_reduce(episode.support_mid[b, k].numpy(), head.reduce_support) for k in range(2)])
        for k, features in enumerate(supports[-1]):
            mask = episode.mask[b, k].numpy()
            shots.append(twin_align(head.align, features * mask, twin_mean(features, [m == 1 for m in mask.ravel()]), text))
        close(out.support_prototypes[b], shots)
        augmented_supports.append(np.mean(shots, 0))
        close(hybrid[b], 0.3 * anchors[-1] + 0.6 * augmented_supports[-1])  # eq. 9
        psi = episode.psi[b].mean().item()
        close(out.ensemble[b], twin_ensemble(head.ensemble, out.meta[b].detach().numpy(), psi, episode.base[b].numpy()), 1e-6)
    query, background, hard, support, features = (torch.tensor(np.array(x)) for x in (anchors, *means, augmented_supports, supports))
    twin = twins.co_triplet(query, Regions(query, background, hard), support, features, episode.foreground)
    assert out.triplet.item() == pytest.approx(twin.item(), abs=1e-9)


def test_objective_eq_14_and_15() -> None:
    head, mask = head_of(), labels(2, 9, 9)
    out = head(episode_of(), with_triplet=True)
    parts = head.losses(out, mask) | {"base": torch.tensor(7.0)}
    inner = sum(twin_bce(logits.detach().numpy(), mask.numpy()) for logits in out.inner[:3]) / 4
    inner += cross_entropy(out.inner[3], mask).item() / 4  # side 1: nothing to interpolate
    final = twin_bce(out.ensemble.detach().numpy(), mask.numpy())
    assert parts["inner"].item() == pytest.approx(inner, rel=1e-5)
    assert parts["ensemble"].item() == pytest.approx(final, rel=1e-5)
    assert parts["meta"].item() == pytest.approx(twin_bce(out.meta.detach().numpy(), mask.numpy()), rel=1e-5)
    assert head.objective(parts).item() == pytest.approx(out.triplet.item() + inner + final, rel=1e-5)


@given(seed=st.integers(0, 10_000), order=st.permutations(range(3)), weights=st.sampled_from(["mean", "gram"]))
@few
def test_the_order_of_shots_cannot_matter(seed: int, order: list[int], weights: str) -> None:
    head, episode = head_of(3, shot_weights=weights), episode_of(shots=3, seed=seed)
    out, again = head(episode, with_triplet=True), head(choose(episode, order), with_triplet=True)
    for name in ("ensemble", "meta", "prior", "query_prototype", "triplet"):
        torch.testing.assert_close(getattr(again, name), getattr(out, name), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(again.shot_weights, out.shot_weights[:, order])


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@few
def test_a_shot_given_twice_is_the_shot(seed: int, copies: int) -> None:
    episode = episode_of(shots=1, seed=seed)
    out, again = (head_of(k)(choose(episode, [0] * k), with_triplet=True) for k in (1, copies))
    for name in ("ensemble", "meta", "prior", "query_prototype", "triplet"):
        torch.testing.assert_close(getattr(again, name), getattr(out, name), rtol=1e-6, atol=1e-9)


@given(seed=st.integers(0, 10_000), fill=st.sampled_from([0.0, 1.0, 0.5]), metric=st.sampled_from(["normalised", "printed"]))
@few
def test_gradients_are_finite_with_empty_and_full_masks(seed: int, fill: float, metric: str) -> None:
    head, episode = head_of(triplet_distance=metric), episode_of(seed=seed)
    mask = episode.mask.index_fill(0, torch.tensor([0]), fill)
    changed = {"mask": mask, "foreground": mask > 0.5, "priors": (episode.priors[0].index_fill(0, torch.tensor([0]), fill),)}
    out = head(EpisodeInputs(**vars(episode) | changed), with_triplet=True)
    parts = head.losses(out, labels(2, 9, 9).index_fill(0, torch.tensor([0]), 255))
    head.objective(parts).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
