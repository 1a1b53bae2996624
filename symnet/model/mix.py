"""Mix-transformer stages (SegFormer's), as HDMNet has them: attention to a map that is made smaller, an MLP whose hidden maps see 3x3."""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of layer norm
STAGES = ((1, 2, 4), (3, 4, 2), (3, 8, 1))  # kernel of the embedding (of stride 2 where it is 3), heads, by how much keys are fewer a side


def tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, HW, C]."""
    return x.flatten(2).transpose(1, 2)


def maps(x: Tensor, side: int) -> Tensor:
    """[B, HW, C] -> [B, C, H, W], W = `side`."""
    return x.transpose(1, 2).unflatten(2, (-1, side))


class Projections(nn.Module):
    """Queries, keys, values and answers of attention, without biases."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels, bias=False) for _ in range(4))

    def split(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B, N, C] that ask, tokens [B, M, C] that are asked -> queries [B, h, N, d], keys and values [B, h, M, d]."""
        found = self.query(queries), self.key(keys), self.value(keys)
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in found)
        return query, key, value

    def join(self, x: Tensor) -> Tensor:
        """[B, h, N, d] -> [B, N, C]."""
        return self.out(x.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """What attends, then the MLP, each after a layer norm and added to its own input: all of a layer but what its tokens attend to."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, EPS), nn.LayerNorm(channels, EPS)
        self.attend, self.drop = Projections(channels, heads), nn.Dropout(0.1)
        hidden = 4 * channels
        around = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.mix = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), around, nn.GELU(), nn.Dropout(0.1), nn.Conv2d(hidden, channels, 1), nn.Dropout(0.1)
        )

    def after(self, x: Tensor, attended: Tensor, side: int) -> Tensor:
        """x [B, HW, C] and what its heads found, [B, h, HW, d] -> [B, HW, C]."""
        x = x + self.drop(self.attend.join(attended))
        return x + tokens(self.mix(maps(self.norm2(x), side)))


class SelfLayer(Layer):
    """Every token attends to all of the map, or to strided patches of it."""

    def __init__(self, channels: int, heads: int, fewer: int) -> None:
        super().__init__(channels, heads)
        self.reduce = nn.Conv2d(channels, channels, fewer, fewer) if fewer > 1 else None
        self.reduced_norm = nn.LayerNorm(channels, EPS) if fewer > 1 else None

    def forward(self, x: Tensor, side: int) -> Tensor:
        """[B, HW, C] -> [B, HW, C]."""
        own = asked = self.norm1(x)
        if self.reduce is not None and self.reduced_norm is not None:
            asked = self.reduced_norm(tokens(self.reduce(maps(own, side))))
        return self.after(x, F.scaled_dot_product_attention(*self.attend.split(own, asked)), side)


class Stage(nn.Module):
    """Number 0 to 2, the last two at half the side, rounded up: an embedding and two layers."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__()
        kernel, heads, fewer = STAGES[number]
        self.embed = nn.Conv2d(channels, channels, kernel, 1 + kernel // 2, kernel // 2)
        self.norm, self.last_norm = nn.LayerNorm(channels, EPS), nn.LayerNorm(channels, EPS)
        self.layers = nn.ModuleList(SelfLayer(channels, heads, fewer) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, h, w]."""
        x = self.embed(x)
        side = x.shape[-1]
        x = self.norm(tokens(x))
        for layer in self.layers:
            x = layer(x, side)
        return maps(self.last_norm(x), side)
