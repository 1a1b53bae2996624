"""PFENet (Tian et al., TPAMI 2020): a prior from the frozen network, one support vector, a decoder over four scales.

Shared with Sym-Net: reductions, masked average pooling, FEM (`model/decoder`), the frozen part. Its own: that there is nothing else. The
text masks the support's high features once, its code before the fourth stage and after it (`twice`); this follows the code. Its code leaves
batch norm of the frozen network in training mode: a row of the table reads features that are computed once, in eval mode; the door has
`bn="train"`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at_stride_8
from symnet.config import Settings
from symnet.config_methods import PFENetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.methods.reading import DECODER
from symnet.model.decoder import Decoder
from symnet.model.divisors import Divisors
from symnet.model.episode import TWICE, EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import reduction
from symnet.model.prototypes import support_prototype
from symnet.model.resize import default_scales
from symnet.model.segmentation import cross_entropy, mean_cross_entropy


@dataclass(frozen=True)
class PFENetOutput:
    """At feature side H."""

    prediction: Tensor  # [B, 2, H, W]
    inner: list[Tensor]  # [B, 2, s, s] a scale; none but for the losses
    prior: Tensor  # [B, 1, H, W]
    support_prototype: Tensor  # [B, C]
    pyramid: list[Tensor]  # [B, C, H, W] a scale


class PFENetHead(GuidedHead):
    """10.8 M parameters with ResNet-50's 1536 mid channels. K shots: the mean of their prototypes, and of their priors."""

    def __init__(self, settings: PFENetSettings, mid: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.reduce_query, self.reduce_support = reduction(mid, settings.channels), reduction(mid, settings.channels)
        self.decode = Decoder(settings.channels, 0, scales)

    def forward(self, episode: EpisodeInputs, with_inner: bool = False) -> PFENetOutput:
        """Segment the queries of an episode batch. with_inner: also at every scale, for the losses."""
        query, support = self.reduced(episode)
        each = support_prototype(support, episode.mask.flatten(0, 1), "released")  # [BK, C]
        prototype = each.unflatten(0, episode.mask.shape[:2]).mean(1)  # [B, C]
        prior = episode.priors[0].mean(1, keepdim=True)  # [B, 1, H, W]
        decoded = self.decode(query, prototype, None, [prior], with_inner)
        return PFENetOutput(decoded.meta, decoded.inner, prior, prototype, decoded.pyramid)

    def losses(self, output: PFENetOutput, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """Cross-entropies, 255 ignored: of the prediction, and the mean of the scales'. Their sum is the objective."""
        pixels = None if divisors is None else divisors.pixels
        return {
            "prediction": cross_entropy(output.prediction, query_mask, pixels),
            "inner": mean_cross_entropy(output.inner, query_mask, pixels),
        }


class PFENetMethod(Guided):
    """One output."""

    outputs = supervised = ("prediction",)
    head: PFENetHead

    # The released code's beginnings of names, and the door's.
    released = (
        ("down_query.", "method.head.reduce_query."),
        ("down_supp.", "method.head.reduce_support."),
        *DECODER,
    )

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        scales = sides(settings.pfenet.scales, side, settings.pixels.size)
        head = PFENetHead(settings.pfenet, backbone.mid_channels, scales)
        super().__init__(settings, backbone, shots, text, side, head, (TWICE,))

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `pfenet` that a released state dict says."""
        return {"pfenet": PFENetSettings(channels=state["cls.0.weight"].shape[0], scales=None if scales is None else tuple(scales))}

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The logits of the scales."""
        return {"with_inner": True}

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final [B, 2, H, W], prior [B, 1, H, W], support_prototype [B, C], pyramid_mean [B, scales, C], inner_logits_N [B, 2, s, s]."""
        out = self.answer(self.head, self.freeze(backbone, batch), with_inner=True)
        inner = {f"inner_logits_{place}": logits for place, logits in enumerate(out.inner)}
        pyramid = torch.stack([one.mean((2, 3)) for one in out.pyramid], 1)
        return {"final": out.prediction, "prior": out.prior, "support_prototype": out.support_prototype, "pyramid_mean": pyramid} | inner


def sides(scales: Sequence[float] | None, side: int, size: int) -> tuple[int, ...]:
    """The decoder's sides, for features of side `side` of images of side `size`. scales: as the setting."""
    if scales is None:
        return default_scales(side_at_stride_8(size))  # of VGG's features, at stride 16, the first up-samples
    found = tuple(int(side * scale) if scale <= 1 else int(scale) for scale in scales)
    if min(found) < 1:
        raise ValueError(f"pfenet.scales: found {scales}, of which {min(scales)} leaves nothing of side {side}")
    return found
