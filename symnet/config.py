"""Every setting, its type, its limits and its default: the one source of all of them.

An experiment file (YAML) holds sections that hold for the whole benchmark, and overrides: `preset` (chosen by name), `datasets`
(per data set) and `folds` (per fold; stages after the data only). `Experiment.settings(dataset, fold)` merges them, later over
earlier, into a frozen `Settings`. `symnet.stages` says which of them each stage depends on.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from symnet.errors import UserError, one_line

Fraction = Annotated[float, Field(ge=0, le=1)]
AnyModel = TypeVar("AnyModel", bound=BaseModel)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
MethodName = Literal["prototype", "symnet"]


def _eight_n_plus_one(size: int) -> int:
    if size % 8 != 1:
        raise ValueError(f"must be 8n+1 (nearest: {size // 8 * 8 + 1})")
    return size


def _ordered(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1]:
        raise ValueError("must be [low, high] with 0 < low <= high")
    return scale


Side = Annotated[int, AfterValidator(_eight_n_plus_one)]
Scale = Annotated[tuple[float, float], AfterValidator(_ordered)]


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
    masks: str = Field("SegmentationClassAug", description="folder of index PNGs (voc layout)")
    annotations: dict[Literal["train", "test"], str] = Field({}, description="instances_*.json per split (coco)")
    lists: dict[Literal["train", "test"], tuple[str, ...]] = Field({}, description="text files of image ids per split, united (voc layout)")
    classes: str | tuple[str, ...] = Field("voc", description="voc, coco, shapes, or the class names in order of their index (from 1)")
    folds: int = Field(4, ge=1, le=20, description="number of folds; it must divide the number of classes")
    split: Literal["serial", "fwb"] = Field(
        "serial", description="serial: fold i tests n consecutive classes; fwb: every folds-th class (COCO-20i)"
    )
    bad_files: Literal["refuse", "skip"] = Field("refuse", description="skip: leave unreadable images and masks out, and count them")


class ShapesSettings(Section):
    """The embedded data set."""

    train_images: int = Field(360, ge=20, description="images in the train list")
    test_images: int = Field(240, ge=20, description="images in the test list")
    side: int = Field(144, ge=64, le=1024, description="longer side of an image, pixels")
    seed: int = Field(0, ge=0, description="the same seed draws the same files")


class ProtocolSettings(Section):
    """What makes two numbers comparable. Stamped on every metric and table; a table refuses to mix two."""

    name: Name = Field("symnet-1", description="name of the block, printed in captions")
    novel_in_train: Literal["drop", "background"] = Field(
        "drop", description="training images with novel pixels: left out (BAM) or painted background (PFENet)"
    )
    min_pixels: int = Field(2048, ge=1, description="pixels at original size from which a class counts in an image")
    crowd: Literal["ignore", "drop"] = Field("ignore", description="COCO crowd regions: 255, or left out")
    episodes: int = Field(1000, ge=1, description="test episodes a seed")
    sampling: Literal["image", "balanced"] = Field(
        "image", description="image: queries in turn through the test list; balanced: class first, uniform"
    )
    scoring: Literal["padded", "original"] = Field("padded", description="scoring of the main table; both are always computed")


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

    name: Literal["resnet50", "efficientnet_lite0"] = Field("resnet50", description="resnet50: PSPNet's deep stem, dilated")
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
    size: Side = Field(417, ge=33, description="side of the training crop, 8n+1")
    width: int = Field(512, ge=8, description="channels of the head's last but one convolution")
    scale: Scale = Field((0.5, 2.0), description="range of the random scale")
    floor: Fraction = Field(0.05, description="mIoU over base classes, 0 to 1, below which the fold stops")
    holdout: Fraction = Field(0.1, description="share of training images kept for the mIoU and for selection base_val")


class FeatureSettings(Section):
    """The HDF5 cache of block maps."""

    cache_test: bool = Field(True, description="cache the test images' block maps; false: evaluation recomputes them")
    train_views: int = Field(
        0, ge=0, description="fixed, seeded, augmented views of each training image; 0: training augments and recomputes"
    )
    dtype: Literal["float16", "float32"] = Field("float16", description="number format of the cached maps")
    seed: int = Field(0, ge=0, description="seed of the views")


class ModelSettings(Section):
    """Sym-Net. `variant` sets every piece; a piece named on its own overrides it."""

    variant: Literal["paper", "released"] = Field("paper", description="the equations as printed, or what the released code computes")
    prior: Literal["spm", "pfenet"] = Field("spm", description="prior mask: SPM, or PFENet's maximum cosine (no SPM)")
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tau3 >= self.tau4:
            raise ValueError(f"tau3 ({self.tau3}) must be below tau4 ({self.tau4})")
        if self.apa and self.prior != "spm":
            raise ValueError(f"apa needs prior spm: its query prototype is drawn by SPM's thresholds (found prior: {self.prior})")
        return self


class TrainSettings(OptimiserSettings):
    """The meta stage."""

    epochs: int = Field(200, ge=1, description="passes over the fold's training images, last partial batch dropped")
    class_sampling: Literal["image", "uniform"] = Field(
        "image", description="training episodes: query image first, or class first, uniform"
    )
    selection: Literal["base_val", "last", "test_best"] = Field(
        "base_val", description="checkpoint: best on held-out base-class images, the last, or best on the test fold (as released)"
    )
    validate_every: int | None = Field(None, ge=1, description="steps between validations; null: once an epoch")
    validation_episodes: int = Field(200, ge=1, description="episodes a validation")


class EvaluateSettings(Section):
    """Testing."""

    batch_size: int = Field(8, ge=1, description="episodes a batch")


class Settings(Section):
    """All that a stage may depend on, for one data set and fold."""

    data: DataSettings = DataSettings()
    shapes: ShapesSettings = ShapesSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    pixels: PixelSettings = PixelSettings()
    backbone: BackboneSettings = BackboneSettings()
    text: TextSettings = TextSettings()
    base: BaseSettings = BaseSettings()
    features: FeatureSettings = FeatureSettings()
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()


SECTIONS = tuple(Settings.model_fields)
# A fold may differ in how it is trained, never in what is measured: a table would mix two protocols.
FOLD_SECTIONS = ("base", "features", "model", "train", "evaluate")
METHODS: tuple[MethodName, ...] = ("prototype", "symnet")


class Experiment(BaseModel):
    """An experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: Name = Field(description="name of the benchmark; results lie under results/{experiment}")
    data_root: str | None = Field(None, description="folder of data sets, weights and word vectors; null: $SYMNET_DATA, else ./data")
    results: str = Field("results", description="folder of all results")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: int = Field(1, ge=1, description="CPU threads of a training, feature or evaluation job")
    shots: tuple[Annotated[int, Field(ge=1, le=25)], ...] = Field(
        (1, 5), min_length=1, description="support images of an episode; a cell of the table each"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (510, 365, 382, 322, 988), min_length=1, description="one test round each (BAM's)"
    )
    methods: tuple[MethodName, ...] = Field(METHODS, min_length=1, description="what is compared; a row of the table for each output")
    preset: str | None = Field(None, description="name of one of `presets`, laid over the file")
    presets: dict[str, dict[str, Any]] = Field({}, description="named overrides of any other key")
    datasets: dict[Name, dict[str, Any]] = Field(min_length=1, description="per data set: overrides of the sections, and its own `folds`")
    folds: dict[int, dict[str, Any]] = Field({}, description="per fold: overrides of base, features, model, train, evaluate")
    common: dict[str, Any] = Field({}, description="the file's own sections, gathered here when it is read")

    @field_validator("shots", "seeds", "methods")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        twice = sorted({str(v) for v in values if values.count(v) > 1})
        if twice:
            raise ValueError(f"given twice: {', '.join(twice)}")
        return values

    @field_validator("datasets")
    @classmethod
    def _fold_numbers(cls, datasets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Keys of `folds` as integers again: on the way through JSON they became text."""

        def own(found: dict[str, Any]) -> dict[str, Any]:
            folds = found.get("folds")
            if not isinstance(folds, dict):
                return found
            return {**found, "folds": {int(key) if key.isdecimal() else key: value for key, value in folds.items()}}

        return {name: own(found) for name, found in datasets.items()}

    def settings(self, dataset: str, fold: int | None = None) -> Settings:
        """The merged settings of one data set, and of one of its folds. Raises `UserError` naming the key at fault."""
        if dataset not in self.datasets:
            raise UserError(f"dataset '{dataset}' is not in experiment '{self.experiment}': one of {', '.join(self.datasets)}")
        own = dict(self.datasets[dataset])
        own_folds = own.pop("folds", {})
        merged = merge(self.common, own)
        if fold is not None:
            for folds in (self.folds, own_folds):
                merged = merge(merged, folds.get(fold, {}))
        settings = validate(Settings, merged, f"datasets.{dataset}" if fold is None else f"datasets.{dataset}, fold {fold}")
        if fold is not None and not 0 <= fold < settings.data.folds:
            raise UserError(f"fold {fold} of {dataset}: there are folds 0 to {settings.data.folds - 1}")
        return settings

    def check(self) -> Self:
        """Merge every data set and fold once, so that a wrong key is told before anything runs."""
        for dataset, own in self.datasets.items():
            count = self.settings(dataset).data.folds
            for where, folds in (("folds", self.folds), (f"datasets.{dataset}.folds", own.get("folds", {}))):
                if not isinstance(folds, Mapping):
                    raise UserError(f"{where}: found {folds!r}, expected a mapping from a fold to its overrides")
                for fold, override in folds.items():
                    if fold not in range(count):
                        raise UserError(f"{where}.{fold}: there is no such fold, {dataset} has folds 0 to {count - 1}")
                    if not isinstance(override, Mapping):
                        raise UserError(f"{where}.{fold}: found {override!r}, expected sections ({', '.join(FOLD_SECTIONS)})")
                    wrong = sorted(set(override) - set(FOLD_SECTIONS))
                    if wrong:
                        raise UserError(f"{where}.{fold}.{wrong[0]}: a fold may override {', '.join(FOLD_SECTIONS)} only")
            for fold in range(count):
                self.settings(dataset, fold)
        return self

    @property
    def folder(self) -> Path:
        """results/{experiment}"""
        return Path(self.results) / self.experiment

    @property
    def root(self) -> Path:
        """The data root: the key, else $SYMNET_DATA, else ./data."""
        return Path(self.data_root or os.environ.get("SYMNET_DATA") or "data")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping; anything else is replaced. A later `epochs` takes the place of earlier `steps`."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    if "epochs" in over and "steps" not in over:
        merged.pop("steps", None)
    return merged


def load_experiment(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read and check an experiment file, with `overrides` laid over it. Raises `UserError`, one line, for anything wrong."""
    path = Path(path)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such experiment file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: found {type(found).__name__}, expected a mapping of settings")
    return make_experiment(merge(found, overrides or {}), str(path))


def make_experiment(found: Mapping[str, Any], where: str) -> Experiment:
    """Build and check an experiment from plain values; `where` names their source in errors."""
    found = dict(found)
    preset, presets = found.get("preset"), found.get("presets") or {}
    if isinstance(preset, str) and isinstance(presets, Mapping):  # other types are refused below
        if preset not in presets:
            raise UserError(f"{where}: preset: found '{preset}', allowed: {', '.join(map(str, presets)) or 'none is defined'}")
        if isinstance(presets[preset], Mapping):
            found = merge(found, presets[preset])
    if "common" in found:
        raise UserError(f"{where}: common: unknown key; write its sections ({', '.join(SECTIONS)}) at the top of the file")
    found["common"] = {name: found.pop(name) for name in SECTIONS if name in found}
    return validate(Experiment, found, where).check()


def validate(model: type[AnyModel], found: Mapping[str, Any], where: str) -> AnyModel:
    """Validate and say what is wrong in one line: key, value, what is allowed."""
    try:
        # strict sections take JSON's types: a list for a tuple, an integer for a float, never a string for a number
        return model.model_validate_json(_to_json(found, where))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if part != "common") or "the whole"
        value = "" if first["type"] in ("missing", "extra_forbidden") else f", found {first['input']!r}"
        message = "unknown key" if first["type"] == "extra_forbidden" else re.sub(r"^Value error, ", "", first["msg"])
        hint = _allowed(model, first["loc"]) if first["type"] == "extra_forbidden" else ""
        raise UserError(one_line(f"{where}: {key}: {message}{value}{hint}")) from None


def _to_json(found: Mapping[str, Any], where: str) -> str:
    try:
        return json.dumps(found)
    except TypeError as error:
        raise UserError(f"{where}: {one_line(error)}") from None


def _allowed(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """The keys allowed where an unknown one was found."""
    for part in loc[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return ""
        model = field.annotation
    names = [name for name in model.model_fields if name != "common"] + (list(SECTIONS) if model is Experiment else [])
    return f"; allowed: {', '.join(names)}"
