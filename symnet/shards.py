"""Rows of columns in HDF5 shards beside a manifest: what the feature cache and the episode records are kept in.

The shards of `{stem}.json` are `{stem}-{key}/00000.h5`, ...; `key` says what they are made from. A shard is written whole and a seal
beside it, over its name, its key and its sha256, so a run that was killed goes on with the shards it finished, and with no others.
Columns are uncompressed and contiguous.
"""

import contextlib
import io
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from torch import Tensor

from symnet.artifacts import digest, file_digest, replacing, write_text
from symnet.errors import UserError, one_line
from symnet.prefetch import ahead
from symnet.progress import progress

Row = TypeVar("Row")
Loaded = TypeVar("Loaded")
Columns = dict[str, np.ndarray]  # [n, ...] by name


def write_shards(
    out: Path,
    key: str,
    batches: Sequence[Sequence[Row]],
    load: Callable[[Sequence[Row]], Loaded],
    columns: Callable[[Sequence[Row], Loaded], Columns],
    per_shard: int,
    what: str,
) -> list[dict[str, Any]]:
    """Write the shards of the manifest `out`, or find them whole. Returns what the manifest has to say of each.

    batches: the rows, as many together as are loaded and made into columns; per_shard: batches a shard; what: the work, in words. One
    thread loads, one makes columns, this one writes: none waits for another longer than it must. Raises `UserError` where shards cannot
    be written.
    """
    folder = out.parent / f"{out.stem}-{key}"
    with _telling(folder):
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
            loaded = ahead(load, ((rows, rows) for rows in piece))
            sha = _write(path, count, (made for _, made in ahead(lambda pair: columns(*pair), ((None, pair) for pair in loaded))))
        shards.append({"file": f"{folder.name}/{path.name}", "rows": count, "sha256": sha})
    return shards


def remove_others(out: Path, key: str) -> None:
    """Remove the shards of manifests that were at `out` before, and what killed runs left."""
    for old in out.parent.glob(f"{out.stem}-*"):
        if old.is_dir() and old.name != f"{out.stem}-{key}":
            shutil.rmtree(old)
    for left in (out.parent / f"{out.stem}-{key}").glob(".*.partial"):
        left.unlink()


def _seal(path: Path, sha: str) -> tuple[Path, str]:
    """Where the seal of a shard lies, and what it has to hold: another run's shard, or another one of this run, has another."""
    return path.with_suffix(".seal"), digest([path.parent.name, path.name, sha])


def _whole(path: Path) -> str:
    """The sha256 of a shard of a run before; empty where it is not there, not whole or another's."""
    if not path.is_file():
        return ""
    sha = file_digest(path)
    place, seal = _seal(path, sha)
    return sha if place.is_file() and place.read_text() == seal else ""


def _write(path: Path, count: int, pieces: Iterable[Columns]) -> str:
    """Write one shard of `count` rows. Returns its sha256.

    HDF5 makes it in memory and one plain write takes it to the disk: where that is full, HDF5 could not even close its file.
    """
    whole = io.BytesIO()
    start = 0
    with h5py.File(whole, "w", track_order=False) as file:
        for piece in pieces:
            stop = start + len(next(iter(piece.values())))
            for name, values in piece.items():
                if start == 0:
                    file.create_dataset(name, (count, *values.shape[1:]), values.dtype, track_times=False)
                file[name][start:stop] = values
            start = stop
    assert start == count
    with _telling(path.parent):
        with replacing(path) as partial:
            partial.write_bytes(whole.getbuffer())
        sha = file_digest(path)
        write_text(*_seal(path, sha))
    return sha


@contextlib.contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Turn a failed write into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UserError(f"{folder}: shards cannot be written ({reason}); mend that and run again: finished ones are kept") from None


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
