"""CyCTR (Zhang et al., NeurIPS 2021): PFENet's prior and vector at one scale, then a transformer that attends to the support's positions.

Shared with Sym-Net and PFENet: reductions, masked average pooling, prior (supports masked after the fourth stage alone), the frozen part.
Its own: `model/transformer`, and an auxiliary branch that segments the supports by the query's vector in training. Positions that are
padding are positions like others: no row is told where a query is padded. The released code samples support positions at random in tests
too; here a test's sample is a function of the support masks, and the door takes the first positions, as the known outputs do. The
transformer has an optimiser of its own (AdamW, constant 1e-4, beside SGD at 15 times the printed rate): `cyctr.recipe`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import CyCTRSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.guided import Guided
from symnet.methods.reading import at_one_scale, depth
from symnet.model.divisors import Divisors
from symnet.model.episode import EpisodeInputs
from symnet.model.guided import GuidedHead
from symnet.model.layers import classifier, reduction, tiled, two_convolutions
from symnet.model.numbers import exactly, in_format
from symnet.model.prototypes import support_prototype
from symnet.model.resize import resize, resize_mask
from symnet.model.transformer import RELEASED, CycleTransformer, Trace


@dataclass(frozen=True)
class CyCTROutput:
    """At feature side H."""

    prediction: Tensor  # [B, 2, H, W]
    prior: Tensor  # [B, 1, H, W]
    support_prototype: Tensor  # [B, C]
    query: Tensor  # [B, C, H, W], reduced
    support: Tensor  # [B, K, C, H, W], reduced
    refined: Tensor  # [B, C, H, W]: what leaves the transformer
    fused: Tensor  # [B, C, H, W]: what is classified
    traces: list[Trace]  # one a layer


class CyCTRHead(GuidedHead):
    """7.3 M parameters with ResNet-50's 1536 mid channels. K shots: means of vectors and priors; positions side by side."""

    def __init__(self, settings: CyCTRSettings, mid: int) -> None:
        super().__init__()
        c = settings.channels
        self.reduce_query, self.reduce_support = reduction(mid, c), reduction(mid, c)
        self.merge_query = nn.Conv2d(2 * c + 1, c, 1, bias=False)
        self.merge_support = nn.Conv2d(2 * c, c, 1, bias=False)
        self.transform = CycleTransformer(c, settings.sampling, slip=settings.labels == "slipped")
        self.join = nn.Conv2d(c, c, 1, bias=False)
        self.refine, self.classify = two_convolutions(c), classifier(c)
        self.project = nn.Conv2d(c, c, 1, bias=False)
        self.merge_auxiliary = nn.Conv2d(2 * c, c, 1, bias=False)
        self.refine_auxiliary, self.classify_auxiliary = two_convolutions(c), classifier(c)

    def forward(self, episode: EpisodeInputs) -> CyCTROutput:
        """Segment the queries of an episode batch."""
        query, support = self.reduced(episode)  # [B, C, H, W], [BK, C, H, W]
        shots = episode.mask.shape[:2]
        vector = support_prototype(support, episode.mask.flatten(0, 1), "released")  # [BK, C]
        mean = vector.unflatten(0, shots).mean(1)  # [B, C]
        prior = episode.priors[0].mean(1, keepdim=True)  # [B, 1, H, W]
        merged = F.relu(self.merge_query(torch.cat([query, tiled(mean, query), prior], 1)))
        keys = F.relu(self.merge_support(torch.cat([support, tiled(vector, support)], 1))).unflatten(0, shots)
        refined, traces = self.transform(merged, keys, episode.foreground)
        x = F.relu(self.join(refined))
        fused = x + self.refine(x)
        return CyCTROutput(self.classify(fused), prior, mean, query, support.unflatten(0, shots), refined, fused, traces)

    def auxiliary(self, out: CyCTROutput, inside: Tensor) -> Tensor:
        """Logits of the supports [B, K, 2, H, W], by the vector of the query at its own mask, [B, H, W] in [0, 1]."""
        vector = support_prototype(F.relu(self.project(out.fused)) + out.query, inside, "released")  # [B, C]
        support, shots = out.support.flatten(0, 1), out.support.shape[:2]
        beside = tiled(vector.repeat_interleave(shots[1], 0), support)
        x = F.relu(self.merge_auxiliary(torch.cat([support, beside], 1)))  # [BK, C, H, W]
        return self.classify_auxiliary(x + self.refine_auxiliary(x)).unflatten(0, shots)


