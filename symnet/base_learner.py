"""The base learner: PSPNet over a fold's base classes, trained as BAM's. Its backbone is the one the fold's methods use."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from symnet.artifacts import Provenance, write_json
from symnet.backbones.base import Backbone, load_exactly
from symnet.backbones.loading import build_backbone, load_backbone
from symnet.base_batches import base_batches, base_labels
from symnet.checkpoint import load_tensors, save_tensors
from symnet.config import Settings
from symnet.config_data import PixelSettings
from symnet.data.classes import class_names
from symnet.data.episodes import holdout
from symnet.data.folds import FoldList, ListRow, base_classes, read_fold_list
from symnet.data.images import IGNORE
from symnet.data.readers import Reader, open_reader
from symnet.data.stored import Store
from symnet.data.transforms import fit
from symnet.errors import UserError
from symnet.model.base import PSPHead
from symnet.model.resize import resize
from symnet.model.segmentation import cross_entropy
from symnet.prefetch import Stall, ahead
from symnet.progress import progress
from symnet.runtime import send
from symnet.schedule import poly_rate

STAGE = "base"
CHECK = 20  # steps between two looks at the losses: each look waits for the device


@dataclass(frozen=True)
class BaseLearner:
    """The frozen pair of backbone and head.

    `classes` are the base classes' indices in the data set, in the order of the head's channels from 1; none where they are not known.
    """

    name: str  # of the backbone
    backbone: Backbone
    head: PSPHead
    classes: tuple[int, ...]
    digest: str

    def to(self, device: torch.device) -> "BaseLearner":
        """Both on a device, in eval mode, without gradients."""
        for module in (self.backbone, self.head):
            module.to(device).eval().requires_grad_(False)
        return self


def train_base(
    settings: Settings,
    data_root: Path,
    weights_root: Path,
    train_list: Path,
    fold: int,
    out: Path,
    device: torch.device,
    provenance: Provenance,
    store: Store | None = None,
) -> float:
    """Train, measure and write the base learner of a fold. Returns its mIoU over base classes, 0 to 1.

    Beside `out`, in a JSON of the same name, stands what was measured: IoU by class over the held-out training images, at the test
    transform. store: where images are kept decoded. Raises `UserError` when the mIoU is below `base.floor`: what builds on a blind base
    learner is worth nothing.
    """
    base = settings.base
    torch.manual_seed(base.seed)
    names = class_names(settings.data.classes)
    classes = base_classes(fold, len(names), settings.data.folds, settings.protocol.split)
    reader = open_reader(settings.data, settings.protocol, data_root, store=store)
    train, held = holdout(read_fold_list(train_list), base.holdout, base.seed)
    backbone = load_backbone(settings.backbone, weights_root).to(device)
    head = PSPHead(backbone.high_channels, len(classes) + 1, base.width).to(device)
    optimiser = optimiser_of(settings, backbone, head)
    backbone.requires_grad_(base.train_backbone)
    steps = base.total_steps(len(train.rows))
    rates = [group["lr"] for group in optimiser.param_groups]
    what, stall = f"base learner, fold {fold}", Stall(device)
    batches = stall.watch(base_batches(settings, reader, train, classes, steps, device))
    losses: list[Tensor] = []
    for step, (images, labels) in enumerate(progress(batches, steps, what)):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = poly_rate(rate, step, steps, base.power)
        losses.append(learn(backbone, head, optimiser, images, labels, base.train_backbone))
        if len(losses) == CHECK or step == steps - 1:
            _check_finite(losses, step, f"base learner of fold {fold}", base.lr)
            losses.clear()
    stall.tell(what)
    tested = _held_out(reader, held, classes, settings.pixels, base.batch_size)
    tested = progress(tested, math.ceil(len(held.rows) / base.batch_size), f"{what}, held-out images, batches")
    found = measure(backbone, head, tested, len(classes), device)
    iou = {names[classes[i] - 1]: value for i, value in found.items()}
    miou = sum(iou.values()) / max(len(iou), 1)
    if miou < base.floor:
        raise UserError(
            f"base learner of fold {fold}: mIoU {miou:.3f} over {len(classes)} base classes is below base.floor ({base.floor}); "
            "check data.root and backbone.weights, train longer (base.epochs, base.steps), or lower the floor"
        )
    meta = {"backbone": settings.backbone.name, "width": base.width, "classes": list(classes), "miou": miou, "steps": steps, "fold": fold}
    save_tensors(out, base_tensors(backbone, head), meta, provenance)
    told = {"fold": fold, "base_classes": len(classes), "miou": miou, "iou": iou, "images": len(train.rows), "held_out": len(held.rows)}
    write_json(out.with_suffix(".json"), told | {"steps": steps}, provenance)
    return miou


def learn(
    backbone: Backbone, head: PSPHead, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor, train_backbone: bool
) -> Tensor:
    """One step on images [B, 3, S, S] and labels int64 [B, S, S]. Returns the loss, a scalar on the device; nothing waits for it."""
    backbone.train(train_backbone)
    head.train()
    with torch.set_grad_enabled(train_backbone):
        high = backbone.levels(backbone(images)).high
    loss = cross_entropy(head(high), labels)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.detach()


def _check_finite(losses: list[Tensor], last: int, what: str, lr: float) -> None:
    """Raises `UserError` naming the first step of a loss that is not finite; `last` is the step of the last one."""
    for step, loss in enumerate(torch.stack(losses).tolist(), start=last - len(losses) + 1):
        if not math.isfinite(loss):
            raise UserError(f"{what}: loss is {loss} at step {step}; lower base.lr ({lr})")


def base_tensors(backbone: Backbone, head: PSPHead) -> dict[str, Tensor]:
    """What a base learner's file holds, and `load_base` reads."""
    return {f"backbone.{n}": v for n, v in backbone.state_dict().items()} | {f"head.{n}": v for n, v in head.state_dict().items()}


