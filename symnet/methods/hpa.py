"""HPA (Cheng, Lang, Han; TPAMI 2023): prototypes of all base classes compete with the support's, and where one of them wins is no target.

Shared with PFENet: reductions, masked average pooling, prior; with BAM ASPP. Its own: who wins where (`model/activation`), and an attention
over channels of low features (`model/channels`).

Its released code lacks the files of base classes' prototypes and the script that trains, so that there are no outputs to compare with: this
is a reading of it, and parity is not claimed. Prototypes are made here before training, of the fold's own training images (`prepare`), and
stand in the model file. The squared error of the probability map is an image's by its own labels, where the code has those of all of a
batch meet the first one's map; 255 is left out. Channels are attended at the low features, one of the levels that it can be set to.

A base class is validated as a novel one is tested: its own prototype is none of the others, nor the target's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import HPASettings
from symnet.data.folds import base_count
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.model.activation import PrototypeActivation
from symnet.model.aspp import ASPP
from symnet.model.channels import ChannelAttention
from symnet.model.divisors import Divisors
from symnet.model.episode import TWICE, EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import classifier, reduction, two_convolutions
from symnet.model.prototypes import support_prototype
from symnet.model.resize import resize
from symnet.model.segmentation import IGNORE, cross_entropy

LOW = 48  # channels of the low features beside the decoder's


@dataclass(frozen=True, kw_only=True)
class HPAInputs(EpisodeInputs):
    """Beside the usual."""

    query_low: Tensor  # [B, Cl, H, W]
    support_low: Tensor  # [B, K, Cl, H, W]
    own: Tensor  # [B]: the episode's class among the base classes, -1 of a novel one


@dataclass(frozen=True)
class HPAOutput:
    """At feature side H."""

    prediction: Tensor  # [B, 2, H, W]
    probability: Tensor  # [B, 1, H, W]
    prior: Tensor  # [B, 1, H, W]


class HPAHead(GuidedHead):
    """6.0 M parameters with ResNet-50's 1536 mid and 512 low channels. K shots: means of prototypes, of priors, and of low features."""

    prototypes: Tensor  # [base classes, Cm], of mid features: no weight, but of the model file

    def __init__(self, settings: HPASettings, mid: int, low: int, classes: int) -> None:
        super().__init__()
        c = settings.channels
        self.auxiliary, self.weight = settings.auxiliary, settings.weight
        self.register_buffer("prototypes", torch.zeros(classes, mid))
        self.reduce_query, self.reduce_support, self.reduce_prototypes = (reduction(mid, c) for _ in range(3))
        self.activate = PrototypeActivation(c)
        self.merge = nn.Conv2d(2 * c + 2, c, 1, bias=False)
        self.aspp = ASPP(c)
        self.join = nn.Conv2d(5 * c, c, 1, bias=False)
        self.attend = ChannelAttention()
        self.reduce_low = nn.Conv2d(low, LOW, 1, bias=False)
        self.fuse = nn.Conv2d(c + LOW, c, 3, padding=1, bias=False)
        self.refine, self.classify = two_convolutions(c), classifier(c)

    def forward(self, episode: HPAInputs, in_training: bool = False) -> HPAOutput:
        """Segment the queries of an episode batch. in_training: the class's own base prototype is one of the target's."""
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        each = support_prototype(support, episode.mask.flatten(0, 1), "released")  # [BK, C]
        prior = episode.priors[0].mean(1, keepdim=True)  # [B, 1, H, W]
        target = each.unflatten(0, episode.mask.shape[:2]).mean(1, keepdim=True)  # [B, 1, C]
        bases = self.reduce_prototypes(self.prototypes[:, :, None, None]).flatten(1)  # [n, C]
        own = episode.own.unsqueeze(1) == torch.arange(len(bases), device=query.device)  # [B, n]
        if in_training:
            target = torch.cat([target, (own.to(bases.dtype) @ bases).unsqueeze(1)], 1)  # [B, 2, C]
        probability, winners = self.activate(query, target, bases, own)
        x = F.relu(self.merge(torch.cat([query, winners, prior, probability], 1)))
        x = F.relu(self.join(self.aspp(x)))  # [B, C, H, W]
        low = F.relu(self.reduce_low(self.attend(episode.query_low, episode.support_low.mean(1))))  # [B, 48, H, W]
        x = F.relu(self.fuse(torch.cat([x, low], 1)))
        return HPAOutput(self.classify(x + self.refine(x)), probability, prior)

    def losses(self, output: HPAOutput, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """Cross-entropy of the prediction, and, weighted, the loss of the probability map; 255 ignored. Their sum is the objective."""
        pixels = None if divisors is None else divisors.pixels
        p = output.probability
        if self.auxiliary == "cross_entropy":
            auxiliary = cross_entropy(torch.cat([1 - p, p], 1), query_mask, pixels)
        else:
            auxiliary = squared_error(p.squeeze(1), query_mask, pixels)
        return {"prediction": cross_entropy(output.prediction, query_mask, pixels), "auxiliary": self.weight * auxiliary}


class HPAMethod(Guided):
    """One output."""

    outputs = supervised = ("prediction",)
    head: HPAHead

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        head = HPAHead(settings.hpa, backbone.mid_channels, backbone.low_channels, base_count(settings.data))
        super().__init__(settings, backbone, shots, text, side, head, (TWICE,))

    def prepare(self, prototypes: Callable[[], Tensor]) -> None:
        """Take them."""
        self.head.prototypes.copy_(prototypes())

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The class's own base prototype is one of the target's."""
        return {"in_training": True}

    def freeze(self, backbone: Backbone, batch: EpisodeBatch, training: bool = False) -> HPAInputs:
        """The low features, too."""
        inputs = super().freeze(backbone, batch, training)
        if batch.record is None:
            query = backbone.levels(list(batch.query)).low
            support = backbone.levels([m.flatten(0, 1) for m in batch.support]).low.unflatten(0, batch.support_mask.shape[:2])
        else:
            (query,), support = inputs.shares, batch.support[len(self.head.reductions)]
        return HPAInputs(**vars(inputs), query_low=query, support_low=support, own=batch.base_index)

    def blocks(self, backbone: Backbone, recorded: bool) -> tuple[int, ...] | None:
        """Beside a record, all, and no base logits."""
        return tuple(range(len(backbone.block_channels))) if recorded else None

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """Beside a record, reduced mid features, and the low ones."""
        if not recorded:
            return maps
        mid = super().keep(backbone, [maps[i] for i in backbone.mid_blocks], recorded)
        return [*mid, backbone.levels(maps).low]


def squared_error(p: Tensor, target: Tensor, pixels: Tensor | None = None) -> Tensor:
    """Mean over the pixels that are not 255 of (p - target)^2; p [B, h, w] in [0, 1] is resized to target [B, S, S] in {0, 1, 255} first.

    pixels: as of `cross_entropy`.
    """
    known = target != IGNORE
    total = ((resize(p.float().unsqueeze(1), target.shape[-1]).squeeze(1) - target).square() * known).sum()
    return total / (known.sum() if pixels is None else pixels).clamp(min=1)
