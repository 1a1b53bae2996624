"""The public door to the model: images in, masks out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from symnet.backbones.base import side
from symnet.backbones.loading import build_backbone
from symnet.config import ModelSettings
from symnet.model.base import PSPHead
from symnet.model.checks import check_episodes, check_size, check_truth
from symnet.model.episode import EpisodeInputs, freeze_episode
from symnet.model.head import Head, HeadOutput
from symnet.model.resize import default_scales, resize
from symnet.model.segmentation import cross_entropy


class Correlations(NamedTuple):
    """Hyper-correlations by stage: [B, N3, H, W], [B, N2, H, W], [B, N1, H, W]."""

    layer2: Tensor
    layer3: Tensor
    layer4: Tensor


@dataclass(frozen=True)
class Output:
    """Maps at the input's side S (`final`, `meta`, `base`), the rest at the features' side H, the backbone's `side(S)`."""

    final: Tensor  # [B, 2, S, S]
    meta: Tensor  # [B, 2, S, S]
    base: Tensor  # [B, 1 + base classes, S, S]
    prior: Tensor  # [B, 1, H, W]
    hyper: Tensor | None  # [B, N', H, W]
    correlations: Correlations | None
    support_prototypes: Tensor  # [B, K, C]
    query_prototype: Tensor | None  # [B, C]
    shot_weights: Tensor  # [B, K]


class SymNet(nn.Module):
    """Sym-Net whole: frozen backbone and base learner, trainable head.

    `image_size` S = 8n+1; `scales` of the decoder default to 60/30/15/8 at 473, 81/40/20/10 at 641, else halves rounded up: those of
    stride 8 with every backbone, so that of VGG's features (30 at 473) the first scale up-samples.
    Memory of a forward beside the weights is dominated by the block maps: (1 + K) B x 14336 H^2 numbers with ResNet-50
    (206 MB an image at 473 px in float32); nothing of size H^2 x H^2 is ever held whole.
    """

    def __init__(
        self,
        settings: ModelSettings | None = None,
        *,
        backbone: str = "resnet50",
        base_classes: int = 15,
        base_width: int = 512,
        shot: int = 1,
        text: int = 300,
        image_size: int = 473,
        scales: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        check_size(image_size, shot)
        self.settings = settings or ModelSettings()
        self.image_size, self.shot, self.text, self.base_classes = image_size, shot, text, base_classes
        self.backbone = build_backbone(backbone).eval().requires_grad_(False)
        self.base = PSPHead(self.backbone.high_channels, base_classes + 1, base_width).eval().requires_grad_(False)
        scales = scales or default_scales(side(image_size))
        if len(scales) != 4 or scales[0] != side(image_size):
            raise ValueError(f"scales: found {scales}, allowed: 4 sides, the first {side(image_size)} (of {image_size} px at stride 8)")
        self.head = Head(self.settings, self.backbone.mid_channels, self.backbone.groups, shot, text, scales)

    @classmethod
    def from_released(
        cls, state: Mapping[str, object], shot: int = 1, image_size: int = 473, scales: tuple[int, ...] | None = None
    ) -> "SymNet":
        """The released model from its own state dict (names with or without `module.`, arrays or tensors), float32, in eval mode.

        Base classes and text width are read from the entries. Raises `ValueError` naming a missing, foreign or misshapen entry.
        """
        from symnet.model.released import from_released

        return from_released(state, shot, image_size, scales)

    def train(self, mode: bool = True) -> "SymNet":
        """Only the head trains: backbone and base learner keep their running statistics and drop nothing."""
        super().train(mode)
        self.backbone.eval()
        self.base.eval()
        return self

    def forward(self, query: Tensor, support: Tensor, support_mask: Tensor, text: Tensor) -> Output:
        """query [B, 3, S, S], support [B, K, 3, S, S] (normalised), support_mask [B, K, S, S] in {0, 1, 255}, text [B, T]."""
        inputs, base = self.freeze(query, support, support_mask, text)
        return self._at_full_size(inputs, base, self.head(inputs))

    def losses(
        self,
        query: Tensor,
        support: Tensor,
        support_mask: Tensor,
        text: Tensor,
        query_mask: Tensor,
        base_mask: Tensor,
        base_index: Tensor,
    ) -> dict[str, Tensor]:
        """The parts of the objective, scalars: ensemble, meta, base (of the frozen base learner, constant), inner, triplet.

        query_mask [B, S, S] in {0, 1, 255}; base_mask [B, S, S]: base class + 1, 0 background, 255 ignored; base_index [B]: the
        episode's class among the base classes, left out of p_base.
        """
        check_truth(query.shape[0], self.image_size, query_mask, base_mask, base_index, self.base_classes)
        inputs, base = self.freeze(query, support, support_mask, text, base_index)
        parts = self.head.losses(self.head(inputs, with_triplet=True), query_mask.long())
        return parts | {"base": cross_entropy(base, base_mask.long())}

    @torch.no_grad()
    def freeze(
        self, query: Tensor, support: Tensor, support_mask: Tensor, text: Tensor, base_index: Tensor | None = None
    ) -> tuple[EpisodeInputs, Tensor]:
        """The part that no gradient reaches, and the base learner's logits. Query and supports pass the backbone as one batch."""
        check_episodes(self.image_size, self.shot, query, support, support_mask, text, self.text)
        batch, shots = support.shape[:2]
        maps = self.backbone(torch.cat([query, support.flatten(0, 1)]))
        queries, supports = [m[:batch] for m in maps], [m[batch:].unflatten(0, (batch, shots)) for m in maps]
        logits = self.base(self.backbone.levels(queries).high)
        scales = self.head.decode.scales
        inputs = freeze_episode(self.backbone, self.settings.parts, queries, supports, support_mask, text, logits, scales, base_index)
        return inputs, logits

    def _at_full_size(self, inputs: EpisodeInputs, base_logits: Tensor, out: HeadOutput) -> Output:
        final, meta, base = (resize(x, self.image_size) for x in (out.ensemble, out.meta, base_logits))
        maps = inputs.correlations
        correlations = None if maps is None else Correlations(*maps.split(self.backbone.groups, 1))
        return Output(final, meta, base, out.prior, out.hyper, correlations, out.support_prototypes, out.query_prototype, out.shot_weights)
