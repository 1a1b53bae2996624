"""From episodes to the rows that a source is asked for, and from what it gave back to an `EpisodeBatch`."""

from collections.abc import Sequence, Sized

import torch
from torch import Tensor

from symnet.data.episodes import Episode
from symnet.methods.base import EpisodeBatch
from symnet.model.base import PSPHead
from symnet.runtime import send
from symnet.scoring import of_class
from symnet.sources import Columns, Features, Request


def requests_of(episodes: Sequence[Episode], seed: tuple[int, ...] | None = None) -> list[Request]:
    """Queries first, then all supports, episode by episode. `seed`: augment, each image on its own."""
    queries = [(episode.query, episode.class_index) for episode in episodes]
    supports = [(image, episode.class_index) for episode in episodes for image in episode.supports]
    return [
        Request(image, wanted, None if seed is None else (*seed, position))
        for position, (image, wanted) in enumerate([*queries, *supports])
    ]


def arranged(episodes: Sized, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Maps [n, ...] of the rows of `requests_of(episodes)` -> [B, ...] of queries, [B, K, ...] of supports."""
    count = len(episodes)
    return [m[:count] for m in maps], [m[count:].unflatten(0, (count, -1)) for m in maps]


def episode_masks(episodes: Sequence[Episode], mask: Tensor) -> tuple[Tensor, Tensor]:
    """Index masks [n, S, S] of the rows of `requests_of(episodes)` -> [B, S, S] of queries, [B, K, S, S] of supports, in {0, 1, 255}."""
    return masks_of(send(class_indices(episodes), mask.device), mask)


def masks_of(classes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """As `episode_masks`, of the episodes' classes [B] on the masks' device."""
    shots = len(mask) // len(classes) - 1
    (query,), (support,) = arranged(classes, [of_class(mask, torch.cat([classes, classes.repeat_interleave(shots)]))])
    return query, support


def asked(episodes: Sequence[Episode], vectors: Tensor, base_classes: Sequence[int], device: torch.device) -> Columns:
    """What episodes ask for, a row an episode, on the device: `classes` [B], `text` [B, T], `base_index` [B].

    vectors [classes, T]: row c - 1 belongs to class c.
    """
    classes = class_indices(episodes)
    position = {c: i for i, c in enumerate(base_classes)}
    base_index = torch.tensor([position.get(episode.class_index, -1) for episode in episodes])
    return {name: send(value, device) for name, value in (("classes", classes), ("text", vectors[classes - 1]), ("base_index", base_index))}


def class_indices(episodes: Sequence[Episode]) -> Tensor:
    """[B], on the host."""
    return torch.tensor([episode.class_index for episode in episodes])


def make_batch(episodes: Sequence[Episode], found: Features, vectors: Tensor, base_classes: Sequence[int]) -> EpisodeBatch:
    """Arrange the rows of `requests_of(episodes)` as episodes. vectors: as of `asked`."""
    return batch_of(asked(episodes, vectors, base_classes, found.mask.device), found)


def batch_of(wanted: Columns, found: Features, base_head: PSPHead | None = None) -> EpisodeBatch:
    """As `make_batch`, of what `asked` gives: a function of tensors alone."""
    query, support = arranged(wanted["classes"], found.maps)
    base = None if found.base is None else found.base[: len(wanted["classes"])]
    return episode_batch(wanted, query, support, found.mask, base, base_head)


def episode_batch(
    wanted: Columns,
    query: Sequence[Tensor],
    support: Sequence[Tensor],
    mask: Tensor,
    base_logits: Tensor | None,
    base_head: PSPHead | None = None,
) -> EpisodeBatch:
    """What `asked` gives beside features as the fields of `EpisodeBatch` have them; index masks [n, S, S] of the rows of `requests_of`."""
    query_mask, support_mask = masks_of(wanted["classes"], mask)
    return EpisodeBatch(
        query=query,
        support=support,
        query_mask=query_mask,
        support_mask=support_mask,
        base_logits=base_logits,
        text=wanted["text"],
        base_index=wanted["base_index"],
        base_head=base_head,
    )
