"""Plain twins of the fast paths: each the shortest eager way to its definition, at the cost that the released code has.

Every region against every region, in matrices that are held whole; Python loops over episodes and shots; positions chosen by boolean
indexing; the library's interpolation. The tests' oracles, and what the bench compares speeds with. `variant: released` of a head.
Left out of the released code's cost, since it serves nothing: a 14th correlation, vectors read from disk at every forward, gradients
kept while testing.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.model.base import BINS, PSPHead
from symnet.model.decoder import Decoded, Decoder
from symnet.model.episode import EpisodeInputs
from symnet.model.head import Head
from symnet.model.prototypes import FALLBACK, Regions

WINDOWS = ((5, 5), (7, 1), (1, 7))


def resize(x: Tensor, size: int) -> Tensor:
    """[B, C, h, w] -> [B, C, size, size], bilinear, corners aligned."""
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=True)


def min_max(score: Tensor) -> Tensor:
    """Each map [B, H, W] moved and scaled to [0, 1]."""
    low, high = score.amin((1, 2), keepdim=True), score.amax((1, 2), keepdim=True)
    return (score - low) / (high - low + 1e-7)


def spm(query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """The prior as printed (eqs. 1-3): [B, C, H, W], [B, K, C, H, W], [B, K, H, W] -> [B, K, H, W]. An affinity [B, HW, HW] a window."""
    priors = []
    for k in range(mask.shape[1]):
        maps = []
        for window in WINDOWS:
            padding = (window[0] // 2, window[1] // 2)
            regions = [F.avg_pool2d(x, window, 1, padding).flatten(2) for x in (query, support[:, k] * mask[:, k, None])]  # eq. 1
            r_q, r_s = regions[0].transpose(1, 2), regions[1]  # [B, HW, C], [B, C, HW]
            norm_q, norm_s = r_q.norm(dim=2, keepdim=True), r_s.norm(dim=1, keepdim=True)
            affinity = r_q @ r_s / (norm_q * norm_s + 1e-7) * norm_q  # eq. 2, [B, HW, HW]
            maps.append(min_max(affinity.mean(2).view_as(query[:, 0])))  # eq. 3
        priors.append(torch.stack(maps).mean(0))
    return torch.stack(priors, 1)


def correlation_maps(query: Sequence[Tensor], support: Sequence[Tensor], mask: Tensor) -> Tensor:
    """TDC's maps, of N block maps [B, C, H, W] and [B, K, C, H, W], and mask [B, K, H, W]: [B, N, H, W]. One product a pair and block."""
    batch, shots = mask.shape[:2]
    maps = []
    for q, s in zip(query, support, strict=True):
        of_shot = []
        for k in range(shots):
            means = []
            for b in range(batch):
                positions = q[b].flatten(1).T  # [HW, C]
                inside = s[b, k].flatten(1)[:, mask[b, k].flatten() == 1].T  # [M, C]
                if len(inside) == 0:
                    inside = torch.zeros_like(positions[:1])
                positions, inside = (x / (x.norm(dim=1, keepdim=True) + 1e-5) for x in (positions, inside))
                means.append((positions @ inside.T).clamp(min=0).mean(1).view_as(q[b, 0]))
            of_shot.append(torch.stack(means))
        maps.append(torch.stack(of_shot).mean(0))
    return torch.stack(maps, 1)


def dissimilarity(query: Tensor, support: Tensor) -> Tensor:
    """psi: [B, C, H, W], [B, K, C, H, W] -> [B, K]. Gram matrices image by image."""

    def gram(features: Tensor) -> Tensor:
        flat = features.flatten(1)
        norm = flat.norm(dim=1, keepdim=True)
        return flat @ flat.T / (norm @ norm.T + 1e-7)

    pairs = [[(gram(q) - gram(s)).norm() / len(q) for s in shots] for q, shots in zip(query, support, strict=True)]
    return torch.stack([torch.stack(row) for row in pairs])


