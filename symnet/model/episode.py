"""The frozen part: all that a trainable head needs of an episode, computed without gradient from block maps.

Beside mid features and masks it is what no trained weight changes and little to keep: the columns of an episode record, by name. Part
`tdc` has `correlations` [B, N, H, W]; a prior's, `spm`, `hpm`, `pfenet`, `twice` or `cosine`, has `prior0` [B, K, s, s] (of hpm `prior1`,
... too, one a decoder scale), `psi` [B, K] and `base` [B, H, W]. `twice` is PFENet's prior as its code and BAM's have it: supports are
masked before the fourth stage and after it, `pfenet` masks them after it alone. `cosine` is HDMNet's two, in [-1, 1]: of the last features
of the base learner's head and of high features; its supports are masked before the fourth stage, and in the maps of those before.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone, Levels
from symnet.model.base import PSPHead, base_foreground
from symnet.model.correlation import hyper_correlations
from symnet.model.prior import hpm, max_cosine, pfenet_prior, spm
from symnet.model.resize import nearest_mask, resize_mask
from symnet.model.shots import dissimilarity

TWICE, COSINE, TDC = "twice", "cosine", "tdc"
PRIORS = ("spm", "hpm", "pfenet", TWICE, COSINE)
PARTS = (*PRIORS, TDC)  # of a record

Record = dict[str, Tensor]


@dataclass(frozen=True)
class EpisodeInputs:
    """B episodes of K shots, at feature side H = W.

    p_base is already summed, without the episode's own class in training. `reduced`: mid features are there as the head has reduced them,
    with c channels: a test does that once an image. `shares`: of the reduced query, where they are at hand (model/answer.py).
    """

    query_mid: Tensor  # [B, Cm, H, W]
    support_mid: Tensor  # [B, K, Cm, H, W]
    mask: Tensor  # [B, K, H, W] in [0, 1]
    foreground: Tensor  # [B, K, H, W] bool, by the nearest neighbour
    whole: Tensor  # [B, K, S, S] bool, the foreground at the image's side
    priors: tuple[Tensor, ...]  # [B, K, s, s] in [0, 1]: one, at side H; of HPM one a decoder scale; `cosine` has two, in [-1, 1]
    correlations: Tensor | None  # [B, N, H, W], None without TDC
    psi: Tensor | None  # [B, K]; None, as base, of a method that has no use for a base learner
    base: Tensor | None  # [B, H, W]
    text: Tensor  # [B, T]
    reduced: bool = False
    shares: Sequence[Tensor] = ()  # [B, c, s, s] a decoder scale

    def record(self) -> Record:
        """The columns from which `episode_inputs` makes the same again."""
        found = {f"prior{i}": prior for i, prior in enumerate(self.priors)}
        rest = {"psi": self.psi, "base": self.base, "correlations": self.correlations}
        return found | {name: value for name, value in rest.items() if value is not None}

    def to(self, device: torch.device) -> "EpisodeInputs":
        """The same on another device."""

        def moved(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(moved(part) for part in value)
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return EpisodeInputs(**{f.name: moved(getattr(self, f.name)) for f in fields(self)})


@torch.no_grad()
def freeze_episode(
    backbone: Backbone,
    parts: Collection[str],
    query: list[Tensor],
    support: list[Tensor],
    support_mask: Tensor,
    text: Tensor,
    base_logits: Tensor | None,
    scales: Sequence[int],
    base_index: Tensor | None = None,
    base_head: PSPHead | None = None,
    masked: bool = False,
) -> EpisodeInputs:
    """Everything of an episode that does not depend on trained weights: `parts` of its record, a prior's and perhaps `tdc`.

    query: N block maps [B, C_i, H, W]; support: N block maps [B, K, C_i, H, W]; support_mask [B, K, S, S] in {0, 1, 255} (255 counts
    as background); text [B, T]; base_logits [B, 1 + n, H, W], the frozen base learner's of the query, None: no psi and no base map;
    scales: the decoder's sides; base_index [B], in training: the episode's class among the base classes; base_head: the base learner's,
    for `cosine`; masked: the supports were, at their pixels.
    """
    (prior,) = (part for part in parts if part != TDC)
    queries, supports = levels_of(backbone, prior, query, support, support_mask, masked)
    record = prior_record(prior, queries, supports, support_mask, base_logits, scales, base_index, base_head)
    if TDC in parts:
        record |= tdc_record(query, support, support_mask)
    return episode_inputs(queries.mid, supports.mid, support_mask, text, record)


def levels_of(
    backbone: Backbone, prior: str, query: list[Tensor], support: list[Tensor], support_mask: Tensor, masked: bool = False
) -> tuple[Levels, Levels]:
    """Levels of queries [B, C, H, W] and of supports [B, K, C, H, W], as a prior's part reads them. Arguments as `freeze_episode`.

    Where supports are masked before the fourth stage, their own block maps of it are not read. Mid features are not masked here.
    """
    queries, shots, on = backbone.levels(query), support[0].shape[:2], support_mask == 1
    if prior in (TWICE, COSINE) and not masked:
        support = backbone.masked(support, resize_mask(on, queries.mid.shape[-1]))
    maps = [block.flatten(0, 1) for block in support]
    low, mid, high = backbone.levels(maps)
    if prior == COSINE and not masked:  # low features, too, and high ones where they are not of the fourth stage alone
        known, each = sum(backbone.groups[:2]), on.flatten(0, 1).unsqueeze(1)
        low, _, high = backbone.levels([*(m * resize_mask(each, m.shape[-1]).to(m.dtype) for m in maps[:known]), *maps[known:]])
    return queries, Levels(*(level.unflatten(0, shots) for level in (low, mid, high)))


def tdc_record(query: list[Tensor], support: list[Tensor], support_mask: Tensor) -> Record:
    """The columns of part `tdc`. Arguments as `freeze_episode`."""
    return {"correlations": hyper_correlations(query, support, support_mask == 1, query[-1].shape[-1])}


def prior_record(
    kind: str,
    queries: Levels,
    supports: Levels,
    support_mask: Tensor,
    base_logits: Tensor | None,
    scales: Sequence[int],
    base_index: Tensor | None = None,
    base_head: PSPHead | None = None,
) -> Record:
    """The columns of the part of a prior mask. queries, supports: as from `levels_of`; the rest as `freeze_episode`."""
    if kind == COSINE:
        assert base_head is not None
        priors: tuple[Tensor, ...] = _cosines(queries.high, supports.high, support_mask, base_head)
    else:
        found = queries.high, supports.high, resize_mask(support_mask == 1, queries.mid.shape[-1])
        priors = hpm(*found, scales) if kind == "hpm" else ((spm if kind == "spm" else pfenet_prior)(*found),)
    record = {f"prior{i}": prior for i, prior in enumerate(priors)}
    if base_logits is None:
        return record
    return record | {"psi": dissimilarity(queries.low, supports.low), "base": base_foreground(base_logits, base_index)}


def _cosines(query: Tensor, support: Tensor, support_mask: Tensor, base_head: PSPHead) -> tuple[Tensor, Tensor]:
    """Priors [B, K, H, W] in [-1, 1] of the head's last features and of high features, [B, C, H, W] and [B, K, C, H, W]."""
    shots = support.shape[:2]
    inside = nearest_mask((support_mask == 1).flatten(0, 1), query.shape[-1]).unflatten(0, shots).float()
    last = base_head.features(query), base_head.features(support.flatten(0, 1)).unflatten(0, shots)
    return max_cosine(*last, inside), max_cosine(query, support, inside)


def episode_inputs(
    query_mid: Tensor, support_mid: Tensor, support_mask: Tensor, text: Tensor, record: Record, reduced: bool = False
) -> EpisodeInputs:
    """A head's inputs from mid features, masks and a record. Arguments as the fields, and as `freeze_episode`."""
    on, side = support_mask == 1, query_mid.shape[-1]
    return EpisodeInputs(
        query_mid=query_mid,
        support_mid=support_mid,
        mask=resize_mask(on, side),
        foreground=nearest_mask(on.flatten(0, 1), side).unflatten(0, on.shape[:2]),
        whole=on,
        priors=tuple(record[name] for name in sorted(record) if name.startswith("prior")),
        correlations=record.get("correlations"),
        psi=record.get("psi"),
        base=record.get("base"),
        text=text,
        reduced=reduced,
    )
