"""Which images and classes a fold trains and tests on: the rules of the protocol over the index, written as lists."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from symnet.artifacts import Provenance, digest, read_table, write_table
from symnet.config import Settings
from symnet.config_data import DataSettings
from symnet.data.classes import class_names
from symnet.data.index import WORKERS, Index, Row, Stamps, build_index, read_index, read_stamps, write_index, write_stamps
from symnet.data.readers import Split, open_reader
from symnet.errors import UserError

COLUMNS = ["image", "classes", "width", "height", "image_sha256", "mask_sha256"]


@dataclass(frozen=True)
class ListRow:
    """One image of a list; `classes` are the indices that count in it, ascending: base classes to train, novel ones to test."""

    image: str
    classes: tuple[int, ...]
    width: int
    height: int
    image_sha: str
    mask_sha: str


@dataclass(frozen=True)
class FoldList:
    """The train or the test list of a fold."""

    rows: tuple[ListRow, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def by_class(self) -> dict[int, tuple[str, ...]]:
        """Class index, ascending, to the images in which it counts, in the order of the list."""
        found: dict[int, list[str]] = {}
        for row in self.rows:
            for index in row.classes:
                found.setdefault(index, []).append(row.image)
        return {index: tuple(found[index]) for index in sorted(found)}


def novel_classes(fold: int, n_classes: int, folds: int, split: Literal["serial", "fwb"]) -> tuple[int, ...]:
    """Class indices (from 1) that `fold` tests. serial: PASCAL-5i's 5i+1..5i+5; fwb: COCO-20i's {i+1, i+1+folds, ...}.

    Raises `UserError` where the folds would differ in size.
    """
    if n_classes % folds:
        raise UserError(f"data.folds: found {folds} for {n_classes} classes; allowed: a divisor of {n_classes}")
    if not 0 <= fold < folds:
        raise UserError(f"fold {fold}: there are folds 0 to {folds - 1}")
    each = n_classes // folds
    return tuple(range(fold * each + 1, (fold + 1) * each + 1)) if split == "serial" else tuple(range(fold + 1, n_classes + 1, folds))


def base_classes(fold: int, n_classes: int, folds: int, split: Literal["serial", "fwb"]) -> tuple[int, ...]:
    """Class indices (from 1) that `fold` trains on: all but its novel ones."""
    novel = novel_classes(fold, n_classes, folds, split)
    return tuple(index for index in range(1, n_classes + 1) if index not in novel)


def base_count(data: DataSettings) -> int:
    """How many base classes each fold has."""
    classes = len(class_names(data.classes))
    return classes - classes // data.folds


def base_list(
    rows: Iterable[Row], base: tuple[int, ...], novel: tuple[int, ...], min_pixels: int, novel_in_train: Literal["drop", "background"]
) -> FoldList:
    """Train images in which a base class has `min_pixels` or more. drop: and no novel class has a single one (BAM's rule)."""
    kept = (row for row in rows if row.split == "train" and (novel_in_train == "background" or not _present(row, novel, 1)))
    return _counting(kept, base, min_pixels)


def novel_list(rows: Iterable[Row], novel: tuple[int, ...], min_pixels: int) -> FoldList:
    """Test images in which a novel class has `min_pixels` or more. No other filter."""
    return _counting((row for row in rows if row.split == "test"), novel, min_pixels)


def _present(row: Row, classes: tuple[int, ...], pixels: int) -> tuple[int, ...]:
    return tuple(index for index, count in row.pixels if index in classes and count >= pixels)


def _counting(rows: Iterable[Row], classes: tuple[int, ...], min_pixels: int) -> FoldList:
    counted = ((row, _present(row, classes, min_pixels)) for row in rows)
    return FoldList(tuple(ListRow(row.image, found, row.width, row.height, row.image_sha, row.mask_sha) for row, found in counted if found))


def whole_train_list(rows: Iterable[Row], n_classes: int, min_pixels: int) -> FoldList:
    """Every train image, with the classes that count in it, if any: what a base learner may train on whatever the fold (BAM's code)."""
    every = tuple(range(1, n_classes + 1))
    train = (row for row in rows if row.split == "train")
    return FoldList(tuple(ListRow(r.image, _present(r, every, min_pixels), r.width, r.height, r.image_sha, r.mask_sha) for r in train))


def fold_lists(index: Index, n_classes: int, fold: int, settings: Settings) -> dict[Split, FoldList]:
    """Both lists of a fold, as `data.folds` and the protocol say."""
    layout = (n_classes, settings.data.folds, settings.protocol.split)
    novel, base = novel_classes(fold, *layout), base_classes(fold, *layout)
    protocol = settings.protocol
    return {
        "train": base_list(index.rows, base, novel, protocol.min_pixels, protocol.novel_in_train),
        "test": novel_list(index.rows, novel, protocol.min_pixels),
    }


def make_folds(settings: Settings, data_root: Path, out: Path, masks_only: bool = False, workers: int = WORKERS) -> Index:
    """Stage `folds`: write {out}/index.csv, skipped.csv, train.csv and fold{i}/{train,test}.csv, each only if its content changed.

    Files that did not change since the last index of the same settings are not opened again. masks_only: images may be absent;
    lists are whole, their image sums empty. Returns the index; its `skipped` names what `data.bad_files: skip` left out. Raises
    `UserError`.
    """
    reader = open_reader(settings.data, settings.protocol, data_root, masks_only)
    made_with = settings_digest(settings)
    novel_classes(0, len(reader.classes), settings.data.folds, settings.protocol.split)
    previous, stamps = _last(out, made_with)
    index = build_index(reader, len(reader.classes), previous, settings.data.bad_files, workers, masks_only, stamps)
    for fold in range(settings.data.folds):
        for split, made in fold_lists(index, len(reader.classes), fold, settings).items():
            write_fold_list(out / f"fold{fold}" / f"{split}.csv", made, made_with, _rules(settings))
    whole = whole_train_list(index.rows, len(reader.classes), settings.protocol.min_pixels)
    write_fold_list(out / "train.csv", whole, made_with, _rules(settings))
    write_index(out, index, made_with)
    write_stamps(out, made_with, stamps)
    return index


def refresh_folds(settings: Settings, data_root: Path, out: Path, workers: int = WORKERS) -> bool:
    """Bring lists up to date with changed files, where `make_folds` has made them with these settings; else do nothing.

    For the start of a workflow: with nothing changed it only asks every file's size and time. An index made with `masks_only` is
    refreshed so. Returns whether anything was looked at again. Raises `UserError` for files that became unusable.
    """
    made_with = settings_digest(settings)
    made = all((out / name).exists() for name in ("index.csv", "skipped.csv"))
    if not made or not (data_root / settings.data.root).is_dir():
        return False
    stamps = read_stamps(out, made_with)
    if stamps is not None and stamps.current():
        return False
    index, found = read_index(out)
    if found != made_with:
        return False
    make_folds(settings, data_root, out, any(not row.image_sha for row in index.rows), workers)
    return True


def settings_digest(settings: Settings) -> str:
    """sha256 of what decides index and lists: the data section and the protocol's rules about masks and lists."""
    return digest({"data": settings.data.model_dump(), "rules": _rules(settings)})


def _rules(settings: Settings) -> dict[str, str | int]:
    """The rules of the protocol that decide which images a list holds."""
    return {name: getattr(settings.protocol, name) for name in ("novel_in_train", "min_pixels", "crowd", "split")}


def _last(out: Path, made_with: str) -> tuple[Index | None, Stamps]:
    """The index in `out` if it was made with these settings, and the sums remembered with it."""
    stamps = read_stamps(out, made_with) or Stamps()
    try:
        index, found = read_index(out)
    except UserError:  # none yet, or damaged: built anew
        return None, stamps
    return (index if found == made_with else None), stamps


def write_fold_list(path: Path, made: FoldList, settings: str, protocol: dict[str, str | int] | None = None) -> bool:
    """Write a list if its content changed; returns whether it was. Its rows carry the sums of its inputs, so no other is named."""
    rows = [[r.image, " ".join(map(str, r.classes)), r.width, r.height, r.image_sha, r.mask_sha] for r in made.rows]
    return write_table(path, COLUMNS, rows, Provenance(stage="folds", settings=settings, protocol=protocol or {}), if_changed=True)


def read_fold_list(path: Path) -> FoldList:
    """Read and check a list that `write_fold_list` wrote. Raises `UserError`."""
    table, _ = read_table(path, "folds")
    return FoldList(
        tuple(
            ListRow(
                r["image"], tuple(map(int, r["classes"].split())), int(r["width"]), int(r["height"]), r["image_sha256"], r["mask_sha256"]
            )
            for r in table
        )
    )
