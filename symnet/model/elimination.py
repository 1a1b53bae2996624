"""NTRENet's decoder: FEM whose scales are rid of the background, then of what is neither background nor target."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.decoder import Decoded, Decoder
from symnet.model.layers import beside, classifier, two_convolutions
from symnet.model.resize import pool, resize


class EliminatingDecoder(Decoder):
    """Two more 1x1 convolutions a scale, one beside the background's vector and one beside that of confusion; initial logits between."""

    def __init__(self, channels: int, scales: tuple[int, ...]) -> None:
        super().__init__(channels, 0, scales)
        self.without_background, self.without_confusion = (
            nn.ModuleList(nn.Conv2d(2 * channels, channels, 1, bias=False) for _ in scales) for _ in range(2)
        )
        self.refine_initial = nn.ModuleList(two_convolutions(channels) for _ in scales)
        self.initial = nn.ModuleList(classifier(channels) for _ in scales)

    def eliminate(
        self, query: Tensor, prototype: Tensor, prior: Tensor, vector: Tensor, background: Tensor, with_inner: bool
    ) -> tuple[Decoded, list[Tensor]]:
        """query [B, C, H, W], the support's prototype [B, C], prior [B, 1, H, W]; the background's vector [C] and the logits that it
        gave, [B, 2, H, W], class 1 background.

        Returns what a decoder does, and the initial logits [B, 2, s, s] a scale.
        """
        size, of_background = query.shape[-1], vector.expand(len(query), -1)
        initial: list[Tensor] = []

        def entering(position: int, scale: int) -> Tensor:
            at_scale = query if scale == size else pool(query, scale)
            x = F.relu(beside(cast(nn.Conv2d, self.without_background[position]), at_scale, of_background))
            x = self.merged(position, x, prototype, [resize(prior, scale)])
            x = x + self.refine_initial[position](x)
            initial.append(self.initial[position](x))
            confused = confusion(at_scale, resize(background, scale), initial[position])
            return F.relu(beside(cast(nn.Conv2d, self.without_confusion[position]), x, confused))

        return self.enriched(entering, size, with_inner), initial


def confusion(query: Tensor, background: Tensor, initial: Tensor) -> Tensor:
    """The sum of what is taken for neither background nor target, over the number of all positions: [B, C].

    query [B, C, s, s]; logits [B, 2, s, s], of which class 1 is background, and target. No gradient reaches them.
    """
    neither = background.argmax(1) + initial.argmax(1) == 0  # [B, s, s]
    return (query * neither.unsqueeze(1)).mean((2, 3))
