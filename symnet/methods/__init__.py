"""What a table's row is: the methods, by name.

A method is one file here, an entry below and its tests. The entry names the settings it depends on, so that changing another
method's settings or adding a method reruns nothing of it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symnet.config import Settings
from symnet.errors import UserError

if TYPE_CHECKING:
    from symnet.methods.base import Method

Parts = Callable[[Settings], tuple[str, ...]]


@dataclass(frozen=True)
class Entry:
    """Where a method lives. `settings`: sections it depends on beside the stage's own; `trained`: whether it has a training stage.

    `records`: the parts of episode records (model/episode.py) that it reads with these settings; none: it needs all block maps.
    """

    module: str
    kind: str
    settings: tuple[str, ...]
    trained: bool
    records: Parts = lambda settings: ()


METHODS = {
    "prototype": Entry("symnet.methods.prototype", "Prototype", (), trained=False),
    "symnet": Entry("symnet.methods.symnet", "SymNetMethod", ("model",), True, lambda s: (s.model.prior, *["tdc"] * s.model.tdc)),
}


def known_method(name: str) -> str:
    """`name`, if there is such a method. Raises `UserError`."""
    if name not in METHODS:
        raise UserError(f"method: found '{name}', allowed: {', '.join(METHODS)}")
    return name


def method_class(name: str) -> type["Method"]:
    """The class of a method. Raises `UserError` for an unknown name."""
    entry = METHODS[known_method(name)]
    return getattr(importlib.import_module(entry.module), entry.kind)
