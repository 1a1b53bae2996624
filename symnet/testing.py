"""Episodes tested one after another while their images stay on the device: each passes the backbone once, as long as memory lasts.

What a method reads of an image is made when the first episode wants it, and kept in a slot. How many slots there are is a matter of free
memory; where that was overrated they are halved, and the episodes left go on. Nothing in the loop waits for the device, and memory does
not grow with the number of episodes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from symnet.arrange import asked, episode_batch
from symnet.backbones.base import Backbone
from symnet.base_learner import BaseLearner
from symnet.data.episodes import Episode
from symnet.errors import UserError
from symnet.methods.base import EpisodeBatch, Method
from symnet.order import Fill, Work, images_of, schedule
from symnet.prefetch import ahead
from symnet.runtime import free_memory, send
from symnet.scoring import lead_of
from symnet.sources import Loader, Remembered, Request

KEPT, COPIED = 0.7, 0.15  # shares of free memory: for images in slots, for a batch's copies of them
COPIES = 2  # of each image of a batch that live at a time, about

Beside = Callable[[list[int]], Any]  # what else `use` wants of episodes, by their places; in a thread
Use = Callable[[list[int], EpisodeBatch, Any], None]  # what is done with a batch: places, features, what else it wanted


class Slots:
    """Tensors of images, an image a slot."""

    def __init__(self, like: Sequence[Tensor], kept_as: Sequence[torch.dtype], count: int) -> None:
        """like [1, ...]: of one image, which is put into the first; kept_as: types in the slots, of which values come back exact."""
        self._dtypes = [x.dtype for x in like]
        self._held = [x.new_empty(count, *x.shape[1:], dtype=dtype) for x, dtype in zip(like, kept_as, strict=True)]
        self.put([0], like)

    def put(self, slots: Sequence[int], values: Sequence[Tensor]) -> None:
        """Values [n, ...] into n slots."""
        at = send(torch.tensor(slots), self._held[0].device)
        for held, value in zip(self._held, values, strict=True):
            held.index_copy_(0, at, value.to(held.dtype))

    def take(self, index: int, at: Tensor) -> Tensor:
        """One of the tensors, at slots [...]."""
        return self._held[index].index_select(0, at.flatten()).unflatten(0, at.shape).to(self._dtypes[index])

    def __len__(self) -> int:
        return len(self._held)


@dataclass(frozen=True)
class Rows(Sequence[Tensor]):
    """The tensors of slots from number `start` on, each gathered when it is asked for: few methods read all of them."""

    slots: Slots
    start: int
    at: Tensor

    def __len__(self) -> int:
        return len(self.slots) - self.start

    def __getitem__(self, index: Any) -> Any:
        """[*at.shape, ...]"""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.slots.take(self.start + index, self.at)


def with_record(batch: EpisodeBatch, record: Mapping[str, Tensor]) -> EpisodeBatch:
    """The batch beside its episodes' record, whose columns are on the host or the device, as they are stored."""
    return replace(batch, record={name: send(values, batch.query_mask.device).float() for name, values in record.items()})


def predicted(method: Method, backbone: Backbone, batch: EpisodeBatch) -> Tensor:
    """By how much the foreground leads in each output, at the side of the features: [B, O, H, W] float32."""
    found = method.predict(backbone, batch)
    return torch.stack([lead_of(found[output]) for output in method.outputs], 1)


@dataclass(frozen=True)
class Tester:
    """What stays the same from one batch to the next. vectors [classes, T]: row c - 1 belongs to class c.

    `recorded`: whether `use` adds a record to each batch. `memory`: bytes there are for images and batches; None: what is free.
    """

    base: BaseLearner
    method: Method
    source: Loader
    vectors: Tensor
    batch: int
    recorded: bool = False
    memory: int | None = None

    @torch.no_grad()
    def run(self, episodes: Sequence[Episode], beside: Beside, use: Use) -> Iterator[int]:
        """Hand every episode to `use` once, in batches, in an order of its own: the list's, once all images have room.

        Yields the place of each that is done. Raises `UserError` where the images of one episode do not fit into memory.
        """
        device, first, least = self.source.device, episodes[0].query, 1 + len(episodes[0].supports)
        too_little = UserError(f"{device}: no memory for the {least} images of one episode; lower pixels.size")
        memory = free_memory(device) if self.memory is None else self.memory
        try:
            known, kept_as = self._made(self.source.load([Request(first, 0)]))  # one image tells how large they are
        except torch.OutOfMemoryError:
            raise too_little from None
        a_slot = sum(x.numel() * dtype.itemsize for x, dtype in zip(known, kept_as, strict=True))
        images = len(set().union(*map(images_of, episodes)))
        slots = max(min(int(KEPT * memory) // a_slot, images), least)
        batch = max(min(int(COPIED * memory) // (COPIES * least * sum(x.nbytes for x in known)), self.batch), 1)
        left = list(range(len(episodes)))
        while left:
            done: set[int] = set()
            try:
                steps = schedule([episodes[i] for i in left], slots, batch, {first: 0})
                for places in self._carry_out(steps, Slots(known, kept_as, slots), episodes, left, beside, use):
                    done.update(places)
                    yield from places
            except torch.OutOfMemoryError:
                forgotten = isinstance(self.source, Remembered) and self.source.forget()
                if (slots, batch) == (least, 1) and not forgotten:
                    raise too_little from None
            left = [i for i in left if i not in done]
            slots, batch = max(slots // 2, least), max(batch // 2, 1)
            if left and device.type == "cuda":
                torch.cuda.empty_cache()

    def _carry_out(
        self, steps: Iterator[Fill | Work], held: Slots, episodes: Sequence[Episode], left: list[int], beside: Beside, use: Use
    ) -> Iterator[list[int]]:
        """The steps, whose places are those in `left`. Yields the places of each batch that is done."""

        def load(step: Fill | Work) -> Any:
            if isinstance(step, Fill):
                return self.source.load([Request(image, 0) for image in step.images])
            return beside([left[place] for place in step.places])

        for step, loaded in ahead(load, ((step, step) for step in steps)):
            if isinstance(step, Fill):
                held.put(step.slots, self._made(loaded)[0])
            else:
                places = [left[place] for place in step.places]
                use(places, self._batch([episodes[place] for place in places], step, held), loaded)
                yield places

    def _made(self, loaded: Any) -> tuple[list[Tensor], list[torch.dtype]]:
        """What is kept of images, [n, ...] each: mask, base logits if any, what the method makes of the maps. And the types in slots."""
        found = self.source.features(loaded)
        made = [found.mask, *([] if found.base is None else [found.base])]
        made += self.method.keep(self.base.backbone, found.maps, self.recorded)
        narrow = self.source.kept_as
        return made, [narrow if any(x is m for m in found.maps) and narrow.itemsize < x.itemsize else x.dtype for x in made]

    def _batch(self, episodes: Sequence[Episode], step: Work, held: Slots) -> EpisodeBatch:
        """Episodes whose images are in their slots."""
        device, count = self.source.device, len(episodes)
        at = send(torch.tensor([*step.queries, *chain(*step.supports)]), device)
        queries, supports = at[:count], at[count:].unflatten(0, (count, -1))
        with_base = self.source.blocks is None
        query, support = (Rows(held, 1 + with_base, rows) for rows in (queries, supports))
        base = held.take(1, queries) if with_base else None
        wanted = asked(episodes, self.vectors, self.base.classes, device)
        return episode_batch(wanted, query, support, held.take(0, at), base, self.base.head)
