"""HDMNet's learner against plain loops in float64: layers of both kinds, the join of sides, what its correlation maps learn from."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.layers import FixedBatchNorm
from symnet.model.matching import CrossLayer, Matching, distillation, share_out
from symnet.model.mix import Layer, SelfLayer, Stage

CHANNELS = 8


def plain_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """[C]"""
    assert norm.eps == 1e-6
    return (x - x.mean()) / (x.var(correction=0) + 1e-6).sqrt() * norm.weight + norm.bias


def plain_mix(layer: Layer, x: Tensor) -> Tensor:
    """[C, H, W], position by position: added to itself, what the MLP makes of its norm."""
    wide, around, narrow = layer.mix[0], layer.mix[1], layer.mix[4]
    _, height, width = x.shape
    hidden = torch.zeros(4 * CHANNELS, height + 2, width + 2, dtype=x.dtype)
    places = [(i, j) for i in range(height) for j in range(width)]
    for i, j in places:
        hidden[:, i + 1, j + 1] = wide.weight[:, :, 0, 0] @ plain_norm(layer.norm2, x[:, i, j]) + wide.bias
    out = x.clone()
    for i, j in places:
        seen = (hidden[:, i : i + 3, j : j + 3] * around.weight[:, 0]).sum((1, 2)) + around.bias
        seen = seen * 0.5 * (1 + torch.erf(seen / math.sqrt(2)))
        out[:, i, j] += narrow.weight[:, :, 0, 0] @ seen + narrow.bias
    return out


def drawn(module: nn.Module) -> nn.Module:
    """In float64 and eval mode, no weight left at a value that would hide it."""
    draw = torch.Generator().manual_seed(1)
    for p in module.double().parameters():
        p.data = torch.randn(p.shape, generator=draw, dtype=torch.float64) * (0.5 if p.dim() > 1 else 1)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("heads", "fewer"), [(2, 2), (4, 1)])
def test_a_self_layer_is_its_definition(heads: int, fewer: int) -> None:
    """Queries of every position; keys of patches, the last ones of an odd side left out."""
    torch.manual_seed(0)
    layer, side, d = drawn(SelfLayer(CHANNELS, heads, fewer)), 5, CHANNELS // heads
    x = torch.randn(CHANNELS, side, side, dtype=torch.float64)
    places = [(i, j) for i in range(side) for j in range(side)]
    normed = {p: plain_norm(layer.norm1, x[:, p[0], p[1]]) for p in places}
    keys = []
    for i in range(side // fewer):
        for j in range(side // fewer):
            if fewer == 1:
                keys.append(normed[i, j])
                continue
            seen = layer.reduce.bias.clone()
            for u in range(fewer):
                for v in range(fewer):
                    seen += layer.reduce.weight[:, :, u, v] @ normed[fewer * i + u, fewer * j + v]
            keys.append(plain_norm(layer.reduced_norm, seen))
    a, expected = layer.attend, x.clone()
    for i, j in places:
        heard = []
        for h in range(heads):
            own = slice(h * d, h * d + d)
            q = (a.query.weight @ normed[i, j])[own]
            scores = [(q @ (a.key.weight @ k)[own]) / (math.sqrt(d) + 1e-9) for k in keys]
            total = sum(score.exp() for score in scores)
            heard.append(sum(score.exp() / total * (a.value.weight @ k)[own] for score, k in zip(scores, keys, strict=True)))
        expected[:, i, j] += a.out.weight @ torch.cat(heard)
    expected = plain_mix(layer, expected)
    found = layer(x.flatten(1).T[None], side)
    torch.testing.assert_close(found[0].T.unflatten(1, (side, side)), expected)


def test_a_cross_layer_is_its_definition() -> None:
    """The softmax over query positions, support by support position; background gives nothing; the map is the mean before the softmax."""
    torch.manual_seed(0)
    layer, side, d = drawn(CrossLayer(CHANNELS)), 3, CHANNELS // 2
    x, support = torch.randn(CHANNELS, side, side, dtype=torch.float64), torch.randn(11, CHANNELS, dtype=torch.float64)
    inside = torch.arange(11) % 3 == 0
    places = [(i, j) for i in range(side) for j in range(side)]
    asked = [plain_norm(layer.norm1, x[:, i, j]) for i, j in places]
    given = [plain_norm(layer.norm1, token) for token in support]
    a = layer.attend
    attended, correlation = torch.zeros(len(places), CHANNELS, dtype=torch.float64), torch.zeros(len(places), dtype=torch.float64)
    for h in range(2):
        own = slice(h * d, h * d + d)
        for m in range(11):
            k = (a.key.weight @ given[m])[own]
            scores = torch.stack([torch.cosine_similarity((a.query.weight @ q)[own], k, dim=0) / 0.1 for q in asked])
            if inside[m]:
                attended[:, own] += scores.softmax(0)[:, None] * (a.value.weight @ given[m])[own]
                correlation += scores / inside.sum() / 2
    expected = x + (attended @ a.out.weight.T).T.unflatten(1, (side, side))
    found, weight = layer(x[None], support[None], inside[None])
    torch.testing.assert_close(found[0], plain_mix(layer, expected))
    torch.testing.assert_close(weight[0], correlation.view(side, side))
    nothing, weight = layer(x[None], support[None], torch.zeros(1, 11, dtype=torch.bool))
    torch.testing.assert_close(nothing[0], plain_mix(layer, x))
    assert weight.abs().max() == 0


def test_weights_in_pieces_are_the_same_weights() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (9, 13, 13)]
    whole, pieces = share_out(*inputs), share_out(*inputs, budget=2 * 2 * 9 * 5)
    torch.testing.assert_close(pieces, whole)
    wanted = torch.randn(2, 2, 9, 4, dtype=torch.float64)
    gradients = [torch.autograd.grad((found * wanted).sum(), inputs) for found in (whole, pieces)]
    torch.testing.assert_close(gradients[1], gradients[0])

    def weights_kept(budget: int) -> list[torch.Size]:
        """Shapes of what is kept for the backward that are no queries, keys or values, with 4 channels."""
        kept: list[torch.Size] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
            share_out(*inputs, budget=budget)
        return [shape for shape in kept if 4 not in shape[-2:] and 0 not in shape]  # torch 2.11 keeps empty marks

    assert weights_kept(2 * 2 * 9 * 13) != []
    assert weights_kept(2 * 2 * 9 * 5) == []


def test_sides_are_halved_upward_and_stages_are_shared() -> None:
    torch.manual_seed(0)
    match = drawn(Matching(CHANNELS))
    for side, expected in ((12, [12, 6, 3]), (25, [25, 13, 7])):
        query = torch.randn(2, CHANNELS, side, side, dtype=torch.float64)
        mask = torch.ones(2, 2, 8 * side - 7, 8 * side - 7, dtype=torch.bool)
        similarity = torch.rand(2, 2, side, side, dtype=torch.float64)
        found = match(query, torch.cat([query, query + 1]), mask, similarity)
        assert [m.shape[-1] for m in found.matched] == [m.shape[-1] for m in found.support] == expected
        assert [tuple(m.shape) for m in found.correlations] == [(2, s, s) for s in expected]
        assert found.logits.shape == (2, 2, side, side)
        x = query
        for stage, support in zip(match.stages, found.support, strict=True):
            x = stage(x)
            torch.testing.assert_close(support[:2], x)


def test_sides_are_joined_from_coarse_to_fine() -> None:
    """Of what matched: 3x3 beside the similarity, resized with corners aligned; then up, corners not aligned, through the finer side."""
    torch.manual_seed(0)
    match, side, shots = drawn(Matching(CHANNELS)), 7, 2
    query, support = (torch.randn(n, CHANNELS, side, side, dtype=torch.float64) for n in (2, 2 * shots))
    mask, similarity = torch.rand(2, shots, 49, 49) < 0.5, torch.rand(2, 2, side, side, dtype=torch.float64)
    found = match(query, support, mask, similarity)

    def normed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return x / math.sqrt(1 + 1e-5) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)  # statistics are 0 and 1

    def parsed(layers: nn.Sequential, x: Tensor) -> Tensor:
        x = normed(layers[1], layers[0](x))
        x = normed(layers[3], F.conv2d(x, layers[2].weight, layers[2].bias, padding=1))
        x = layers[4](x)
        return x if len(layers) == 5 else normed(layers[5], x).clamp(min=0)

    fused = []
    for level, s in enumerate((7, 4, 2)):
        where = [int(i * 49 / s) for i in range(s)]
        inside = mask[:, :, where][..., where].flatten(1)
        tokens = found.support[level].unflatten(0, (2, shots)).flatten(3).transpose(2, 3).flatten(1, 2)
        query = match.stages[level](query)
        matched, weight = match.cross[level](query, tokens, inside)
        torch.testing.assert_close(found.matched[level], matched)
        torch.testing.assert_close(found.correlations[level], weight)
        beside = F.interpolate(similarity, (s, s), mode="bilinear", align_corners=True)
        mixed = F.conv2d(torch.cat([matched, beside], 1), match.fuse[level].weight, padding=1)
        fused.append(normed(match.fuse_norm[level], mixed).clamp(min=0))
    x = parsed(match.parse[2], fused[2])
    for level, s in ((1, 4), (0, 7)):
        up = F.interpolate(x, (s, s), mode="bilinear", align_corners=False)
        x = up + parsed(match.parse[level], fused[level] + up)
    torch.testing.assert_close(found.logits, parsed(match.classify, x))


def test_a_stage_halves_its_side() -> None:
    assert [Stage(CHANNELS, n)(torch.zeros(1, CHANNELS, 9, 9)).shape[-1] for n in range(3)] == [9, 5, 5]


def test_fixed_batch_norm_keeps_its_statistics() -> None:
    norm = nn.Sequential(FixedBatchNorm(3)).train()[0]
    x = 3 + torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(norm(x), x / math.sqrt(1 + norm.eps))
    norm(x).sum().backward()
    assert norm.running_mean.eq(0).all()
    assert norm.running_var.eq(1).all()
    assert norm.weight.grad.gt(0).all()
    assert not FixedBatchNorm(3).training


def test_each_correlation_map_learns_from_the_coarser_one() -> None:
    """Whole objects, none, and one that no coarse position sees whole."""
    torch.manual_seed(0)
    correlations = [torch.randn(3, s, s, dtype=torch.float64, requires_grad=True) for s in (9, 5, 3)]
    mask = torch.zeros(3, 33, 33, dtype=torch.int64)
    mask[0, 2:20, 5:30], mask[0, 20:25], mask[2, 16, 16] = 1, 255, 1
    expected = torch.zeros((), dtype=torch.float64)
    for b in range(3):
        teacher = torch.where(mask[b] == 1, 1.0, -1e9).double()
        for student in (correlations[2][b], correlations[1][b], correlations[0][b]):
            size = tuple(student.shape)
            resized = F.interpolate(teacher[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            t, s = resized.flatten().softmax(0), student.flatten().softmax(0)
            for place in range(len(t)):
                expected = expected + t[place] * (torch.log(t[place] + 1e-12) - torch.log(s[place] + 1e-12)) / 3
            teacher = student.detach()
    found = distillation(correlations, mask)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(loss, correlations) for loss in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.abs().max() > 0
