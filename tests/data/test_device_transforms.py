"""The batched transforms against the plain ones: the same pixels for the same draw, with nothing read back from the device."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from symnet.config_data import PixelSettings
from symnet.data.device_transforms import crop, transform
from symnet.data.images import Pixels
from symnet.data.packing import Item, Packed, pack, plan_augment, plan_fit
from symnet.data.transforms import Draw, apply, class_table, draw, fit, only_classes

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
TOLERANCE = 1e-3  # after normalisation, where one grey level is 0.017
SIZE = 33


@dataclass(frozen=True)
class Case:
    """An image and what is done to it; `drawn` None for the test transform."""

    image: Pixels
    mask: Pixels
    drawn: Draw | None
    keep: float = 0.85
    wanted: int | None = None

    def item(self) -> Item:
        shape = (self.mask.shape[0], self.mask.shape[1])
        plan = plan_fit(shape, SIZE) if self.drawn is None else plan_augment(shape, self.drawn, SIZE, self.keep, self.wanted)
        return self.image, self.mask, plan

    def plain(self, antialias: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if self.drawn is None:
            fitted = fit(self.image, self.mask, SIZE, antialias)
            return fitted.image, fitted.mask
        return apply(self.image, self.mask, self.drawn, SIZE, self.keep, self.wanted, antialias)


def painted(seed: int, height: int, width: int, objects: int) -> tuple[Pixels, Pixels]:
    """Noise, and a mask with blocks of 1, 2 and 255, down to one pixel."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(objects):
        top, left, tall, wide = rng.integers(0, height), rng.integers(0, width), *rng.integers(1, 12, 2)
        mask[top : top + tall, left : left + wide] = rng.choice([1, 2, 255])
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


SIDES = st.one_of(st.integers(1, 4), st.integers(5, 90))
SHARES = st.floats(0, 1, exclude_max=True)
DRAWS = st.builds(
    Draw,
    scale=st.one_of(st.just(1.0), st.floats(0.3, 2.1)),
    angle=st.one_of(st.just(0.0), st.integers(-1800, 1800).map(lambda tenths: tenths / 10 + 0.0371)),
    blur=st.booleans(),
    flip=st.booleans(),
    crops=st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=6).map(tuple),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    image, mask = painted(draw(st.integers(0, 10**6)), draw(SIDES), draw(SIDES), draw(st.integers(0, 6)))
    return Case(image, mask, draw(st.none() | DRAWS), draw(st.floats(0, 1)), draw(st.sampled_from([None, 1, 2])))


def beside(case: Case, degrees: float) -> Case:
    """With an angle a little beside its own."""
    return case if case.drawn is None else replace(case, drawn=replace(case.drawn, angle=case.drawn.angle + degrees))


def check(found: tuple[torch.Tensor, torch.Tensor], case: Case, antialias: bool) -> None:
    """Equal to the plain code's: images within `TOLERANCE`, masks exactly.

    Where a pixel of a turned mask lies midway between two, to 1e-4 of a pixel, a CPU whose matrix products round otherwise than those
    this was made on may take the other: then it is what an angle hardly beside it gives.
    """
    pixels, truth = case.plain(antialias)
    assert (found[0] - pixels).abs().max() < TOLERANCE
    same = found[1] == truth
    if case.drawn is not None and case.drawn.angle and not same.all():
        same |= torch.stack([beside(case, by).plain(antialias)[1] == found[1] for by in (-1e-4, 1e-4)]).any(0)
    assert same.all()