class CyCTRMethod(Guided):
    """One output. The objective is Dice of it, and of the supports by the auxiliary branch."""

    outputs = ("prediction",)
    head: CyCTRHead

    # The released code's beginnings of names, and the door's.
    released = (
        *RELEASED,
        ("adjust_feature_qry.", "method.head.reduce_query."),
        ("adjust_feature_supp.", "method.head.reduce_support."),
        ("qry_merge_feat.0.", "method.head.merge_query."),
        ("supp_merge_feat.0.", "method.head.merge_support."),
        ("merge_multi_lvl_reduce.0.", "method.head.join."),
        ("merge_multi_lvl_sum.", "method.head.refine."),
        ("cls.", "method.head.classify."),
        ("pred_supp_qry_proj.0.", "method.head.project."),
        ("supp_init_merge.0.", "method.head.merge_auxiliary."),
        ("supp_beta_conv.", "method.head.refine_auxiliary."),
        ("supp_cls.", "method.head.classify_auxiliary."),
        ("conv1.", "backbone.layer0.0."),
        ("bn1.", "backbone.layer0.1."),
        ("conv2.", "backbone.layer0.3."),
        ("bn2.", "backbone.layer0.4."),
        ("conv3.", "backbone.layer0.6."),
        ("bn3.", "backbone.layer0.7."),
    )
    unused = ("addtional_proj.",)

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side, CyCTRHead(settings.cyctr, backbone.mid_channels), ("pfenet",))

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `cyctr` that a released state dict says; sampling is that of its known outputs."""
        at_one_scale("CyCTR", scales)
        return {"cyctr": CyCTRSettings(channels=state["cls.0.weight"].shape[0], sampling="first", labels="slipped")}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str:
        """The network that a released state dict holds."""
        return f"resnet{depth(state)}_frozen"

    def parts_of(self, out: CyCTROutput, batch: EpisodeBatch, divisors: Divisors | None) -> dict[str, Tensor]:
        """Dice of the prediction, and the mean of the supports'. Their sum is the objective."""
        episodes = len(batch.query_mask) if divisors is None else divisors.episodes
        with in_format(self.dtype, batch.query_mask.device):
            support = self.head.auxiliary(out, resize_mask(batch.query_mask == 1, out.query.shape[-1]))
        with exactly(support.device):
            main = dice(out.prediction, batch.query_mask) / episodes
            auxiliary = dice(support.flatten(0, 1), batch.support_mask.flatten(0, 1)) / (episodes * support.shape[1])
        return {"prediction": main, "auxiliary": auxiliary}

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final [B, 2, H, W], prior [B, 1, H, W], support_prototype [B, C]; inconsistent_N [B, heads], the number of positions that layer N
        shuts out; self_N_mean and _std, cross_N_mean and _std, transformer_out_mean and _std [B, C], over positions.
        """
        out = self.answer(self.head, self.freeze(backbone, batch))
        seen = {"final": out.prediction, "prior": out.prior, "support_prototype": out.support_prototype}
        maps = {"transformer_out": out.refined.flatten(2).transpose(1, 2)}
        for place, trace in enumerate(out.traces):
            seen[f"inconsistent_{place}"] = trace.inconsistent.sum(2).float()
            maps |= {f"self_{place}": trace.own.flatten(1, 2), f"cross_{place}": trace.across.flatten(1, 2)}
        seen |= {f"{name}_mean": m.mean(1) for name, m in maps.items()}
        return seen | {f"{name}_std": m.std(1) for name, m in maps.items()}


def dice(logits: Tensor, mask: Tensor) -> Tensor:
    """Dice loss of the sigmoids of both channels, summed over channels and images; 255 belongs to neither and counts in the area.

    logits [n, 2, h, w] are resized to mask [n, S, S] in {0, 1, 255} first.
    """
    p = resize(logits.float(), mask.shape[-1]).sigmoid().flatten(2)  # [n, 2, SS]
    target = torch.stack([mask == 0, mask == 1], 1).flatten(2).float()
    area = (p.square() + target).sum(2)  # [n, 2]
    return (1 - 2 * (p * target).sum(2) / area.clamp(min=1e-8)).sum()
