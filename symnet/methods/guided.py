"""What methods share whose trained head reads reduced mid features beside a prior mask: Sym-Net, PFENet, BAM and others.

The frozen part is `symnet.model.episode`'s; which parts of it a method reads is what its entry in the registry says (`Entry.records`), so
that what is computed in training is what is recorded of test episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.divisors import Divisors, divisors_of
from symnet.model.episode import TWICE, EpisodeInputs, Record, episode_inputs, freeze_episode
from symnet.model.guided import GuidedHead
from symnet.model.numbers import in_format, wide


class Guided(Method):
    """The head, its inputs, its losses; a subclass makes the head, and says what it wants of it."""

    head: GuidedHead

    def __init__(
        self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int, head: GuidedHead, parts: Sequence[str]
    ) -> None:
        """parts: of the episode record; a prior's, and perhaps `tdc`."""
        super().__init__(settings, backbone, shots, text, side)
        self.head, self.parts, self.masks_support = head, parts, TWICE in parts

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """What the head is asked for beside its answer, for the losses."""
        return {}

    def in_testing(self, inputs: EpisodeInputs) -> dict[str, Any]:
        """How the head is asked in a test."""
        return {}

    def also_kept(self, query: Tensor) -> list[Tensor]:
        """Of reduced features [n, c, H, W] of queries, what a test from records makes once an image: `EpisodeInputs.shares`."""
        return []

    def freeze(self, backbone: Backbone, batch: EpisodeBatch, training: bool = False) -> EpisodeInputs:
        """The part that no gradient reaches."""
        if batch.record is not None:
            kept = len(self.head.reductions)
            found = episode_inputs(batch.query[0], batch.support[kept - 1], batch.support_mask, batch.text, batch.record, reduced=True)
            return replace(found, shares=[batch.query[i] for i in range(kept, len(batch.query))])
        assert batch.base_logits is not None or not self.reads_base
        base, own = batch.base_logits if self.reads_base else None, batch.base_index if training else None
        maps = list(batch.query), list(batch.support)
        also = batch.base_head, batch.masked
        return freeze_episode(backbone, self.parts, *maps, batch.support_mask, batch.text, base, self.scales, own, *also)

    @property
    def scales(self) -> tuple[int, ...]:
        """The sides at which the head reads a prior, for those that have one a scale."""
        return ()

    def answer(self, run: Callable[..., Any], inputs: EpisodeInputs, **named: Any) -> Any:
        """The head's, in the number format of choice. run: its forward, or that compiled."""
        if self.dtype == torch.float32:
            inputs = replace(inputs, query_mid=wide(inputs.query_mid), support_mid=wide(inputs.support_mid))
        with in_format(self.dtype, inputs.mask.device):
            return run(inputs, **named)

    def blocks(self, backbone: Backbone, recorded: bool) -> tuple[int, ...] | None:
        """Beside a record, those of the mid features."""
        return backbone.mid_blocks if recorded else None

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """Beside a record, mid features by each of the head's `reductions`, [n, c, H, W]; and what is `also_kept`."""
        if not recorded:
            return maps
        mid = backbone.mid(maps)
        with in_format(self.dtype, mid.device):
            mid = wide(mid) if self.dtype == torch.float32 else mid
            reduced = [reduce(mid) for reduce in self.head.reductions]
        return [*reduced, *self.also_kept(reduced[0])]

    def record(self, backbone: Backbone, batch: EpisodeBatch) -> Record:
        """What `freeze` finds, but for mid features and masks."""
        return self.freeze(backbone, batch).record()

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, H, W] by output."""
        inputs = self.freeze(backbone, batch)
        return self._named(self.answer(self.head, inputs, **self.in_testing(inputs)))

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """Of a batch's masks: [B, S, S], [B, K, S, S]."""
        return divisors_of(query_mask, support_mask, self.side)

    def losses(
        self, backbone: Backbone, batch: EpisodeBatch, divisors: Divisors | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The objective, its parts, and the outputs."""
        run = torch.compile(self.head.forward, dynamic=False) if self.compiled else self.head
        out = self.answer(run, self.freeze(backbone, batch, training=True), **self.in_training(divisors))
        parts = self.parts_of(out, batch, divisors)
        return self.head.objective(parts), parts, self._named(out)

    def parts_of(self, out: Any, batch: EpisodeBatch, divisors: Divisors | None) -> dict[str, Tensor]:
        """The parts of the objective, of the head's output."""
        return self.head.losses(out, batch.query_mask.long(), divisors)

    def _named(self, out: Any) -> dict[str, Tensor]:
        return {name: getattr(out, name) for name in self.outputs}
