"""Sym-Net as a row of the table: its frozen part, its head, its two outputs."""

from typing import Any

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at_stride_8
from symnet.config import Settings
from symnet.methods.decoding import Decoding
from symnet.model.divisors import Divisors
from symnet.model.head import Head
from symnet.model.resize import default_scales


class SymNetMethod(Decoding):
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

    def in_training(self, divisors: Divisors | None) -> dict[str, Any]:
        """The triplet, and the inner logits."""
        return {"with_triplet": True, "divisors": divisors}
