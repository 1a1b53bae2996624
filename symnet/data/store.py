"""The image store: decoded images and index masks in HDF5, so that no job decodes a JPEG or draws a mask that another did before.

A store is a manifest (a JSON artifact, the declared output) and shards beside it, `{manifest stem}-{key}/{name}.h5`; `key` says which
code decoded. A shard holds two flat uint8 datasets, uncompressed and contiguous: `images`, the RGB bytes of its rows in turn, and
`masks`. Its name is the digest of what its rows were decoded from, so a changed image remakes its own shard, and a run that was killed
goes on with the shards it finished. The manifest lists the shards and in each its rows [split, image, height, width, sum of sources].
"""

import contextlib
import fcntl
import hashlib
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np

from symnet.artifacts import Provenance, digest, file_digest, replacing, write_json, write_text
from symnet.config import Settings
from symnet.data.images import Pixels
from symnet.data.index import Row, read_index
from symnet.data.readers import Reader, Split, open_reader
from symnet.data.stored import pixels_digest, source_sum
from symnet.errors import UserError, one_line
from symnet.progress import progress

SHARD_BYTES = 1 << 28
CUT = 256  # one image in so many starts a shard, wherever it stands
CHANNELS = 4  # bytes a pixel: three of the image, one of the mask


def make_store(settings: Settings, data_root: Path, index_folder: Path, out: Path, workers: int, provenance: Provenance) -> None:
    """Decode every image of the index in `index_folder` and write the store, the manifest `out` last.

    Any number of threads `workers` gives the same bytes. Raises `UserError` for files that are not what the index says, and where there
    is no room or no right to write.
    """
    rows = read_index(index_folder)[0].rows
    if any(not row.image_sha for row in rows):
        raise UserError(f"{index_folder}: was made without images (--masks-only); run `symnet folds` with them")
    reader = open_reader(settings.data, settings.protocol, data_root)
    folder = out.parent / f"{out.stem}-{digest(provenance.code)[:12]}"
    paths = {folder / f"{_name(piece)}.h5": piece for piece in partition(rows)}
    with _writing(folder), ThreadPoolExecutor(workers) as pool:
        kept = {path: sha for path in paths if (sha := _whole(path))}
        _check_room(folder, sum(_bytes(piece) for path, piece in paths.items() if path not in kept))
        shards = []
        for path, piece in progress(paths.items(), len(paths), "store, shards"):
            sha = kept.get(path) or _write(path, reader, piece, pool)
            listed = [[row.split, row.image, row.height, row.width, source_sum(row)] for row in piece]
            shards.append({"file": f"{folder.name}/{path.name}", "sha256": sha, "rows": listed})
        write_json(out, {"settings": pixels_digest(settings.data, settings.protocol), "shards": shards}, provenance)
        _remove_others(out, folder, paths)


def partition(rows: Sequence[Row]) -> list[list[Row]]:
    """Cut the index into shards of consecutive rows, `SHARD_BYTES` at most.

    A shard ends where it is full, or before an image whose name says so: after a row that came, went or changed its size, the cuts fall
    together again from the next such name on.
    """
    pieces: list[list[Row]] = []
    size = 0
    for row in rows:
        named = int(digest([row.split, row.image]), 16) % CUT == 0
        if not pieces or named or size + _bytes([row]) > SHARD_BYTES:
            pieces.append([])
            size = 0
        pieces[-1].append(row)
        size += _bytes([row])
    return pieces


def _name(piece: Sequence[Row]) -> str:
    return digest([[row.split, row.image, source_sum(row)] for row in piece])[:16]


def _bytes(piece: Sequence[Row]) -> int:
    return CHANNELS * sum(row.height * row.width for row in piece)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make `folder` and be its only writer: another waits, and finds the shards whole. Failed writes become a `UserError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(_lock(folder), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # freed when the process ends
            yield
    except OSError as error:
        reason = one_line(error.strerror or error)
        raise UserError(f"{folder}: the store cannot be written ({reason}); mend that and run again: finished shards are kept") from None


def _lock(folder: Path) -> Path:
    return folder / "lock"


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the store needs {needed / 1e9:.1f} GB more and {free / 1e9:.1f} GB are free; make room, or set store.images: false"
        )


def _whole(path: Path) -> str:
    """The sha256 of a shard of a run before; empty where it is not there or not whole."""
    note = _note(path)
    if path.is_file() and note.is_file() and note.read_text() == file_digest(path):
        return note.read_text()
    return ""


def _note(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _write(path: Path, reader: Reader, rows: Sequence[Row], pool: ThreadPoolExecutor) -> str:
    """Write one shard. Returns its sha256.

    HDF5 makes it in memory and one plain write takes it to the disk: where that is full, HDF5 could not even close its file.
    """
    whole = io.BytesIO()
    with h5py.File(whole, "w", libver=("v110", "v110"), track_order=False) as file:
        count, start = _bytes(rows) // CHANNELS, 0
        images = file.create_dataset("images", (3 * count,), np.uint8, track_times=False)
        masks = file.create_dataset("masks", (count,), np.uint8, track_times=False)
        for image, mask in pool.map(lambda row: _decode(reader, row), rows):
            stop = start + mask.size
            images[3 * start : 3 * stop], masks[start:stop] = image.ravel(), mask.ravel()
            start = stop
    with replacing(path) as partial:
        partial.write_bytes(whole.getbuffer())
    sha = file_digest(path)
    write_text(_note(path), sha)
    return sha


def _decode(reader: Reader, row: Row) -> tuple[Pixels, Pixels]:
    """An image and its mask, if they are what the index has of them. Raises `UserError`."""
    split: Split = "train" if row.split == "train" else "test"
    image, mask = reader.load(split, row.image)
    path, mask_path = reader.image_path(split, row.image), reader.mask_path(split, row.image)
    found = file_digest(path), file_digest(mask_path) if mask_path else hashlib.sha256(mask.tobytes()).hexdigest()
    if found != (row.image_sha, row.mask_sha):
        raise UserError(f"{path}: image or mask changed since the index was made; run `symnet folds` again")
    assert image.shape == (row.height, row.width, 3)
    assert mask.shape == (row.height, row.width)
    return image, mask


def _remove_others(out: Path, folder: Path, paths: Mapping[Path, object]) -> None:
    """Remove the shards of stores before, and what killed runs left."""
    for old in out.parent.glob(f"{out.stem}-*"):
        if old.is_dir() and old != folder:
            shutil.rmtree(old)
    used = {*paths, *map(_note, paths), _lock(folder)}
    for left in set(folder.iterdir()) - used:
        left.unlink()
