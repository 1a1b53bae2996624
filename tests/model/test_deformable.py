"""Deformable attention against a plain loop over positions, heads and points; sine positions by their definition."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from symnet.model.deformable import HEADS, POINTS, DeformableAttention, sine_positions

SIDE, CHANNELS = 4, 16


def at(value: Tensor, y: float, x: float) -> Tensor:
    """value [H, W, d], zeros outside, read between its positions."""
    found = torch.zeros_like(value[0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < value.shape[0] and 0 <= column < value.shape[1]:
                found = found + (1 - abs(y - row)) * (1 - abs(x - column)) * value[row, column]
    return found


def layer(seed: int = 0) -> DeformableAttention:
    torch.manual_seed(seed)
    made = DeformableAttention(CHANNELS)
    with torch.no_grad():
        made.offsets.weight.normal_(std=0.3)
        made.weights.weight.normal_()
    return made


@torch.no_grad()
def test_a_position_reads_where_it_says() -> None:
    attend = layer().eval()
    x, placed = torch.randn(2, SIDE, SIDE, CHANNELS), torch.randn(2, SIDE, SIDE, CHANNELS)
    found = attend(x, placed)
    value = attend.value(x).unflatten(3, (HEADS, -1))
    weights = attend.weights(placed).unflatten(3, (HEADS, POINTS)).softmax(4)
    offsets = attend.offsets(placed).unflatten(3, (HEADS, POINTS, 2))
    for b in range(2):
        for y in range(SIDE):
            for z in range(SIDE):
                heads = []
                for h in range(HEADS):
                    steps = offsets[b, y, z, h].tolist()  # along columns, then along rows
                    reads = [at(value[b, :, :, h], y + down, z + right) for right, down in steps]
                    heads.append((torch.stack(reads) * weights[b, y, z, h, :, None]).sum(0))
                torch.testing.assert_close(found[b, y, z], attend.project(torch.cat(heads)), rtol=1e-4, atol=1e-5)


def test_at_the_start_a_head_reads_along_its_direction() -> None:
    bias = DeformableAttention(CHANNELS).offsets.bias.detach().unflatten(0, (HEADS, POINTS, 2))
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = torch.tensor([[[step * a, step * b] for step in range(1, POINTS + 1)] for a, b in directions]).float()
    torch.testing.assert_close(bias, expected, rtol=0, atol=1e-5)
    assert not DeformableAttention(CHANNELS).weights.weight.any()


def test_in_training_a_tenth_of_the_positions_are_zeros_and_the_others_as_they_are() -> None:
    attend = layer().train()
    attend.drop_weights.p = 0.0
    with torch.no_grad():  # every position reads itself alone
        attend.offsets.weight.zero_()
        attend.offsets.bias.zero_()
    x = torch.randn(1, 60, 60, CHANNELS)
    found, whole = attend(x, x), attend.project(attend.value(x))
    gone = found.abs().amax(3) < 1e-3  # a place that is off by a rounding reads as much of its neighbours
    assert 0.07 < gone.float().mean().item() < 0.13
    torch.testing.assert_close(found[~gone], whole[~gone], rtol=1e-3, atol=1e-4)


def test_sine_positions() -> None:
    found = sine_positions(3, 5, 8, torch.device("cpu"))
    assert found.shape == (3, 5, 8)
    for y, x in ((0, 0), (2, 1), (1, 4)):
        expected = []
        for place, count in ((y, 3), (x, 5)):  # the row, then the column
            phase = (place + 1) / count * 2 * math.pi
            expected += [math.sin(phase), math.cos(phase), math.sin(phase / 100), math.cos(phase / 100)]
        torch.testing.assert_close(found[y, x], torch.tensor(expected), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_sixteen_bits_do_not_move_the_places() -> None:
    """Offsets are made in float32: 9 steps away on a map of 60, bfloat16 would be off by hundredths of a step."""
    attend = layer().eval()
    x = torch.randn(1, 60, 60, CHANNELS)
    exact = attend(x, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(x, x).float()
    assert F.mse_loss(found, exact) < 1e-4 * exact.square().mean()