def run(batch: list[Case], antialias: bool, device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    packed = pack([case.item() for case in batch]).to(torch.device(device))
    images, masks = transform(packed, SIZE, antialias)
    assert (images.shape, images.dtype) == ((len(batch), 3, SIZE, SIZE), torch.float32)
    assert (masks.shape, masks.dtype) == ((len(batch), SIZE, SIZE), torch.uint8)
    return list(zip(images.cpu(), masks.cpu(), strict=True))


@pytest.mark.parametrize("device", DEVICES)
@given(batch=st.lists(cases(), min_size=1, max_size=4), antialias=st.booleans())
@hypothesis_settings(deadline=None, max_examples=150)
def test_a_batch_is_what_its_images_are_alone(device: str, batch: list[Case], antialias: bool) -> None:
    for case, found in zip(batch, run(batch, antialias, device), strict=True):
        check(found, case, antialias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("antialias", [False, True])
def test_many_draws_of_the_settings_own_ranges(device: str, antialias: bool) -> None:
    rng = np.random.default_rng(4)
    batch = []
    for number in range(40):
        image, mask = painted(number, *(int(side) for side in rng.integers(20, 80, 2)), 5)
        batch.append(Case(image, mask, draw(PixelSettings(size=SIZE), rng), 0.85, [None, 1, 2][number % 3]))
    kinds = {(case.drawn.angle != 0, case.drawn.blur, case.drawn.flip) for case in batch if case.drawn}
    assert len(kinds) == 8
    for case, found in zip(batch, run(batch, antialias, device), strict=True):
        check(found, case, antialias)


def test_the_last_crop_is_taken_where_none_keeps_enough() -> None:
    image, mask = painted(0, 80, 80, 0)
    mask[[0, -1], [0, -1]] = 1  # never both
    crops = ((0.0, 0.0), (0.5, 0.5), (0.3, 0.7))
    still = Draw(1.0, 0.0, blur=False, flip=False, crops=crops)
    batch = [Case(image, mask, still, 1.0), Case(image, mask, still, 0.5), Case(image, mask, still, 1.0, 2)]
    packed = pack([case.item() for case in batch])
    _, top, left = crop(packed, SIZE)
    assert torch.cat([top, left], 1).tolist() == [[14, 33], [0, 0], [0, 0]]  # last; first; nothing to keep: first
    for case, found in zip(batch, run(batch, False, "cpu"), strict=True):
        check(found, case, False)


def test_a_table_paints_before_the_crop_is_chosen() -> None:
    rng = np.random.default_rng(1)
    image, mask = painted(3, 70, 60, 12)
    drawn = draw(PixelSettings(size=SIZE), rng)
    items = [Case(image, mask, drawn).item()]
    found, truth = transform(pack(items), SIZE, table=torch.from_numpy(class_table([2])))
    assert set(np.unique(mask)) == {0, 1, 2, 255}
    check((found[0], truth[0]), Case(image, only_classes(mask, [2]), drawn), False)


def test_the_buffer_gives_back_what_was_packed() -> None:
    cases = [Case(*painted(seed, 3 + seed, 11 - seed, 3), None) for seed in range(3)]
    columns, places, pixels, masks = pack([case.item() for case in cases]).open()
    starts = [0, 33, 33 + 40]
    assert columns["start"].tolist() == starts
    assert [columns[name].tolist() for name in ("old_height", "old_width")] == [[3, 4, 5], [11, 10, 9]]
    assert places.tolist() == [[[0, 0]]] * 3
    for case, start in zip(cases, starts, strict=True):
        height, width = case.mask.shape
        part = slice(start, start + height * width)
        assert np.array_equal(pixels[part].reshape(height, width, 3).numpy(), case.image)
        assert np.array_equal(masks[part].reshape(height, width).numpy(), case.mask)


class OnlyOnTheDevice(TorchDispatchMode):
    """Fails where an operation makes a tensor elsewhere; what reads one, or sizes one by another's values, fails on `meta` by itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        assert all(leaf.device.type == "meta" for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor)), func
        return found


@pytest.mark.parametrize("antialias", [False, True])
def test_the_host_waits_for_nothing(antialias: bool) -> None:
    batch = [Case(*painted(seed, 50, 70, 4), draw(PixelSettings(size=SIZE), np.random.default_rng(seed))) for seed in range(3)]
    packed = pack([case.item() for case in batch])
    table = torch.empty(256, dtype=torch.uint8, device="meta")

    def meta(packed: Packed) -> Packed:
        return replace(packed, buffer=torch.empty_like(packed.buffer, device="meta"))

    with OnlyOnTheDevice():
        images, masks = transform(meta(packed), SIZE, antialias, table)
    assert (images.shape, masks.shape) == ((3, 3, SIZE, SIZE), (3, SIZE, SIZE))
    with pytest.raises(AssertionError), OnlyOnTheDevice():  # this test can fail
        transform(packed, SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_not_waited_for() -> None:
    batch = [Case(*painted(seed, 50, 70, 4), draw(PixelSettings(size=SIZE), np.random.default_rng(seed))) for seed in range(3)]
    packed = pack([case.item() for case in batch], pin=True)
    transform(packed.to(torch.device("cuda")), SIZE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        transform(packed.to(torch.device("cuda")), SIZE)
    finally:
        torch.cuda.set_sync_debug_mode("default")
