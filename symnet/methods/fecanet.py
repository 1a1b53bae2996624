"""FECANet (Liu et al., TMM 2023): HSNet with stage outputs that look at each other, correlations of what surrounds a position, a residual
decoder fed with the query's earlier answer.

Shared with HSNet: `methods/voting`, `model/squeeze`. Its own: `model/context`. Two slips of its code are settings, and the default does as
the text: `masked`, whether the support's block maps are masked (its code masks the stage outputs alone); `values`, what attention gathers
(its code: an image's own features). Its code keeps the last answer of each training image, an epoch old; here it is what the same weights
answer without one, so that a step is a function of its episodes and weights. A test begins without one. The door reads ResNets.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.config import Settings
from symnet.config_methods import FECANetSettings
from symnet.methods.base import EpisodeBatch
from symnet.methods.dense import LAYERS, Dense
from symnet.methods.reading import depth, without_scales
from symnet.methods.voting import SQUEEZED, Voting
from symnet.model.context import Answer, ContextSqueeze
from symnet.model.numbers import in_format, wide
from symnet.model.resize import resize_mask


class FECANetMethod(Voting):
    """One output."""

    reads_history = True
    whole_batch = True
    released = (
        *(
            (f"fem_{stage + 1}.{theirs}.", f"method.head.enhance.{stage}.{ours}.")
            for stage in range(3)
            for theirs, ours in (
                *(("common_v", "value"), ("key", "key"), ("query", "query"), ("Trans_s", "into_support"), ("Trans_q", "into_query")),
                *(("ChannelGate.mlp.1", "gate.0"), ("ChannelGate.mlp.3", "gate.2")),
            )
        ),
        ("ss.", "method.head.context."),
        ("hpn_learner.residule{}.", "method.head.refine{}."),
        *((theirs, f"method.head.squeeze.{ours}") for theirs, ours in SQUEEZED),
        *Dense.released,
    )
    head: ContextSqueeze

    def __init__(self, settings: Settings, backbone: Backbone, shots: int, text: int, side: int) -> None:
        super().__init__(settings, backbone, shots, text, side)
        own, widths = settings.fecanet, [widths[-1] for widths in self.staged(backbone.block_channels)]
        self.border, self.masked = own.border, own.masked
        self.head = ContextSqueeze(backbone.groups, widths, own.values, own.recall)

    @staticmethod
    def released_settings(state: Mapping[str, Tensor], scales: Sequence[float] | None) -> dict[str, Any]:
        """The section `fecanet` of the released code."""
        without_scales("FECANet", scales)
        return {"fecanet": FECANetSettings(border="background", masked=False, values="own")}

    @staticmethod
    def released_backbone(state: Mapping[str, Tensor]) -> str:
        """The network that a released state dict holds."""
        return f"resnet{depth(state)}_strided"

    def answer(self, query: list[Tensor], support: list[Tensor], mask: Tensor, history: Tensor | None) -> Answer:
        """As `Voting.answer`."""
        dense = self.correlations(query, support, mask if self.masked else None)
        queries, supports = ([F.relu(wide(maps[-1])) for maps in self.staged(of_image)] for of_image in (query, support))
        masked = [maps * resize_mask(mask == 1, maps.shape[-1]).unsqueeze(1) for maps in supports]
        with in_format(self.dtype, mask.device):
            return self.run(queries, masked, dense, history)

    def shown(self, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
        """final; of the first support, logits [B, 2, 2H, 2H], corr_layerN_mean_over_support [B, blocks + 1, h, w], and means [B, C] of what
        its code calls fem_N_query and fem_N_support, encoder_layerN and so on.
        """
        out = self.first(backbone, batch)
        seen = {f"corr_{name}_mean_over_support": m.mean((4, 5)) for name, m in zip(LAYERS, out.correlations, strict=True)}
        for number, pair in enumerate(out.enhanced, 1):
            seen |= {f"fem_{number}_{name}_mean": x.mean((2, 3)) for name, x in zip(("query", "support"), pair, strict=True)}
        seen |= {f"{name}_mean": x.flatten(2).mean(2) for name, x in [*out.encoded._asdict().items(), ("residual3", out.residual3)]}
        return {"final": self.predict(backbone, batch)["prediction"], "logits": out.logits} | seen
