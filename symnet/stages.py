"""The stages: which module does each, and which settings it depends on. The one source for workflow and commands.

A job reruns when its slice of the settings, the code it runs, or an input changes; this table says what the slice is.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from symnet.artifacts import digest
from symnet.backbones import BACKBONES
from symnet.config import SECTIONS, Settings
from symnet.errors import UserError, one_line
from symnet.experiment import Experiment
from symnet.methods import METHODS
from symnet.modules import codes, file_of
from symnet.overrides import leaves, merge, read_overrides
from symnet.validating import validate

_LISTS = ("protocol.novel_in_train", "protocol.min_pixels", "protocol.crowd", "protocol.split")
_NETWORK = ("backbone.name",)
_NUMBERS = ("features.dtype", "features.precision")


@dataclass(frozen=True)
class Stage:
    """`module` is where its code starts; `settings` are sections or `section.key`. `method`: also the method's own settings."""

    module: str
    settings: tuple[str, ...]
    method: bool = False


STAGES = {
    "shapes": Stage("symnet.data.shapes", ("shapes",)),
    "masks": Stage("symnet.data.masks", ("data", "protocol.crowd")),
    "folds": Stage("symnet.data.folds", ("data", *_LISTS)),
    "counts": Stage("symnet.report.counts", ("data.classes", "data.folds", *_LISTS)),
    "store": Stage("symnet.data.store", ("data", "protocol.crowd")),
    "episodes": Stage("symnet.data.episodes", ("protocol.episodes", "protocol.sampling")),
    "embeddings": Stage("symnet.embeddings", ("text", "data.classes")),
    "base": Stage("symnet.base_learner", ("data", *_LISTS, "pixels", "backbone", "base")),
    "features_test": Stage("symnet.features", ("data", *_LISTS, "pixels.size", "pixels.antialias", *_NETWORK, *_NUMBERS)),
    "features_train": Stage(
        "symnet.features",
        (
            *("data", *_LISTS, "pixels", *_NETWORK, *_NUMBERS, "base.holdout", "base.seed"),
            *("features.train_dtype", "features.train_views", "features.train_cache", "features.seed"),
        ),
    ),
    "records": Stage("symnet.records", ("pixels.size", *_NETWORK, "features.dtype")),
    "train": Stage(
        "symnet.train",
        (
            *("data", *_LISTS, "pixels", *_NETWORK, "features.train_views", "features.seed", "base.holdout", "base.seed"),
            *("protocol.selection", "train"),
        ),
        method=True,
    ),
    "evaluate": Stage(
        "symnet.evaluate",
        ("data", "protocol", "pixels.size", "pixels.antialias", *_NETWORK, "features.cache_test", "features.precision", "evaluate"),
        method=True,
    ),
    "gallery": Stage("symnet.gallery", ()),
    "tables": Stage("symnet.report.tables", ()),
    "luck": Stage("symnet.report.luck", ()),
    "costs": Stage("symnet.report.costs", ()),
    "figures": Stage("symnet.report.figures", ()),
    "track": Stage("symnet.tracking", ()),
}

# Modules that move values about but can change none: a new option or a better message must not retrain a benchmark. The registries
# stand here too, so that a new backbone or method reruns nothing of the others (each job adds the module it uses).
_PLUMBING = {
    "symnet",
    *(
        f"symnet.{name}"
        for name in (
            *("artifacts", "backbones", "cells", "config", "config_data", "config_methods", "costs", "errors", "experiment", "journal"),
            *("lease", "methods", "modules", "overlays", "prefetch", "progress", "protocols", "sections", "stages", "surroundings"),
            *("system", "validating", "watch"),
        )
    ),
    "symnet.data.stored",  # gives the pixels that the files give; what makes the store is a stage of its own
}


def stage_settings(stage: str, method: str | None = None) -> tuple[str, ...]:
    """The sections and keys that a stage (of a method, where it depends on one) depends on."""
    found = STAGES[stage]
    return found.settings + (METHODS[method].settings if found.method and method else ())


