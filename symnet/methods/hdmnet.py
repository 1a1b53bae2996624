"""HDMNet (Peng et al., CVPR 2023): query and support attend to themselves at three sides, then to each other; BAM's ensemble on top.

Shared with BAM: base learner, ensemble, psi and K-shot weights, reductions, pooling, the frozen part. Its own: two priors that are cosines
as they are, of the base learner's last features and of the fourth stage's; `model/matching`, and a loss by which each finer correlation map
follows the coarser one, the coarsest the truth.

The released code masks supports at their pixels, before the network: so does the door. A row of the table reads features of whole images,
computed once an image whatever class it shows, and masks those: the maps of the second and third stage, and with them what enters the
fourth. Near the object's border they have seen what is around it, where the code's have seen black: another rule than the paper's, whose
figures a row need not reach.

Followed as its code has it: the softmax over the query's positions, where the text reads as an ordinary masked attention, and batch norm
that keeps its statistics, so that only scale and shift learn. `shot_weights: sorted` is a slip of its code: psi of the shots, as they come,
is weighted by weights that belong to psi in ascending order. Its optimiser leaves the network of those weights as it was drawn; a row
trains it with the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import HDMNetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.methods.reading import without_scales
from symnet.model.base import Ensemble
from symnet.model.divisors import Divisors
from symnet.model.episode import COSINE, EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import reduction, tiled
from symnet.model.matching import RELEASED, Matched, Matching, distillation
from symnet.model.numbers import exactly
from symnet.model.prototypes import support_prototype
from symnet.model.segmentation import cross_entropy
from symnet.model.shots import ShotWeights, mean_weights

SCALE = 10.0  # of the similarity beside the query's features


@dataclass(frozen=True)
class HDMNetOutput:
    """At feature side H. `ensemble` holds maps used as logits."""

    ensemble: Tensor  # [B, 2, H, W]
    meta: Tensor  # [B, 2, H, W]
    similarity: Tensor  # [B, 2, H, W] in [-1, 1]
    support_prototype: Tensor  # [B, C]
    merged: Tensor  # [B, c, H, W], of the query: what enters the stages, before its ReLU
    found: Matched
    psi: Tensor  # [B]


class HDMNetHead(GuidedHead):
    """4.2 M parameters with ResNet-50's 1536 mid channels. K shots: means of vectors and priors; positions side by side."""

    def __init__(self, settings: HDMNetSettings, mid: int, shots: int) -> None:
        super().__init__()
        channels, width, self.shot_weights = settings.channels, settings.tokens, settings.shot_weights
        self.reduce_query, self.reduce_support = reduction(mid, channels), reduction(mid, channels)
        self.merge_query = nn.Conv2d(2 * channels + 2, width, 1, bias=False)
        self.merge_support = nn.Conv2d(2 * channels, width, 1, bias=False)
        self.match = Matching(width)
        self.weigh = ShotWeights(shots) if shots > 1 else None
        self.ensemble = Ensemble()

    def forward(self, episode: EpisodeInputs) -> HDMNetOutput:
        """Segment the queries of an episode batch. Under `torch.autocast`, K-shot weights and ensemble stay in float32."""
        assert episode.psi is not None
        assert episode.base is not None
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        each = support_prototype(support, episode.mask.flatten(0, 1), "released")  # [BK, C]
        prototype = each.unflatten(0, episode.psi.shape).mean(1)  # [B, C]
        similarity = torch.stack([prior.mean(1) for prior in episode.priors], 1)  # [B, 2, H, W]
        merged = self.merge_query(torch.cat([query, tiled(prototype, query), SCALE * similarity], 1))
        supports = F.relu(self.merge_support(torch.cat([support, tiled(each, support)], 1)))
        found = self.match(F.relu(merged), supports, episode.whole, similarity)
        with exactly(query.device):
            psi = (self._weights(episode.psi) * episode.psi).sum(1)  # [B]
            ensemble = self.ensemble(found.logits, psi, episode.base)
        return HDMNetOutput(ensemble, found.logits, similarity, prototype, merged, found, psi)

    def _weights(self, psi: Tensor) -> Tensor:
        """[B, K] -> [B, K], summing to 1."""
        if self.weigh is None:
            return mean_weights(psi)
        return self.weigh(psi.sort(1).values if self.shot_weights == "sorted" else psi)

    def losses(self, output: HDMNetOutput, query_mask: Tensor, divisors: Divisors | None = None) -> dict[str, Tensor]:
        """Cross-entropies, 255 ignored, of both outputs, and the distillation. Their sum is the objective."""
        pixels, episodes = (None, len(query_mask)) if divisors is None else (divisors.pixels, divisors.episodes)
        parts = {name: cross_entropy(getattr(output, name), query_mask, pixels) for name in HDMNetMethod.outputs}
        return parts | {"distillation": distillation(output.found.correlations, query_mask) / episodes}


