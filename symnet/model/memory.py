"""NTRENet's memory of what was mistaken for a class, and the loss that sets the class apart from it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from symnet.parallel import Ranks


class Memory(nn.Module):
    """The newest `size` vectors of each class: a ring a class, in buffers of fixed size. Nothing waits for the device.

    What a step brings waits until its end: all of the step draws from what there was before it, in however many parts and processes it is
    computed, and what is begun again brings nothing twice.
    """

    vectors: Tensor  # [classes, size, C]
    count: Tensor  # [classes]: of all that were ever kept
    waiting: Tensor  # [rows, C]
    owner: Tensor  # [rows]: the class of what waits, -1 of nothing
    filled: Tensor  # scalar: rows of this step so far

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, size, channels))
        self.register_buffer("count", torch.zeros(classes, dtype=torch.int64))
        self.register_buffer("waiting", torch.zeros(0, channels), persistent=False)
        self.register_buffer("owner", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64), persistent=False)

    def draw(self, classes: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Of each class [n], so many of its vectors without replacement, or all: [n, number, C], and which there are, bool [n, number]."""
        size = self.vectors.shape[1]
        held = torch.arange(size, device=classes.device) < self.count[classes].unsqueeze(1)  # [n, size]
        chance = torch.rand(held.shape, device=classes.device).masked_fill(~held, -1)
        drawn = chance.topk(min(number, size), 1)
        return self.vectors[classes.unsqueeze(1), drawn.indices], drawn.values >= 0

    def begin(self, rows: int) -> None:
        """A step, or one that is begun again. rows: how many vectors this process may bring, wanted or not."""
        if len(self.owner) != rows:
            self.waiting, self.owner = self.waiting.new_zeros(rows, self.waiting.shape[1]), self.owner.new_zeros(rows)
        self.owner.fill_(-1)
        self.filled.zero_()

    @torch.no_grad()
    def bring(self, classes: Tensor, vectors: Tensor, wanted: Tensor) -> None:
        """Of each class [n] vectors [n, m, C], those that are wanted, bool [n, m]."""
        assert wanted.numel() <= len(self.owner), (wanted.shape, len(self.owner))
        rows = self.filled + torch.arange(wanted.numel(), device=wanted.device)
        self.waiting.index_copy_(0, rows, vectors.flatten(0, 1).to(self.waiting.dtype))
        self.owner.index_copy_(0, rows, classes.unsqueeze(1).where(wanted, -1).flatten())
        self.filled += wanted.numel()

    @torch.no_grad()
    def end(self, ranks: Ranks) -> None:
        """Keep what waits in all processes, in the order of the batch."""
        every = self.waiting.new_zeros(ranks.count, *self.waiting.shape), self.owner.new_zeros(ranks.count, *self.owner.shape)
        for whole, own in zip(every, (self.waiting, self.owner), strict=True):
            whole[ranks.rank] = own
            ranks.sum([whole])
        self._keep(*(whole.flatten(0, 1) for whole in every))

    def _keep(self, vectors: Tensor, owner: Tensor) -> None:
        """Those with an owner. The others have slots of their own, which stay as they are: shapes are fixed, no slot is written twice."""
        size, place = self.vectors.shape[1], torch.arange(len(owner), device=owner.device)
        assert len(owner) <= size, (len(owner), size)
        owned, classes = owner >= 0, owner.clamp(min=0)
        turn = place + len(owner) * ~owned  # those with an owner first
        before = (classes.unsqueeze(1) == classes) & (turn.unsqueeze(1) > turn)  # [rows, rows]
        slot = (self.count[classes] + before.sum(1)) % size
        self.vectors[classes, slot] = torch.where(owned.unsqueeze(1), vectors, self.vectors[classes, slot])
        every = torch.arange(len(self.count), device=owner.device)
        self.count += (every.unsqueeze(1) == owner).sum(1)


def contrast(anchor: Tensor, positive: Tensor, negatives: Tensor, there: Tensor) -> Tensor:
    """-log(e^cos(anchor, positive) / sum e^cos(anchor, negatives) + 1e-8), of each of n: [n]; 0 where there are no negatives.

    anchor, positive [n, C], negatives [n, N, C], of which those that are `there`, bool [n, N], count.
    """
    alike = F.cosine_similarity(anchor, positive).exp()
    others = F.cosine_similarity(anchor.unsqueeze(1), negatives, dim=2).exp() * there  # [n, N]
    loss = -(alike / others.sum(1).clamp(min=1e-8) + 1e-8).log()
    return loss * there.any(1)