def region_means(features: Tensor, prior: Tensor, taus: tuple[float, float, float, float]) -> Regions:
    """Foreground, background and hard positives (eqs. 5, 10, 11): [B, C, H, W], [B, H, W] -> [B, C] each. Image by image."""
    tau1, tau2, tau3, tau4 = taus
    found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    for one, p in zip(features.flatten(2), prior.flatten(1), strict=True):  # [C, P], [P]
        order = p.argsort()
        middle = max(len(p) // 2 - min(FALLBACK, len(p)) // 2, 0)
        fallbacks = (order[-FALLBACK:], order[:FALLBACK], order[middle : middle + FALLBACK])
        for means, chosen, fallback in zip(found, (p > tau1, p < tau2, (p > tau3) & (p < tau4)), fallbacks, strict=True):
            means.append(one[:, chosen if chosen.any() else fallback].mean(1))
    return Regions(*(torch.stack(means) for means in found))


def co_triplet(query: Tensor, regions: Regions, support: Tensor, features: Tensor, foreground: Tensor, normalised: bool = True) -> Tensor:
    """Eq. 12, margin 0.5: query and support [B, C], [B, K, C, H, W], bool [B, K, H, W] -> scalar. Image by image."""

    def unit(x: Tensor, dim: int = -1) -> Tensor:
        return F.normalize(x, dim=dim) if normalised else x

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (a - b + 1e-6).norm(dim=-1)

    batch, shots = foreground.shape[:2]
    pairs = zip(query, regions.hard, regions.background, strict=True)
    of_query = [F.relu(distance(unit(q), unit(p)) + 0.5 - distance(unit(q), unit(n))) for q, p, n in pairs]
    of_shot = []
    for k in range(shots):
        terms = []
        for b in range(batch):
            vectors, inside, anchor = unit(features[b, k].flatten(1), 0).T, foreground[b, k].flatten(), unit(support[b])
            if inside.any() and not inside.all():
                farthest = distance(anchor, vectors[inside]).max()
                terms.append(F.relu(farthest + 0.5 - distance(anchor, vectors[~inside].mean(0))))
        of_shot.append(torch.stack(terms).mean() if terms else query.new_zeros(()))
    return torch.stack(of_query).mean() + torch.stack(of_shot).mean()


def decode(decoder: Decoder, query: Tensor, prototype: Tensor, hyper: Tensor, prior: Tensor) -> Decoded:
    """FEM as PFENet prints it: [B, C, H, W], [B, C], [B, N', H, W], [B, 1, H, W]. Everything concatenated, scale by scale."""
    side = query.shape[-1]
    spread: list[Tensor] = []
    inner = []
    for n, s in enumerate(decoder.scales):
        tiled = prototype[:, :, None, None].expand(-1, -1, s, s)
        x = F.relu(decoder.merge[n](torch.cat([F.adaptive_avg_pool2d(query, s), tiled, resize(hyper, s), resize(prior, s)], 1)))
        if n:
            x = x + F.relu(decoder.across[n - 1](torch.cat([x, resize(spread[-1], s)], 1)))
        x = x + decoder.refine[n](x)
        inner.append(decoder.inner[n](x))
        spread.append(resize(x, side))
    x = F.relu(decoder.join(torch.cat(spread, 1)))
    return Decoded(decoder.classify(x + decoder.refine_joined(x)), inner, spread)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that are not 255: [B, C, h, w] at the side of target [B, S, S]."""
    return F.cross_entropy(resize(logits, target.shape[-1]), target.long(), ignore_index=255)


def psp(head: PSPHead, high: Tensor) -> Tensor:
    """PSPNet's head, one convolution over features and pooled features side by side: [B, C, H, W] -> [B, 1 + n, H, W]."""
    pooled = [resize(F.relu(branch(F.adaptive_avg_pool2d(high, b))), high.shape[-1]) for b, branch in zip(BINS, head.pyramid, strict=True)]
    return head.classify(torch.cat([high, *pooled], 1))


def maps_of(backbone: Backbone, query: Tensor, support: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Block maps of [B, 3, S, S] and of [B, K, 3, S, S], the queries first, then shot by shot."""
    shots = [backbone(support[:, k]) for k in range(support.shape[1])]
    return backbone(query), [torch.stack(of_block, 1) for of_block in zip(*shots, strict=True)]


def freeze(
    backbone: Backbone,
    query: list[Tensor],
    support: list[Tensor],
    support_mask: Tensor,
    text: Tensor,
    base_logits: Tensor,
    own: Tensor | None,
) -> EpisodeInputs:
    """What no gradient reaches, of block maps [B, C, H, W] and [B, K, C, H, W]; arguments as of `freeze_episode`. Shot by shot.

    own [B]: the episodes' classes among the base classes, in training.
    """
    side = query[-1].shape[-1]
    queries = backbone.levels(query)
    levels = [backbone.levels([block[:, k] for block in support]) for k in range(support_mask.shape[1])]
    low, mid, high = (torch.stack(shots, 1) for shots in zip(*levels, strict=True))
    on = (support_mask == 1).float()
    step = (on.shape[-1] - 1) // (side - 1)
    mask = on[..., ::step, ::step]  # from 8n+1 to n+1, resizing picks every eighth pixel; the library's rounding would miss the value 1
    probabilities = base_logits.softmax(1)
    kept = [[c for c in range(1, base_logits.shape[1]) if own is None or c != own[b] + 1] for b in range(len(base_logits))]
    return EpisodeInputs(
        query_mid=queries.mid,
        support_mid=mid,
        mask=mask,
        foreground=F.interpolate(on, (side, side)) == 1,
        whole=support_mask == 1,
        priors=(spm(queries.high, high, mask),),
        correlations=correlation_maps(query, support, mask),
        psi=dissimilarity(queries.low, low),
        base=torch.stack([p[chosen].sum(0) for p, chosen in zip(probabilities, kept, strict=True)]),
        text=text,
    )


def losses(head: Head, episode: EpisodeInputs, query_mask: Tensor | None) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Of a head (`variant: released`) and query_mask [B, S, S]: parts of the objective, meta and ensemble [B, 2, H, W]. Shot by shot."""
    assert episode.psi is not None
    assert episode.base is not None
    s, shots = head.settings, episode.psi.shape[1]
    query = head.reduce_query(episode.query_mid)
    supports = [head.reduce_support(episode.support_mid[:, k]) for k in range(shots)]
    weights = head.weigh(episode.psi) if shots > 1 else torch.ones_like(episode.psi)  # [B, K]
    prior = (weights[:, :, None, None] * episode.priors[0]).sum(1, keepdim=True)
    prototypes = []
    for k, support in enumerate(supports):
        mask = episode.mask[:, k : k + 1]
        mean = (support * mask).sum((2, 3)) / (mask.sum((2, 3)) + 5e-4)
        prototypes.append(head.align(support * mask, mean, episode.text))
    support_mean = torch.stack([weights[:, k : k + 1] * p for k, p in enumerate(prototypes)]).sum(0)
    regions = region_means(query, prior[:, 0], (s.tau1, s.tau2, s.tau3, s.tau4))
    augmented = head.align(query * prior, regions.foreground, episode.text)
    assert episode.correlations is not None
    decoded = decode(head.decode, query, s.alpha * augmented + s.beta * support_mean, head.fuse(episode.correlations), prior)
    ensemble = head.ensemble(decoded.meta, (weights * episode.psi).sum(1), episode.base)
    if query_mask is None:
        return {}, decoded.meta, ensemble
    parts = {
        "ensemble": cross_entropy(ensemble, query_mask),
        "meta": cross_entropy(decoded.meta, query_mask),
        "inner": torch.stack([cross_entropy(logits, query_mask) for logits in decoded.inner]).mean(),
        "triplet": co_triplet(augmented, regions, support_mean, torch.stack(supports, 1), episode.foreground),
    }
    return parts, decoded.meta, ensemble


def confusion(logits: Tensor, truth: Tensor) -> Tensor:
    """True and false positives, false and true negatives at truth [B, S, S] of logits [B, 2, h, w]: [B, 4]. Image by image."""
    rows = []
    for one, mask in zip(logits, truth, strict=True):
        found = resize(one[None], mask.shape[-1]).argmax(1)[0][mask != 255]
        known = mask[mask != 255]
        rows.append(torch.stack([((found == a) & (known == b)).sum() for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]))
    return torch.stack(rows)


def at_original(full: Tensor, mask: Tensor, wanted: int) -> dict[str, Tensor]:
    """Counts [4] at original size and at 400x400 of one image: logits [2, S, S] of its square, index mask [h, w], the class."""
    size, (height, width) = full.shape[-1], mask.shape
    placed = [max(side * size // max(height, width) // 8 * 8, 8) for side in (height, width)]
    truth = torch.where(mask == 255, 255, (mask == wanted).to(torch.uint8))
    warped = F.interpolate(truth[None, None], (400, 400), mode="nearest")[0, 0]
    found = {}
    for scoring, target in (("original", truth), ("400", warped)):
        part = full[None, :, : placed[0], : placed[1]]
        back = F.interpolate(part, tuple(target.shape), mode="bilinear", align_corners=False)[0]
        predicted, known = (back[1] > back[0])[target != 255], target[target != 255]
        found[scoring] = torch.stack([((predicted == a) & (known == b)).sum() for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))])
    return found
