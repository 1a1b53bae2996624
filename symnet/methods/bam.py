"""BAM (Lang et al., CVPR 2022): PFENet's prior and prototype at one scale, and a base learner that says what is no target.

Shared with Sym-Net: base learner, ensemble, psi and K-shot weights, reductions, pooling; with PFENet the prior. Its own: ASPP
(`model/aspp`). As in Sym-Net, `ensemble` holds probabilities that are used as logits. In its code the frozen base learner drops channels
(Dropout2d) while the meta learner trains; here it does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import BAMSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.methods.reading import at_one_scale
from symnet.model.aspp import ASPPDecoder
from symnet.model.base import Ensemble
from symnet.model.divisors import Divisors
from symnet.model.episode import TWICE, EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import reduction
from symnet.model.numbers import exactly
from symnet.model.prototypes import support_prototype
from symnet.model.segmentation import cross_entropy
from symnet.model.shots import ShotWeights, mean_weights


@dataclass(frozen=True)
class BAMOutput:
    """At feature side H. `ensemble` holds maps used as logits."""

    ensemble: Tensor  # [B, 2, H, W]
    meta: Tensor  # [B, 2, H, W]
    prior: Tensor  # [B, 1, H, W]
    support_prototype: Tensor  # [B, C]
    views: Tensor  # [B, 5 C, H, W], ASPP's
    shot_weights: Tensor  # [B, K]
    psi: Tensor  # [B]


class BAMHead(GuidedHead):
    """4.9 M parameters with ResNet-50's 1536 mid channels. K shots: psi, prototypes and priors summed with learned weights."""

    def __init__(self, settings: BAMSettings, mid: int, shots: int) -> None:
        super().__init__()
        self.reduce_query, self.reduce_support = reduction(mid, settings.channels), reduction(mid, settings.channels)
        self.weigh = ShotWeights(shots) if shots > 1 else None
        self.decode = ASPPDecoder(settings.channels)
        self.ensemble = Ensemble()

    def forward(self, episode: EpisodeInputs) -> BAMOutput:
        """Segment the queries of an episode batch. Under `torch.autocast`, K-shot weights and ensemble stay in float32."""
        assert episode.psi is not None
        assert episode.base is not None
        query, support = self.reduced(episode)
        with exactly(query.device):
            weights = mean_weights(episode.psi) if self.weigh is None else self.weigh(episode.psi)  # [B, K]
        each = support_prototype(support, episode.mask.flatten(0, 1), "released").unflatten(0, weights.shape)  # [B, K, C]
        prototype = (weights.unsqueeze(2) * each).sum(1)  # [B, C]
        prior = (weights[:, :, None, None] * episode.priors[0]).sum(1, keepdim=True)  # [B, 1, H, W]
        meta, views = self.decode(query, prototype, prior)
        psi = (weights * episode.psi).sum(1)  # [B]
        with exactly(query.device):
            ensemble = self.ensemble(meta, psi, episode.base)
        return BAMOutput(ensemble, meta, prior, prototype, views, weights, psi)

    def losses(self, output: BAMOutput, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """Cross-entropies, 255 ignored, of both outputs. Their sum is the objective."""
        pixels = None if divisors is None else divisors.pixels
        return {name: cross_entropy(getattr(output, name), query_mask, pixels) for name in BAMMethod.outputs}


class BAMMethod(Guided):
    """`meta` is the meta learner's own answer, `ensemble` the one joined with the base learner's."""

    outputs = supervised = ("meta", "ensemble")
    reads_base = True
    head: BAMHead

    # The released code's beginnings of names, and the door's.
    released = (
        ("down_query.", "method.head.reduce_query."),
        ("down_supp.", "method.head.reduce_support."),
        ("init_merge.0.", "method.head.decode.merge."),
        ("ASPP_meta.layer6_{}.0.", "method.head.decode.aspp.branches.{}."),
        ("res1_meta.0.", "method.head.decode.join."),
        ("res2_meta.", "method.head.decode.refine."),
        ("cls_meta.", "method.head.decode.classify."),
        ("kshot_rw.", "method.head.weigh.layers."),
        ("gram_merge.", "method.head.ensemble.with_psi."),
        ("cls_merge.", "method.head.ensemble.with_base."),
    )

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side, BAMHead(settings.bam, backbone.mid_channels, shots), (TWICE,))

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `bam` that a released state dict says."""
        at_one_scale("BAM", scales)
        return {"bam": BAMSettings(channels=state["cls_meta.0.weight"].shape[0])}

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final, meta [B, 2, H, W], prior, base_map [B, 1, H, W], support_prototype [B, C], psi [B], aspp_mean [B, 5 C], shot_weights.

        base_map is p_base of all base classes, as in a test.
        """
        inputs = self.freeze(backbone, batch)
        out = self.answer(self.head, inputs)
        assert inputs.base is not None
        return {
            "final": out.ensemble,
            "meta": out.meta,
            "prior": out.prior,
            "base_map": inputs.base.unsqueeze(1),
            "support_prototype": out.support_prototype,
            "psi": out.psi,
            "aspp_mean": out.views.mean((2, 3)),
            "shot_weights": out.shot_weights,
        }
