"""What a method has to offer."""

from dataclasses import dataclass

from torch import Tensor, nn

from symnet.backbones.base import Backbone
from symnet.config import Settings


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes of K shots as every method gets them: features of the frozen backbone, masks, class vectors.

    Masks are uint8 in {0, 1, 255} for the episode's class. `base_index` is -1 for a novel class.
    """

    query: list[Tensor]  # N block maps [B, C_i, H, W]
    support: list[Tensor]  # N block maps [B, K, C_i, H, W]
    query_mask: Tensor  # [B, S, S]
    support_mask: Tensor  # [B, K, S, S]
    base_logits: Tensor  # [B, 1 + base classes, H, W], of the queries
    text: Tensor  # [B, T]
    base_index: Tensor  # [B]


class Method(nn.Module):
    """One row of the table. `outputs` names what it predicts: one row each."""

    outputs: tuple[str, ...]

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__()
        self.shots, self.side = shots, side

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, H, W] by output name."""
        raise NotImplementedError

    def losses(self, backbone: Backbone, batch: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The objective, its parts, and the logits by output name. Trained methods only."""
        raise NotImplementedError
