"""Resizing as matrix products against the library's, values and gradients."""

import numpy as np
import pytest
import torch

from symnet.bench import twins
from symnet.model.resize import interpolation_matrix, nearest_mask, pool, resize, resize_mask

SIZES = [(5, 33), (25, 193), (60, 30), (13, 7), (33, 5), (8, 60), (7, 1), (1, 4), (6, 6), (2, 3)]


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_resize_is_the_librarys(n: int, m: int) -> None:
    torch.manual_seed(0)
    ours = torch.rand(2, 3, n, n, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.rand(2, 3, m, m)
    resized, expected = resize(ours, m), twins.resize(theirs, m)
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-6)
    (resized * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6 * max(1.0, (m / n) ** 2))


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_resize_about_pixel_centres_is_the_librarys(n: int, m: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, n, n)
    expected = torch.nn.functional.interpolate(x, (m, m), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize(x, m, corners=False), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "m"), [(60, 30), (60, 15), (60, 8), (81, 40), (29, 15), (13, 7), (7, 1), (5, 5), (4, 6)])
def test_pooling_is_the_librarys(n: int, m: int) -> None:
    torch.manual_seed(0)
    ours = torch.rand(2, 3, n, n, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = torch.rand(2, 3, m, m)
    pooled, expected = pool(ours, m), torch.nn.functional.adaptive_avg_pool2d(theirs, m)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-6)
    (pooled * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_same_size_is_the_same_tensor() -> None:
    x = torch.rand(1, 1, 5, 5)
    assert resize(x, 5) is x


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_weights_of_a_sample_sum_to_one(n: int, m: int) -> None:
    matrix = interpolation_matrix(n, m, torch.device("cpu"), torch.float32)
    assert matrix.shape == (m, n)
    assert not matrix.requires_grad
    torch.testing.assert_close(matrix.sum(1), torch.ones(m), rtol=0, atol=1e-6)
    assert matrix.min() >= 0


def test_a_matrix_made_in_inference_mode_still_trains() -> None:
    with torch.inference_mode():
        resize(torch.rand(1, 1, 11, 11), 17)
    x = torch.rand(1, 1, 11, 11, requires_grad=True)
    resize(x, 17).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(17.0**2), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n", "m"), [(473, 60), (641, 81), (193, 25), (33, 5), (50, 7), (40, 12)])
def test_resize_mask(n: int, m: int) -> None:
    mask = torch.rand(2, 3, n, n, generator=torch.Generator().manual_seed(1)) > 0.4
    resized = resize_mask(mask, m)
    assert resized.dtype == torch.float32
    torch.testing.assert_close(resized, twins.resize(mask.float(), m), rtol=0, atol=5e-5)  # the library rounds positions such as 8/472
    if n % 8 == 1 and m == (n - 1) // 8 + 1:
        assert torch.equal(resized, mask[..., ::8, ::8].float())
    else:
        assert set(resized.unique().tolist()) - {0.0, 1.0}


def test_a_full_mask_stays_exactly_one_where_it_is_sampled() -> None:
    assert resize_mask(torch.ones(1, 473, 473), 60).eq(1).all()


@pytest.mark.parametrize(("n", "m"), [(473, 60), (33, 5), (50, 7), (5, 12)])
def test_nearest_mask(n: int, m: int) -> None:
    mask = torch.rand(2, n, n, generator=torch.Generator().manual_seed(2)) > 0.5
    nearest = nearest_mask(mask, m)
    assert nearest.dtype == torch.bool
    step = np.float32(n) / np.float32(m)
    index = [min(int(np.float32(i) * step), n - 1) for i in range(m)]  # the pixel whose square holds the corner of ours
    for y in range(m):
        for x in range(m):
            assert torch.equal(nearest[:, y, x], mask[:, index[y], index[x]])
