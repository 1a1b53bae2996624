"""Every setting of a job, its type, its limits and its default: the one source of all of them.

`symnet.experiment` merges an experiment file into the frozen `Settings` of one data set, fold and row; `symnet.stages` says which of
them each stage depends on.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from symnet.backbones import BACKBONES
from symnet.protocols import BLOCKS

Fraction = Annotated[float, Field(ge=0, le=1)]
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


def _known_backbone(name: str) -> str:
    if name not in BACKBONES:
        raise ValueError(f"allowed: {', '.join(BACKBONES)}")
    return name


def _falling(scales: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if scales is not None and any(later >= earlier for earlier, later in pairwise(scales)):
        raise ValueError("must fall")
    return scales


Side = Annotated[int, AfterValidator(_eight_n_plus_one)]
Scale = Annotated[tuple[float, float], AfterValidator(_ordered)]
Scales = Annotated[tuple[Annotated[float, Field(gt=0)], ...] | None, AfterValidator(_falling)]


class Section(BaseModel):
    """A group of settings: immutable, no unknown key, a default for each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(Section):
    """Where the images are and which classes they show. Paths are relative to `root`, which is relative to the data root."""

    source: Literal["voc", "coco", "shapes"] = Field(
        "voc", description="voc: images and index masks; coco: images and annotations; shapes: drawn here"
    )
    root: str = Field("VOCdevkit/VOC2012", description="folder of the data set, relative to data_root")
    images: dict[Literal["train", "test"], str] = Field({"train": "JPEGImages", "test": "JPEGImages"}, description="image folder per split")
    masks: str | None = Field(
        "SegmentationClassAug",
        description="folder of index PNGs, which `symnet masks` makes; null (coco layout): drawn from the annotations whenever needed",
    )
    annotations: dict[Literal["train", "test"], str] = Field({}, description="instances_*.json per split (coco)")
    lists: dict[Literal["train", "test"], tuple[str, ...]] = Field(
        {}, description="text files of image ids per split, united (voc layout); none at all: every mask, split by `test_share`"
    )
    test_share: float = Field(
        0.3, gt=0, lt=1, description="share of images in the test split where there are no lists (voc layout), by a hash of their ids"
    )
    classes: str | tuple[str, ...] = Field("voc", description="voc, coco, shapes, or the class names in order of their index (from 1)")
    folds: int = Field(4, ge=1, le=20, description="number of folds; it must divide the number of classes")
    bad_files: Literal["refuse", "skip"] = Field("refuse", description="skip: leave unreadable images and masks out, and count them")

    @model_validator(mode="after")
    def _has_masks(self) -> Self:
        if self.masks is None and self.source != "coco":
            raise ValueError(f"masks: null is for the coco layout; source {self.source} needs a folder of index PNGs")
        return self


class StoreSettings(Section):
    """Images kept decoded. No pixel depends on it, and no job reruns when it is set."""

    images: bool = Field(
        False,
        description="decode images and masks once and keep them in HDF5, for GPUs that else wait (PASCAL 8.6 GB, COCO more than 100)",
    )


class ShapesSettings(Section):
    """The embedded data set."""

    train_images: int = Field(360, ge=20, description="images in the train list")
    test_images: int = Field(240, ge=20, description="images in the test list")
    side: int = Field(144, ge=64, le=1024, description="longer side of an image, pixels")
    seed: int = Field(0, ge=0, description="the same seed draws the same files")


class ProtocolSettings(Section):
    """What makes two numbers comparable. Stamped on every metric and table; a table refuses to mix two."""

    name: Name = Field(
        "symnet-1", description=f"a block that gives the other keys their defaults ({', '.join(BLOCKS)}), or a name of one's own"
    )
    novel_in_train: Literal["drop", "background"] = Field(
        "drop", description="training images with novel pixels: left out (BAM) or painted background (PFENet)"
    )
    min_pixels: int = Field(2048, ge=1, description="pixels at original size from which a class counts in an image")
    crowd: Literal["ignore", "drop"] = Field("ignore", description="COCO crowd regions: 255, or left out")
    split: Literal["serial", "fwb"] = Field(
        "serial", description="serial: fold i tests n consecutive classes; fwb: every folds-th class (COCO-20i)"
    )
    episodes: int = Field(1000, ge=1, description="test episodes a seed")
    sampling: Literal["image", "released", "balanced"] = Field(
        "image",
        description="image: queries in turn through the test list, drawn from all of it where a round is shorter; released: from the "
        "list's head; balanced: class first, uniform (HSNet)",
    )
    scoring: Literal["padded", "original", "400"] = Field(
        "padded", description="scoring of the main table: the padded square, original size, or 400x400 (HSNet); all are always computed"
    )
    selection: Literal["base_val", "last", "test_best"] = Field(
        "base_val",
        description="checkpoint: best on held-out base-class images, the last, or best on the test fold (as released); "
        "none of them trains on the images of base.holdout",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_a_block(cls, found: Any) -> Any:
        """Keys that are not given take the named block's values. 400 may be written as a number."""
        if not isinstance(found, Mapping):
            return found
        whole = {**BLOCKS.get(str(found.get("name", "symnet-1")), {}), **found}
        return whole | ({"scoring": "400"} if whole.get("scoring") == 400 else {})


class PixelSettings(Section):
    """From a file to the network's input."""

    size: Side = Field(473, ge=33, description="side of the square the network sees, 8n+1")
    antialias: bool = Field(False, description="smooth images when they shrink; the field's code does not, and hardly shrinks them")
    scale: Scale = Field((0.9, 1.1), description="training: range of the random scale, relative to the file's size")
    rotation: float = Field(10.0, ge=0, le=180, description="training: largest rotation, degrees")
    rotation_p: Fraction = Field(0.5, description="training: probability of a rotation")
    blur_p: Fraction = Field(0.5, description="training: probability of a 5x5 Gaussian blur")
    flip_p: Fraction = Field(0.5, description="training: probability of a horizontal flip")
    keep: Fraction = Field(0.85, description="training: share of the foreground a crop must keep")
    tries: int = Field(30, ge=1, description="training: crops drawn before the last is taken as it is")


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


class TextSettings(Section):
    """Class vectors."""

    source: str = Field(
        "word2vec/GoogleNews-vectors-negative300.bin.gz",
        description="word vectors (.bin, .bin.gz, .txt, .kv), relative to data_root; `shapes` trains them",
    )
    dim: int = Field(300, ge=1, description="width of a vector")


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
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    gallery: GallerySettings = GallerySettings()


SECTIONS = tuple(Settings.model_fields)
