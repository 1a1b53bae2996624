"""What is timed of the whole: backbone, training step, evaluation, the base learner's step. `pieces` has the parts."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from symnet.arrange import arranged, asked, episode_batch, make_batch
from symnet.base_learner import learn, optimiser_of
from symnet.bench import plainly, twins
from symnet.bench.material import BASE_CLASSES, Material
from symnet.bench.timing import Case, Values, gradients, numbered, values_of
from symnet.methods.base import EpisodeBatch
from symnet.methods.symnet import SymNetMethod
from symnet.model.base import PSPHead
from symnet.model.episode import EpisodeInputs
from symnet.model.head import Head
from symnet.model.segmentation import cross_entropy
from symnet.scoring import Counts, Originals, warp
from symnet.testing import predicted, with_record
from symnet.trainer import Trainer

Pairs = Iterator[tuple[Values, Values]]


def backbone(material: Material) -> Case:
    """Block maps of a batch's queries and supports. The twin takes the supports apart from the queries."""
    batch = material.sizes.batch
    images = material.images(2 * batch)

    @torch.no_grad()
    def fast() -> Values:
        return numbered("map", material.backbone(images))

    @torch.no_grad()
    def plain() -> Values:
        query, support = twins.maps_of(material.backbone, images[:batch], images[batch:, None])
        return numbered("map", [torch.cat([q, s.flatten(0, 1)]) for q, s in zip(query, support, strict=True)])

    return Case("backbone", "images", len(images), fast, plain)


def train_step(material: Material, shots: int, cached: bool = False) -> Case:
    """A step of training: frozen part, head, losses, gradients, SGD. From images on; `cached`: from their features."""
    method, episodes = material.method(shots), material.episodes(shots)
    images, masks = material.images(len(episodes) * (1 + shots)), material.masks(len(episodes) * (1 + shots))
    trainer = Trainer(method, material.settings, steps=1 << 20)
    at_hand = material.features(images, masks) if cached else None

    def fast_batch() -> EpisodeBatch:
        return make_batch(episodes, at_hand or material.features(images, masks), material.vectors, BASE_CLASSES)

    def plain_batch() -> EpisodeBatch:
        return fast_batch() if cached else plainly.batch_of(material, episodes, images, masks)

    def fast() -> None:
        method.losses(material.backbone, fast_batch())[0].backward()
        trainer.advance()

    def plain() -> None:
        batch = plain_batch()
        parts, _, _ = twins.losses(method.head, plainly.inputs_of(material, batch, training=True), batch.query_mask)
        method.head.objective(parts).backward()
        trainer.advance()

    def compare() -> Pairs:
        batch = fast_batch()
        yield values_of(batch), values_of(plain_batch())
        inputs = method.freeze(material.backbone, batch, training=True)
        yield values_of(inputs), values_of(plainly.inputs_of(material, batch, training=True))
        method.eval()  # no dropout
        yield _losses(method.head, inputs, batch.query_mask)
        exact = copy.deepcopy(method.head).double()
        ours, twin = (exact.objective(parts) for parts in _losses(exact, _doubled(inputs), batch.query_mask))
        yield gradients(exact, ours), gradients(exact, twin)
        method.train()

    name = f"train step, {shots}-shot" + (", from the cache" if cached else "")
    return Case(name, "episodes", len(episodes), fast, plain, compare)


def plain_step(
    material: Material, method: SymNetMethod, images: Tensor, masks: Tensor, shots: int, trainer: Trainer | None = None
) -> tuple[Callable[[], None], Callable[[], dict[str, Tensor]]]:
    """A step by the twins, from images on; and its losses alone. images, masks: of a batch's queries, then supports."""
    trainer = trainer or Trainer(method, material.settings, steps=1 << 20)
    episodes = material.episodes(shots)

    def losses() -> dict[str, Tensor]:
        batch = plainly.batch_of(material, episodes, images, masks)
        return twins.losses(method.head, plainly.inputs_of(material, batch, training=True), batch.query_mask)[0]

    def plain() -> None:
        method.head.objective(losses()).backward()
        trainer.advance()

    return plain, losses


