"""Which of a test's parameters are always tried."""

from collections.abc import Iterable
from typing import Any

import pytest

from symnet.backbones import BACKBONES


def some(values: Iterable[Any], *always: Any) -> list[Any]:
    """Parameters of a test: `always` in every run, the other values in whole ones alone."""
    values = list(values)
    assert set(always) <= set(values)
    return [value if value in always else pytest.param(value, marks=pytest.mark.whole) for value in values]


ALIKE = ("resnet101", "resnet50_tv", "resnet101_tv")  # as others are
EVERY_BACKBONE = some(BACKBONES, *(name for name in BACKBONES if name not in ALIKE))  # a new one is always tried
