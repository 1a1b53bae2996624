"""Sym-Net as a row of the table: its frozen part, its head, its two outputs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at_stride_8
from symnet.config import Settings
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.divisors import Divisors, divisors_of
from symnet.model.episode import EpisodeInputs, Record, episode_inputs, freeze_episode
from symnet.model.head import Head, HeadOutput
from symnet.model.numbers import in_format, wide
from symnet.model.resize import default_scales


class SymNetMethod(Method):
    """`meta` is the decoder's own answer, `ensemble` the one joined with the base learner's (the paper's)."""

    outputs = ("meta", "ensemble")

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        self.model_settings = settings.model
        scales = default_scales(side_at_stride_8(settings.pixels.size))  # the field's: 60/30/15/8 at 473 px, of VGG's side 30 as well
        self.head = Head(settings.model, backbone.mid_channels, backbone.groups, shots, text, scales)
        self.supervised = tuple(output for output in self.outputs if self.head.wants(output))

    def freeze(self, backbone: Backbone, batch: EpisodeBatch, training: bool = False) -> EpisodeInputs:
        """The part that no gradient reaches."""
        if batch.record is not None:
            return episode_inputs(batch.query[0], batch.support[1], batch.support_mask, batch.text, batch.record, reduced=True)
        assert batch.base_logits is not None
        own = batch.base_index if training else None
        maps, scales = (list(batch.query), list(batch.support)), self.head.decode.scales
        return freeze_episode(backbone, self.model_settings, *maps, batch.support_mask, batch.text, batch.base_logits, scales, own)

    def blocks(self, backbone: Backbone, recorded: bool) -> tuple[int, ...] | None:
        """Beside a record, those of the mid features."""
        return backbone.mid_blocks if recorded else None

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """Beside a record, mid features reduced as a query's and as a support's: [n, c, H, W] each."""
        if not recorded:
            return maps
        mid = backbone.mid(maps)
        mid = wide(mid) if self.dtype == torch.float32 else mid
        with in_format(self.dtype, mid.device):
            return [self.head.reduce_query(mid), self.head.reduce_support(mid)]

    def _outputs(self, run: Callable[..., HeadOutput], inputs: EpisodeInputs, **named: Any) -> HeadOutput:
        """The head's answer, in the number format of choice. run: its forward, or that compiled."""
        if self.dtype == torch.float32:
            inputs = replace(inputs, query_mid=wide(inputs.query_mid), support_mid=wide(inputs.support_mid))
        with in_format(self.dtype, inputs.psi.device):
            return run(inputs, **named)

    def record(self, backbone: Backbone, batch: EpisodeBatch) -> Record:
        """What `freeze` finds, but for mid features and masks."""
        return self.freeze(backbone, batch).record()

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """{"meta": ..., "ensemble": ...}, [B, 2, H, W] each."""
        out = self._outputs(self.head, self.freeze(backbone, batch))
        return {"meta": out.meta, "ensemble": out.ensemble}

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """Of a batch's masks: [B, S, S], [B, K, S, S]."""
        return divisors_of(query_mask, support_mask, self.side)

    def losses(
        self, backbone: Backbone, batch: EpisodeBatch, divisors: Divisors | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Eq. 15, its parts, and the outputs."""
        run = torch.compile(self.head.forward, dynamic=False) if self.compiled else self.head
        out = self._outputs(run, self.freeze(backbone, batch, training=True), with_triplet=True, divisors=divisors)
        parts = self.head.losses(out, batch.query_mask.long(), divisors)
        return self.head.objective(parts), parts, {"meta": out.meta, "ensemble": out.ensemble}
