"""Rows of columns in HDF5 shards beside a manifest: what the feature cache and the episode records are kept in.

The shards of `{stem}.json` are `{stem}-{key}/00000.h5`, ...; `key` says what they are made from. A shard is written whole and its sha256
kept, so a run that was killed goes on with the shards it finished. Columns are uncompressed and contiguous.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from torch import Tensor

from symnet.artifacts import file_digest, replacing, write_text
from symnet.errors import UserError
from symnet.progress import progress

Row = TypeVar("Row")
Columns = dict[str, np.ndarray]  # [n, ...] by name


def write_shards(
    out: Path, key: str, batches: Sequence[Sequence[Row]], columns: Callable[[Sequence[Row]], Columns], per_shard: int, what: str
) -> list[dict[str, Any]]:
    """Write the shards of the manifest `out`, or find them whole. Returns what the manifest has to say of each.

    batches: the rows, as many together as `columns` makes columns of; per_shard: batches a shard; what: the work, in words.
    """
    folder = out.parent / f"{out.stem}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = iter(progress(batches, len(batches), what))
    shards = []
    for number in range(math.ceil(len(batches) / per_shard)):
        path, count = folder / f"{number:05d}.h5", sum(map(len, batches[number * per_shard :][:per_shard]))
        piece = islice(waiting, per_shard)
        sha = _whole(path)
        if sha:
            list(piece)  # told as done
        else:
            sha = _write(path, count, (columns(rows) for rows in piece))
        shards.append({"file": f"{folder.name}/{path.name}", "rows": count, "sha256": sha})
    return shards


def remove_others(out: Path, key: str) -> None:
    """Remove the shards of manifests that were at `out` before, and what killed runs left."""
    for old in out.parent.glob(f"{out.stem}-*"):
        if old.is_dir() and old.name != f"{out.stem}-{key}":
            shutil.rmtree(old)
    for left in (out.parent / f"{out.stem}-{key}").glob(".*.partial"):
        left.unlink()


def _note(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _whole(path: Path) -> str:
    """The sha256 of a shard of a run before; empty where it is not there or not whole."""
    note = _note(path)
    return note.read_text() if path.is_file() and note.is_file() and note.read_text() == file_digest(path) else ""


def _write(path: Path, count: int, pieces: Iterable[Columns]) -> str:
    """Write one shard of `count` rows. Returns its sha256."""
    start = 0
    with replacing(path) as partial, h5py.File(partial, "w", track_order=False) as file:
        for piece in pieces:
            stop = start + len(next(iter(piece.values())))
            for name, values in piece.items():
                if start == 0:
                    file.create_dataset(name, (count, *values.shape[1:]), values.dtype, track_times=False)
                file[name][start:stop] = values
            start = stop
    assert start == count
    sha = file_digest(path)
    write_text(_note(path), sha)
    return sha


class Shards:
    """Reads the shards that a manifest names; the sum of each is checked once, here. Not shared between processes: open them in each."""

    def __init__(self, manifest: Path, shards: Sequence[dict[str, Any]]) -> None:
        self._starts = np.cumsum([0, *(shard["rows"] for shard in shards)])
        self._paths = [manifest.parent / shard["file"] for shard in shards]
        for path, shard in zip(self._paths, shards, strict=True):
            if not path.is_file():
                raise UserError(f"{path}: shard of {manifest} not found; delete {manifest} and run again")
            if file_digest(path) != shard["sha256"]:
                path.unlink()
                raise UserError(f"{path}: shard does not match its sha256: damaged, now removed; delete {manifest} and run again")
        self._files: dict[int, h5py.File] = {}

    def columns(self) -> list[str]:
        """Names of the columns."""
        return sorted(self._file(0))

    def read(self, rows: Sequence[int], name: str, spans: Sequence[slice] | None = None) -> Tensor:
        """A column of rows, [n, ...] in their order; of one with a flat row the numbers of `spans` in turn, where these are given.

        A row that is asked for twice is read once.
        """
        places = [
            (shard, row - self._starts[shard]) for row, shard in zip(rows, np.searchsorted(self._starts, rows, "right") - 1, strict=True)
        ]
        first = self._file(places[0][0])[name]
        shape = first.shape[1:] if spans is None else (sum(span.stop - span.start for span in spans),)
        found = np.empty((len(rows), *shape), first.dtype)
        seen: dict[int, int] = {}
        for i, (row, (shard, place)) in enumerate(zip(rows, places, strict=True)):
            if row in seen:
                found[i] = found[seen[row]]
                continue
            seen[row] = i
            column, at = self._file(shard)[name], 0
            if spans is None:
                column.read_direct(found, np.s_[place], np.s_[i])
            for span in spans or ():
                column.read_direct(found, np.s_[place, span], np.s_[i, at : at + span.stop - span.start])
                at += span.stop - span.start
        return torch.from_numpy(found)

    def _file(self, shard: int) -> h5py.File:
        if shard not in self._files:
            self._files[shard] = h5py.File(self._paths[shard], "r")
        return self._files[shard]

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()
