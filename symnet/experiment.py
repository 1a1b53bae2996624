"""An experiment file: what is compared on which data, and the settings of each job, merged.

The file (YAML) holds sections that hold for the whole benchmark, and overrides: `preset` (chosen by name), `datasets` (per data set),
`folds` (per fold; stages after the data only) and `variants` (rows of the tables that are a method with other settings). `set`, the key
that command lines give, has the last word. `Experiment.settings(dataset, fold, row)` merges them, later over earlier, into `Settings`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from symnet.config import SECTIONS, Settings
from symnet.errors import UserError, one_line
from symnet.methods import METHOD_SECTIONS, METHODS
from symnet.overrides import leaves, merge, read_overrides
from symnet.sections import Name, Section
from symnet.validating import validate

# A fold may differ in how it is trained, never in what is measured: a table would mix two protocols.
FOLD_SECTIONS = ("base", "features", *METHOD_SECTIONS, "train", "evaluate")
# A row may differ in what is its own: base learner and features are shared by all rows of a fold.
ROW_SECTIONS = (*METHOD_SECTIONS, "train", "evaluate")
GATHERED = ("common", "last")  # fields that are no keys of a file
OWN_TABLES = ("main", "scorings", "per_class", "groups", "base", "tables", "differences", "ranks", "sizes", "luck", "costs")


class AblationTable(Section):
    """A table of rows beside one another, in the order given, with the paper's figures where it printed them."""

    caption: str = Field("", description="what it shows, for its caption")
    published: str | None = Field(None, description="name of the paper's table in symnet/report/ablations.csv (3, 4, 5, 6, text)")
    rows: dict[str, Name] = Field(min_length=1, description="label, as the paper words it, to a name in `methods`")


class Experiment(BaseModel):
    """An experiment file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    experiment: Name = Field(description="name of the benchmark; results lie under results/{experiment}")
    data_root: str | None = Field(None, description="folder of data sets, weights and word vectors; null: $SYMNET_DATA, else ./data")
    download: bool = Field(True, description="fetch what is missing and has a public link; false: say what is missing and stop")
    results: str = Field("results", description="folder of all results")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    threads: int = Field(1, ge=1, description="CPU threads of a training, feature or evaluation job")
    shots: tuple[Annotated[int, Field(ge=1, le=25)], ...] = Field(
        (1, 5), min_length=1, description="support images of an episode; a cell of the table each"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (510, 365, 382, 322, 988), min_length=1, description="one test round each (BAM's)"
    )
    methods: tuple[Name, ...] = Field(
        ("prototype", "symnet"),
        min_length=1,
        description=f"what is compared, a row for each output: {', '.join(METHODS)}, or names in `variants`",
    )
    variants: dict[Name, dict[str, Any]] = Field(
        {},
        description="rows that are a `method` with other settings, for all folds: its name, and overrides of its section, train, evaluate",
    )
    published: bool = Field(True, description="show the field's published rows, marked, in the tables of PASCAL-5i and COCO-20i")
    tables: dict[Name, AblationTable] = Field({}, description="tables beside the main one: chosen rows in a chosen order")
    groups: dict[Name, tuple[str, ...]] = Field({}, description="named groups of classes, whose mean IoU groups.csv tells")
    preset: str | None = Field(None, description="name of one of `presets`, laid over the file")
    presets: dict[str, dict[str, Any]] = Field({}, description="named overrides of any other key")
    datasets: dict[Name, dict[str, Any]] = Field(min_length=1, description="per data set: overrides of the sections, and its own `folds`")
    folds: dict[int, dict[str, Any]] = Field({}, description=f"per fold: overrides of {', '.join(FOLD_SECTIONS)}")
    common: dict[str, Any] = Field({}, description="the file's own sections, gathered here when it is read")
    last: dict[str, Any] = Field({}, description="sections that `set` gives, over all others")

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

    def method_of(self, row: str) -> str:
        """The method behind a row. Raises `UserError` for a name that is neither a method nor a variant."""
        found = self.variants[row].get("method") if row in self.variants else row
        if found not in METHODS:
            where = f"variants.{row}.method" if row in self.variants else "methods"
            also = "" if row in self.variants else ", or a name in variants"
            raise UserError(f"{where}: found {found!r}, allowed: {', '.join(METHODS)}{also}")
        return str(found)

    def settings(self, dataset: str, fold: int | None = None, row: str | None = None) -> Settings:
        """The merged settings of one data set, of one of its folds, of one row in it. Raises `UserError` naming the key at fault."""
        if dataset not in self.datasets:
            raise UserError(f"dataset '{dataset}' is not in experiment '{self.experiment}': one of {', '.join(self.datasets)}")
        own = dict(self.datasets[dataset])
        own_folds = own.pop("folds", {})
        merged = merge(self.common, own)
        if fold is not None:
            for folds in (self.folds, own_folds):
                merged = merge(merged, folds.get(fold, {}))
        if row in self.variants:
            merged = merge(merged, {key: value for key, value in self.variants[row].items() if key != "method"})
        merged = merge(merged, self.last)
        place = f"datasets.{dataset}" + ("" if fold is None else f", fold {fold}") + (f", variants.{row}" if row in self.variants else "")
        settings = validate(Settings, merged, place)
        if fold is not None and not 0 <= fold < settings.data.folds:
            raise UserError(f"fold {fold} of {dataset}: there are folds 0 to {settings.data.folds - 1}")
        return settings

    def check(self) -> Self:
        """Merge every data set, fold and row once, so that a wrong key is told before anything runs."""
        self._check_rows()
        for dataset, own in self.datasets.items():
            count = self.settings(dataset).data.folds
            for where, folds in (("folds", self.folds), (f"datasets.{dataset}.folds", own.get("folds", {}))):
                if not isinstance(folds, Mapping):
                    raise UserError(f"{where}: found {folds!r}, expected a mapping from a fold to its overrides")
                for fold, override in folds.items():
                    if fold not in range(count):
                        raise UserError(f"{where}.{fold}: there is no such fold, {dataset} has folds 0 to {count - 1}")
                    _check_sections(f"{where}.{fold}", "a fold", override, FOLD_SECTIONS)
            for fold in range(count):
                for row in (None, *self.variants):
                    self.settings(dataset, fold, row)
        return self

    def _check_rows(self) -> None:
        """Variants name a method, do not take a method's name, and override their own sections only; tables show rows that are run."""
        for name, override in self.variants.items():
            if name in METHODS:
                raise UserError(f"variants.{name}: is the name of a method; give the variant another")
            _check_sections(f"variants.{name}", "a variant", override, ("method", *ROW_SECTIONS))
            if both := sorted(set(leaves(self.last)) & set(leaves(override))):
                raise UserError(f"set: {both[0]}: is what variants.{name} differs in; set variants.{name}.{both[0]}, or leave the row out")
        for row in (*self.methods, *self.variants):
            self.method_of(row)
        for name, table in self.tables.items():
            if name in OWN_TABLES or name.startswith(("paper-", "classes-")):
                raise UserError(f"tables.{name}: is a table of every experiment; give this one another name")
            for label, row in table.rows.items():
                if row not in self.methods:
                    raise UserError(f"tables.{name}.rows.{label}: found '{row}', allowed: what methods lists ({', '.join(self.methods)})")

    @property
    def folder(self) -> Path:
        """results/{experiment}"""
        return Path(self.results) / self.experiment

    @property
    def root(self) -> Path:
        """The data root: the key, else $SYMNET_DATA, else ./data."""
        return Path(self.data_root or os.environ.get("SYMNET_DATA") or "data")


