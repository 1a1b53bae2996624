"""What NTRENet and QPENet find background by: a vector that is learned, the same for all images, and the loss that makes it background."""

import torch
from torch import Tensor, nn

from symnet.model.layers import classifier, reduction, tiled, two_convolutions
from symnet.model.resize import resize


class Finder(nn.Module):
    """What a vector finds in a map: both merged by 1x1, ReLU and Dropout2d(0.5), two convolutions added, two logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = reduction(2 * channels, channels)
        self.refine, self.classify = two_convolutions(channels), classifier(channels)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x [n, C, H, W], vector [n, C] -> logits [n, 2, H, W]."""
        x = self.merge(torch.cat([x, tiled(vector, x)], 1))
        return self.classify(x + self.refine(x))


def background_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """That the object is none (class 0), and half of that all is background (class 1), summed over images; 255 is no object.

    logits [n, 2, h, w] are resized to mask [n, S, S] in {0, 1, 255} first. NTRENet's: an image's object counts as a whole.
    """
    as_other, as_background = (-resize(logits.float(), mask.shape[-1]).log_softmax(1)).unbind(1)  # [n, S, S]
    inside = (mask == 1).float()
    object_ = (as_other * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-5)  # [n]
    return (object_ + 0.5 * as_background.mean((1, 2))).sum()
