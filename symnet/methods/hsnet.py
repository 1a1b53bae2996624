"""HSNet (Min et al., ICCV 2021): 4D correlations of all blocks at strides 8, 16 and 32, squeezed by centre-pivot convolutions.

Shared with FECANet: all of `methods/voting` and `model/squeeze`, which is the whole of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import HSNetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.dense import LAYERS, Dense
from symnet.methods.reading import depth, without_scales
from symnet.methods.voting import SQUEEZED, Voting, votes
from symnet.model.numbers import in_format
from symnet.model.resize import resize
from symnet.model.squeeze import Squeeze, Squeezed


class HSNetMethod(Voting):
    """One output."""

    released = (*((theirs, f"method.head.{ours}") for theirs, ours in SQUEEZED), *Dense.released)
    head: Squeeze

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        self.border, self.head = settings.hsnet.border, Squeeze(backbone.groups)

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `hsnet` of the released code."""
        without_scales("HSNet", scales)
        return {"hsnet": HSNetSettings(border="background")}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str:
        """The network that a released state dict holds."""
        return "vgg16_strided" if "features.0.weight" in state else f"resnet{depth(state)}_strided"

    def answer(self, query: list[Tensor], support: list[Tensor], mask: Tensor, history: Tensor | None) -> Squeezed:
        """As `Voting.answer`; no history is read."""
        with in_format(self.dtype, mask.device):
            return self.run(*self.correlations(query, support, mask))

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final; logits [B, K, 2, S, S] of each support, vote [B, S, S] in {0, 1}; of the first support, corr_layerN_mean_over_support and
        corr_layerN_max_over_support [B, blocks, h, w], and means [B, C] of what its code calls encoder_layerN and so on.
        """
        size = batch.support_mask.shape[-1]
        each = resize(self.each(backbone, batch).flatten(0, 1), size).unflatten(0, batch.support_mask.shape[:2])
        query = self.keep(backbone, list(batch.query), False)
        maps = self.correlations(query, self.supports(backbone, batch, 0), batch.support_mask[:, 0])
        seen = {f"corr_{name}_mean_over_support": m.mean((4, 5)) for name, m in zip(LAYERS, maps, strict=True)}
        seen |= {f"corr_{name}_max_over_support": m.amax((4, 5)) for name, m in zip(LAYERS, maps, strict=True)}
        out = self.head(*maps)
        seen |= {f"{name}_mean": x.flatten(2).mean(2) for name, x in [*out.encoded._asdict().items(), ("decoder1", out.decoder1)]}
        final = self.predict(backbone, batch)["prediction"]
        return {"final": final, "logits": each, "vote": (votes(each) >= 0.5).long()} | seen
