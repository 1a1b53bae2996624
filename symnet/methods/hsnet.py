"""HSNet (Min et al., ICCV 2021): 4D correlations of all blocks at strides 8, 16 and 32, squeezed by centre-pivot convolutions.

Shared with Sym-Net: block maps, resizing, cross-entropy. Its own: `model/squeeze`, and the undilated networks of its weights
(`backbones/strided`). On a network at stride 8 the maps of the third and fourth stage are resized to strides 16 and 32. Its code counts the
query's pixels of 255 as background in the loss: `border: background`; the default leaves them out, as its evaluation does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.backbones.base import side as side_at
from symnet.config import Settings
from symnet.config_methods import HSNetSettings
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.divisors import Divisors, divisors_of
from symnet.model.numbers import in_format, wide
from symnet.model.resize import resize, resize_mask
from symnet.model.segmentation import cross_entropy
from symnet.model.squeeze import Squeeze, Squeezed, correlations_4d

STRIDES = (8, 16, 32)
BUDGET = 1 << 27  # elements of the largest correlation that are made at once where nothing is learned
LAYERS = ("layer2", "layer3", "layer4")


class HSNetMethod(Method):
    """One output. K supports are K answers, which vote; it is trained on one support."""

    outputs = supervised = ("prediction",)
    released = (
        ("hpn_learner.encoder_layer4to3.", "method.head.mix3."),
        ("hpn_learner.encoder_layer3to2.", "method.head.mix2."),
        ("hpn_learner.encoder_layer{}.", "method.head.squeeze{}."),
        ("hpn_learner.decoder{}.", "method.head.decode{}."),
        ("conv1.", "backbone.layer0.0."),
        ("bn1.", "backbone.layer0.1."),
        ("features.", "backbone.features."),
    )
    unused = ("fc.", "classifier.")

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        self.settings, self.groups = settings.hsnet, backbone.groups
        self.sides = tuple(side_at(settings.pixels.size, stride) for stride in STRIDES)
        self.head = Squeeze(backbone.groups)

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `hsnet` of the released code."""
        if scales is not None:
            raise ValueError(f"scales: found {scales}, but HSNet has none to choose")
        return {"hsnet": HSNetSettings(border="background")}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str:
        """The network that a released state dict holds."""
        if "features.0.weight" in state:
            return "vgg16_strided"
        return "resnet101_strided" if "layer3.22.conv1.weight" in state else "resnet50_strided"

    def keep(self, backbone: Backbone, maps: list[Tensor], recorded: bool) -> list[Tensor]:
        """Block maps at strides 8, 16 and 32; those that are coarser stay so."""
        sides = [side for side, count in zip(self.sides, self.groups, strict=True) for _ in range(count)]
        return [resize(m, min(side, m.shape[-1])) for m, side in zip(maps, sides, strict=True)]

    @torch.no_grad()
    def correlations(self, query: list[Tensor], support: list[Tensor], mask: Tensor) -> list[Tensor]:
        """Of each stage [n, blocks, h, w, h, w]: block maps of `keep`, [n, C_i, h, w]; mask [n, S, S] in {0, 1, 255}."""
        found, start = [], 0
        for count in self.groups:
            q, s = ([wide(m) for m in maps[start : start + count]] for maps in (query, support))
            found.append(correlations_4d(q, s, resize_mask(mask == 1, q[0].shape[-1])))
            start += count
        return found

    def answer(self, query: list[Tensor], support: list[Tensor], mask: Tensor) -> Squeezed:
        """The head's, of n queries with a support each; arguments as of `correlations`."""
        run = torch.compile(self.head.forward, dynamic=False) if self.compiled and torch.is_grad_enabled() else self.head
        with in_format(self.dtype, mask.device):
            return run(*self.correlations(query, support, mask))

    def each(self, backbone: Backbone, batch: EpisodeBatch) -> Tensor:
        """Logits of each support alone: [B, K, 2, 2H, 2H], as many at a time as `BUDGET` allows."""
        query = self.keep(backbone, list(batch.query), False)
        room = max(1, BUDGET // (self.groups[0] * query[0].shape[-1] ** 4))
        supports, shots = list(batch.support), []
        for k in range(batch.support_mask.shape[1]):
            support = self.keep(backbone, [m[:, k] for m in supports], False)
            pieces = [slice(start, start + room) for start in range(0, len(batch.support_mask), room)]
            found = [self.answer([m[p] for m in query], [m[p] for m in support], batch.support_mask[p, k]).logits for p in pieces]
            shots.append(torch.cat(found))
        return torch.stack(shots, 1)

    def predict(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """Logits [B, 2, 2H, 2H]; of several shots their vote, as shares [B, 2, S, S] of which the larger wins."""
        each = self.each(backbone, batch)
        if each.shape[1] == 1:
            return {"prediction": each[:, 0]}
        share = votes(resize(each.flatten(0, 1).float(), batch.support_mask.shape[-1]).unflatten(0, each.shape[:2]))
        return {"prediction": torch.stack([1 - share, share + 1e-6], 1)}  # a half is foreground

    def divisors(self, query_mask: Tensor, support_mask: Tensor) -> Divisors:
        """Of a batch's masks: [B, S, S], [B, K, S, S]."""
        return divisors_of(self._target(query_mask), support_mask, self.side)

    def losses(
        self, backbone: Backbone, batch: EpisodeBatch, divisors: Divisors | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The cross-entropy with the first support."""
        query, support = (self.keep(backbone, maps, False) for maps in (list(batch.query), [m[:, 0] for m in batch.support]))
        logits = self.answer(query, support, batch.support_mask[:, 0]).logits
        loss = cross_entropy(logits, self._target(batch.query_mask).long(), None if divisors is None else divisors.pixels)
        return loss, {"prediction": loss}, {"prediction": logits}

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final; logits [B, K, 2, S, S] of each support, vote [B, S, S] in {0, 1}; of the first support, corr_layerN_mean_over_support and
        corr_layerN_max_over_support [B, blocks, h, w], and means [B, C] of what its code calls encoder_layerN and so on.
        """
        size = batch.support_mask.shape[-1]
        each = resize(self.each(backbone, batch).flatten(0, 1), size).unflatten(0, batch.support_mask.shape[:2])
        query, support = (self.keep(backbone, maps, False) for maps in (list(batch.query), [m[:, 0] for m in batch.support]))
        maps = self.correlations(query, support, batch.support_mask[:, 0])
        seen = {f"corr_{name}_mean_over_support": m.mean((4, 5)) for name, m in zip(LAYERS, maps, strict=True)}
        seen |= {f"corr_{name}_max_over_support": m.amax((4, 5)) for name, m in zip(LAYERS, maps, strict=True)}
        seen |= {f"{name}_mean": x.flatten(2).mean(2) for name, x in self.head(*maps)._asdict().items() if name != "logits"}
        final = self.predict(backbone, batch)["prediction"]
        return {"final": final, "logits": each, "vote": (votes(each) >= 0.5).long()} | seen

    def _target(self, query_mask: Tensor) -> Tensor:
        return (query_mask == 1).to(query_mask.dtype) if self.settings.border == "background" else query_mask


def votes(logits: Tensor) -> Tensor:
    """Logits [B, K, 2, S, S] -> foreground votes over the image's largest number of them: [B, S, S] in [0, 1]."""
    count = (logits[:, :, 1] > logits[:, :, 0]).sum(1).float()
    return count / count.amax((1, 2), keepdim=True).clamp(min=1)
