"""DCAMA (Shi et al., ECCV 2022): every query pixel's label is the mean of all support pixels', weighted by attention, once a block.

Shared with HSNet and FECANet: what `methods/dense` has. Its own: `model/aggregation`. K supports are answered in one pass, all their pixels
under one softmax; its code does so for one query at a time only. A mixer reads raw maps as well, the last of the second stage and, at
stride 4, of the first: the door's network gives that one (`backbones/strided`), a row of the table goes without it, since the block maps of
experiments begin at the second stage.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import DCAMASettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.dense import LAYERS, Dense
from symnet.methods.reading import depth, without_scales
from symnet.model.aggregation import Aggregated, Aggregation
from symnet.model.numbers import in_format, wide


class DCAMAMethod(Dense):
    """K supports in one pass."""

    released = (
        ("model.DCAMA_blocks.{}.linears.0.", "method.head.attend.{}.query."),
        ("model.DCAMA_blocks.{}.linears.1.", "method.head.attend.{}.key."),
        ("model.", "method.head."),
        *Dense.released,
    )
    unused = (*Dense.unused, "model.pe.")  # tables of positions
    head: Aggregation

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        self.border = settings.dcama.border
        first = backbone.block_channels[self.before - 1] if self.before else 0
        self.head = Aggregation(self.staged(backbone.block_channels), first, settings.dcama.dropout)

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `dcama` of the released code."""
        without_scales("DCAMA", scales)
        return {"dcama": DCAMASettings(border="background")}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str:
        """The network that a released state dict holds."""
        return f"resnet{depth(state)}_from_first"

    def answer(self, backbone: Backbone, batch: EpisodeBatch, shots: int) -> Aggregated:
        """The head's, with as many of the supports."""
        query = [self._plain(m) for m in self.keep(backbone, list(batch.query), False)]
        each = [self.supports(backbone, batch, k) for k in range(shots)]
        support = [self._plain(torch.stack(maps, 1)) for maps in zip(*each, strict=True)]
        first = [maps[self.before - 1] for maps in (query, support)] if self.before else []
        with in_format(self.dtype, batch.support_mask.device):
            return self.run(self.staged(query), self.staged(support), first, batch.support_mask[:, :shots] == 1)

    def _plain(self, maps: Tensor) -> Tensor:
        return wide(maps) if self.dtype == torch.float32 else maps

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, 8H, 8H]."""
        return {"prediction": self.answer(backbone, batch, batch.support_mask.shape[1]).logits}

    def from_first(self, backbone: Backbone, batch: EpisodeBatch) -> Tensor:
        """Logits [B, 2, 8H, 8H]."""
        return self.answer(backbone, batch, 1).logits

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final; aggregated_mask_layerN [B, blocks, hw], and means [B, C] of what its code calls conv1 to conv5 and mixer1."""
        out = self.answer(backbone, batch, batch.support_mask.shape[1])
        seen = {f"aggregated_mask_{name}": masks.flatten(2) for name, masks in zip(LAYERS, out.masks, strict=True)}
        seen |= {f"{name}_mean": getattr(out, name).mean((2, 3)) for name in Aggregated._fields[2:]}
        return {"final": out.logits} | seen
