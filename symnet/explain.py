"""What Sym-Net saw on the way to its answer, as maps that one can look at."""

import torch
from torch import Tensor

from symnet.backbones.base import Backbone
from symnet.errors import UserError
from symnet.methods.base import EpisodeBatch, Method
from symnet.methods.symnet import SymNetMethod
from symnet.model.prior import min_max
from symnet.model.prototypes import region_weights


@torch.no_grad()
def explain(method: Method, backbone: Backbone, batch: EpisodeBatch) -> dict[str, Tensor]:
    """Maps [B, h, w] in [0, 1] by name, in the order of the model.

    prior: the prior mask that the head used, mean of the shots; foreground, background, hard: the positions that tau1 to tau4 select in
    it (eqs. 5, 10, 11); correlation: mean of the hyper-correlations before their fusion, hyper: length of the fused vector at each
    position, both stretched to [0, 1]; base: what the base learner takes for one of its classes.

    Raises `UserError` for another method than Sym-Net.
    """
    if not isinstance(method, SymNetMethod):
        raise UserError("--explain: shows the parts of symnet; this run's method has none of them")
    episode = method.freeze(backbone, batch)
    out = method.head(episode)
    settings = method.model_settings
    prior = out.prior[:, 0]  # [B, H, W]
    weights = region_weights(prior.flatten(1), settings.tau1, settings.tau2, settings.tau3, settings.tau4)
    found = {"prior": prior}
    found |= {name: one.view_as(prior).float() for name, one in zip(("foreground", "background", "hard"), weights, strict=True)}
    if episode.correlations is not None and out.hyper is not None:
        found |= {"correlation": min_max(episode.correlations.mean(1)), "hyper": min_max(out.hyper.norm(dim=1))}
    return found | {"base": episode.base}
