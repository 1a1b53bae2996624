"""The trainable part of Sym-Net: reductions, APA, TDC's fusion, decoder, ensemble."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from symnet.config import ModelSettings
from symnet.model.answer import decode
from symnet.model.base import Ensemble
from symnet.model.correlation import Fusion
from symnet.model.decoder import Decoder
from symnet.model.divisors import Divisors
from symnet.model.episode import EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import reduction
from symnet.model.numbers import exactly
from symnet.model.prototypes import Alignment, Regions, query_regions, support_prototype
from symnet.model.resize import resize
from symnet.model.segmentation import cross_entropy, mean_cross_entropy
from symnet.model.shots import ShotWeights, mean_weights
from symnet.model.triplet import co_triplet

Variant = Literal["paper", "released"]


@dataclass(frozen=True)
class HeadOutput:
    """At feature side H. `ensemble` holds maps used as logits; `triplet` is None where the loss is switched off."""

    ensemble: Tensor  # [B, 2, H, W]
    meta: Tensor  # [B, 2, H, W]
    inner: list[Tensor]  # [B, 2, s, s] a scale; none but for the losses
    prior: Tensor  # [B, 1, H, W]
    hyper: Tensor | None  # [B, N', H, W]
    support_prototypes: Tensor  # [B, K, C], augmented
    query_prototype: Tensor | None  # [B, C], augmented
    shot_weights: Tensor  # [B, K]
    triplet: Tensor | None = None  # scalar


class Head(GuidedHead):
    """About 11.2 M parameters with ResNet-50's 1536 mid channels. `mid`: channels of the mid features; `groups`: TDC's N3, N2, N1."""

    def __init__(
        self, settings: ModelSettings, mid: int, groups: tuple[int, int, int], shots: int, text: int, scales: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.settings, self.shots, self.text = settings, shots, text
        channels = settings.channels
        self.variant: Variant = settings.variant
        self.reduce_query, self.reduce_support = reduction(mid, channels), reduction(mid, channels)
        if settings.apa:
            self.align = Alignment(channels, text if settings.text else 0, settings.attention or settings.variant)
        if settings.tdc:
            self.fuse = Fusion(groups, settings.hyper_channels, settings.fusion or settings.variant)
        if shots > 1 and weighs_shots(settings):
            self.weigh = ShotWeights(shots)
        self.decode = Decoder(channels, settings.hyper_channels if settings.tdc else 0, scales)
        self.ensemble = Ensemble()

    def forward(
        self, episode: EpisodeInputs, with_triplet: bool = False, divisors: Divisors | None = None, on_cpu: bool = False
    ) -> HeadOutput:
        """Segment the queries of an episode batch.

        with_triplet: in training, for the losses: the triplet, and the inner logits, which nothing else reads. divisors: for the triplet
        loss, of the batch that this is a part of. on_cpu: decode by `model/answer.py`, which says when it can. Under `torch.autocast`,
        K-shot weights, ensemble and triplet loss stay in float32.
        """
        assert episode.psi is not None
        assert episode.base is not None
        batch, shots = episode.psi.shape
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        with exactly(query.device):
            weights = self.weigh(episode.psi) if hasattr(self, "weigh") else mean_weights(episode.psi)  # [B, K]
        priors = [(weights[:, :, None, None] * prior).sum(1, keepdim=True) for prior in episode.priors]  # [B, 1, s, s]
        prior = resize(priors[0], query.shape[-1])  # [B, 1, H, W], the finest

        prototypes = self._support_prototypes(support, episode).unflatten(0, (batch, shots))  # [B, K, C]
        support_mean = (weights.unsqueeze(2) * prototypes).sum(1)  # [B, C]
        s = self.settings
        regions = query_regions(query, prior.squeeze(1), s.tau1, s.tau2, s.tau3, s.tau4)
        augmented = self._query_prototype(query, prior, regions, episode.text)
        hybrid = support_mean if augmented is None else s.alpha * augmented + s.beta * support_mean  # eq. 9

        hyper = None if episode.correlations is None else self.fuse(episode.correlations)
        meta, inner, _ = decode(self.decode, query, hybrid, hyper, priors, with_triplet, on_cpu, episode.shares)
        psi = (weights * episode.psi).sum(1)  # [B]
        triplet = None
        if with_triplet and augmented is not None and s.triplet:
            features = support.unflatten(0, (batch, shots))
            found = (augmented, regions, support_mean, features, episode.foreground)
            with exactly(query.device):
                triplet = co_triplet(*found, s.margin, s.triplet_distance, divisors)
        with exactly(query.device):
            ensemble = self.ensemble(meta, psi, episode.base)
        return HeadOutput(ensemble, meta, inner, prior, hyper, prototypes, augmented, weights, triplet)

    def _support_prototypes(self, support: Tensor, episode: EpisodeInputs) -> Tensor:
        """[BK, C]: masked average pooling, aligned with the class vector where APA is on."""
        mask = episode.mask.flatten(0, 1)  # [BK, H, W]
        prototype = support_prototype(support, mask, self.variant)
        if not self.settings.apa:
            return prototype
        text = episode.text.repeat_interleave(self.shots_of(episode), 0) if self.settings.text else None
        return self.align(support * mask.unsqueeze(1), prototype, text)

    def _query_prototype(self, query: Tensor, prior: Tensor, regions: Regions, text: Tensor) -> Tensor | None:
        """[B, C], or None where the query branch is off."""
        if not (self.settings.apa and self.settings.query_prototype):
            return None
        return self.align(query * prior, regions.foreground, text if self.settings.text else None)

    @staticmethod
    def shots_of(episode: EpisodeInputs) -> int:
        """K of an episode batch."""
        return episode.mask.shape[1]

    def losses(self, output: HeadOutput, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """The parts, scalars: ensemble, meta, inner, and triplet where it is on. query_mask [B, S, S] int64 in {0, 1, 255}.

        divisors: of the batch that this is a part of, as they were given to `forward`.
        """
        pixels = None if divisors is None else divisors.pixels
        parts = {
            "ensemble": cross_entropy(output.ensemble, query_mask, pixels),
            "meta": cross_entropy(output.meta, query_mask, pixels),
            "inner": mean_cross_entropy(output.inner, query_mask, pixels),
        }
        if output.triplet is not None:
            parts["triplet"] = output.triplet
        return parts

    def objective(self, parts: dict[str, Tensor]) -> Tensor:
        """Eq. 15: triplet + inner + final, weight 1 each; with the meta cross-entropy where `meta_loss` says so.

        `released` has it by default, and adds the frozen base learner's constant.
        """
        return torch.stack([value for name, value in parts.items() if self.wants(name)]).sum()

    def wants(self, part: str) -> bool:
        """Whether the objective holds a part."""
        released = self.variant == "released"
        wanted = {"meta": released if self.settings.meta_loss is None else self.settings.meta_loss, "base": released}
        return wanted.get(part, True)


def weighs_shots(settings: ModelSettings) -> bool:
    """Whether K shots get learned weights."""
    return (settings.shot_weights or {"paper": "mean", "released": "gram"}[settings.variant]) == "gram"
