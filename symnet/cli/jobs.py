"""What a command is given, turned into what its stage takes: settings, places, provenance, device."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from symnet.artifacts import Provenance, digest, file_digest
from symnet.config import Settings
from symnet.data.readers import Split
from symnet.errors import UserError
from symnet.experiment import Experiment, load_experiment
from symnet.made import Note, sums
from symnet.methods import known_method
from symnet.stages import code_hash, code_of, experiment_slice, read_slice

if TYPE_CHECKING:
    import torch

    from symnet.data.stored import Store


Given = Sequence[str] | None  # what `--set` was given


def settings_of(config: Path, given: Given, stage: str, dataset: str, fold: int | None = None) -> Settings:
    """The stage's settings from a resolved JSON or an experiment file, `given` over them."""
    if config.suffix == ".json":
        return read_slice(config, stage, given=given or ())
    return experiment_slice(experiment_with(config, given), dataset, fold, stage)


def job_of(config: Path, given: Given, stage: str, dataset: str, fold: int, row: str, method: str | None) -> tuple[Settings, str]:
    """As `settings_of`, of a row; and the method behind it."""
    if config.suffix == ".json":
        method = known_method(method or row)
        return read_slice(config, stage, method, given or ()), method
    experiment = experiment_with(config, given)
    found = experiment.method_of(row)
    if method not in (None, found):
        raise UserError(f"--method: found {method}, but {config} says that row {row} is {found}")
    return experiment_slice(experiment, dataset, fold, stage, row), found


def experiment_with(config: Path, given: Given) -> Experiment:
    """An experiment file, `given` over it."""
    return load_experiment(config, {"set": list(given)} if given else None)


def preview(reads: Iterable[Path | None], makes: Iterable[Path]) -> NoReturn:
    """What `--dry-run` tells: each file or folder that the command would read and write, and whether it is there. Ends the command."""
    for path in reads:
        if path is not None:
            print(f"reads  {path}: {'there' if path.exists() else 'missing'}")
    for path in makes:
        print(f"makes  {path}: {'there already' if path.exists() else 'new'}")
    raise typer.Exit


def shared_root() -> Path:
    """Weights and word vectors: $SYMNET_DATA, else ./data."""
    return Path(os.environ.get("SYMNET_DATA") or "data")


def data_root(settings: Settings, results: Path) -> Path:
    """What `data.root` is relative to: the experiment's own folder for data drawn there."""
    return results if settings.data.source == "shapes" else shared_root()


def provenance_of(
    stage: str, settings: Settings, files: dict[str, Path], *, code: str = "", method: str | None = None, **more: object
) -> Provenance:
    """Settings and code by their hashes, inputs by their sums; `more` joins the settings."""
    shared = more.pop("shared", {})
    inputs = {name: file_digest(path) for name, path in files.items()} | (shared if isinstance(shared, dict) else {})
    values = settings.model_dump(mode="json", warnings=False) | more
    backbone = settings.backbone.name if hasattr(settings, "backbone") else None
    rules = values.get("protocol", {})
    return Provenance(stage=stage, settings=digest(values), protocol=rules, code=code_hash(code or stage, method, backbone), inputs=inputs)


def note_of(stage: str, settings: Settings, files: Iterable[Path], method: str | None = None, **options: str) -> Note:
    """What a job is about to make its outputs from, for `made.keep`. files: those it reads; options: what else decides."""
    backbone = settings.backbone.name if hasattr(settings, "backbone") else None
    values = settings.model_dump(mode="json", warnings=False)
    options |= {"method": method} if method else {}
    return Note(settings=values, code=code_of(stage, method, backbone), inputs=sums(files), options=options)


def store_of(manifest: Path | None, train: Path | None = None, test: Path | None = None) -> "Store | None":
    """The image store, for a job that reads these lists. Raises `UserError` for lists that cannot be read."""
    from symnet.data.folds import read_fold_list
    from symnet.data.stored import Store

    if manifest is None:
        return None
    lists: tuple[tuple[Split, Path | None], ...] = (("train", train), ("test", test))
    return Store.of_lists(manifest, {split: read_fold_list(path) for split, path in lists if path})


def use_device(name: str, threads: int, tf32: bool = False) -> "torch.device":
    """The device a command asks for, its CPU threads set; tf32: as of `tune_cudnn`. Raises `UserError`."""
    from symnet.runtime import choose_device, tune_cudnn, use_threads

    use_threads(threads)
    found = choose_device(name)
    if found.type == "cuda":
        tune_cudnn(tf32)
    return found


def numbers(text: str) -> list[int]:
    """`510,365` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds: found '{text}', expected whole numbers joined by commas") from None


def first_of(folder: Path, *names: str) -> str:
    """The first of the files that exists, absolute."""
    for name in names:
        if (folder / name).is_file():
            return str((folder / name).absolute())
    raise UserError(f"{folder}: none of {', '.join(names)} is there")
