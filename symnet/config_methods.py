"""Settings of the methods beside Sym-Net: a section each, which only its own jobs depend on (methods/__init__.py)."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from symnet.sections import Fraction, Scales, Section, Share, Sides

Border = Annotated[
    Literal["ignore", "background"],
    Field(description="the query's pixels of 255 in the loss: left out, or background as in its released code"),
]


class Group(Section):
    """Parameters that are optimised alike. A method's `recipe` is a list of such groups; steps, batch and seed are `train`'s for all."""

    names: str = Field(
        "*", description="pattern of names of parameters, as a model file has them (`*`: anything), among those that no earlier group took"
    )
    optimiser: Literal["sgd", "nesterov", "adam", "adamw"] = Field(description="nesterov: SGD with Nesterov's momentum")
    lr: float = Field(gt=0, description="initial rate")
    decay: Literal["poly", "constant", "thirds"] = Field(
        description="of the rate. poly: to 0, as `power` says; thirds: to a tenth after a third of the steps, to a hundredth after two"
    )
    weight_decay: float = Field(ge=0, description="L2 penalty of the weights; adamw: how much of the rate they shrink by in a step")
    momentum: Fraction = Field(0.9, description="share of the last step kept in the next; the first beta of Adam, whose second is 0.999")
    power: float = Field(0.9, ge=0, description="exponent of poly")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.optimiser == "nesterov" and self.momentum == 0:
            raise ValueError("momentum must be above 0 for nesterov")
        if self.optimiser in ("adam", "adamw") and self.momentum == 1:
            raise ValueError(f"momentum must be below 1 for {self.optimiser}")
        return self


def _whole(recipe: tuple[Group, ...] | None) -> tuple[Group, ...] | None:
    if recipe is not None and (not recipe or recipe[-1].names != "*"):
        raise ValueError("the last group must take what is left (names '*')")
    return recipe


Recipe = Annotated[tuple[Group, ...] | None, AfterValidator(_whole)]


def printed(*groups: Group) -> Any:
    """The field `recipe`, with the groups that the method's authors train by."""
    return Field(
        groups, description="optimisers, rates and decays, its authors' by default: groups (last table); null: SGD as `train` says"
    )


def sgd(lr: float) -> Group:
    """What most of the field trains by."""
    return Group(optimiser="sgd", lr=lr, decay="poly", weight_decay=1e-4)


ADAM = Group(optimiser="adam", lr=1e-3, decay="constant", weight_decay=0)  # HSNet's, and FECANet's


class PFENetSettings(Section):
    """PFENet."""

    recipe: Recipe = printed(sgd(0.025))
    channels: int = Field(256, ge=8, description="width of reduced features and decoder")
    scales: Scales = Field(
        None,
        min_length=1,
        description="sides of the decoder's scales, finest first; up to 1: fractions of the features' side, as its COCO files have them; "
        "null: 60/30/15/8 at 473 px, 81/40/20/10 at 641, else halves",
    )


class BAMSettings(Section):
    """BAM."""

    recipe: Recipe = printed(sgd(0.05))
    channels: int = Field(256, ge=8, description="width of reduced features and decoder")


class HSNetSettings(Section):
    """HSNet."""

    recipe: Recipe = printed(ADAM)
    border: Border = "ignore"


class FECANetSettings(Section):
    """FECANet."""

    recipe: Recipe = printed(ADAM)
    border: Border = "ignore"
    masked: bool = Field(True, description="whether the support's block maps are masked before they are correlated; its released code: no")
    values: Literal["attended", "own"] = Field(
        "attended", description="what an image gathers: features of the other that it attends to, or its own there, as its released code"
    )
    recall: Fraction = Field(0.3, description="share of training queries whose decoder sees an earlier answer")


class DCAMASettings(Section):
    """DCAMA."""

    recipe: Recipe = printed(Group(optimiser="nesterov", lr=1e-3, decay="constant", weight_decay=1e-4))
    border: Border = "ignore"
    dropout: Share = Field(0.5, description="of positions' features and of attention weights, in training")


class MIANetSettings(Section):
    """MIANet."""

    recipe: Recipe = printed(sgd(0.05))
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

    recipe: Recipe = printed(
        Group(names="head.transform.*bias", optimiser="adamw", lr=1e-4, decay="constant", weight_decay=0),
        Group(names="head.transform.*", optimiser="adamw", lr=1e-4, decay="constant", weight_decay=0.01),
        sgd(0.0375),
    )


class SSPSettings(Section):
    """SSP."""

    recipe: Recipe = printed(Group(optimiser="sgd", lr=1e-3, decay="thirds", weight_decay=5e-4))
    refine: bool = Field(True, description="whether the query supports itself a second time, as for its printed numbers")


class QPENetSettings(CycleSettings):
    """QPENet."""

    recipe: Recipe = printed(sgd(0.025))


class NTRENetSettings(Section):
    """NTRENet."""

    recipe: Recipe = printed(sgd(0.025))
    channels: int = Field(256, ge=8, description="width of reduced features and decoder")


class HPASettings(Section):
    """HPA."""

    recipe: Recipe = printed(sgd(0.05))
    channels: int = Field(256, ge=8, description="width of reduced features and decoder")
    auxiliary: Literal["mse", "cross_entropy"] = Field(
        "mse", description="loss of the probability map: squared error, or the cross-entropy of the map and 1 less it as logits"
    )
    weight: float = Field(1.0, ge=0, description="of that loss beside the prediction's; its released value is not known")


class HDMNetSettings(Section):
    """HDMNet."""

    recipe: Recipe = printed(
        Group(names="head.match.*", optimiser="adamw", lr=1e-4, decay="poly", weight_decay=0.01),
        Group(optimiser="adamw", lr=1e-3, decay="poly", weight_decay=0.01),
    )
    channels: int = Field(256, ge=8, description="width of reduced features")
    tokens: int = Field(64, ge=8, multiple_of=8, description="width of what attends, a multiple of 8")
    shot_weights: Literal["own", "sorted"] = Field(
        "own",
        description="weights of several shots' psi: each shot's own, or in the order of their sizes whichever shot has them, a slip of the "
        "released code",
    )
