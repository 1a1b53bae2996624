"""What a method is fed with: block maps of the fold's frozen backbone, or images, for one that has a network of its own.

Images are the same views of the same images, transformed in the same way: of a feature cache only its list of views is used.
"""

from dataclasses import replace
from pathlib import Path

import torch

from symnet.backbones.unasked import Unasked
from symnet.base_learner import BaseLearner
from symnet.config import Settings
from symnet.data.readers import Split, open_reader
from symnet.data.stored import Store
from symnet.features import keeps_maps
from symnet.image_sources import DeviceImageSource, ImageSource, ViewSource
from symnet.methods import METHODS
from symnet.sources import CacheSource, Source


def feed(
    method: str,
    settings: Settings,
    data_root: Path,
    split: Split,
    features: Path | None,
    base: BaseLearner,
    device: torch.device,
    store: Store | None = None,
) -> Source:
    """The source of a method's features: the cache where there is one, else the images, from their store where there is one.

    Either way block maps come in the number format in which `base` answers.
    """
    of_images = METHODS[method].images
    if not of_images and features is not None and keeps_maps(features):
        return CacheSource(features, device, next(base.head.parameters()).dtype)
    if of_images:
        base = replace(base, backbone=Unasked(base.backbone.stride))
    source: type[ImageSource | DeviceImageSource] = ImageSource if device.type == "cpu" else DeviceImageSource
    images = source(settings, open_reader(settings.data, settings.protocol, data_root, store=store), split, base, device)
    found = images if features is None else ViewSource(features, images)
    return found.only((0,)) if of_images else found
