"""Every setting of a job, its type, its limits and its default: the one source of all of them.

`symnet.experiment` merges an experiment file into the frozen `Settings` of one data set, fold and row; `symnet.stages` says which of
them each stage depends on.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from symnet.backbones import BACKBONES
from symnet.config_data import DataSettings, PixelSettings, ProtocolSettings, ShapesSettings, StoreSettings, TextSettings
from symnet.config_methods import (
    BAMSettings,
    CyCTRSettings,
    DCAMASettings,
    FECANetSettings,
    HDMNetSettings,
    HPASettings,
    HSNetSettings,
    MIANetSettings,
    NTRENetSettings,
    PFENetSettings,
    QPENetSettings,
    SSPSettings,
)
from symnet.sections import Fraction, Name, PrecisionName, Scale, Section, Side


def _known_backbone(name: str) -> str:
    if name not in BACKBONES:
        raise ValueError(f"allowed: {', '.join(BACKBONES)}")
    return name


class BackboneSettings(Section):
    """The feature extractor and where its ImageNet weights are."""

    name: Annotated[str, AfterValidator(_known_backbone)] = Field(
        "resnet50",
        json_schema_extra={"enum": list(BACKBONES)},
        description="resnet50, resnet101: PSPNet's deep stem, dilated; _tv: torchvision's stem and weight files; vgg16_bn: stride 16",
    )
    weights: str = Field(
        "weights/resnet50-imagenet.pth", description="ImageNet weights, relative to data_root; `package` for efficientnet_lite0's own"
    )


class OptimiserSettings(Section):
    """SGD with momentum and a polynomial decay per step."""

    epochs: int = Field(1, ge=1, description="passes over the fold's training images, last partial batch dropped")
    steps: int | None = Field(None, ge=1, description="steps, in place of epochs")
    batch_size: int = Field(8, ge=1, description="global batch, episodes or images")
    lr: float = Field(0.05, gt=0, description="initial rate (the released code's 0.005 x 10)")
    momentum: Fraction = Field(0.9, description="share of the last step kept in the next")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty of the weights, as in SGD")
    power: float = Field(0.9, ge=0, description="exponent of the polynomial decay")
    seed: int = Field(321, ge=0, description="initial weights, episodes, augmentation, dropout")

    def total_steps(self, images: int) -> int:
        """Steps of the whole run over a list of `images` images."""
        return self.steps or self.epochs * max(images // self.batch_size, 1)


class BaseSettings(OptimiserSettings):
    """The base learner: PSPNet over the fold's base classes (BAM's recipe)."""

    epochs: int = Field(100, ge=1, description="passes over the fold's training images, last partial batch dropped")
    batch_size: int = Field(12, ge=1, description="images a step")
    lr: float = Field(2.5e-4, gt=0, description="initial rate of the backbone")
    head_lr_factor: float = Field(10.0, gt=0, description="rate of the head over the backbone's")
    train_backbone: bool = Field(True, description="false: the backbone stays at its ImageNet weights (small data, CPU)")
    images: Literal["all", "fold"] = Field(
        "all", description="all: every training image, novel classes painted background (BAM's code); fold: the fold's own train list"
    )
    size: Side = Field(417, ge=33, description="side of the training crop, 8n+1")
    width: int = Field(512, ge=8, description="channels of the head's last but one convolution")
    scale: Scale = Field((0.5, 2.0), description="range of the random scale")
    floor: Fraction = Field(0.05, description="mIoU over base classes, 0 to 1, below which the fold stops")
    holdout: Fraction = Field(0.1, description="share of training images kept for the mIoU and for selection base_val")


class FeatureSettings(Section):
    """What is kept in HDF5 of the frozen backbone: block maps of images, records of test episodes."""

    cache_test: bool = Field(True, description="cache the test images' block maps; false: evaluation recomputes them")
    train_views: int = Field(
        0, ge=0, description="fixed, seeded, augmented views of each training image; 0: training augments and recomputes"
    )
    records: bool = Field(
        True,
        description="with cache_test: what of a test episode no trained weight changes (correlations, priors) is computed once for all "
        "rows, and when a row is trained anew; PASCAL 0.6 GB a fold and shot; false: by each evaluation",
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="number format of cached maps and records")
    precision: PrecisionName = Field(
        "float32",
        description="number format in which the backbone computes what is cached, and test images that are not; as train.precision",
    )
    train_dtype: Literal["float16", "float32", "int8"] | None = Field(
        None,
        description="number format of the training cache; null: dtype. int8: half of float16, by a range per image and channel; "
        "maps are 0.6 % off (Lite0 on photographs). Test images are never int8: a figure has to mean the same",
    )
    train_cache: Literal["always", "auto"] = Field(
        "always",
        description="auto: the views' maps are kept only where this machine reads them faster than it computes them, measured when the "
        "cache is made; else it holds their masks, and training computes the same views, as they are. `train_views: 0` is another "
        "training, and never chosen by itself",
    )
    seed: int = Field(0, ge=0, description="seed of the views")


class ModelSettings(Section):
    """Sym-Net. `variant` sets every piece; a piece named on its own overrides it."""

    variant: Literal["paper", "released"] = Field("paper", description="the equations as printed, or what the released code computes")
    prior: Literal["spm", "hpm", "pfenet"] = Field(
        "spm", description="prior mask: SPM, MIANet's hierarchical one (HPM), or PFENet's maximum cosine (no SPM)"
    )
    apa: bool = Field(True, description="aggregate prototypes by attention (needs prior spm); false: masked average pooling only")
    tdc: bool = Field(True, description="hyper-correlation features")
    query_prototype: bool = Field(True, description="APA: the query branch (Table 5)")
    text: bool = Field(True, description="APA: class vectors (Table 5)")
    triplet: bool = Field(True, description="the co-triplet loss")
    triplet_distance: Literal["normalised", "printed"] = Field("normalised", description="printed: eq. 12 literally, which diverges")
    meta_loss: bool | None = Field(None, description="cross-entropy on the meta logits; null: as the variant (released yes, paper no)")
    attention: Literal["paper", "released"] | None = Field(None, description="APA's attention; null: as the variant")
    fusion: Literal["paper", "released"] | None = Field(None, description="TDC's fusion: concatenations or sums; null: as the variant")
    shot_weights: Literal["mean", "gram"] | None = Field(
        None, description="K-shot weights; null: as the variant (paper mean, released gram)"
    )
    tau1: Fraction = Field(0.7, description="eq. 5: prior above it is foreground")
    tau2: Fraction = Field(0.4, description="eq. 10: prior below it is background")
    tau3: Fraction = Field(0.4, description="eq. 11: lower end of the hard positives")
    tau4: Fraction = Field(0.55, description="eq. 11: upper end of the hard positives")
    alpha: float = Field(0.5, ge=0, description="eq. 9: weight of the query prototype")
    beta: float = Field(0.5, ge=0, description="eq. 9: weight of the support prototype")
    channels: int = Field(256, ge=8, description="c, the width of reduced features and decoder")
    hyper_channels: int = Field(48, ge=1, description="N', the width of the hyper-correlation")
    margin: float = Field(0.5, ge=0, description="eq. 12")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of an episode record that it reads (model/episode.py)."""
        return (self.prior, *["tdc"] * self.tdc)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tau3 >= self.tau4:
            raise ValueError(f"tau3 ({self.tau3}) must be below tau4 ({self.tau4})")
        if self.apa and self.prior == "pfenet":
            raise ValueError("apa needs prior spm or hpm: its query prototype is drawn by their thresholds (found prior: pfenet)")
        return self


