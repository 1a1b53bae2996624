"""Pixels against plain numpy: sizes, places, interpolation, padding, and the crop's rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from symnet.config_data import PixelSettings
from symnet.data.transforms import MEAN, STD, Draw, apply, augment, draw, fit, fitted_size, only_classes, unfit

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
MASK = RNG.choice([0, 1, 2, 255], (30, 40)).astype(np.uint8)
STILL = Draw(scale=1.0, angle=0.0, blur=False, flip=False, crops=((0.0, 0.0),))
SETTINGS = PixelSettings(size=33)


def colours(normalised: torch.Tensor) -> np.ndarray:
    """Back to 0..255, [H, W, 3]."""
    return (normalised.permute(1, 2, 0).double().numpy() * STD + MEAN) * 255


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """[H, W, ...] by OpenCV's rule: about pixel centres, edges repeated, no antialiasing."""

    def taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, old - 1), at - low

    y0, y1, dy = taps(values.shape[0], height)
    x0, x1, dx = taps(values.shape[1], width)
    values = values.astype(float)
    dy, dx = (d.reshape(d.shape + (1,) * (values.ndim - 1)) for d in (dy, dx))
    rows = values[y0] * (1 - dy) + values[y1] * dy
    columns = rows.swapaxes(0, 1)
    return (columns[x0] * (1 - dx) + columns[x1] * dx).swapaxes(0, 1)


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    return mask[np.arange(height) * mask.shape[0] // height][:, np.arange(width) * mask.shape[1] // width]


@pytest.mark.parametrize(
    ("original", "size", "placed"),
    [((375, 500), 473, (352, 472)), ((500, 375), 473, (472, 352)), ((480, 640), 641, (480, 640)), ((20, 500), 473, (16, 472)),
     ((5, 500), 473, (8, 472)), ((473, 473), 473, (472, 472)), ((64, 64), 473, (472, 472)), ((320, 480), 481, (320, 480))],
)  # fmt: skip
def test_the_longer_side_fills_the_square(original: tuple[int, int], size: int, placed: tuple[int, int]) -> None:
    assert fitted_size(*original, size) == placed


@pytest.mark.parametrize("size", [33, 57, 25])
def test_fit_places_resizes_and_pads(size: int) -> None:
    fitted = fit(IMAGE, MASK, size)
    height, width = fitted.height, fitted.width
    assert (height, width) == fitted_size(30, 40, size)
    assert (fitted.image.shape, fitted.image.dtype) == ((3, size, size), torch.float32)
    assert np.abs(colours(fitted.image)[:height, :width] - bilinear(IMAGE, height, width)).max() < 1e-2
    black = np.tile((0.0, 0.0, 0.0), (size, size, 1))
    black[:height, :width] = colours(fitted.image)[:height, :width]
    assert np.allclose(colours(fitted.image), black, atol=1e-4)
    truth = np.full((size, size), 255, np.uint8)
    truth[:height, :width] = nearest(MASK, height, width)
    assert np.array_equal(fitted.mask.numpy(), truth)


def test_unfit_takes_the_placed_part_to_the_original_size() -> None:
    logits = torch.from_numpy(RNG.normal(size=(2, 33, 33))).float()
    logits[:, 24:], logits[:, :, 32:] = 1e9, 1e9  # padding has no say
    back = unfit(logits[None], (24, 32), (30, 40))[0]
    expected = bilinear(logits[:, :24, :32].permute(1, 2, 0).double().numpy(), 30, 40)
    assert back.shape == (2, 30, 40)
    assert np.allclose(back.permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert torch.equal(unfit(logits[None], (24, 32), (24, 32))[0], logits[:, :24, :32])


def test_an_edge_comes_back_where_it_was() -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[60:200, 120:310] = 1
    fitted = fit(np.zeros((300, 400, 3), np.uint8), mask, 201)
    logits = torch.stack([(fitted.mask != 1).float(), (fitted.mask == 1).float()])
    back = unfit(logits[None], (fitted.height, fitted.width), (300, 400))[0].argmax(0).numpy()
    ys, xs = np.nonzero(back)
    assert np.abs(np.array([ys.min() - 60, ys.max() - 199, xs.min() - 120, xs.max() - 309])).max() <= 2


def test_without_change_the_image_is_centred_in_the_mean_colour() -> None:
    pixels, truth = apply(IMAGE, MASK, STILL, 49, keep=0)
    expected = np.tile(np.array(MEAN) * 255, (49, 49, 1))
    expected[9:39, 4:44] = IMAGE
    assert np.allclose(colours(pixels), expected, atol=1e-3)
    assert pixels[:, :9].abs().max() < 1e-5
    framed = np.full((49, 49), 255, np.uint8)
    framed[9:39, 4:44] = MASK
    assert np.array_equal(truth.numpy(), framed)


def test_flip_mirrors_both() -> None:
    pixels, truth = apply(IMAGE, MASK, replace(STILL, flip=True), 25, keep=0)
    assert np.allclose(colours(pixels), IMAGE[:25, ::-1][:, :25], atol=1e-3)
    assert np.array_equal(truth.numpy(), MASK[:25, ::-1][:, :25])


def test_scale_resizes_both() -> None:
    pixels, truth = apply(IMAGE, MASK, replace(STILL, scale=1.5), 41, keep=0)
    assert np.allclose(colours(pixels), bilinear(IMAGE, 45, 60)[:41, :41], atol=1e-2)
    assert np.array_equal(truth.numpy(), nearest(MASK, 45, 60)[:41, :41])


def test_a_quarter_turn_is_exact() -> None:
    pixels, truth = apply(IMAGE[:, :30], MASK[:, :30], replace(STILL, angle=90.0), 25, keep=0)
    assert np.allclose(colours(pixels), np.rot90(IMAGE[:, :30])[:25, :25], atol=1e-2)
    assert np.array_equal(truth.numpy(), np.rot90(MASK[:, :30])[:25, :25])


def test_a_rotation_uncovers_mean_colour_and_255() -> None:
    pixels, truth = apply(np.full((40, 40, 3), 10, np.uint8), np.ones((40, 40), np.uint8), replace(STILL, angle=45.0), 33, keep=0)
    assert truth[0, 0] == 255
    assert pixels[:, 0, 0].abs().max() < 1e-5
    assert truth[20, 20] == 1
    assert set(truth.unique().tolist()) == {1, 255}


def test_blur_is_opencvs_five_by_five() -> None:
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.1**2))
    weights /= weights.sum()
    padded = np.pad(IMAGE.astype(float), ((2, 2), (2, 2), (0, 0)), mode="reflect")
    rows = sum(w * padded[i : i + 30] for i, w in enumerate(weights))
    expected = sum(w * rows[:, i : i + 40] for i, w in enumerate(weights))
    pixels, truth = apply(IMAGE, MASK, replace(STILL, blur=True), 25, keep=0)
    assert np.allclose(colours(pixels), expected[:25, :25], atol=1e-2)
    assert np.array_equal(truth.numpy(), MASK[:25, :25])


