"""What methods share that compare every position of the query with every one of a support, stage by stage: HSNet, FECANet, DCAMA.

Their weights are of undilated networks (`backbones/strided`): maps at strides 8, 16 and 32. Of a network at stride 8 the maps of the third
and fourth stage are resized to those. Their code counts the query's pixels of 255 as background in the loss: `border: background`; the
default leaves them out, as its evaluation does.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at
from symnet.config import Settings
from symnet.config_methods import Border
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.divisors import Divisors, divisors_of
from symnet.model.resize import resize
from symnet.model.segmentation import cross_entropy

STRIDES = (8, 16, 32)
T = TypeVar("T")
LAYERS = ("layer2", "layer3", "layer4")


class Dense(Method):
    """One output; trained on one support."""

    outputs = supervised = ("prediction",)
    even_sizes = True
    released: Sequence[tuple[str, str]] = (
        ("conv1.", "backbone.layer0.0."),
        ("bn1.", "backbone.layer0.1."),
        ("features.", "backbone.features."),
    )
    unused: tuple[str, ...] = ("fc.", "classifier.")
    border: Border
    head: nn.Module

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        self.groups = backbone.groups
        self.before = len(backbone.block_channels) - sum(backbone.groups)  # maps of the first stage, where the network has some
        self.sides = tuple(side_at(settings.pixels.size, stride) for stride in STRIDES)

    def from_first(self, backbone: Backbone, batch: EpisodeBatch) -> Tensor:
        """Logits [B, 2, H, W] with the first support alone, for the loss."""
        raise NotImplementedError

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """Block maps at strides 8, 16 and 32; those that are coarser, and those of the first stage, stay as they are."""
        sides = [side for side, count in zip(self.sides, self.groups, strict=True) for _ in range(count)]
        found = [resize(m, min(side, m.shape[-1])) for m, side in zip(maps[self.before :], sides, strict=True)]
        return [*maps[: self.before], *found]

    def staged(self, maps: Sequence[T]) -> list[list[T]]:
        """What there is of each block map, of the second, third and fourth stage."""
        found, start = [], self.before
        for count in self.groups:
            found.append(list(maps[start : start + count]))
            start += count
        return found

    def supports(self, backbone: Backbone, batch: EpisodeBatch, k: int) -> list[Tensor]:
        """`keep` of the support number k: [B, C_i, H_i, W_i]."""
        return self.keep(backbone, [m[:, k] for m in list(batch.support)], False)

    @property
    def run(self) -> Callable[..., Any]:
        """The head's forward, or that compiled."""
        return torch.compile(self.head.forward, dynamic=False) if self.compiled and torch.is_grad_enabled() else self.head

    def target(self, query_mask: Tensor) -> Tensor:
        """What the loss compares with: [B, S, S] in {0, 1, 255}."""
        return (query_mask == 1).to(query_mask.dtype) if self.border == "background" else query_mask

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """Of a batch's masks: [B, S, S], [B, K, S, S]."""
        return divisors_of(self.target(query_mask), support_mask, self.side)

    def losses(
        self, backbone: Backbone, batch: EpisodeBatch, divisors: Divisors | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The cross-entropy with the first support."""
        logits = self.from_first(backbone, batch)
        loss = cross_entropy(logits, self.target(batch.query_mask).long(), None if divisors is None else divisors.pixels)
        return loss, {"prediction": loss}, {"prediction": logits}
