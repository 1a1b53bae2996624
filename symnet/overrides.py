"""Single settings given on a command line: `train.steps=10`, after `symnet ... --set` or in `snakemake --config set='...'`."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from symnet.errors import UserError, one_line


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping; anything else is replaced. A later `epochs` takes the place of an earlier `steps`."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    if "epochs" in over and "steps" not in over:
        merged.pop("steps", None)
    return merged


def read_overrides(texts: object, where: str) -> dict[str, Any]:
    """What `texts` say, each `key.path=value`, as plain nested values; a later one over an earlier.

    A string is split as a shell splits words. Values are YAML, but that `1e-3` is a number as it is in JSON; a part of a key that is a
    number is a fold. Raises `UserError`, which names `where`.
    """
    if isinstance(texts, str):
        texts = _words(texts, where)
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: set: found {texts!r}, expected key.path=value, several with spaces between and lists without")
    whole: dict[str, Any] = {}
    for text in texts:
        path, equals, value = text.partition("=")
        parts = path.split(".")
        if not (equals and all(parts)):
            raise UserError(f"{where}: set: found '{text}', expected key.path=value, as train.steps=10")
        tree: Any = _value(value, f"{where}: set: {path}")
        for part in reversed(parts):
            tree = {int(part) if part.isdecimal() else part: tree}
        whole = merge(whole, tree)
    return whole


def leaves(tree: Mapping[Any, Any], at: str = "") -> Iterator[str]:
    """The dotted key of every value that is no mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _words(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{where}: set: found {text!r}: {one_line(error)}") from None


def _value(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not readable as YAML: {one_line(error)}") from None
