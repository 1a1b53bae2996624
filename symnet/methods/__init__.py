"""What a table's row is: the methods, by name.

A method is one file here, an entry below and its tests. The entry names the settings it depends on, so that changing another
method's settings or adding a method reruns nothing of it.

`from symnet.methods import PFENet` gives the public door to a method (`symnet.methods.door`), made when it is asked for.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from symnet.config import Settings
from symnet.config_methods import Recipe
from symnet.errors import UserError

if TYPE_CHECKING:
    from symnet.methods.base import Method

Parts = Callable[[Settings], tuple[str, ...]]


@dataclass(frozen=True)
class Entry:
    """Where a method lives. `settings`: sections it depends on beside the stage's own; `trained`: whether it has a training stage.

    `records`: the parts of episode records (model/episode.py) that it reads with these settings; none: it needs all block maps.
    `door`: the public name of the model that it is, where it has one here. `images`: whether it is fed images in the place of the
    backbone's block maps, as their one map (`symnet.feeding`).
    """

    module: str
    kind: str
    settings: tuple[str, ...]
    trained: bool
    records: Parts = lambda settings: ()
    door: str = ""
    images: bool = False


METHODS = {
    "prototype": Entry("symnet.methods.prototype", "Prototype", (), trained=False),
    "symnet": Entry("symnet.methods.symnet", "SymNetMethod", ("model",), True, lambda s: s.model.parts),
    "pfenet": Entry("symnet.methods.pfenet", "PFENetMethod", ("pfenet",), True, lambda s: ("twice",), "PFENet"),
    "bam": Entry("symnet.methods.bam", "BAMMethod", ("bam",), True, lambda s: ("twice",), "BAM"),
    "hsnet": Entry("symnet.methods.hsnet", "HSNetMethod", ("hsnet",), True, door="HSNet"),
    "mianet": Entry("symnet.methods.mianet", "MIANetMethod", ("mianet",), True, lambda s: () if s.mianet.scales else ("hpm",), "MIANet"),
    "fecanet": Entry("symnet.methods.fecanet", "FECANetMethod", ("fecanet",), True, door="FECANet"),
    "dcama": Entry("symnet.methods.dcama", "DCAMAMethod", ("dcama",), True, door="DCAMA"),
    "cyctr": Entry("symnet.methods.cyctr", "CyCTRMethod", ("cyctr",), True, lambda s: ("pfenet",), "CyCTR"),
    "qpenet": Entry("symnet.methods.qpenet", "QPENetMethod", ("qpenet",), True, lambda s: ("twice",), "QPENet"),
    "ntrenet": Entry("symnet.methods.ntrenet", "NTRENetMethod", ("ntrenet",), True, lambda s: ("twice",)),
    "hpa": Entry("symnet.methods.hpa", "HPAMethod", ("hpa",), True, lambda s: ("twice",)),
    "ssp": Entry("symnet.methods.ssp", "SSPMethod", ("ssp",), True, door="SSP", images=True),
    "hdmnet": Entry("symnet.methods.hdmnet", "HDMNetMethod", ("hdmnet",), True, lambda s: ("cosine",), "HDMNet"),
}
METHOD_SECTIONS = tuple(dict.fromkeys(section for entry in METHODS.values() for section in entry.settings))


def known_method(name: str) -> str:
    """`name`, if there is such a method. Raises `UserError`."""
    if name not in METHODS:
        raise UserError(f"method: found '{name}', allowed: {', '.join(METHODS)}")
    return name


def method_class(name: str) -> type["Method"]:
    """The class of a method. Raises `UserError` for an unknown name."""
    return class_of(METHODS[known_method(name)])


def class_of(entry: Entry) -> type["Method"]:
    """The class of an entry."""
    return getattr(importlib.import_module(entry.module), entry.kind)


def own_settings(settings: Settings, name: str) -> dict[str, Any] | None:
    """The plain values of a method's own sections, as its model files hold them; None of a method that has none."""
    found: dict[str, Any] = {}
    for section in METHODS[name].settings:
        found |= getattr(settings, section).model_dump(mode="json")
    return found or None


def recipe_of(settings: Settings, name: str) -> Recipe:
    """How a method's authors optimise it, as its own section says; None: as `train` says."""
    return next((section.recipe for key in METHODS[name].settings if hasattr(section := getattr(settings, key), "recipe")), None)


@cache
def __getattr__(name: str) -> Any:
    """The door of a method, by its public name: a subclass of `door.Door`."""
    for entry in METHODS.values():
        if name == entry.door:
            door = importlib.import_module("symnet.methods.door").Door
            return type(name, (door,), {"entry": entry, "__module__": __name__, "__doc__": f"{name}.\n\n    {door.__doc__}"})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
