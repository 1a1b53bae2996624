"""An entry of the catalogue, in its place: fetched, checked, unpacked, pinned, and marked.

{root}/downloads/{archive}       what was downloaded to be unpacked
{root}/{place}                   the file or folder
{root}/.symnet/{name}.json       its marker: it is there, whole, and from where
{root}/.symnet/{name}.held       locked by the process that is at it
"""

import sys
from pathlib import Path

from symnet.artifacts import Provenance, read_json, write_json
from symnet.data.catalogue import ARCHIVE, FETCHED, FILE, MARKERS, Entry, add_pin, known, lock_of, marker, parents
from symnet.data.download import Fetched, Transport, check, fetch
from symnet.data.files import alone, tally
from symnet.data.unpack import unpack
from symnet.errors import UserError

STAGE = "download"


def obtain(name: str, catalogue: dict[str, Entry], path: Path, root: Path, how: Transport, delete_archives: bool = False) -> Path:
    """Bring `name` to its place under the data root, what its place lies in first. Returns the place.

    `path` is the catalogue's own file: its lock file gets the pins. Nothing is asked or read where the marker and the place are there.
    Raises `UserError`: an unknown name, an entry that has to be brought by hand, all that `fetch` and `unpack` refuse.
    """
    entry = known(catalogue, name)
    place = root / entry.place
    if entry.kind not in FETCHED and not place.exists():
        raise UserError(f"{name}: not fetched but {entry.kind}: {entry.note}; its place is {place}")
    for parent in parents(catalogue, entry):
        if parent.kind in FETCHED:
            obtain(parent.name, catalogue, path, root, how, delete_archives)
    if not _is_marked(entry, root):
        with alone(marker(root, name).with_suffix(".held"), name):
            if not _is_marked(entry, root):
                _settle(entry, path, root, how, delete_archives)
    return place


def _is_marked(entry: Entry, root: Path) -> bool:
    """Whether the place and a marker of this version are there. Raises `UserError` where the place is of another version."""
    found = marker(root, entry.name)
    if not found.exists() or not (root / entry.place).exists():
        return False
    version = read_json(found, STAGE)[0]["version"]
    if version != entry.version:
        raise UserError(f"{root / entry.place}: is version '{version}', the catalogue has '{entry.version}'; move it and {found} away")
    return True


def _settle(entry: Entry, path: Path, root: Path, how: Transport, delete_archives: bool) -> None:
    """Fetch, unpack, pin and mark, whatever of it is still to do."""
    place = root / entry.place
    found = _bring(entry, root, how)
    if found is not None and not entry.checksum:
        _pin(entry, path, root, found)
    files, unpacked = tally(place)
    payload = {
        "name": entry.name,
        "version": entry.version,
        "bytes": found and found.bytes,
        "sha256": found and found.sha256,
        "files": files,
        "unpacked": unpacked,
    }
    write_json(marker(root, entry.name), payload, Provenance(stage=STAGE))
    if delete_archives and entry.kind == ARCHIVE:
        (root / entry.download).unlink(missing_ok=True)


def _bring(entry: Entry, root: Path, how: Transport) -> Fetched | None:
    """The entry to its place. Returns its download; None for a folder that was brought by hand."""
    place, download = root / entry.place, root / entry.download
    if entry.kind == FILE:
        return fetch(entry, root, how)
    if entry.kind == ARCHIVE and not (place.is_dir() and any(place.iterdir())):
        found = fetch(entry, root, how)
        unpack(found.path, entry.inner, place, entry.name)
        return found
    return check(download, entry) if download.is_file() else None  # killed before the marker, or brought by hand


def _pin(entry: Entry, path: Path, root: Path, found: Fetched) -> None:
    """Pin what came; a lock file that cannot be written is told, no more."""
    with alone(root / MARKERS / "pins.held", f"{entry.name}: pin"):
        if not add_pin(path, entry, found.bytes, found.sha256):
            print(f"{entry.name}: not pinned: {lock_of(path)} cannot be written; sha256 {found.sha256}", file=sys.stderr, flush=True)