def slice_settings(settings: Settings, stage: str, method: str | None = None) -> dict[str, Any]:
    """The plain values of exactly those settings: {section: {key: value}}."""
    whole = settings.model_dump(mode="json")
    taken: dict[str, Any] = {}
    for name in stage_settings(stage, method):
        section, _, key = name.partition(".")
        taken.setdefault(section, {}).update({key: whole[section][key]} if key else whole[section])
    return taken


def settings_digest(settings: Settings, stage: str, method: str | None = None) -> str:
    """sha256 of the slice."""
    return digest(slice_settings(settings, stage, method))


def restrict(settings: Settings, stage: str, method: str | None = None) -> Settings:
    """The same settings with everything outside the slice taken away: to read such a key is an `AttributeError`.

    So a stage that reads a setting it does not declare fails the first time it runs, not the first time a rerun was needed.
    """
    sections = {}
    for name, values in slice_settings(settings, stage, method).items():
        section = getattr(settings, name)
        sections[name] = type(section).model_construct(**{key: getattr(section, key) for key in values})
        for key in set(type(section).model_fields) - set(values):
            del sections[name].__dict__[key]
    restricted = Settings.model_construct(**sections)
    for name in set(SECTIONS) - set(sections):
        del restricted.__dict__[name]
    return restricted


def read_slice(path: Path, stage: str, method: str | None = None, given: Sequence[str] = ()) -> Settings:
    """Settings from a resolved JSON that the workflow wrote, restricted to the stage. Raises `UserError`.

    given: `section.key=value` to be used in place of the file's.
    """
    found = read_resolved(path)
    over = read_overrides(given, str(path))
    for section, values in over.items():
        for key in values if isinstance(values, dict) else [""]:
            if key not in found.get(section, {}):
                near = [leaf for leaf in leaves(found) if leaf.startswith(f"{section}.") or leaf.endswith(f".{key}")]
                raise UserError(f"{path}: set: {section}.{key}: not a setting of this job; it has {', '.join(near or found)}")
    return slice_of(merge(found, over) if over else found, stage, method, str(path))


def read_resolved(path: Path) -> dict[str, Any]:
    """The plain values of a JSON that the workflow wrote. Raises `UserError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such settings file") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {one_line(error)}") from None


def slice_of(found: dict[str, Any], stage: str, method: str | None = None, where: str = "settings") -> Settings:
    """Settings from plain values, restricted to the stage. Raises `UserError`; `where` names their source."""
    return restrict(validate(Settings, found, where), stage, method)


def experiment_slice(experiment: Experiment, dataset: str, fold: int | None, stage: str, row: str | None = None) -> Settings:
    """As `read_slice`, from an experiment file. row: a method or a variant of one."""
    return restrict(experiment.settings(dataset, fold, row), stage, row and experiment.method_of(row))


def code_of(stage: str, method: str | None = None, backbone: str | None = None) -> dict[str, str]:
    """The code that a stage runs, module to sha256: its own and all of symnet that it imports, without comments and docstrings."""
    roots = [STAGES[stage].module]
    if STAGES[stage].method and method:
        roots.append(METHODS[method].module)
    if backbone and "backbone.name" in _keys(stage, method):
        roots.append(BACKBONES[backbone][0])
    return _hash_modules(tuple(roots))


def code_hash(stage: str, method: str | None = None, backbone: str | None = None) -> str:
    """The digest of `code_of`."""
    return digest(code_of(stage, method, backbone))


def module_hash(name: str) -> str:
    """As `code_hash`, of a module that is no stage's."""
    return digest(_hash_modules((name,)))


def source_of(module: str) -> str:
    """`symnet/model/prior.py`, of a module that there is or was."""
    path = file_of(module)
    return str(path.relative_to(Path(__file__).parent.parent)) if path else f"{module.replace('.', '/')}.py"


def _keys(stage: str, method: str | None) -> set[str]:
    names = stage_settings(stage, method)
    return {*names, *(["backbone.name"] if "backbone" in names else [])}


@cache
def _hash_modules(roots: tuple[str, ...]) -> dict[str, str]:
    return codes(roots, _PLUMBING)
