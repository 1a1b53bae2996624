"""What a method has to offer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.model.base import PSPHead
from symnet.model.divisors import Divisors
from symnet.parallel import Ranks


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes of K shots as every method gets them: features of the frozen backbone, masks, class vectors.

    Masks are uint8 in {0, 1, 255} for the episode's class. `base_index` is -1 for a novel class. `query` and `support` are all block maps
    in training; in a test they are what `Method.keep` makes of those that `Method.blocks` names. Of a method that is fed images, the one
    map is the image, [B, 3, S, S] and [B, K, 3, S, S].
    """

    query: Sequence[Tensor]  # N block maps [B, C_i, H_i, W_i]
    support: Sequence[Tensor]  # N block maps [B, K, C_i, H_i, W_i]
    query_mask: Tensor  # [B, S, S]
    support_mask: Tensor  # [B, K, S, S]
    base_logits: Tensor | None  # [B, 1 + base classes, H, W], of the queries
    text: Tensor  # [B, T]
    base_index: Tensor  # [B]
    history: Tensor | None = None  # [B, 2, s, s]: probabilities of an earlier answer, for a method that reads them
    record: dict[str, Tensor] | None = None  # what no trained weight changes, by name (model/episode.py)
    base_head: PSPHead | None = None  # what made base_logits of high features; None where only tensors are at hand
    masked: bool = False  # whether supports were masked at their pixels: by a door, for a method that `masks_pixels`


class Method(nn.Module):
    """One row of the table. `outputs` names what it predicts: one row each. `supervised`: those with a cross-entropy in the objective."""

    outputs: tuple[str, ...]
    supervised: tuple[str, ...] = ()
    reads_base = False  # whether it reads base logits
    reads_text = False  # whether it reads class vectors
    reads_history = False  # whether its door is asked with an earlier answer, too
    masks_support = False  # whether it masks supports before the fourth stage, so that their own block maps of it are not read
    masks_pixels = False  # whether its door masks supports before they enter the network; a row, of whole images, masks features
    whole_batch = False  # whether a step needs its batch in one piece: a batch norm learns from it, which parts would show less
    even_sizes = False  # whether its door takes images of side 8n as well: its released code's own
    released: Sequence[tuple[str, str]] = ()  # beginnings of names of the released code's entries, and the door's
    released_base = ("learner_base.1.4.weight", "learner_base.1.0.weight")  # its names of the base learner's last two convolutions
    unused: tuple[str, ...] = ()  # beginnings of names of those that it holds and does not use

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__()
        self.shots, self.side = shots, side
        self.dtype = torch.float32  # of the products in what is trained; weights, losses and thresholds are float32 all the same
        self.compiled = False  # whether `losses` runs what is trained through torch.compile

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The settings that a released state dict says, by section. scales: of a decoder that has some. Raises `KeyError` for an entry."""
        return {}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str | None:
        """The name of the network that a released state dict holds; None: the one of an experiment that its entries are of."""
        return None

    def prepare(self, prototypes: Callable[[], Tensor]) -> None:
        """Before the first step of a run. prototypes: makes those of the base classes, [n, Cm] (`symnet.class_prototypes`)."""

    def begin_step(self, episodes: int) -> None:
        """Before a step's losses, or those of one that is begun again. episodes: of this process's share of the batch."""

    def end_step(self, ranks: Ranks) -> None:
        """After them, in all processes."""

    def blocks(self, backbone: Backbone, recorded: bool) -> Sequence[int] | None:
        """The block maps that a test reads, and no base logits; None: all of both. recorded: with a record beside each episode."""
        return None

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """What a test keeps of images: of block maps [n, C_i, H_i, W_i] of `blocks`, tensors [n, ...], made once an image."""
        return maps

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, H, W] by output name, in the order of `outputs`."""
        raise NotImplementedError

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Of a batch with all block maps, what there is to see on the way to the answer, by its card's names; and `final`, the answer."""
        raise NotImplementedError

    def record(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor] | None:
        """Of a batch with all block maps, the record that `predict` can do with in their place; None: it needs the maps."""
        return None

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """What the losses of a batch with these masks are divided by. Trained methods only."""
        raise NotImplementedError

    def losses(
        self, backbone: Backbone, batch: EpisodeBatch, divisors: Divisors | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The objective, its parts (an output's cross-entropy under the output's name), and the logits by output name.

        divisors: `self.divisors` of the batch that this one is a part of; None: its own. Trained methods only.
        """
        raise NotImplementedError
