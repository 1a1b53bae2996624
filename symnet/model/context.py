"""FECANet's learner: stage outputs that look at each other (FEM), correlations of what surrounds a position (GCCG), a residual decoder."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.model.resize import resize
from symnet.model.squeeze import Encoded, Squeeze, correlations_4d, mean_over_support

STRIDES = ((4, 2, 2), (2, 2, 2), (2, 2, 1))  # of the support planes of the second, third and fourth stage, layer by layer
REACH = 3  # side of the neighbourhood that a position is compared with
Values = Literal["attended", "own"]


class Enhance(nn.Module):
    """FEM: each image of a pair adds what it attends to in the other, gated by channel. The identity at the start.

    values: what an image gathers from the positions it attends to: the other image's features, or those of its own that happen to have
    the same positions.
    """

    def __init__(self, channels: int, values: Values) -> None:
        super().__init__()
        half, narrow = channels // 2, max(channels // 16, 1)
        self.value, self.key, self.query = (nn.Conv2d(channels, half, 1) for _ in range(3))
        self.into_support, self.into_query = (_from_nothing(half, channels) for _ in range(2))
        self.gate = nn.Sequential(nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels), nn.Sigmoid())
        self.values = values

    def forward(self, query: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] of a query and of its support -> the same, enhanced."""
        alike = self.key(support).flatten(2).transpose(1, 2) @ self.query(query).flatten(2)  # [B, hw of the support, hw of the query]
        of_query, of_support = (self.value(x).flatten(2).transpose(1, 2) for x in (query, support))  # [B, hw, C/2]
        if self.values == "own":
            of_query, of_support = of_support, of_query
        to_support, to_query = alike.softmax(2) @ of_query, alike.transpose(1, 2).softmax(2) @ of_support
        return self._added(query, to_query, self.into_query), self._added(support, to_support, self.into_support)

    def _added(self, x: Tensor, gathered: Tensor, into: nn.Module) -> Tensor:
        change = into(gathered.transpose(1, 2).unflatten(2, x.shape[-2:]))
        return x + self.gate(x.mean((2, 3)))[:, :, None, None] * change


class Context(nn.Module):
    """GCCG: how a position resembles its neighbours, and that seen from wider around: [B, C, h, w] -> [B, 201, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv1 = nn.Conv2d(REACH**2, 128, 3, padding=1), nn.Conv2d(128, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x: stage outputs, whatever their width."""
        near = self_similarity(x)
        wider = F.relu(self.conv(near))
        return torch.cat([near, wider, F.relu(self.conv1(wider))], 1)


def self_similarity(x: Tensor) -> Tensor:
    """Cosines of each position with its 3x3 neighbours, 0 outside, a column of them after another: [B, C, h, w] -> [B, 9, h, w].

    A vector of length 0 has no direction, so no gradient: dividing by a floor instead gives it 1e12 times what is right. All of the masked
    support are such vectors at the start, and Adam would remember a first gradient of 1e8 for tens of thousands of steps.
    """
    (h, w), margin = x.shape[-2:], REACH // 2
    length = x.norm(dim=1, keepdim=True)
    unit = x * (length > 0) / torch.where(length > 0, length, 1)
    around = F.pad(unit, (margin,) * 4)
    places = [(v, u) for u in range(REACH) for v in range(REACH)]
    return torch.stack([(unit * around[..., v : v + h, u : u + w]).sum(1) for v, u in places], 1)


class Answer(NamedTuple):
    """Logits [B, 2, 2H, 2H], and what came before them."""

    logits: Tensor
    enhanced: list[tuple[Tensor, Tensor]]  # [B, C, h, w] of query and support, of the second, third and fourth stage
    correlations: list[Tensor]  # [B, blocks + 1, h, w, h, w] of each
    encoded: Encoded
    residual3: Tensor  # [B, 128, H, W], what is added to the mean over the support at last


class ContextSqueeze(nn.Module):
    """18.0 M parameters with ResNet-50's stages, most of them FEM's.

    groups, channels: block maps of the second, third and fourth stage, and the width of the last of each. recall: the share of queries
    that see an earlier answer in training.
    """

    def __init__(self, groups: tuple[int, int, int], channels: list[int], values: Values, recall: float) -> None:
        super().__init__()
        self.enhance = nn.ModuleList(Enhance(width, values) for width in channels)
        self.context = Context()
        self.squeeze = Squeeze([count + 1 for count in groups], STRIDES)
        self.refine1, self.refine2, self.refine3 = (_refine(128 + more) for more in (2, 0, 0))
        self.recall = recall

    def forward(self, query: list[Tensor], support: list[Tensor], dense: list[Tensor], history: Tensor | None) -> Answer:
        """Stage outputs [B, C, h, w] of query and masked support; correlations [B, blocks, h, w, h, w] of each stage's blocks.

        history [B, 2, s, s]: probabilities of an earlier answer. None: none in a test; in training, of `recall` of the queries, the answer
        that the same weights give without one.
        """
        enhanced = [enhance(q, s) for enhance, q, s in zip(self.enhance, query, support, strict=True)]
        around = [correlations_4d([self.context(q)], [self.context(s)], None) for q, s in enhanced]
        correlations = [torch.cat(both, 1) for both in zip(dense, around, strict=True)]
        encoded = self.squeeze.encode(*correlations)
        mean = mean_over_support(encoded)
        history = self._recalled(mean) if history is None else resize(history, mean.shape[-1])
        residual3 = self._residual(mean, history)
        return Answer(self.squeeze.decode(mean + residual3)[0], enhanced, correlations, encoded, residual3)

    @torch.no_grad()
    def _recalled(self, mean: Tensor) -> Tensor:
        """[B, 128, H, W] -> [B, 2, H, W], zeros where nothing is recalled."""
        nothing = mean.new_zeros(len(mean), 2, *mean.shape[-2:])
        if not self.training:
            return nothing
        earlier = self.squeeze.decode(mean + self._residual(mean, nothing))[0].softmax(1)
        recalled = torch.rand(len(mean), 1, 1, 1, device=mean.device) < self.recall
        return torch.where(recalled, resize(earlier, mean.shape[-1]), nothing)

    def _residual(self, mean: Tensor, history: Tensor) -> Tensor:
        found = mean + self.refine1(torch.cat([mean, history], 1))
        return self.refine3(mean + self.refine2(found))


def _from_nothing(before: int, after: int) -> nn.Sequential:
    """1x1 and batch norm whose answer is 0 before it has learned."""
    norm = nn.BatchNorm2d(after)
    nn.init.zeros_(norm.weight)
    return nn.Sequential(nn.Conv2d(before, after, 1), norm)


def _refine(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1))