class HDMNetMethod(Guided):
    """`meta` is the matching's own answer, `ensemble` the one joined with the base learner's."""

    outputs = supervised = ("meta", "ensemble")
    reads_base = masks_pixels = True
    released_base = ("base_learnear.2.weight", "cls.0.weight")
    head: HDMNetHead

    # The released code's beginnings of names, and the door's.
    released = (
        ("ppm.features.{}.1.", "base.pyramid.{}.0."),
        ("ppm.features.{}.2.", "base.pyramid.{}.1."),
        ("base_learnear.2.", "base.classify.4."),
        ("cls.", "base.classify."),
        ("down_query.", "method.head.reduce_query."),
        ("down_supp.", "method.head.reduce_support."),
        ("query_merge.0.", "method.head.merge_query."),
        ("supp_merge.0.", "method.head.merge_support."),
        ("kshot_rw.", "method.head.weigh.layers."),
        ("gram_merge.", "method.head.ensemble.with_psi."),
        ("cls_merge.", "method.head.ensemble.with_base."),
        *((f"transformer.mix_transformer.{theirs}", f"method.head.match.{ours}") for theirs, ours in RELEASED),
    )

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side, HDMNetHead(settings.hdmnet, backbone.mid_channels, shots), (COSINE,))

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `hdmnet` that a released state dict says; shots are weighted as its code weighs them."""
        without_scales("HDMNet", scales)
        channels, tokens = state["down_query.0.weight"].shape[0], state["query_merge.0.weight"].shape[0]
        return {"hdmnet": HDMNetSettings(channels=channels, tokens=tokens, shot_weights="sorted")}

    def freeze(self, backbone: Backbone, batch: EpisodeBatch, training: bool = False) -> EpisodeInputs:
        """The part that no gradient reaches. A 1x1 convolution without bias and a ReLU may come before the mask or after it."""
        found = super().freeze(backbone, batch, training)
        if batch.masked:
            return found
        return replace(found, support_mid=found.support_mid * found.mask.unsqueeze(2).to(found.support_mid.dtype))

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final, meta [B, 2, H, W], similarity_x10 [B, 2, H, W], base_map [B, 1, H, W], psi [B], support_prototype [B, C]; of stage N, 0
        the finest: match_N_weight [B, hw], the correlation map. Over positions: match_N_out_mean [B, c], query_merged_mean [B, c], before
        its ReLU, down_N_last_call_mean [BK, c], the supports'.
        """
        inputs = self.freeze(backbone, batch)
        out = self.answer(self.head, inputs)
        assert inputs.base is not None
        seen = {
            "final": out.ensemble,
            "meta": out.meta,
            "similarity_x10": SCALE * out.similarity,
            "base_map": inputs.base.unsqueeze(1),
            "psi": out.psi,
            "support_prototype": out.support_prototype,
            "query_merged_mean": out.merged.mean((2, 3)),
        }
        for number, (matched, correlation, support) in enumerate(zip(*out.found[1:], strict=True)):
            seen |= {f"match_{number}_weight": correlation.flatten(1), f"match_{number}_out_mean": matched.mean((2, 3))}
            seen[f"down_{number}_last_call_mean"] = support.mean((2, 3))
        return seen
