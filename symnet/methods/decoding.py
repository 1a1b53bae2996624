"""What methods share whose head ends in PFENet's decoder and has a prior a scale: Sym-Net, MIANet."""

from typing import Any, cast

import torch
from torch import Tensor

from symnet.methods.guided import Guided
from symnet.model.answer import shares_of
from symnet.model.decoder import Decoder
from symnet.model.episode import EpisodeInputs


class Decoding(Guided):
    """The decoder is `head.decode`; in a test on a CPU it computes less (model/answer.py)."""

    @property
    def decoder(self) -> Decoder:
        """The head's."""
        return cast(Decoder, self.head.decode)

    @property
    def scales(self) -> tuple[int, ...]:
        """The decoder's."""
        return self.decoder.scales

    def also_kept(self, query: Tensor) -> list[Tensor]:
        """Where `model/answer.py` decodes, the query's shares."""
        return shares_of(self.decoder, query) if self._on_cpu(query) else []

    def in_testing(self, inputs: EpisodeInputs) -> dict[str, Any]:
        """On a CPU, `model/answer.py`."""
        return {"on_cpu": self._on_cpu(inputs.mask)}

    def _on_cpu(self, x: Tensor) -> bool:
        return x.device.type == "cpu" and self.dtype == torch.float32 and not (self.training or torch.is_grad_enabled())
