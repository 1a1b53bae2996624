"""Settings of the methods beside Sym-Net: a section each, which only its own jobs depend on (methods/__init__.py)."""

from typing import Literal

from pydantic import Field

from symnet.sections import Scales, Section, Sides


class PFENetSettings(Section):
    """PFENet."""

    channels: int = Field(256, ge=8, description="width of reduced features and decoder")
    scales: Scales = Field(
        None,
        min_length=1,
        description="sides of the decoder's scales, finest first; up to 1: fractions of the features' side, as its COCO files have them; "
        "null: 60/30/15/8 at 473 px, 81/40/20/10 at 641, else halves",
    )


class BAMSettings(Section):
    """BAM."""

    channels: int = Field(256, ge=8, description="width of reduced features and decoder")


class HSNetSettings(Section):
    """HSNet."""

    border: Literal["ignore", "background"] = Field(
        "ignore", description="the query's pixels of 255 in the loss: left out, or background as in its released code"
    )


class MIANetSettings(Section):
    """MIANet."""

    channels: int = Field(256, ge=8, description="width of reduced features and decoder")
    scales: Sides = Field(
        None,
        min_length=1,
        description="sides of the decoder's scales and of their priors, finest first; null: 60/30/15/8 at 473 px, 81/40/20/10 at 641, else "
        "halves, whose priors can be recorded",
    )


class CycleSettings(Section):
    """CyCTR's transformer."""

    channels: int = Field(256, ge=8, multiple_of=8, description="width of reduced features and transformer, a multiple of 8")
    sampling: Literal["random", "first"] = Field(
        "random",
        description="which support positions are attended to: drawn, in a test by the episode's masks; or those that come first, "
        "as in the outputs that are known of the released code",
    )
    labels: Literal["own", "slipped"] = Field(
        "own", description="labels of the drawn positions in the cycle check: their own, or those that the released code reads by a slip"
    )


class CyCTRSettings(CycleSettings):
    """CyCTR."""


class QPENetSettings(CycleSettings):
    """QPENet."""
