"""Files that appear whole or not at all, and that say what made them.

Every artifact carries a provenance: schema version, stage, settings hash, the rules of the protocol behind it, code hash, the sha256 of
its inputs and of its own content. It never holds a time or a host, so the same work gives the same bytes. Readers check the content's
sum and refuse what does not fit. JSON is handled here; HDF5 lives in `features` and `data.store`, tensors in `checkpoint`, all on top of
`replacing` and `Provenance`.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from symnet.errors import UserError, one_line

SCHEMA = 2
_SAMPLE = 1 << 20  # bytes read at each end of a large file to tell whether it changed


class Provenance(BaseModel):
    """What made an artifact. `inputs` maps a role (`features`, `episodes`, ...) to a sha256; `content` is the artifact's own.

    `protocol` holds those rules of the protocol that the stage depends on, so that another rule reruns nothing of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    stage: str
    settings: str = ""
    protocol: dict[str, str | int] = {}
    code: str = ""
    inputs: dict[str, str] = {}
    content: str = ""


def sealed(provenance: Provenance, content: str) -> Provenance:
    """`provenance` with its sum: over `content`, the sha256 of what the file holds, and over its own other fields."""
    return provenance.model_copy(update={"content": digest([provenance.model_dump(exclude={"content"}), content])})


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and give it the final name, on failure remove it.

    A reader sees the old file or the whole new one. The temporary name is unique, so two writers cannot interleave.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` (UTF-8) whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_text_if_changed(path: Path | str, text: str) -> bool:
    """As `write_text`, but leave a file that already holds `text` untouched. Returns whether it was written."""
    path = Path(path)
    if path.exists() and path.read_bytes() == text.encode():
        return False
    write_text(path, text)
    return True


def canonical(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_digest(path: Path | str) -> str:
    """sha256 of a file's bytes. Raises `UserError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def mark(path: Path) -> str:
    """A short digest that changes with a file's content; of a large file, its size and both ends. Empty where it is absent."""
    if not path.is_file():
        return ""
    size = path.stat().st_size
    total = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        total.update(file.read(_SAMPLE))
        file.seek(max(0, size - _SAMPLE))
        total.update(file.read(_SAMPLE))
    return total.hexdigest()[:16]


def dump_json(payload: Any, provenance: Provenance) -> str:
    """The text of a JSON artifact: provenance first, then the payload, one key a line at the top two levels."""
    stamped = sealed(provenance, digest(payload))
    return json.dumps({"provenance": stamped.model_dump(), "payload": payload}, indent=1, sort_keys=False, allow_nan=False) + "\n"


def write_json(path: Path | str, payload: Any, provenance: Provenance) -> None:
    """Write a JSON artifact whole or not at all."""
    write_text(path, dump_json(payload, provenance))


def read_json(path: Path | str, stage: str | None = None) -> tuple[Any, Provenance]:
    """Read a JSON artifact and check it: shape, schema version, the stage that made it, its sum.

    Raises `UserError` naming the file and what is wrong with it.
    """
    path = Path(path)
    text = _read(path)
    try:
        whole = json.loads(text)
        canonical(whole)  # refuses what JSON has no number for: NaN, 1e999
    except ValueError as error:
        raise UserError(f"{path}: not a whole JSON file ({one_line(error)}); delete it and run again") from None
    if not isinstance(whole, Mapping) or set(whole) != {"provenance", "payload"}:
        raise UserError(f"{path}: not an artifact of symnet (no provenance)")
    provenance = parse_provenance(whole["provenance"], path, stage)
    check_seal(path, provenance, digest(whole["payload"]))
    return whole["payload"], provenance


def write_manifest(path: Path, files: Iterable[Path], provenance: Provenance) -> None:
    """Write the JSON artifact that vouches for plain files beside it, which have no place for a provenance: their names and sums."""
    write_json(path, {file.name: file_digest(file) for file in files}, provenance)


def read_manifest(path: Path, stage: str) -> list[Path]:
    """The files beside a manifest that it vouches for. Raises `UserError` naming one that is missing, or not as it was written."""
    payload, _ = read_json(path, stage)
    for name, sha in payload.items():
        if file_digest(path.with_name(name)) != sha:
            raise UserError(f"{path.with_name(name)}: does not match its sha256 in {path.name}: damaged or edited; delete it and run again")
    return [path.with_name(name) for name in payload]


def _read(path: Path) -> str:
    """A file's text with its line ends as they are."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UserError(f"{path}: not found") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text ({one_line(error)}); delete it and run again") from None


def check_seal(path: Path | str, provenance: Provenance, content: str) -> None:
    """Raise `UserError` unless `provenance` carries the sum of itself and of `content`."""
    if sealed(provenance, content) != provenance:
        raise UserError(f"{path}: content does not match its sha256: damaged or edited; delete it and run again")


def parse_provenance(found: Any, path: Path | str, stage: str | None) -> Provenance:
    """Validate a provenance block read from `path`; `stage` is the one expected, None for any."""
    try:
        provenance = Provenance.model_validate(found)
    except ValidationError as error:
        raise UserError(f"{path}: provenance is not readable ({one_line(error)})") from None
    if provenance.schema_version != SCHEMA:
        raise UserError(f"{path}: schema version {provenance.schema_version}, this symnet reads {SCHEMA}; delete it and run again")
    if stage is not None and provenance.stage != stage:
        raise UserError(f"{path}: made by stage '{provenance.stage}', expected '{stage}'")
    return provenance


MARK = "# symnet "  # first line of a table artifact: the provenance follows as JSON


def write_table(path: Path | str, columns: list[str], rows: list[list[Any]], provenance: Provenance, if_changed: bool = False) -> bool:
    """Write a CSV artifact whole or not at all. Its first line is a comment that holds the provenance.

    `pandas.read_csv(path, comment="#")` reads it too; `read_table` checks it first. With `if_changed` a file that already holds
    the same bytes stays untouched. Returns whether it was written.
    """
    buffer = io.StringIO()
    returns = any("\r" in str(value) for row in rows for value in row)  # csv quotes these by itself from Python 3.13 on
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows(rows)
    text = buffer.getvalue()
    stamped = sealed(provenance, hashlib.sha256(text.encode()).hexdigest())
    whole = f"{MARK}{canonical(stamped.model_dump())}\n{text}"
    if if_changed:
        return write_text_if_changed(path, whole)
    write_text(path, whole)
    return True


def read_table(path: Path | str, stage: str | None = None) -> tuple[list[dict[str, str]], Provenance]:
    """Read and check a CSV artifact. Returns its rows, column name to text, and its provenance. Raises `UserError`."""
    path = Path(path)
    head, _, body = _read(path).partition("\n")
    if not head.startswith(MARK):
        raise UserError(f"{path}: not an artifact of symnet (no provenance)")
    try:
        found = json.loads(head[len(MARK) :])
    except ValueError as error:
        raise UserError(f"{path}: provenance is not readable ({one_line(error)})") from None
    provenance = parse_provenance(found, path, stage)
    check_seal(path, provenance, hashlib.sha256(body.encode()).hexdigest())
    return list(csv.DictReader(io.StringIO(body, newline=""))), provenance
