"""What HSNet and FECANet share: dense correlations of all blocks with one support, squeezed (`model/squeeze`); K supports are K answers."""

from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.methods.base import EpisodeBatch
from symnet.methods.dense import Dense
from symnet.model.numbers import wide
from symnet.model.resize import resize, resize_mask
from symnet.model.squeeze import correlations_4d

BUDGET = 1 << 27  # elements of the largest correlation that are made at once where nothing is learned
SQUEEZED = (
    ("hpn_learner.encoder_layer4to3.", "mix3."),
    ("hpn_learner.encoder_layer3to2.", "mix2."),
    ("hpn_learner.encoder_layer{}.", "squeeze{}."),
    ("hpn_learner.decoder{}.", "decode{}."),
)  # the released code's beginnings of names, and those within `model.squeeze.Squeeze`


class Voting(Dense):
    """K supports are K answers, which vote; a subclass says how one is made."""

    def answer(self, query: list[Tensor], support: list[Tensor], mask: Tensor, history: Tensor | None) -> Any:
        """`logits` [n, 2, 2H, 2H], and more, of n queries with a support each; block maps of `keep`, [n, C_i, h, w].

        mask [n, S, S] in {0, 1, 255}; history [n, 2, s, s]: of an earlier answer, where it is read.
        """
        raise NotImplementedError

    @torch.no_grad()
    def correlations(self, query: list[Tensor], support: list[Tensor], mask: Tensor | None) -> list[Tensor]:
        """Of each stage [n, blocks, h, w, h, w]; arguments as of `answer`, mask None: all of the support."""
        found = []
        for maps in zip(self.staged(query), self.staged(support), strict=True):
            q, s = ([wide(m) for m in of_image] for of_image in maps)
            found.append(correlations_4d(q, s, None if mask is None else resize_mask(mask == 1, q[0].shape[-1])))
        return found

    def first(self, backbone: Backbone, batch: EpisodeBatch) -> Any:
        """The answer with the first support."""
        query = self.keep(backbone, list(batch.query), False)
        return self.answer(query, self.supports(backbone, batch, 0), batch.support_mask[:, 0], batch.history)

    def from_first(self, backbone: Backbone, batch: EpisodeBatch) -> Tensor:
        """Logits [B, 2, 2H, 2H]."""
        return self.first(backbone, batch).logits

    def each(self, backbone: Backbone, batch: EpisodeBatch) -> Tensor:
        """Logits of each support alone: [B, K, 2, 2H, 2H], as many at a time as `BUDGET` allows."""
        query = self.keep(backbone, list(batch.query), False)
        room = max(1, BUDGET // (self.groups[0] * query[0].shape[-1] ** 4))
        shots = []
        for k in range(batch.support_mask.shape[1]):
            support, mask = self.supports(backbone, batch, k), batch.support_mask[:, k]
            found = []
            for piece in (slice(start, start + room) for start in range(0, len(mask), room)):
                history = None if batch.history is None else batch.history[piece]
                found.append(self.answer([m[piece] for m in query], [m[piece] for m in support], mask[piece], history).logits)
            shots.append(torch.cat(found))
        return torch.stack(shots, 1)

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, 2H, 2H]; of several shots their vote, as shares [B, 2, S, S] of which the larger wins."""
        each = self.each(backbone, batch)
        if each.shape[1] == 1:
            return {"prediction": each[:, 0]}
        share = votes(resize(each.flatten(0, 1).float(), batch.support_mask.shape[-1]).unflatten(0, each.shape[:2]))
        return {"prediction": torch.stack([1 - share, share + 1e-6], 1)}  # a half is foreground


def votes(logits: Tensor) -> Tensor:
    """Logits [B, K, 2, S, S] -> foreground votes over the image's largest number of them: [B, S, S] in [0, 1]."""
    count = (logits[:, :, 1] > logits[:, :, 0]).sum(1).float()
    return count / count.amax((1, 2), keepdim=True).clamp(min=1)