def larger(make: Callable[[Material, int], Case], what: str, material: Material, size: int) -> Case:
    """`what`, which `make` makes, on images of another size, 1 shot."""
    other = Material(dataclasses.replace(material.sizes, size=size), material.device)
    return dataclasses.replace(make(other, 1), name=f"{what} at {size} px, 1-shot")


def evaluation(material: Material, shots: int) -> Case:
    """Testing a batch of episodes whose images' features are at hand, in all scorings. The twin: one by one."""
    method, episodes = material.method(shots).eval(), material.episodes(shots)
    count, batches = len(episodes) * (1 + shots), len(episodes)
    found = material.features(material.images(count), material.masks(count))
    masks = material.originals(batches)
    originals, wanted = Originals.of([(mask, warp(mask)) for mask in masks], material.device), [BASE_CLASSES[0]] * batches
    on_device = [mask.to(material.device) for mask in masks]

    def batch_of() -> EpisodeBatch:
        return make_batch(episodes, found, material.vectors, BASE_CLASSES)

    @torch.no_grad()
    def fast() -> None:
        counts, batch = Counts(method.outputs, 1, material.device), batch_of()
        counts.add(predicted(method, material.backbone, batch), batch.query_mask, wanted, [0] * batches, originals)
        counts.of("padded")

    @torch.no_grad()
    def plain() -> None:
        batch = batch_of()
        for i in range(len(episodes)):
            one = plainly.one_of(batch, i)
            _, meta, ensemble = twins.losses(method.head, plainly.inputs_of(material, one, training=False), None)
            for logits in (meta, ensemble):
                plainly.count(logits, one.query_mask, on_device[i], wanted[i])

    @torch.no_grad()
    def compare() -> Pairs:
        batch = batch_of()
        inputs = method.freeze(material.backbone, batch)
        yield values_of(inputs), values_of(plainly.inputs_of(material, batch, training=False))
        out = method.head(inputs)
        _, meta, ensemble = twins.losses(method.head, inputs, None)
        yield {"meta": out.meta, "ensemble": out.ensemble}, {"meta": meta, "ensemble": ensemble}

    return Case(f"evaluation, {shots}-shot", "episodes", len(episodes), fast, plain, compare)


