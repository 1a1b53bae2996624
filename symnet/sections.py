"""What every group of settings is made of: the base class, and kinds of values that are checked alike wherever they stand."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]


def _eight_n_plus_one(size: int) -> int:
    if size % 8 != 1:
        raise ValueError(f"must be 8n+1 (nearest: {size // 8 * 8 + 1})")
    return size


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError("must be [low, high] with 0 < low <= high")
    return scale


def _falling(scales: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if scales is not None and any(later >= earlier for earlier, later in pairwise(scales)):
        raise ValueError("must fall")
    return scales


Side = Annotated[int, AfterValidator(_eight_n_plus_one)]
Scale = Annotated[tuple[float, float], AfterValidator(_ordered)]
Scales = Annotated[tuple[Annotated[float, Field(gt=0)], ...] | None, AfterValidator(_falling)]
Sides = Annotated[tuple[Annotated[int, Field(ge=1)], ...] | None, AfterValidator(_falling)]


class Section(BaseModel):
    """A group of settings: immutable, no unknown key, a default for each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
