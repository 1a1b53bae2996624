"""SSP (Fan et al., ECCV 2022): a matcher without parameters, for which the network itself is trained.

What is trained is a copy of the fold's backbone, from the second stage to the end of the third, whose last block map it is, before its ReLU
(ResNets: layer2 and layer3, 1024 channels; VGG: the same stages, 512 channels at stride 8; EfficientNet-Lite0: blocks 3 to 10, 112
channels). Batch norm, stem and first stage stay as they are, and the fourth stage is not there. So block maps that are kept of the frozen
backbone are of no use to it: it is fed images (`Entry.images`), the same views of them as others, and of a test image keeps what its copy
makes of it. It starts where the other rows' backbone stands, after the base learner was trained, and has its dilation; its code starts
from ImageNet weights, with torchvision's rule of dilation (`backbones/frozen.ResNet50Late`, for the door).

Shared with Sym-Net: the choice of sure positions, which Sym-Net has from here. The second mixture, for the refined answer, is its code's.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.backbones.trunk import trunk_of
from symnet.config import Settings
from symnet.config_methods import SSPSettings
from symnet.methods.base import EpisodeBatch, Method
from symnet.methods.reading import depth, without_scales
from symnet.model.divisors import Divisors
from symnet.model.numbers import exactly, in_format, wide
from symnet.model.segmentation import IGNORE, cross_entropy
from symnet.model.self_support import SelfSupport, match, of_length_one, pooled, self_support

SUPPORT = 0.2  # weight of the supports' loss


class SSPMethod(Method):
    """One output. K shots: the mean of their prototypes; weights serve any K."""

    outputs = supervised = ("prediction",)
    released = (
        ("layer0.1.", "method.trunk.layer0.7."),
        ("layer0.0.{}.", "method.trunk.layer0.{}."),
        ("layer{}.", "method.trunk.layer{}."),
    )

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        self.refine, self.trunk = settings.ssp.refine, trunk_of(backbone)

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `ssp` of its printed numbers."""
        without_scales("SSP", scales)
        return {"ssp": SSPSettings()}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str:
        """The network that a released state dict holds."""
        return f"resnet{depth(state)}_late"

    def train(self, mode: bool = True) -> Self:
        """Batch norm keeps its statistics."""
        super().train(mode)
        self.trunk.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """[n, 3, S, S] -> [n, C, H, W], which keep their sign."""
        run = torch.compile(self.trunk.forward, dynamic=False) if self.compiled and torch.is_grad_enabled() else self.trunk
        with in_format(self.dtype, images.device):
            return run(images)

    def blocks(self, backbone: Backbone, recorded: bool) -> tuple[int, ...]:
        """The image."""
        return (0,)

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """Its features."""
        return [self.features(maps[0])]

    def answer(self, query: Tensor, support: Tensor, support_mask: Tensor) -> tuple[SelfSupport, tuple[Tensor, Tensor]]:
        """Of features [B, C, H, W] and [B, K, C, H, W]: the answer; each support's prototypes [B, K, C], foreground and background."""
        shots = support_mask.shape[:2]
        foreground, background = (p.unflatten(0, shots) for p in pooled(support.flatten(0, 1), support_mask.flatten(0, 1)))
        return self_support(query, foreground.mean(1), background.mean(1), self.refine, self.dtype), (foreground, background)

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, H, W]."""
        with exactly(batch.query_mask.device):
            return {"prediction": self.answer(wide(batch.query[0]), wide(batch.support[0]), batch.support_mask)[0].prediction}

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """Of a batch's masks, [B, S, S] and [B, K, S, S]: known pixels, of queries and of each shot."""
        return Divisors((query_mask != IGNORE).sum(), len(query_mask), (support_mask != IGNORE).sum((0, 2, 3)))

    def losses(
        self, backbone: Backbone, batch: EpisodeBatch, divisors: Divisors | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Cross-entropies, 255 ignored: of the prediction; of what was refined; of queries by their own masks' prototypes; of supports by
        each one's own prototypes, weighted. Their sum is the objective.
        """
        by = divisors or self.divisors(batch.query_mask, batch.support_mask)
        logits = self.supervised_logits(batch)
        truth, shown = batch.query_mask.long(), batch.support_mask.flatten(0, 1).long()
        with exactly(truth.device):
            parts = {name: cross_entropy(of_query, truth, by.pixels) for name, of_query in logits.items() if name != "support"}
            parts["support"] = SUPPORT * cross_entropy(logits["support"], shown, by.usable.sum())
            return torch.stack(list(parts.values())).sum(), parts, {"prediction": logits["prediction"]}

    def supervised_logits(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """What a loss looks at, by its name: [B, 2, H, W], of supports [B K, 2, H, W]."""
        query, support, out, each = self._trained(batch)
        with exactly(query.device):
            found = {"prediction": out.prediction} | ({"unrefined": out.passes[1]} if self.refine else {})
            found["self"] = match(of_length_one(query), *pooled(query, batch.query_mask))
            return found | {"support": match(of_length_one(support.flatten(0, 1)), *(p.flatten(0, 1) for p in each))}

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final, logits_unrefined where it was refined [B, 2, H, W]; similarity_N [B, 2, H, W] of each pass; of the query's own prototypes
        self_fg_N, self_bg_N, and adaptive_bg_N_mean and _std over positions, [B, C].
        """
        out = self._trained(batch)[2]
        seen = {"final": out.prediction} | {f"similarity_{i}": logits for i, logits in enumerate(out.passes)}
        for i, own in enumerate(out.own):
            flat = own.adaptive.flatten(2)
            seen |= {f"self_fg_{i}": own.foreground, f"self_bg_{i}": own.background}
            seen |= {f"adaptive_bg_{i}_mean": flat.mean(2), f"adaptive_bg_{i}_std": flat.std(2)}
        return seen | ({"logits_unrefined": out.passes[1]} if self.refine else {})

    def _trained(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor, SelfSupport, tuple[Tensor, Tensor]]:
        """Of images: features of query and support, and what `answer` makes of them."""
        query, support = batch.query[0], batch.support[0]
        images = torch.cat([query, support.flatten(0, 1)])
        found = self.features(images)
        with exactly(found.device):
            queries, supports = wide(found).split([len(query), len(images) - len(query)])
            supports = supports.unflatten(0, support.shape[:2])
            return queries, supports, *self.answer(queries, supports, batch.support_mask)
