"""QPENet (Cong et al., TMM 2024): prototypes of what the query gets right and wrong when it segments the support, and CyCTR's transformer.

Shared with PFENet: reductions, masked average pooling, prior, the frozen part; with CyCTR the transformer; with NTRENet the loss of
background. Its own: the cycle from support to query and back, and a learned background prototype made the query's own (`model/dynamic`).

Its released code runs with one shot alone: the masks of all shots meet one averaged map of support positions. Here, of K shots, the
transformer sees the positions of each beside its own mask, as CyCTR's does; vectors and other maps are averaged; and the simple logits of
every shot are supervised, where the code keeps the last one's of the query. In the code the transformer's sample is random in tests too;
here a test's is a function of the support masks, and the door takes the first positions, as the known outputs do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import QPENetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.methods.reading import at_one_scale
from symnet.model.background import Finder, background_loss
from symnet.model.divisors import Divisors
from symnet.model.dynamic import DynamicConvolution
from symnet.model.episode import TWICE, EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import classifier, reduction, tiled, two_convolutions
from symnet.model.prototypes import support_prototype
from symnet.model.segmentation import cross_entropy
from symnet.model.transformer import RELEASED, CycleTransformer


@dataclass(frozen=True)
class QPENetOutput:
    """At feature side H."""

    prediction: Tensor  # [B, 2, H, W]
    initial: Tensor  # [B, 2, H, W], before the transformer
    query_logits: Tensor  # [B, K, 2, H, W], by each support's vector
    support_logits: Tensor  # [B, K, 2, H, W], by the query's vector
    background: Tensor  # [B, 2, H, W], class 1 is background
    support_background: Tensor | None  # [B, K, 2, H, W]; none but for the losses
    background_map: Tensor  # [B, C, H, W]
    mixed: Tensor  # [B, C]: mean of the support's and the query's vector
    activations: Tensor  # [B, 5, H, W]: cosines with the prototypes alpha, of the support, beta, delta, gamma
    gated: Tensor  # [B, C, H, W], mean over shots
    prior: Tensor  # [B, 1, H, W]


class QPENetHead(GuidedHead):
    """13.5 M parameters with ResNet-50's 1536 mid channels."""

    def __init__(self, settings: QPENetSettings, mid: int) -> None:
        super().__init__()
        c = settings.channels
        self.reduce_query, self.reduce_support = reduction(mid, c), reduction(mid, c)
        self.gate = nn.Sequential(nn.Linear(c, c), nn.ReLU(), nn.Linear(c, c), nn.Dropout(0.5), nn.Sigmoid())
        self.cycle, self.find_background = Finder(c), Finder(c)
        self.background = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.adapt = DynamicConvolution(c)
        self.merge_background = nn.Conv2d(2 * c + 2, c, 1, bias=False)
        self.merge = nn.Conv2d(3 * c + 4, c, 1, bias=False)
        self.refine_initial, self.classify_initial = two_convolutions(c), classifier(c)
        self.transform = CycleTransformer(c, settings.sampling, slip=settings.labels == "slipped")
        self.join = nn.Conv2d(c, c, 1, bias=False)
        self.refine, self.classify = two_convolutions(c), classifier(c)

    def forward(self, episode: EpisodeInputs, with_supports: bool = False) -> QPENetOutput:
        """Segment the queries of an episode batch. with_supports: look for background in the supports as well, for the losses."""
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        shots, mask = episode.mask.shape[:2], episode.mask.flatten(0, 1)
        prior = episode.priors[0].mean(1, keepdim=True)  # [B, 1, H, W]
        vector = support_prototype(support, mask, "released")  # [BK, C]
        inside = (support * mask.unsqueeze(1)).mean((2, 3))  # [BK, C]: over all positions
        gated = (support * self.gate(inside)[:, :, None, None]).unflatten(0, shots)  # [B, K, C, H, W]

        # to the query and back, each shot by itself
        queries = query.repeat_interleave(shots[1], 0)
        query_logits = self.cycle(queries, vector)  # [BK, 2, H, W]
        query_vector = support_prototype(queries, query_logits.argmax(1).float(), "released")
        support_logits = self.cycle(support, query_vector)
        found = support_logits.argmax(1).float()  # [BK, H, W]
        alpha = found * mask
        beta, delta = mask - alpha, found - alpha
        groups = (support_prototype(support, m, "released") for m in (alpha, beta, delta, 1 - alpha - beta - delta))
        mean, of_query, right, missed, false, rest = (v.unflatten(0, shots).mean(1) for v in (vector, query_vector, *groups))  # [B, C]
        mixed = (mean + of_query) / 2
        prototypes = torch.stack([right, mean, missed, false, rest], 1)  # [B, 5, C]
        activations = torch.einsum("bpc,bchw->bphw", F.normalize(prototypes, dim=2), F.normalize(query, dim=1))

        prototype = self.background.flatten()  # [C]
        background = self.find_background(query, prototype.expand(len(query), -1))
        background_map = self.adapt(prototype, query * background.argmax(1, keepdim=True))
        x = F.relu(self.merge_background(torch.cat([query, background_map, activations[:, 3:]], 1)))
        gam = gated.mean(1)
        x = F.relu(self.merge(torch.cat([x, tiled(mixed, query), prior, activations[:, :3], gam], 1)))
        x = x + self.refine_initial(x)
        initial = self.classify_initial(x)
        refined = F.relu(self.join(self.transform(x, gated, episode.foreground)[0]))
        logits = self.classify(refined + self.refine(refined))
        supports = None
        if with_supports:
            supports = self.find_background(support, prototype.expand(len(support), -1)).unflatten(0, shots)
        simple = query_logits.unflatten(0, shots), support_logits.unflatten(0, shots)
        return QPENetOutput(logits, initial, *simple, background, supports, background_map, mixed, activations, gam, prior)


