"""MIANet (Yang et al., CVPR 2023): the class's word vector and the support's vector make a general prototype, a triplet loss shapes it.

Shared with Sym-Net: HPM (`model/prior.hpm`), FEM (`model/decoder`), masked average pooling, the support's half of the triplet. Its own: one
reduction for query and support, the MLP of the general prototype, the convolutions whose positions the triplet reads.

Its code knows one support. Here, of K supports the instance prototypes are averaged, and the priors at each scale; the triplet takes the
mean over shots. Its code reads the word vectors of all classes, but outputs and losses depend on the episode's own alone, which is read
here. Its code leaves batch norm of the frozen network in training mode: see `pfenet.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at_stride_8
from symnet.config import Settings
from symnet.config_methods import MIANetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.decoding import Decoding
from symnet.methods.reading import DECODER
from symnet.model.answer import decode
from symnet.model.decoder import Decoder
from symnet.model.divisors import Divisors, usable
from symnet.model.episode import EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import reduction
from symnet.model.numbers import exactly
from symnet.model.prototypes import support_prototype
from symnet.model.resize import default_scales, resize_mask
from symnet.model.segmentation import IGNORE, cross_entropy, mean_cross_entropy
from symnet.model.triplet import support_triplet

HIDDEN = 128  # width of the general prototype's MLP
WHOLE = 0.9999  # of a position: a resized mask is 1 but for rounding


@dataclass(frozen=True)
class MIANetOutput:
    """At feature side H; the last two are there for the losses alone."""

    prediction: Tensor  # [B, 2, H, W]
    priors: list[Tensor]  # [B, 1, s, s] a scale
    instance_prototype: Tensor  # [B, C]
    general_prototype: Tensor  # [B, C]
    inner: list[Tensor]  # [B, 2, s, s] a scale
    local: Tensor | None = None  # [BK, C, h, w]
    triplet: Tensor | None = None  # scalar


class MIANetHead(GuidedHead):
    """12.3 M parameters with ResNet-50's 1536 mid channels. `text`: width of the word vectors."""

    def __init__(self, settings: MIANetSettings, mid: int, text: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        channels = settings.channels
        self.reduce_query = reduction(mid, channels)
        self.generalise = general_prototype(text, channels)
        self.localise = local_features(channels)
        self.decode = Decoder(channels, 0, scales)

    @property
    def reductions(self) -> tuple[nn.Module, ...]:
        """One for both."""
        return (self.reduce_query,)

    def forward(
        self, episode: EpisodeInputs, with_triplet: bool = False, divisors: Divisors | None = None, on_cpu: bool = False
    ) -> MIANetOutput:
        """Segment the queries of an episode batch.

        with_triplet: in training, for the losses: the triplet, and the inner logits. divisors: of the batch that this is a part of. on_cpu:
        decode by `model/answer.py`, which says when it can. Under `torch.autocast` the triplet stays in float32.
        """
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        shots = episode.mask.shape[:2]
        each = support_prototype(support, episode.mask.flatten(0, 1), "released").unflatten(0, shots)  # [B, K, C]
        instance = each.mean(1)  # [B, C]
        general = self.generalise(torch.cat([episode.text, instance], 1))  # [B, C]
        priors = [prior.mean(1, keepdim=True) for prior in episode.priors]  # [B, 1, s, s]
        meta, inner, _ = decode(self.decode, query, general, None, priors, with_triplet, on_cpu, episode.shares)
        if not with_triplet:
            return MIANetOutput(meta, priors, instance, general, inner)
        local = self.localise(support)  # [BK, C, h, w]
        with exactly(query.device):
            foreground = whole_positions(episode.mask, local.shape[-1])
            usable_supports = None if divisors is None else divisors.usable
            triplet = support_triplet(general, local.unflatten(0, shots), foreground, supports=usable_supports)
        return MIANetOutput(meta, priors, instance, general, inner, local, triplet)

    def losses(self, output: MIANetOutput, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """Cross-entropies, 255 ignored, of the prediction and the mean of the scales', and the triplet. Their sum is the objective."""
        assert output.triplet is not None
        pixels = None if divisors is None else divisors.pixels
        return {
            "prediction": cross_entropy(output.prediction, query_mask, pixels),
            "inner": mean_cross_entropy(output.inner, query_mask, pixels),
            "triplet": output.triplet,
        }


class MIANetMethod(Decoding):
    """One output."""

    outputs = supervised = ("prediction",)
    reads_text = True
    head: MIANetHead

    # The released code's beginnings of names, and the door's.
    released = (
        ("down_features.", "method.head.reduce_query."),
        ("GIG.model.", "method.head.generalise."),
        ("LFG.", "method.head.localise."),
        *DECODER,
    )
    unused = ("pspnet.",)  # its network once more, and the base learner's head

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        own = settings.mianet
        scales = own.scales or default_scales(side_at_stride_8(settings.pixels.size))  # of VGG's features the first up-samples
        super().__init__(settings, backbone, shots, text, side, MIANetHead(own, backbone.mid_channels, text, scales), ("hpm",))

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `mianet` that a released state dict says."""
        return {"mianet": {"channels": state["cls.0.weight"].shape[0], "scales": None if scales is None else tuple(scales)}}

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The triplet, and the logits of the scales."""
        return {"with_triplet": True, "divisors": divisors}

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """Of a batch's masks: [B, S, S], [B, K, S, S]."""
        foreground = whole_positions(resize_mask(support_mask == 1, self.side), local_side(self.side))
        return Divisors((query_mask != IGNORE).sum(), len(query_mask), usable(foreground).sum(0))

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final [B, 2, H, W], prior_N [B, 1, s, s], instance_prototype, general_prototype [B, C], local_features_mean [BK, C]."""
        out = self.answer(self.head, self.freeze(backbone, batch), with_triplet=True)
        return {
            "final": out.prediction,
            "instance_prototype": out.instance_prototype,
            "general_prototype": out.general_prototype,
            "local_features_mean": out.local.mean((2, 3)),
        } | {f"prior_{place}": prior for place, prior in enumerate(out.priors)}


def general_prototype(text: int, channels: int) -> nn.Sequential:
    """[B, T + C], word vector and support vector -> [B, C]."""
    first, second = nn.Linear(text + channels, HIDDEN), nn.Linear(HIDDEN, channels)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.constant_(layer.bias, 0.01)
    return nn.Sequential(first, nn.LeakyReLU(0.2), nn.Dropout(0.2), second, nn.Dropout(0.3))


def local_features(channels: int) -> nn.Sequential:
    """[n, C, H, W] -> [n, C, h, h] with h = `local_side(H)`: positions that see 11 x 11 of the support's."""

    def layer(stride: int, padding: int) -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 3, stride, padding, bias=False)

    return nn.Sequential(layer(2, 0), nn.ReLU(inplace=True), layer(2, 1), nn.ReLU(inplace=True), layer(1, 1))


def local_side(side: int) -> int:
    """The side of local features: 15 of 60, 6 of 25."""
    return ((side - 3) // 2) // 2 + 1


def whole_positions(mask: Tensor, side: int) -> Tensor:
    """Support masks [B, K, H, W] in [0, 1] -> bool [B, K, side, side]: where the nearest position is all foreground."""
    return F.interpolate(mask, (side, side), mode="nearest") > WHOLE
