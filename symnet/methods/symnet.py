"""Sym-Net as a row of the table: its frozen part, its head, its two outputs."""

from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at_stride_8
from symnet.config import Settings
from symnet.methods.guided import Guided
from symnet.model.answer import shares_of
from symnet.model.divisors import Divisors
from symnet.model.episode import EpisodeInputs
from symnet.model.head import Head
from symnet.model.resize import default_scales


class SymNetMethod(Guided):
    """`meta` is the decoder's own answer, `ensemble` the one joined with the base learner's (the paper's). Losses are eq. 15's."""

    outputs = ("meta", "ensemble")
    reads_base = True
    head: Head

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        scales = default_scales(side_at_stride_8(settings.pixels.size))  # the field's: 60/30/15/8 at 473 px, of VGG's side 30 as well
        head = Head(settings.model, backbone.mid_channels, backbone.groups, shots, text, scales)
        super().__init__(settings, backbone, shots, text, side, head, settings.model.parts)
        self.model_settings = settings.model
        self.supervised = tuple(output for output in self.outputs if self.head.wants(output))

    @property
    def scales(self) -> tuple[int, ...]:
        """The decoder's."""
        return self.head.decode.scales

    def also_kept(self, query: Tensor) -> list[Tensor]:
        """Where `model/answer.py` decodes, the query's shares."""
        return shares_of(self.head.decode, query) if self._on_cpu(query) else []

    def in_testing(self, inputs: EpisodeInputs) -> dict[str, Any]:
        """On a CPU, `model/answer.py`."""
        return {"on_cpu": self._on_cpu(inputs.mask)}

    def _on_cpu(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and self.dtype == torch.float32 and not (self.training or torch.is_grad_enabled())

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The triplet, and the inner logits."""
        return {"with_triplet": True, "divisors": divisors}