@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([None, 1, 2]), st.integers(0, 12))
@hypothesis_settings(deadline=None, max_examples=40)
def test_the_first_crop_that_keeps_enough_is_taken(seed: int, keep: float, wanted: int | None, tries: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((60, 70), np.uint8)
    top, left = rng.integers(0, 50), rng.integers(0, 60)
    mask[top : top + 9, left : left + 9] = 1
    mask[rng.integers(60), rng.integers(70)] = 2
    mask[0, 0] = 255
    crops = tuple((float(y), float(x)) for y, x in rng.random((tries + 1, 2)))
    foreground = mask == wanted if wanted else (mask == 1) | (mask == 2)
    for y, x in crops:
        y0, x0 = int(y * (60 - 33 + 1)), int(x * (70 - 33 + 1))
        if foreground[y0 : y0 + 33, x0 : x0 + 33].sum() >= keep * foreground.sum():
            break
    _, truth = apply(np.zeros((60, 70, 3), np.uint8), mask, replace(STILL, crops=crops), 33, keep, wanted)
    assert np.array_equal(truth.numpy(), mask[y0 : y0 + 33, x0 : x0 + 33])


def test_draws_keep_to_their_ranges_and_odds() -> None:
    rng = np.random.default_rng(1)
    drawn = [draw(SETTINGS, rng) for _ in range(2000)]
    scales, angles = np.array([d.scale for d in drawn]), np.array([d.angle for d in drawn])
    assert (scales.min(), scales.max()) == pytest.approx((0.9, 1.1), abs=0.002)
    assert (angles.min(), angles.max()) == pytest.approx((-10, 10), abs=0.1)
    odds = [np.mean(angles != 0), np.mean([d.blur for d in drawn]), np.mean([d.flip for d in drawn])]
    assert odds == pytest.approx([0.5, 0.5, 0.5], abs=0.04)
    assert {len(d.crops) for d in drawn} == {31}
    assert np.mean([d.crops for d in drawn]) == pytest.approx(0.5, abs=0.01)
    wide = [draw(SETTINGS, rng, (0.5, 2.0)).scale for _ in range(2000)]
    assert (min(wide), max(wide)) == pytest.approx((0.5, 2.0), abs=0.01)


def test_every_draw_takes_the_same_count_of_numbers() -> None:
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    draw(PixelSettings(rotation_p=0, blur_p=0, flip_p=0), one)
    draw(PixelSettings(rotation_p=1, blur_p=1, flip_p=1), other)
    assert one.random() == other.random()


def test_augment_is_what_was_drawn() -> None:
    pixels, truth = augment(IMAGE, MASK, SETTINGS, np.random.default_rng(5), wanted=1)
    again = apply(IMAGE, MASK, draw(SETTINGS, np.random.default_rng(5)), 33, 0.85, 1)
    assert torch.equal(pixels, again[0])
    assert torch.equal(truth, again[1])
    assert (pixels.shape, pixels.dtype, truth.dtype) == ((3, 33, 33), torch.float32, torch.uint8)
    base, _ = augment(IMAGE, MASK, SETTINGS, np.random.default_rng(5), scale=(2.0, 2.0), size=41)
    assert base.shape == (3, 41, 41)


def test_the_inputs_are_left_as_they_were() -> None:
    image, mask = IMAGE.copy(), MASK.copy()
    image.flags.writeable = mask.flags.writeable = False
    augment(image, mask, SETTINGS, np.random.default_rng(0))
    fit(image, mask, 33)
    assert np.array_equal(image, IMAGE)
    assert np.array_equal(mask, MASK)


def test_other_classes_are_painted_background() -> None:
    mask = np.array([[0, 1, 2], [3, 255, 254]], np.uint8)
    assert only_classes(mask, (1, 3)).tolist() == [[0, 1, 0], [3, 255, 0]]
    assert only_classes(mask, ()).tolist() == [[0, 0, 0], [0, 255, 0]]
    assert mask.tolist() == [[0, 1, 2], [3, 255, 254]]