def recorded(material: Material, shots: int) -> Case:
    """Testing a batch of episodes from their records, in all scorings. The twin, as the released code, starts from their images."""
    method, few = material.method(shots).eval(), material.sizes.batch
    times, size = max(material.sizes.tested // few, 1), few * (1 + shots)
    episodes, truth = material.episodes(shots, few * times), material.originals(few * times)
    originals, wanted = Originals.of([(mask, warp(mask)) for mask in truth], material.device), [BASE_CLASSES[0]] * len(episodes)
    on_device = [mask.to(material.device) for mask in truth]
    pieces = [(material.images(size), material.masks(size)) for _ in range(times)]  # of a batch each: block maps of all would not fit
    images, masks = pieces[0]
    records, kept = [], []
    with torch.no_grad():
        for piece in pieces:
            found = material.features(*piece)
            records.append(method.record(material.backbone, make_batch(episodes[:few], found, material.vectors, BASE_CLASSES)))
            mid = [found.maps[i] for i in material.backbone.mid_blocks]
            kept.append(arranged(episodes[:few], method.keep(material.backbone, mid, recorded=True)))
            del found, mid
    record = {name: torch.cat([one[name] for one in records]).cpu() for name in records[0]}
    query, support = ([torch.cat(maps) for maps in zip(*of_pieces, strict=True)] for of_pieces in zip(*kept, strict=True))
    shown = torch.cat([*(one[:few] for _, one in pieces), *(one[few:] for _, one in pieces)])  # masks of queries, then of supports

    def lead() -> tuple[Tensor, Tensor]:
        batch = episode_batch(asked(episodes, material.vectors, BASE_CLASSES, material.device), query, support, shown, None)
        return predicted(method, material.backbone, with_record(batch, record)), batch.query_mask

    @torch.no_grad()
    def fast() -> None:
        counts = Counts(method.outputs, 1, material.device)
        counts.add(*lead(), wanted, [0] * len(episodes), originals)
        counts.of("padded")

    def plain_logits(batch: EpisodeBatch) -> list[Tensor]:
        _, meta, ensemble = twins.losses(method.head, plainly.inputs_of(material, batch, training=False), None)
        return [meta, ensemble]

    @torch.no_grad()
    def plain() -> None:
        batch = plainly.batch_of(material, episodes[:few], images, masks)
        for i in range(few):
            one = plainly.one_of(batch, i)
            for found in plain_logits(one):
                plainly.count(found, one.query_mask, on_device[i], wanted[i])

    @torch.no_grad()
    def compare() -> Pairs:  # of the same maps: thresholds enlarge what two ways to convolve round differently
        batch = make_batch(episodes[:few], material.features(images, masks), material.vectors, BASE_CLASSES)
        yield {"lead": lead()[0][:few]}, {"lead": torch.stack([one[:, 1] - one[:, 0] for one in plain_logits(batch)], 1)}

    return Case(f"evaluation from records, {shots}-shot", "episodes", len(episodes), fast, plain, compare, by_plain=few)


def base_step(material: Material) -> Case:
    """A step of the base learner's training, every parameter trained."""
    count, size = material.sizes.base_batch, material.sizes.base_size
    images = material.images(count, size)
    labels = torch.randint(0, 1 + len(BASE_CLASSES), (count, size, size)).to(material.device)
    network, head = copy.deepcopy(material.backbone).requires_grad_(True), copy.deepcopy(material.base.head).requires_grad_(True)
    whole = nn.ModuleDict({"backbone": network, "head": head})
    optimiser = optimiser_of(material.settings, network, head)

    def plain() -> None:
        whole.train()
        loss = twins.cross_entropy(twins.psp(head, network.levels(network(images)).high), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def compare() -> Pairs:  # of the head, and to the features: beyond them both are the same network
        whole.train()
        high = network.levels(network(images)).high.detach()
        exact, features = copy.deepcopy(head).double(), high.double().requires_grad_()

        def loss_of(fast: bool, module: PSPHead, given: Tensor) -> Tensor:
            torch.manual_seed(0)  # the same dropout
            return cross_entropy(module(given), labels) if fast else twins.cross_entropy(twins.psp(module, given), labels)

        with torch.no_grad():
            yield {"loss": loss_of(True, head, high)}, {"loss": loss_of(False, head, high)}
        ours, twin = (loss_of(fast, exact, features) for fast in (True, False))
        yield gradients(exact, ours, features), gradients(exact, twin, features)

    def fast() -> None:
        learn(network, head, optimiser, images, labels, True)

    return Case("base learner step", "images", count, fast, plain, compare, tf32=True)


def _losses(head: Head, inputs: EpisodeInputs, query_mask: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parts of the objective, by the fast path and by the twin."""
    parts = head.losses(head(inputs, with_triplet=True), query_mask.long())
    return parts, twins.losses(head, inputs, query_mask)[0]


def _doubled(inputs: EpisodeInputs) -> EpisodeInputs:
    """In float64, in which gradients are compared: in float32 a ReLU here and there falls on the other side of 0, and takes them along."""
    own: dict[str, Any] = {
        name: held.double() for name, held in vars(inputs).items() if isinstance(held, Tensor) and held.is_floating_point()
    }
    return dataclasses.replace(inputs, **own, priors=tuple(prior.double() for prior in inputs.priors))
