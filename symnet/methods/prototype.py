"""The training-free matcher that keeps the others honest: masked average pooling and cosine, on the same features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.numbers import wide
from symnet.model.resize import resize, resize_mask

EPS = 1e-6


class Prototype(Method):
    """Each query position goes to the nearer of two prototypes, foreground and background, by cosine.

    Features: the last two block maps of the third and of the fourth stage, each L2-normalised per position, side by side. The prototypes
    are means over the positions of all K supports.
    """

    outputs = ("prediction",)

    def blocks(self, backbone: Backbone, recorded: bool) -> tuple[int, ...]:
        """The four that are described."""
        third, last = sum(backbone.groups[:2]) - 1, sum(backbone.groups) - 1
        return third - 1, third, last - 1, last

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """The description of images, [n, C, H, W], at the side of the last map: VGG's of the third stage are finer."""
        resized = [resize(wide(m), maps[-1].shape[-1]) for m in maps]
        return [torch.cat([F.normalize(m, dim=1, eps=EPS) for m in resized], 1) / len(maps) ** 0.5]

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """The two cosines as logits, {"prediction": [B, 2, H, W]}."""
        query, support = batch.query[0], batch.support[0].transpose(1, 2).flatten(2)  # [B, C, H, W], [B, C, K H W]
        shots = batch.support_mask.shape[:2]
        known = batch.support_mask != 255
        side = query.shape[-1]
        foreground = resize_mask((batch.support_mask == 1).flatten(0, 1), side).unflatten(0, shots).flatten(1)  # [B, K H W]
        background = resize_mask(((batch.support_mask == 0) & known).flatten(0, 1), side).unflatten(0, shots).flatten(1)
        cosines = []
        for weight in (background, foreground):
            prototype = torch.bmm(support, weight.to(support.dtype).unsqueeze(2)).squeeze(2)  # [B, C]; the cosine needs no divisor
            prototype = prototype / (prototype.norm(dim=1, keepdim=True) + EPS)
            cosines.append(torch.einsum("bchw,bc->bhw", query, prototype))
        return {"prediction": torch.stack(cosines, 1)}
