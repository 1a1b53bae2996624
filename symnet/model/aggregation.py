"""DCAMA's learner: the query's mask as the mean of all the supports' pixels, weighted by attention, a map a block; then decoded in 2D."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.constants import constant
from symnet.model.resize import resize, resize_mask

HEADS, GROUPS = 8, 4  # of attention; of channels, each normalised
TEMPERATURE = 1e4
BUDGET = 1 << 27  # attention weights that are made at once, where no kernel does without making them
ALIGNED = 8  # columns that such a kernel asks of the values
KERNELS = ((3, 3, 3), (5, 3, 3), (5, 5, 3))  # of the fourth, third and second stage


@constant
def positions(count: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[count, channels]: sines and cosines, in turn, of a position's number."""
    number = torch.arange(count, device=device, dtype=torch.float32).unsqueeze(1)
    angle = number / TEMPERATURE ** (torch.arange(0, channels, 2, device=device, dtype=torch.float32) / channels)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1).to(dtype)


class MaskAttention(nn.Module):
    """Attention whose values are the supports' mask: a query position's answer is the mean of the mask over what it attends to."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.place, self.dropout = nn.Dropout(dropout), dropout

    def forward(self, query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
        """query [B, C, h, w], support [B, K, C, h, w], mask [B, K, h, w] in [0, 1] -> [B, h, w] in [0, 1].

        Each support counts its positions from 0; all of them share one softmax.
        """
        q = self.query(self._placed(query.unsqueeze(1))).unflatten(2, (HEADS, -1)).transpose(1, 2)  # [B, 8, hw, C/8]
        k = self.key(self._placed(support)).unflatten(2, (HEADS, -1)).transpose(1, 2)  # [B, 8, K hw, C/8]
        values = F.pad(mask.to(q.dtype).flatten(1)[:, None, :, None], (0, ALIGNED - 1)).expand(-1, HEADS, -1, -1)  # [B, 8, K hw, 8]
        rows = max(1, BUDGET // (q.shape[0] * HEADS * k.shape[2]))
        dropped = self.dropout if self.training else 0.0
        found = [F.scaled_dot_product_attention(some, k, values, dropout_p=dropped)[..., 0] for some in q.split(rows, 2)]
        return torch.cat(found, 2).mean(1).unflatten(1, query.shape[-2:])

    def _placed(self, maps: Tensor) -> Tensor:
        """[B, K, C, h, w] -> [B, K hw, C], positions added."""
        flat = maps.flatten(3).transpose(2, 3)  # [B, K, hw, C]
        return self.place(flat + positions(flat.shape[2], flat.shape[3], flat.device, flat.dtype)).flatten(1, 2)


class Aggregated(NamedTuple):
    """Logits [B, 2, H, W] (`logits`), and what came before them, by its name in the released code."""

    logits: Tensor
    masks: list[Tensor]  # [B, blocks, h, w] of the second, third and fourth stage
    conv1: Tensor  # [B, 128, h, w] each: of the fourth stage's maps
    conv2: Tensor
    conv3: Tensor
    conv4: Tensor  # of third and fourth, of all
    conv5: Tensor
    mixer1: Tensor  # [B, 64, h, w]


class Aggregation(nn.Module):
    """14.2 M parameters for ResNet-50 with its first stage's map. A module of attention serves all blocks of a stage that are as wide.

    channels: of the block maps, stage by stage; first: of the first stage's last map, 0 where there is none to skip from.
    """

    def __init__(self, channels: Sequence[Sequence[int]], first: int, dropout: float) -> None:
        super().__init__()
        wide = [(stage, width) for stage, widths in enumerate(channels) for width in dict.fromkeys(widths)]
        self.serves = [[wide.index((stage, width)) for width in widths] for stage, widths in enumerate(channels)]
        self.attend = nn.ModuleList(MaskAttention(width, dropout) for _, width in wide)
        second, third, fourth = map(len, channels)
        self.conv1, self.conv2, self.conv3 = (
            _three((count, 16, 64, 128), kernels) for count, kernels in zip((fourth, third, second), KERNELS, strict=True)
        )
        self.conv4, self.conv5 = (_three((128,) * 4, (3, 3, 3)) for _ in range(2))
        self.mixer1 = _mixer(128 + 2 * channels[0][-1] + 2 * first, 128, 64)
        self.mixer2 = _mixer(64, 64, 16)
        self.mixer3 = nn.Sequential(_conv(16, 16), nn.ReLU(), _conv(16, 2))

    def forward(self, query: list[list[Tensor]], support: list[list[Tensor]], first: Sequence[Tensor], mask: Tensor) -> Aggregated:
        """Block maps of each stage, [B, C_i, h, w] and [B, K, C_i, h, w]; mask [B, K, S, S] in {0, 1}.

        first: the first stage's last maps, [B, C, 2H, 2H] and [B, K, C, 2H, 2H]; or none.
        """
        masks = []
        for serves, *maps in zip(self.serves, query, support, strict=True):
            inside = resize_mask(mask, maps[0][0].shape[-1])
            masks.append(torch.stack([self.attend[i](q, s, inside) for i, q, s in zip(serves, *maps, strict=True)], 1))
        conv1, conv2, conv3 = self.conv1(masks[2]), self.conv2(masks[1]), self.conv3(masks[0])
        conv4 = self.conv4(resize(conv1, conv2.shape[-1]) + conv2)
        conv5 = self.conv5(resize(conv4, conv3.shape[-1]) + conv3)
        skipped = torch.cat([conv5, query[0][-1], support[0][-1].amax(1)], 1)
        skipped = resize(skipped, first[0].shape[-1] if first else 2 * skipped.shape[-1])
        if first:
            skipped = torch.cat([skipped, first[0], first[1].amax(1)], 1)
        mixer1 = self.mixer1(skipped)  # [B, 64, 2H, 2H]
        mixed = self.mixer2(resize(mixer1, 2 * mixer1.shape[-1]))
        logits = self.mixer3(resize(mixed, 2 * mixed.shape[-1]))  # [B, 2, 8H, 8H]
        return Aggregated(logits, masks, conv1, conv2, conv3, conv4, conv5, mixer1)


def _three(channels: Sequence[int], kernels: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after, kernel in zip(channels[:-1], channels[1:], kernels, strict=True):
        layers += [_conv(before, after, kernel), nn.GroupNorm(GROUPS, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _mixer(before: int, between: int, after: int) -> nn.Sequential:
    return nn.Sequential(_conv(before, between), nn.ReLU(), _conv(between, after), nn.ReLU())


def _conv(before: int, after: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2)
