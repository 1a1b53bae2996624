"""NTRENet (Liu et al., CVPR 2022): PFENet rid of what is not the target: of background, then of what is neither.

Shared with PFENet: reductions, masked average pooling, prior, FEM; with QPENet how background is found and its loss. Its own: the decoder's
eliminations (`model/elimination`), and a contrast with a memory of what was mistaken for a class (`model/memory`).

Its released code does not run (a syntax error, a variable read before it is set, an argument of another name), so that there are no outputs
to compare with: this is a reading of it, and parity is not claimed. What the reading had to choose: there is one background vector (its
configuration asks for two, which do not fit its own layers). The contrast's positive is the mean vector of the supports, where it takes
the last one's. A vector of the memory is the average of an image where the truth has known background that the network does not call
background; it holds 255 for neither. A step is compared with what earlier ones left.

The memory is of the method's state, 31 MB of it with 15 base classes, and the same in all processes: a resumed run has it, and draws what a
run without a stop draws. Which vectors are drawn depends on the number of micro-batches and processes, as what dropout drops does.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at_stride_8
from symnet.config import Settings
from symnet.config_methods import NTRENetSettings
from symnet.data.folds import base_count
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.model.background import Finder, background_loss
from symnet.model.divisors import Divisors
from symnet.model.elimination import EliminatingDecoder
from symnet.model.episode import TWICE, EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import reduction
from symnet.model.memory import Memory, contrast
from symnet.model.numbers import exactly, wide
from symnet.model.prototypes import support_prototype
from symnet.model.resize import default_scales, resize_mask
from symnet.model.segmentation import cross_entropy, mean_cross_entropy
from symnet.parallel import Ranks

KEPT, DRAWN = 2000, 1000  # vectors of a class that are remembered, and that an episode is compared with


@dataclass(frozen=True)
class NTRENetOutput:
    """At feature side H. Class 1 of `background` is background; `inner` and `support_background` are there for the losses alone."""

    prediction: Tensor  # [B, 2, H, W]
    inner: list[Tensor]  # [B, 2, s, s] a scale
    initial: list[Tensor]  # [B, 2, s, s] a scale
    background: Tensor  # [B, 2, H, W]
    support_background: Tensor | None  # [B, K, 2, H, W]
    prior: Tensor  # [B, 1, H, W]
    support_prototype: Tensor  # [B, C]
    query: Tensor  # [B, C, H, W], reduced
    support: Tensor  # [B, K, C, H, W], reduced


class NTRENetHead(GuidedHead):
    """20.8 M parameters with ResNet-50's 1536 mid channels. K shots: the mean of their prototypes, and of their priors."""

    def __init__(self, settings: NTRENetSettings, mid: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        c = settings.channels
        self.reduce_query, self.reduce_support = reduction(mid, c), reduction(mid, c)
        self.background = nn.Parameter(torch.zeros(c))
        self.find_background = Finder(c)
        self.decode = EliminatingDecoder(c, scales)

    def forward(self, episode: EpisodeInputs, in_training: bool = False) -> NTRENetOutput:
        """Segment the queries of an episode batch. in_training: for the losses, at every scale, and look for background in the supports."""
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        shots = episode.mask.shape[:2]
        each = support_prototype(support, episode.mask.flatten(0, 1), "released")  # [BK, C]
        prototype = each.unflatten(0, shots).mean(1)  # [B, C]
        prior = episode.priors[0].mean(1, keepdim=True)  # [B, 1, H, W]
        background = self.find_background(query, self.background.expand(len(query), -1))
        decoded, initial = self.decode.eliminate(query, prototype, prior, self.background, background, in_training)
        of_supports = None
        if in_training:
            of_supports = self.find_background(support, self.background.expand(len(support), -1)).unflatten(0, shots)
        rest = prior, prototype, query, support.unflatten(0, shots)
        return NTRENetOutput(decoded.meta, decoded.inner, initial, background, of_supports, *rest)


class NTRENetMethod(Guided):
    """One output."""

    outputs = supervised = ("prediction",)
    head: NTRENetHead

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        scales = default_scales(side_at_stride_8(settings.pixels.size))  # of VGG's features the first up-samples
        head = NTRENetHead(settings.ntrenet, backbone.mid_channels, scales)
        super().__init__(settings, backbone, shots, text, side, head, (TWICE,))
        self.memory = Memory(base_count(settings.data), KEPT, settings.ntrenet.channels)

    def begin_step(self, episodes: int) -> None:
        """The memory's."""
        self.memory.begin(episodes * (1 + self.shots))

    def end_step(self, ranks: Ranks) -> None:
        """The memory learns."""
        self.memory.end(ranks)

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The logits of the scales, and the background of the supports."""
        return {"in_training": True}

    def parts_of(self, out: NTRENetOutput, batch: EpisodeBatch, divisors: Divisors | None) -> dict[str, Tensor]:
        """Cross-entropy of the prediction; weighted, those of the scales, what finds background, and the contrast."""
        query_mask, support_mask = batch.query_mask.long(), batch.support_mask
        pixels, episodes = (None, len(query_mask)) if divisors is None else (divisors.pixels, divisors.episodes)
        assert out.support_background is not None
        background = background_loss(out.background, query_mask)
        background = background + background_loss(out.support_background.flatten(0, 1), support_mask.flatten(0, 1))
        with exactly(query_mask.device):
            apart = self._apart(out, batch.base_index)
            self._remember(out, batch)
        return {
            "prediction": cross_entropy(out.prediction, query_mask, pixels),
            "background": background / (episodes * (1 + support_mask.shape[1])),
            "inner": 0.4 * mean_cross_entropy(out.inner, query_mask, pixels),
            "initial": 0.6 * mean_cross_entropy(out.initial, query_mask, pixels),
            "contrast": 0.01 * apart.sum() / episodes,
        }

    def _apart(self, out: NTRENetOutput, classes: Tensor) -> Tensor:
        """How little what is predicted is like the supports, and how much like what the memory has of its class: [B]."""
        anchor = support_prototype(wide(out.query), out.prediction.argmax(1), "released")
        return contrast(anchor, wide(out.support_prototype), *self.memory.draw(classes, DRAWN))

    def _remember(self, out: NTRENetOutput, batch: EpisodeBatch) -> None:
        """Bring to the memory what distracts in the queries and in the supports."""
        assert out.support_background is not None
        features = wide(torch.cat([out.query.unsqueeze(1), out.support], 1).detach())  # [B, 1 + K, C, H, W]
        background = torch.cat([out.background.unsqueeze(1), out.support_background], 1).argmax(2)  # [B, 1 + K, H, W]
        mask = torch.cat([batch.query_mask.unsqueeze(1), batch.support_mask], 1)  # [B, 1 + K, S, S]
        distracting = resize_mask(mask == 0, background.shape[-1]) * (background == 0)
        vectors = support_prototype(features.flatten(0, 1), distracting.flatten(0, 1), "released")
        self.memory.bring(batch.base_index, vectors.unflatten(0, mask.shape[:2]), distracting.flatten(2).any(2))
