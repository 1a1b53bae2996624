"""The catalogue of every file that is ever fetched: config/datasets.tsv, and beside it the lock file that pins what has no published sum.

A pin joins its entry when the catalogue is read, so that everything after knows of one expected sum only.
"""

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from symnet.artifacts import write_text
from symnet.errors import UserError, one_line

CATALOGUE = Path(__file__).resolve().parents[2] / "config" / "datasets.tsv"
FILE, ARCHIVE, MANUAL, MADE = KINDS = ("file", "archive", "manual", "made")
FETCHED = (FILE, ARCHIVE)
MARKERS = ".symnet"  # folder of the data root
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")


@dataclass(frozen=True)
class Entry:
    """A row. `place` is relative to the data root; `bytes` (None: unknown) and `checksum` (empty: unknown) are those of the download."""

    name: str
    version: str
    kind: str
    place: str
    inner: str = ""
    url: str = ""
    mirrors: tuple[str, ...] = ()
    bytes: int | None = None
    checksum: str = ""
    licence: str = ""
    note: str = ""

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it is fetched from, in the order of trying."""
        return (self.url, *self.mirrors) if self.url else ()

    @property
    def download(self) -> str:
        """The downloaded file, relative to the data root: the place itself, or the archive that becomes it."""
        return f"downloads/{_file_name(self.url)}" if self.kind == ARCHIVE else self.place


class Pin(BaseModel):
    """What an entry without a published sum was when it was first fetched."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


COLUMNS = tuple(field.name for field in fields(Entry))


def load_catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    """Name to entry, in the order of the file, pins of its lock file joined in.

    Raises `UserError` naming the row, the column and what is allowed.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the catalogue cannot be read ({one_line(error)})") from None
    rows = [(number, line.split("\t")) for number, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    if not rows or tuple(rows[0][1]) != COLUMNS:
        raise UserError(f"{path}: the first row must name the columns, joined by tabs: {' '.join(COLUMNS)}")
    catalogue: dict[str, Entry] = {}
    for number, values in rows[1:]:
        entry = _parse(values, f"{path}: row {number}")
        if entry.name in catalogue:
            raise UserError(f"{path}: row {number}: name: '{entry.name}' stands there twice")
        for other in catalogue.values():
            if entry.place == other.place:
                raise UserError(f"{path}: row {number}: place: '{entry.place}' is that of {other.name} too")
            if entry.download == other.download:
                raise UserError(f"{path}: row {number}: url: its file name is that of {other.name} too, both would be {entry.download}")
        catalogue[entry.name] = entry
    pins = load_pins(path)
    return {name: _pinned(entry, pins.get(name)) for name, entry in catalogue.items()}


def _parse(values: list[str], where: str) -> Entry:
    """An entry from the cells of a row, each checked. `where` begins the message."""
    if len(values) != len(COLUMNS):
        raise UserError(f"{where}: found {len(values)} cells, expected {len(COLUMNS)}: {' '.join(COLUMNS)}")
    cell = dict(zip(COLUMNS, values, strict=True))
    kind, urls = cell["kind"], [cell["url"], *cell["mirrors"].split()]
    fetched, archive = kind in FETCHED, kind == ARCHIVE
    rules = (
        ("name", re.fullmatch(r"[a-z0-9][a-z0-9_]*", cell["name"]), "small letters, digits and _"),
        ("version", cell["version"].strip(), "any text"),
        ("kind", kind in KINDS, ", ".join(KINDS)),
        ("place", _is_inside(cell["place"]), "a path inside the data root, joined by /"),
        ("inner", _is_inside(cell["inner"]) if archive else not cell["inner"], "a folder inside the archive; empty for other kinds"),
        ("url", _is_http(urls[0]) if fetched else not urls[0], "http(s)://host/file; empty for what is not fetched"),
        ("url", not archive or _file_name(urls[0]).endswith(SUFFIXES), f"an archive's name ends in {', '.join(SUFFIXES)}"),
        ("mirrors", all(map(_is_http, urls[1:])) and (fetched or not urls[1:]), "http(s)://host/file, joined by spaces"),
        ("bytes", re.fullmatch(r"[1-9][0-9]*|", cell["bytes"]), "a whole number, or empty"),
        (
            "checksum",
            re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{8,64}|", cell["checksum"]),
            "md5:, sha256: (from 8 digits), or empty",
        ),
        ("note", fetched or cell["note"].strip(), "words on how to get it, since it is not fetched"),
    )
    for column, fits, allowed in rules:
        if not fits:
            raise UserError(f"{where}: {column}: found '{cell[column]}', allowed: {allowed}")
    size = int(cell.pop("bytes") or 0) or None
    del cell["mirrors"]
    return Entry(**cell, mirrors=tuple(urls[1:]), bytes=size)


def _is_inside(path: str) -> bool:
    return (
        bool(path) and str(PurePosixPath(path)) == path and not path.startswith(("/", ".")) and not re.search(r"\.\.|[\\:\x00-\x1f]", path)
    )


def _is_http(url: str) -> bool:
    return re.fullmatch(r"https?://[^/?#@\\[\]]+/[!-~]+", url) is not None and _file_name(url) != ""


def _file_name(url: str) -> str:
    """The last part of a URL's path; empty where it is no name for a file."""
    name = unquote(re.split(r"[?#]", url)[0]).rpartition("/")[2]
    return name if _is_inside(name) else ""


