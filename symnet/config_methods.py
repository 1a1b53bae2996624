"""Settings of the methods beside Sym-Net: a section each, which only its own jobs depend on (methods/__init__.py)."""

from typing import Annotated, Literal

from pydantic import Field

from symnet.sections import Fraction, Scales, Section, Share, Sides

Border = Annotated[
    Literal["ignore", "background"],
    Field(description="the query's pixels of 255 in the loss: left out, or background as in its released code"),
]


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

    border: Border = "ignore"


class FECANetSettings(Section):
    """FECANet."""

    border: Border = "ignore"
    masked: bool = Field(True, description="whether the support's block maps are masked before they are correlated; its released code: no")
    values: Literal["attended", "own"] = Field(
        "attended", description="what an image gathers: features of the other that it attends to, or its own there, as its released code"
    )
    recall: Fraction = Field(0.3, description="share of training queries whose decoder sees an earlier answer")


class DCAMASettings(Section):
    """DCAMA."""

    border: Border = "ignore"
    dropout: Share = Field(0.5, description="of positions' features and of attention weights, in training")


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


class SSPSettings(Section):
    """SSP."""

    refine: bool = Field(True, description="whether the query supports itself a second time, as for its printed numbers")


class QPENetSettings(CycleSettings):
    """QPENet."""


class NTRENetSettings(Section):
    """NTRENet."""

    channels: int = Field(256, ge=8, description="width of reduced features and decoder")


class HPASettings(Section):
    """HPA."""

    channels: int = Field(256, ge=8, description="width of reduced features and decoder")
    auxiliary: Literal["mse", "cross_entropy"] = Field(
        "mse", description="loss of the probability map: squared error, or the cross-entropy of the map and 1 less it as logits"
    )
    weight: float = Field(1.0, ge=0, description="of that loss beside the prediction's; its released value is not known")


class HDMNetSettings(Section):
    """HDMNet."""

    channels: int = Field(256, ge=8, description="width of reduced features")
    tokens: int = Field(64, ge=8, multiple_of=8, description="width of what attends, a multiple of 8")
    shot_weights: Literal["own", "sorted"] = Field(
        "own",
        description="weights of several shots' psi: each shot's own, or in the order of their sizes whichever shot has them, a slip of the "
        "released code",
    )
