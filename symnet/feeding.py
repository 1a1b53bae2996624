"""What a method is fed with: block maps of the fold's frozen backbone, or images, for one that has a network of its own.

Images are the same views of the same images, transformed in the same way: of a feature cache only its list of views is used.
"""

from dataclasses import replace
from pathlib import Path

import torch

from symnet.backbones.unasked import Unasked
from symnet.base_learner import BaseLearner
from symnet.config import Settings
from symnet.data.readers import Split
from symnet.data.stored import Store
from symnet.methods import METHODS
from symnet.sources import DeviceImageSource, ImageSource, Source, ViewSource, open_source


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
    """The source of a method's features; arguments as of `open_source`."""
    if not METHODS[method].images:
        return open_source(settings, data_root, split, features, base, device, store)
    unasked = replace(base, backbone=Unasked(base.backbone.stride))
    images = open_source(settings, data_root, split, None, unasked, device, store)
    assert isinstance(images, (ImageSource, DeviceImageSource))
    return (images if features is None else ViewSource(features, images)).only((0,))
