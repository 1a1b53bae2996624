"""What is timed of the methods: a test from what lies at hand in one, against the manner of the released codes.

At hand are the episodes' records where the method reads them, else what it keeps of images, by a network of its own as well (ssp). The
twin takes an episode at a time, from its images on, in float32, and brings each count to the host. The trained part is the same in both:
how its own parts do against twins of theirs is timed of Sym-Net alone (`cases`, `pieces`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from symnet.arrange import arranged, asked, episode_batch, make_batch
from symnet.backbones.base import Backbone
from symnet.backbones.unasked import Unasked
from symnet.bench import plainly, twins
from symnet.bench.material import BASE_CLASSES, TEXT, Material
from symnet.bench.timing import Case
from symnet.data.episodes import Episode
from symnet.methods import METHODS, method_class
from symnet.methods.base import EpisodeBatch, Method
from symnet.scoring import Counts, Originals, lead_of, warp
from symnet.sources import Features
from symnet.testing import predicted, with_record


def tested(material: Material, name: str, shots: int) -> Case:
    """Testing a batch of episodes by a method at random weights, in all scorings."""
    entry, device = METHODS[name], material.device
    method = method_class(name)(material.settings, material.backbone, shots, TEXT, material.side).to(device).eval()
    network = Unasked(material.backbone.stride) if entry.images else material.backbone
    episodes = material.episodes(shots)
    count = len(episodes)
    images, masks, truth = material.images(count * (1 + shots)), material.masks(count * (1 + shots)), material.originals(count)
    originals, wanted = Originals.of([(mask, warp(mask)) for mask in truth], device), [BASE_CLASSES[0]] * count
    on_device = [mask.to(device) for mask in truth]
    recorded = bool(entry.records(material.settings))
    with torch.no_grad():
        found = Features([images], None, masks) if entry.images else material.features(images, masks)
        whole = replace(make_batch(episodes, found, material.vectors, BASE_CLASSES), base_head=material.base.head)
        record = method.record(network, whole) if recorded else None
        blocks = method.blocks(network, recorded)
        kept = method.keep(network, found.maps if blocks is None else [found.maps[i] for i in blocks], recorded)
    query, support = arranged(episodes, kept)
    base = whole.base_logits if blocks is None else None
    del found, whole

    def lead() -> tuple[Tensor, Tensor]:
        columns = asked(episodes, material.vectors, BASE_CLASSES, device)
        batch = episode_batch(columns, query, support, masks, base, material.base.head)
        return predicted(method, network, batch if record is None else with_record(batch, record)), batch.query_mask

    @torch.no_grad()
    def fast() -> None:
        counts = Counts(method.outputs, 1, device)
        counts.add(*lead(), wanted, [0] * count, originals)
        counts.of("padded")

    def one_of(i: int) -> EpisodeBatch:
        own = [i, *range(count + i * shots, count + (i + 1) * shots)]
        return _from_images(material, method, network, episodes[i], images[own], masks[own])

    @torch.no_grad()
    def plain() -> None:
        for i in range(count):
            batch = one_of(i)
            for logits in method.predict(network, batch).values():
                plainly.count(logits, batch.query_mask, on_device[i], wanted[i])

    @torch.no_grad()
    def compare() -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
        each = [[lead_of(logits) for logits in method.predict(network, one_of(i)).values()] for i in range(count)]
        return [({"lead": lead()[0]}, {"lead": torch.cat([torch.stack(of_one, 1) for of_one in each])})]

    at_hand = "records" if recorded else "features"
    return Case(f"{name} from {at_hand}, {shots}-shot", "episodes", count, fast, plain, compare)


def _from_images(material: Material, method: Method, network: Backbone, episode: Episode, images: Tensor, masks: Tensor) -> EpisodeBatch:
    """An episode of images [1 + K, 3, S, S], the query first, as a batch that a test reads without records."""
    query, support = twins.maps_of(network, images[:1], images[None, 1:])
    blocks = method.blocks(network, False)
    base = twins.psp(material.base.head, network.levels(query).high) if blocks is None else None
    chosen = range(len(query)) if blocks is None else blocks
    wanted = asked([episode], material.vectors, BASE_CLASSES, material.device)
    kept, of_supports = (method.keep(network, [maps[i] for i in chosen], False) for maps in (query, [m.flatten(0, 1) for m in support]))
    return episode_batch(wanted, kept, [m.unflatten(0, (1, -1)) for m in of_supports], masks, base, material.base.head)