class QPENetMethod(Guided):
    """One output."""

    outputs = supervised = ("prediction",)
    head: QPENetHead

    # The released code's beginnings of names, and the door's.
    released = (
        *RELEASED,
        ("bg_prototype", "method.head.background"),
        ("down_query.", "method.head.reduce_query."),
        ("down_supp.", "method.head.reduce_support."),
        ("gam.gate.", "method.head.gate."),
        ("down_cyc.", "method.head.cycle.merge."),
        ("cyc_res1.", "method.head.cycle.refine."),
        ("cyc_cls.", "method.head.cycle.classify."),
        ("down_bg.", "method.head.find_background.merge."),
        ("bg_res1.", "method.head.find_background.refine."),
        ("bg_cls.", "method.head.find_background.classify."),
        ("Dynamic_conv.weight", "method.head.adapt.weight"),
        ("Dynamic_conv.attention.fc1.", "method.head.adapt.squeeze."),
        ("Dynamic_conv.attention.fc2.", "method.head.adapt.choose."),
        ("init_merge1.0.", "method.head.merge_background."),
        ("init_merge2.0.", "method.head.merge."),
        ("fg_res.", "method.head.refine_initial."),
        ("fg_cls.", "method.head.classify_initial."),
        ("merge_multi_lvl_reduce.0.", "method.head.join."),
        ("merge_multi_lvl_sum.", "method.head.refine."),
        ("cls_meta.", "method.head.classify."),
    )

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side, QPENetHead(settings.qpenet, backbone.mid_channels), (TWICE,))

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `qpenet` that a released state dict says; sampling is that of its known outputs."""
        at_one_scale("QPENet", scales)
        return {"qpenet": QPENetSettings(channels=state["cls_meta.0.weight"].shape[0], sampling="first", labels="slipped")}

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The background of the supports."""
        return {"with_supports": True}

    def parts_of(self, out: QPENetOutput, batch: EpisodeBatch, divisors: Divisors | None) -> dict[str, Tensor]:
        """Cross-entropy of the prediction; weighted, those of the initial and of the simple logits, and what finds background."""
        query_mask, support_mask = batch.query_mask.long(), batch.support_mask.long()
        count, shots = support_mask.shape[:2]
        pixels, episodes = (None, count) if divisors is None else (divisors.pixels, divisors.episodes)
        each_query = query_mask.repeat_interleave(shots, 0)  # [BK, S, S]
        of_query = cross_entropy(out.query_logits.flatten(0, 1), each_query, None if pixels is None else pixels * shots)
        of_support = cross_entropy(out.support_logits.flatten(0, 1), (support_mask == 1).long().flatten(0, 1)) * count / episodes
        assert out.support_background is not None
        background = background_loss(out.background, query_mask)
        background = background + background_loss(out.support_background.flatten(0, 1), support_mask.flatten(0, 1))
        return {
            "prediction": cross_entropy(out.prediction, query_mask, pixels),
            "background": background / (episodes * (1 + shots)),
            "initial": 0.6 * cross_entropy(out.initial, query_mask, pixels),
            "simple": 0.25 * (of_query + of_support),
        }

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final, initial_logits, background_logits, simple_query_logits, simple_support_logits [B, 2, H, W], the last two of the last shot;
        prior [B, 1, H, W], mixed_vector [B, C], activation_alpha_vector_beta [B, 3, H, W], activation_delta_gamma [B, 2, H, W];
        background_map_mean, gam_mean [B, C], over positions.
        """
        out = self.answer(self.head, self.freeze(backbone, batch))
        return {
            "final": out.prediction,
            "initial_logits": out.initial,
            "background_logits": out.background,
            "simple_query_logits": out.query_logits[:, -1],
            "simple_support_logits": out.support_logits[:, -1],
            "prior": out.prior,
            "mixed_vector": out.mixed,
            "activation_alpha_vector_beta": out.activations[:, :3],
            "activation_delta_gamma": out.activations[:, 3:],
            "background_map_mean": out.background_map.mean((2, 3)),
            "gam_mean": out.gated.mean((2, 3)),
        }
