"""Episodes taken plainly: one by one, from their images, each result brought to the host. What the cases' twins have in common."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from symnet.arrange import episode_masks
from symnet.bench import twins
from symnet.bench.material import BASE_CLASSES, Material
from symnet.data.episodes import Episode
from symnet.methods.base import EpisodeBatch
from symnet.model.episode import EpisodeInputs


@torch.no_grad()
def batch_of(material: Material, episodes: list[Episode], images: Tensor, masks: Tensor) -> EpisodeBatch:
    """As `Material.features` and `make_batch`."""
    count, shots, device = len(episodes), len(episodes[0].supports), material.device
    query, support = twins.maps_of(material.backbone, images[:count], images[count:].unflatten(0, (count, shots)))
    classes = [episode.class_index for episode in episodes]
    return EpisodeBatch(
        query,
        support,
        *episode_masks(episodes, masks),
        base_logits=twins.psp(material.base.head, material.backbone.levels(query).high),
        text=material.vectors[[c - 1 for c in classes]].to(device),
        base_index=torch.tensor([BASE_CLASSES.index(c) for c in classes], device=device),
    )


@torch.no_grad()
def inputs_of(material: Material, batch: EpisodeBatch, training: bool) -> EpisodeInputs:
    """As `SymNetMethod.freeze`."""
    own = batch.base_index if training else None
    assert batch.base_logits is not None
    return twins.freeze(material.backbone, list(batch.query), list(batch.support), batch.support_mask, batch.text, batch.base_logits, own)


def one_of(batch: EpisodeBatch, i: int) -> EpisodeBatch:
    """Episode `i`, as a batch."""
    own: dict[str, Any] = {
        name: [m[i : i + 1] for m in held] if isinstance(held, list) else held[i : i + 1]
        for name, held in vars(batch).items()
        if isinstance(held, (list, Tensor))
    }
    return dataclasses.replace(batch, **own)


def count(logits: Tensor, query_mask: Tensor, mask: Tensor, wanted: int) -> None:
    """One image's [1, 2, H, W], in all scorings, each brought to the host."""
    twins.confusion(logits, query_mask).cpu()
    for counts in twins.at_original(twins.resize(logits, query_mask.shape[-1])[0], mask, wanted).values():
        counts.cpu()