def _check_sections(where: str, who: str, override: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(override, Mapping):
        raise UserError(f"{where}: found {override!r}, expected sections ({', '.join(allowed)})")
    wrong = sorted(set(override) - set(allowed))
    if wrong:
        raise UserError(f"{where}.{wrong[0]}: {who} may override {', '.join(allowed)} only")


def load_experiment(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read and check an experiment file, with `overrides` laid over it. Raises `UserError`, one line, for anything wrong."""
    path = Path(path)
    return make_experiment(merge(read_plain(path), overrides or {}), str(path))


def make_experiment(found: Mapping[str, Any], where: str) -> Experiment:
    """Build and check an experiment from plain values; `where` names their source (of several, the last), beside which `extends` looks."""
    found = _extended(found, Path(where.rpartition(", ")[2]), ())
    told = read_overrides(found.pop("set", None) or [], where)
    preset, presets = told.get("preset", found.get("preset")), found.get("presets") or {}
    if isinstance(preset, str) and isinstance(presets, Mapping):  # other types are refused below
        if preset not in presets:
            raise UserError(f"{where}: preset: found '{preset}', allowed: {', '.join(map(str, presets)) or 'none is defined'}")
        if isinstance(presets[preset], Mapping):
            found = merge(found, presets[preset])
    found = merge(found, {key: value for key, value in told.items() if key not in SECTIONS})
    for key in GATHERED:
        if key in found:
            raise UserError(f"{where}: {key}: unknown key; write its sections ({', '.join(SECTIONS)}) at the top of the file")
    for key in ("datasets", "variants", "tables", "groups"):  # null leaves out what an extended file has
        if isinstance(found.get(key), Mapping):
            found[key] = {name: own for name, own in found[key].items() if own is not None}
    found["common"] = {name: found.pop(name) for name in SECTIONS if name in found}
    found["last"] = {name: told[name] for name in SECTIONS if name in told}
    return validate(Experiment, found, where, GATHERED, SECTIONS).check()


def read_plain(path: Path) -> dict[str, Any]:
    """The plain values of a file. Raises `UserError`."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such experiment file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {one_line(error)}") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: found {type(found).__name__}, expected a mapping of settings")
    return dict(found)


def _extended(found: Mapping[str, Any], where: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """`found` laid over the files that its `extends` names, first to last, each of which may extend others."""
    own = dict(found)
    named = own.pop("extends", [])
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: extends: found {named!r}, expected the name of a file beside it, or a list of such names")
    whole: dict[str, Any] = {}
    for name in names:
        path = where.parent / name
        if path in seen:
            raise UserError(f"{where}: extends: {path} extends itself")
        whole = merge(whole, _extended(read_plain(path), path, (*seen, path)))
    return merge(whole, own)