def load_base(path: Path) -> BaseLearner:
    """Read a base learner, checked. Raises `UserError`."""
    tensors, meta, provenance = load_tensors(path, STAGE)
    backbone = build_backbone(meta["backbone"])
    head = PSPHead(backbone.high_channels, len(tensors["head.classify.4.bias"]), meta["width"])
    for prefix, module in (("backbone.", backbone), ("head.", head)):
        load_exactly(module, {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)})
    return BaseLearner(meta["backbone"], backbone, head, tuple(meta["classes"]), provenance.content)


def optimiser_of(settings: Settings, backbone: nn.Module, head: nn.Module) -> torch.optim.SGD:
    """SGD over the head, and over the backbone where it trains, each at its own rate."""
    base = settings.base
    groups = [{"params": list(head.parameters()), "lr": base.lr * base.head_lr_factor}]
    if base.train_backbone:
        groups.append({"params": list(backbone.parameters()), "lr": base.lr})
    fused = next(head.parameters()).is_cuda or None
    return torch.optim.SGD(groups, lr=base.lr, momentum=base.momentum, weight_decay=base.weight_decay, fused=fused)


@torch.no_grad()
def measure(
    backbone: Backbone, head: PSPHead, batches: Iterator[tuple[Tensor, Tensor]], classes: int, device: torch.device
) -> dict[int, float]:
    """IoU, 0 to 1, of each base class (from 0) that occurs. batches: [B, 3, S, S] and labels [B, S, S] in 0..classes and 255.

    Counted on the device, which is asked once, at the end.
    """
    backbone.eval()
    head.eval()
    count = classes + 1
    pairs = torch.zeros(count * count + 1, dtype=torch.int64, device=device)  # of label and answer; last those that are ignored
    for images, labels in batches:
        labels = send(labels, device)
        logits = resize(head(backbone.levels(backbone(send(images, device))).high), labels.shape[-1])
        pair = torch.where(labels == IGNORE, count * count, labels * count + logits.argmax(1)).flatten()
        pairs.scatter_add_(0, pair, torch.ones_like(pair))
    confusion = pairs[:-1].view(count, count).cpu()
    hit = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - hit
    occurs = confusion.sum(1) > 0
    return {label - 1: int(hit[label]) / int(union[label]) for label in range(1, count) if occurs[label]}


def _held_out(
    reader: Reader, held: FoldList, classes: tuple[int, ...], pixels: PixelSettings, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The held-out training images at the test transform, with their labels, in batches that are loaded ahead."""

    def load(rows: Sequence[ListRow]) -> tuple[Tensor, Tensor]:
        fitted = [fit(*reader.load("train", row.image), pixels.size, pixels.antialias) for row in rows]
        return torch.stack([one.image for one in fitted]), torch.stack([base_labels(one.mask.numpy(), classes) for one in fitted])

    pieces = (held.rows[start : start + batch] for start in range(0, len(held.rows), batch))
    return (found for _, found in ahead(load, ((None, piece) for piece in pieces)))
