"""K-shot weights and psi, how unlike query and support look (from BAM)."""

import torch
from torch import Tensor, nn

EPS = 1e-7


def gram(features: Tensor) -> Tensor:
    """Cosine-normalised channel Gram matrix: [B, C, H, W] -> [B, C, C]."""
    flat = features.flatten(2)
    if flat.dtype in (torch.float16, torch.bfloat16):  # of unit length before the product: its sums would not fit in float16
        norm = torch.linalg.vector_norm(flat, dim=2, keepdim=True, dtype=torch.float32)
        flat = (flat / (norm + EPS)).to(flat.dtype)
        return torch.bmm(flat, flat.transpose(1, 2)).float()
    norm = flat.norm(dim=2, keepdim=True)
    return torch.bmm(flat, flat.transpose(1, 2)) / (norm * norm.transpose(1, 2) + EPS)


def dissimilarity(query: Tensor, support: Tensor) -> Tensor:
    """psi_k = |G_q - G_k|_F / |1|_F of low-level features: query [B, C, H, W], support [B, K, C, H, W] -> [B, K], 0 = alike."""
    difference = gram(query).unsqueeze(1) - gram(support.flatten(0, 1)).unflatten(0, support.shape[:2])  # [B, K, C, C]
    return difference.flatten(2).norm(dim=2) / query.shape[1]


class ShotWeights(nn.Module):
    """Learned weights of the shots from psi, sorted ascending so that their order cannot matter: K -> 2 -> K, softmax."""

    def __init__(self, shots: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(shots, 2), nn.ReLU(inplace=True), nn.Linear(2, shots))

    def forward(self, psi: Tensor) -> Tensor:
        """[B, K] -> [B, K], summing to 1."""
        ordered, order = psi.sort(1)
        return self.layers(ordered).gather(1, order.argsort(1)).softmax(1)


def mean_weights(psi: Tensor) -> Tensor:
    """The plain average of the paper: [B, K] -> [B, K], all 1/K."""
    return torch.full_like(psi, 1 / psi.shape[1])