def known(catalogue: dict[str, Entry], name: str) -> Entry:
    """The entry of that name. Raises `UserError`."""
    if name not in catalogue:
        raise UserError(f"download: found '{name}', the catalogue has: {', '.join(catalogue)}")
    return catalogue[name]


def provider(catalogue: dict[str, Entry], place: str) -> Entry | None:
    """The entry that brings `place` (relative to the data root): the longest of those that are it or a folder it lies in."""
    wanted = PurePosixPath(place)
    around = [entry for entry in catalogue.values() if wanted.is_relative_to(entry.place)]
    return max(around, key=lambda entry: len(entry.place), default=None)


def parents(catalogue: dict[str, Entry], entry: Entry) -> list[Entry]:
    """The entries whose place `entry` lies in, to be fetched before it, outermost first."""
    around = [other for other in catalogue.values() if PurePosixPath(other.place) in PurePosixPath(entry.place).parents]
    return sorted(around, key=lambda other: len(other.place))


def marker(root: Path, name: str) -> Path:
    """The file that says that `name` is in place under the data root."""
    return root / MARKERS / f"{name}.json"


def lock_of(path: Path) -> Path:
    """The lock file of the catalogue at `path`."""
    return path.with_suffix(".lock")


def load_pins(path: Path) -> dict[str, Pin]:
    """Pins by name from the lock file of the catalogue at `path`; empty without one. Raises `UserError`."""
    lock = lock_of(path)
    try:
        return TypeAdapter(dict[str, Pin]).validate_json(lock.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{lock}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise UserError(f"{lock}: {one_line(error.errors()[0]['msg'])}; restore the file, or delete it to pin anew") from None


def _pinned(entry: Entry, pin: Pin | None) -> Entry:
    """`entry` with the sum and size of its pin, where it has no sum of its own and the pin is of its version."""
    if entry.checksum or pin is None or pin.version != entry.version:
        return entry
    return replace(entry, checksum=f"sha256:{pin.sha256}", bytes=pin.bytes)


def add_pin(path: Path, entry: Entry, size: int, sha256: str) -> bool:
    """Pin `entry` in the lock file of the catalogue at `path`. Returns whether that could be written.

    Raises `UserError` where it is pinned to another sum by now.
    """
    pins, new = load_pins(path), Pin(version=entry.version, bytes=size, sha256=sha256)
    old = pins.get(entry.name, new)
    if old.version == new.version and old != new:
        raise UserError(f"{entry.name}: sha256 {sha256} of {size} bytes; {lock_of(path)} has {old.sha256} of {old.bytes} bytes by now")
    pins[entry.name] = new
    try:
        write_text(lock_of(path), json.dumps({name: pins[name].model_dump() for name in sorted(pins)}, indent=1) + "\n")
    except OSError:
        return False
    return True
