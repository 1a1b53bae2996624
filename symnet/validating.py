"""Plain values, checked against a model of settings; what is wrong with them, in one line."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from symnet.errors import UserError, one_line

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def validate(
    model: type[AnyModel], found: Mapping[str, Any], where: str, hidden: Collection[str] = (), more: Collection[str] = ()
) -> AnyModel:
    """The model made of `found`. Raises `UserError`: `where`, the key, the value, what is allowed.

    hidden: fields of the model that are no keys of the user's; more: keys that are, and no fields.
    """
    try:
        # strict sections take JSON's types: a list for a tuple, an integer for a float, never a string for a number
        return model.model_validate_json(_to_json(found, where))
    except ValidationError as error:
        first = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        key = ".".join(str(part) for part in first["loc"] if part not in hidden) or "the whole"
        value = "" if unknown or first["type"] == "missing" else f", found {first['input']!r}"
        message = "unknown key" if unknown else re.sub(r"^Value error, ", "", first["msg"])
        hint = _allowed(model, first["loc"], hidden, more) if unknown else ""
        raise UserError(one_line(f"{where}: {key}: {message}{value}{hint}")) from None


def _to_json(found: Mapping[str, Any], where: str) -> str:
    try:
        return json.dumps(found)
    except TypeError as error:
        raise UserError(f"{where}: {one_line(error)}") from None


def _allowed(model: type[BaseModel], loc: tuple[int | str, ...], hidden: Collection[str], more: Collection[str]) -> str:
    """The keys allowed where an unknown one was found."""
    whole = model
    for part in loc[:-1]:
        if isinstance(part, int):  # of a list
            continue
        field = model.model_fields.get(part)
        inner = field and _model_in(field.annotation)
        if inner is None:
            return ""
        model = inner
    names = [*model.model_fields] if model is not whole else [*(name for name in model.model_fields if name not in hidden), *more]
    return f"; allowed: {', '.join(names)}"


def _model_in(kind: Any) -> type[BaseModel] | None:
    """The model that a field holds, by itself or in a list; a mapping's keys are names of the user's."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    held = [] if get_origin(kind) is dict else get_args(kind)
    return next((model for one in held if (model := _model_in(one))), None)
