"""The public door to a method: images in, masks out, for all methods alike.

    from symnet.methods import PFENet
    model = PFENet.from_released(state_dict, shot=1, image_size=473)
    out = model(query, support, support_mask, text)

`symnet.methods` makes a subclass a method, which differ in `entry` alone.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import ClassVar, Literal, Self

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from symnet.backbones.base import load_exactly
from symnet.backbones.loading import build_backbone
from symnet.backbones.unasked import Unasked
from symnet.config import Settings
from symnet.config_data import PixelSettings
from symnet.methods import Entry, class_of
from symnet.methods.base import EpisodeBatch, Method
from symnet.model.base import PSPHead
from symnet.model.checks import check_episodes, check_shapes, check_size, check_truth
from symnet.model.released import backbone_of, plain_names, renamed
from symnet.model.resize import resize
from symnet.model.segmentation import cross_entropy

# The released code's beginnings of names, and ours, of what is not the method's own.
FROZEN = (
    ("layer{}.", "backbone.layer{}."),
    ("learner_base.0.features.{}.1.", "base.pyramid.{}.0."),
    ("learner_base.0.features.{}.2.", "base.pyramid.{}.1."),
    ("learner_base.1.", "base.classify."),
)


class Door(nn.Module):
    """A method whole: frozen backbone, unless it has one of its own; base learner where it reads one; trained part.

    `bn`: what batch norm of the frozen backbone does while the model is in training mode: keep its statistics (`eval`), or take the
    batch's, of queries and of each shot apart, and let its own drift (`train`, as some released code does).
    """

    entry: ClassVar[Entry]

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        backbone: str | None = None,
        base_classes: int = 15,
        base_width: int = 512,
        shot: int = 1,
        text: int = 300,
        bn: Literal["eval", "train"] = "eval",
    ) -> None:
        """settings: the backbone's name, `pixels.size` and the method's own are read; backbone: in place of the named one.

        base_classes, base_width: of a base learner.
        """
        super().__init__()
        settings = settings or Settings()
        kind: type[Method] = class_of(self.entry)
        check_size(settings.pixels.size, shot, kind.even_sizes)
        if bn not in ("eval", "train"):
            raise ValueError(f"bn: found {bn!r}, allowed: eval, train")
        self.image_size, self.shot, self.text, self.bn, self.base_classes = settings.pixels.size, shot, text, bn, base_classes
        network = build_backbone(backbone or settings.backbone.name).requires_grad_(False)
        self.backbone = Unasked(network.stride) if self.entry.images else network
        self.base = PSPHead(network.high_channels, base_classes + 1, base_width).requires_grad_(False) if kind.reads_base else None
        self.method = kind(settings, network, shot, text, network.side(self.image_size))
        self.eval()

    @classmethod
    def from_released(
        cls,
        state: Mapping[str, object],
        shot: int = 1,
        image_size: int = 473,
        scales: Sequence[float] | None = None,
        bn: Literal["eval", "train"] = "eval",
    ) -> Self:
        """The released model from its own state dict, or a checkpoint that holds one (`plain_names`), float32, in eval mode.

        Backbone, widths and base classes are read from the entries. scales: the decoder's, sides or fractions, where there are such.
        What a method samples at random it takes in the order of the known outputs (`CyCTR`, `QPENet`), until
        `model.method.head.transform.sampling` is `random`. Raises `ValueError` naming a missing, foreign or misshapen entry.
        """
        kind = class_of(cls.entry)
        check_size(image_size, shot, kind.even_sizes)
        tensors = {name: value for name, value in plain_names(state).items() if not name.startswith(kind.unused)}
        try:
            own = kind.released_settings(tensors, scales)
            widths = [tensors[name].shape[0] for name in kind.released_base if kind.reads_base]
        except KeyError as error:
            raise ValueError(f"no entry {error}: not a state dict of the released {cls.__name__}") from None
        except ValidationError as error:
            raise ValueError(f"scales: found {scales}, {'; '.join(one['msg'] for one in error.errors())}") from None
        settings = Settings(pixels=PixelSettings().model_copy(update={"size": image_size}), **own)  # a side that is checked already
        backbone = kind.released_backbone(tensors) or backbone_of(tensors)
        base = {"base_classes": widths[0] - 1, "base_width": widths[1]} if widths else {}
        model = cls(settings, backbone=backbone, shot=shot, bn=bn, **base)
        axes = {name: value.dim() for name, value in model.state_dict().items()}
        found = {}
        for name, value in tensors.items():
            ours = cls.our_name(name)
            linear = axes.get(ours) == 2 and value.shape[2:] == (1, 1)  # their 1x1 convolution over shots
            found[ours] = value.flatten(1) if linear else value
        load_exactly(model, found, cls.released_name)
        return model.float().eval()

    @classmethod
    def our_name(cls, released: str) -> str:
        """Our name of a released entry; a name without a counterpart comes back as it is, and is then refused as foreign."""
        return renamed(released, cls._names())

    @classmethod
    def released_name(cls, ours: str) -> str:
        """The inverse of `our_name`."""
        return renamed(ours, tuple((new, old) for old, new in cls._names()))

    @classmethod
    def _names(cls) -> tuple[tuple[str, str], ...]:
        return (*class_of(cls.entry).released, *FROZEN)

    def train(self, mode: bool = True) -> Self:
        """Only the method's own part trains: the base learner drops nothing, the backbone's batch norm does what `bn` says."""
        super().train(mode)
        self.backbone.train(mode and self.bn == "train")
        if self.base is not None:
            self.base.eval()
        return self

    def forward(self, query: Tensor, support: Tensor, support_mask: Tensor, text: Tensor, history: Tensor | None = None) -> SimpleNamespace:
        """query [B, 3, S, S], support [B, K, 3, S, S] (normalised), support_mask [B, K, S, S] in {0, 1, 255}, text [B, T].

        history [B, 2, s, s]: probabilities of an earlier answer, for a method that reads them; None: there is none.

        `final`, and the method's other logits and the base learner's (`base`), at the images' side: [B, 2, S, S]. Beside them what the
        method shows of its way there (`Method.shown`), as it is.
        """
        batch = self._batch(query, support, support_mask, text, history)
        shown = self.method.shown(self.backbone, batch)
        if batch.base_logits is not None:
            shown["base"] = batch.base_logits
        large = ("final", "base", *self.method.outputs)
        return SimpleNamespace(**{name: resize(value, self.image_size) if name in large else value for name, value in shown.items()})

    def losses(
        self,
        query: Tensor,
        support: Tensor,
        support_mask: Tensor,
        text: Tensor,
        query_mask: Tensor,
        base_mask: Tensor,
        base_index: Tensor,
        history: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The parts of the objective, scalars, as the method weighs them; `base` is the frozen base learner's, a constant.

        query_mask [B, S, S] in {0, 1, 255}; base_mask [B, S, S]: base class + 1, 0 background, 255 ignored; base_index [B]: the
        episode's class among the base classes, left out of p_base. These two are looked at where there is a base learner. history: as of
        `forward`.
        """
        classes = None if self.base is None else self.base_classes
        check_truth(query.shape[0], self.image_size, query_mask, base_mask, base_index, classes)
        episodes = self._batch(query, support, support_mask, text, history, query_mask, base_index)
        parts = self.method.losses(self.backbone, episodes)[1]
        return parts if episodes.base_logits is None else parts | {"base": cross_entropy(episodes.base_logits, base_mask.long())}

    @torch.no_grad()
    def _batch(
        self,
        query: Tensor,
        support: Tensor,
        support_mask: Tensor,
        text: Tensor,
        history: Tensor | None,
        query_mask: Tensor | None = None,
        base_index: Tensor | None = None,
    ) -> EpisodeBatch:
        """Features of the frozen pair, and the rest."""
        batch, s = query.shape[0], self.image_size
        check_episodes(s, self.shot, query, support, support_mask, text, self.text if self.method.reads_text else None)
        if history is not None:
            if not self.method.reads_history:
                raise ValueError(f"history: found one, but {type(self).__name__} reads none")
            check_shapes(history=(history, (batch, 2, *history.shape[-1:] * 2)))
        if self.method.masks_pixels:
            support = support * (support_mask == 1).unsqueeze(2)
        queries = self.backbone(query)
        if self.backbone.training:  # each shot by itself: batch norm sees a batch of it
            shots = [self._support_maps(support[:, k]) for k in range(self.shot)]
            supports = [torch.stack(maps, 1) for maps in zip(*shots, strict=True)]
        else:
            supports = [m.unflatten(0, (batch, self.shot)) for m in self._support_maps(support.flatten(0, 1))]
        return EpisodeBatch(
            query=queries,
            support=supports,
            query_mask=query.new_zeros((batch, s, s), dtype=torch.uint8) if query_mask is None else query_mask,
            support_mask=support_mask,
            base_logits=None if self.base is None else self.base(self.backbone.levels(queries).high),
            text=text,
            base_index=query.new_full((batch,), -1, dtype=torch.int64) if base_index is None else base_index,
            history=history,
            base_head=self.base,
            masked=self.method.masks_pixels,
        )

    def _support_maps(self, images: Tensor) -> list[Tensor]:
        """Block maps [n, C_i, H_i, W_i] of n supports, as far as the method reads them."""
        return self.backbone.until_last(images)[0] if self.method.masks_support else self.backbone(images)
