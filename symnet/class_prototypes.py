"""What base classes look like on average, for a method that wants to know before its first step (`Method.prepare`)."""

import torch
from torch import Tensor

from symnet.base_learner import BaseLearner
from symnet.data.folds import FoldList
from symnet.model.numbers import wide
from symnet.model.prototypes import support_prototype
from symnet.model.resize import resize_mask
from symnet.parallel import Ranks
from symnet.prefetch import ahead
from symnet.progress import progress
from symnet.runtime import send
from symnet.sources import Request, Source

BATCH = 8  # images that pass the backbone together


@torch.no_grad()
def class_prototypes(source: Source, base: BaseLearner, train_list: FoldList, seed: int, ranks: Ranks) -> Tensor:
    """The mean of a class's masked averages of mid features over the images that show it: [base classes, Cm], in the order of the base
    learner's; 0 of a class that none shows.

    Of every image and class that counts in it one view is taken, augmented as in training; the processes share them.
    """
    device, only = source.device, source.only(base.backbone.mid_blocks)
    pairs = [(row.image, index) for row in train_list.rows for index in row.classes]
    requests = [Request(image, index, (seed, number)) for number, (image, index) in enumerate(pairs)][ranks.rank :: ranks.count]
    pieces = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
    classes = torch.tensor(base.classes, device=device)
    total = torch.zeros(len(classes), base.backbone.mid_channels + 1, device=device)  # their sum, and how many
    loaded = ahead(only.load, ((piece, piece) for piece in pieces))
    for piece, rows in progress(loaded, len(pieces), "prototypes of base classes, batches") if ranks.first else loaded:
        found = only.features(rows)
        mid = wide(base.backbone.mid(found.maps))  # [n, Cm, H, W]
        wanted = send(torch.tensor([request.wanted for request in piece]), device)  # [n]
        inside = resize_mask(found.mask == wanted[:, None, None], mid.shape[-1])  # [n, H, W]
        vectors = support_prototype(mid, inside, "released")  # [n, Cm]
        shown = (classes.unsqueeze(1) == wanted) & inside.flatten(1).any(1)  # [classes, n]
        total += shown.float() @ torch.cat([vectors, vectors.new_ones(len(piece), 1)], 1)
    ranks.sum([total])
    return total[:, :-1] / total[:, -1:].clamp(min=1)