class TrainSettings(OptimiserSettings):
    """The meta stage.

    Whatever `protocol.selection` says, the images of `base.holdout` are not trained on, with `last` neither: the base learner did not see
    them, and the training cache holds no augmented views of them.
    """

    epochs: int = Field(200, ge=1, description="passes over the fold's training images, last partial batch dropped")
    class_sampling: Literal["image", "uniform"] = Field(
        "image", description="training episodes: query image first, or class first, uniform"
    )
    validate_every: int | None = Field(None, ge=1, description="steps between validations; null: once an epoch")
    validation_episodes: int = Field(200, ge=1, description="episodes a validation")
    accumulate: int = Field(1, ge=1, description="micro-batches that a batch is cut into, for less memory and the same gradients")
    precision: PrecisionName = Field(
        "auto",
        description="number format of the frozen part and of the head's products; weights, losses and thresholds are float32; float16: of "
        "the frozen part alone. auto: bfloat16 on a GPU (float16 where it has no bfloat16), float32 on a CPU",
    )
    compile: Literal["auto", "off", "graph", "compile"] = Field(
        "auto",
        description="off: step by step; graph: the step as a CUDA graph; compile: that, and the head by torch.compile. auto: off on a CPU, "
        "on a GPU what a trial of each finds fastest",
    )
    channels_last: bool | Literal["auto"] = Field("auto", description="channels as the innermost axis; auto: on a GPU")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size ({self.batch_size}) must be divisible by accumulate ({self.accumulate})")
        return self


class EvaluateSettings(Section):
    """Testing."""

    batch_size: int | None = Field(None, ge=1, description="episodes a batch, fewer where memory is short; null: 8 on a CPU, 32 on a GPU")
    precision: PrecisionName = Field("float32", description="number format of the head's products while testing; as train.precision")


class GallerySettings(Section):
    """Test episodes that figures show: supports, priors, and the predictions of rows side by side. No number depends on them."""

    seed: int | None = Field(None, ge=0, description="test round that they are of; null: the first of seeds")
    rows: tuple[Name, ...] = Field((), description="rows that are shown, in this order; none: all of methods")
    subject: Name | None = Field(None, description="row whose failures and regions of tau are shown; null: the last of rows")
    classes: int = Field(2, ge=0, description="classes of a fold of which the first episode of the round is shown")
    episodes: dict[int, tuple[int, ...]] = Field(
        {}, description="fold to numbers of episodes (from 0, in the round), to be shown in place of the first ones"
    )
    failures: int = Field(1, ge=0, description="episodes of each class with the lowest IoU of the subject's best output, shown as failures")


class Settings(Section):
    """All that a stage may depend on, for one data set and fold."""

    data: DataSettings = DataSettings()
    store: StoreSettings = StoreSettings()
    shapes: ShapesSettings = ShapesSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    pixels: PixelSettings = PixelSettings()
    backbone: BackboneSettings = BackboneSettings()
    text: TextSettings = TextSettings()
    base: BaseSettings = BaseSettings()
    features: FeatureSettings = FeatureSettings()
    model: ModelSettings = ModelSettings()
    pfenet: PFENetSettings = PFENetSettings()
    bam: BAMSettings = BAMSettings()
    hsnet: HSNetSettings = HSNetSettings()
    mianet: MIANetSettings = MIANetSettings()
    fecanet: FECANetSettings = FECANetSettings()
    dcama: DCAMASettings = DCAMASettings()
    cyctr: CyCTRSettings = CyCTRSettings()
    qpenet: QPENetSettings = QPENetSettings()
    ntrenet: NTRENetSettings = NTRENetSettings()
    hpa: HPASettings = HPASettings()
    ssp: SSPSettings = SSPSettings()
    hdmnet: HDMNetSettings = HDMNetSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gallery: GallerySettings = GallerySettings()


SECTIONS = tuple(Settings.model_fields)
