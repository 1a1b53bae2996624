"""Archives to folders, whole or not at all, with nothing but plain files and folders, and nothing outside the folder.

Every member is checked here, also those that are not written; the filters of `tarfile` are not relied on.
"""

import gzip
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, Self

from symnet.artifacts import sync_folder
from symnet.errors import UserError, one_line
from symnet.progress import byte_progress, size

MAX_MEMBERS = 500_000
MAX_BYTES = 200 * 10**9
MAX_HEADER = 1 << 20  # bytes of a long name or of a member's extra fields: tarfile reads those into memory
MAX_PADDING = 1 << 20
CHUNK = 1 << 20
EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, ValueError, NotImplementedError)
Parts = tuple[str, ...]


class Hostile(Exception):
    """A member that is refused, and why."""


@dataclass(frozen=True)
class Member:
    """A file or folder of an archive, as its header says. `open`: to its bytes; None for a folder."""

    name: str
    size: int = 0
    open: Callable[[], IO[bytes] | None] | None = None


def unpack(archive: Path, inner: str, target: Path, what: str, max_members: int = MAX_MEMBERS, max_bytes: int = MAX_BYTES) -> None:
    """Write what lies under the folder `inner` of a tar (.gz) or zip as the new folder `target`; modes are 0644 and 0755.

    All is written beside `target`, flushed, and renamed at once; what a killed run left is removed first, so the caller has to be the
    only one at it. Raises `UserError`: the member that is refused and why, a damaged archive, one without `inner`, no room on the disk.
    """
    scratch = target.with_name(f".{target.name}.unpacking")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if scratch.exists():
            shutil.rmtree(scratch)
        _unpack(archive, tuple(inner.split("/")), scratch, what, max_members, max_bytes)
        os.sync()  # once for all the files, before the one rename
        scratch.rename(target)
        sync_folder(target.parent)
    except Hostile as error:
        raise UserError(f"{archive}: refused, nothing of it was unpacked: {error}") from None
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{archive}: damaged ({one_line(error) or type(error).__name__}); delete it and run again") from None
    except OSError as error:
        raise UserError(f"{target}: cannot be unpacked from {archive} ({error.strerror or one_line(error)})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(archive: Path, inner: Parts, scratch: Path, what: str, max_members: int, max_bytes: int) -> None:
    found = False
    with open(archive, "rb") as raw, byte_progress(archive.stat().st_size, f"{what}: unpacking") as tell:
        for parts, member in _checked(_members(archive, raw, scratch.parent), max_members, max_bytes):
            tell(raw.tell())
            if parts[: len(inner)] == inner and (member.open is None or parts != inner):
                found = True
                _write(member, scratch.joinpath(*parts[len(inner) :]))
    if not found:
        raise UserError(f"{archive}: holds no folder '{'/'.join(inner)}'")


def _checked(members: Iterable[Member], max_members: int, max_bytes: int) -> Iterator[tuple[Parts, Member]]:
    """The members and the parts of their names. Raises `Hostile` at the first that breaks a rule."""
    seen: dict[Parts, bool] = {}
    total = 0
    for count, member in enumerate(members, start=1):
        if count > max_members:
            raise Hostile(f"more than {max_members} members")
        parts, folder = _parts(member.name), member.open is None
        if parts in seen and not (folder and seen[parts]):
            raise Hostile(f"'{one_line(member.name)}' stands in it twice")
        seen[parts] = folder
        total += member.size
        if not 0 <= member.size <= total <= max_bytes:
            raise Hostile(f"'{one_line(member.name)}' of {member.size} bytes makes more than {size(max_bytes)}")
        yield parts, member


def _parts(name: str) -> Parts:
    """A name's folders and last part. Raises `Hostile` for one that could lead elsewhere, here or on another system."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name) or re.search(r"[\\\x00-\x1f]", name):
        raise Hostile(f"'{one_line(name)}' is no plain name inside the archive")
    return parts


def _write(member: Member, path: Path) -> None:
    """One file or folder. Raises `Hostile` where more bytes come than its header says."""
    if member.open is None:
        return _folder(path)
    _folder(path.parent)
    written = 0
    body = member.open()
    assert body is not None  # tarfile has None for what is no file
    with body, open(path, "xb") as file:
        os.fchmod(file.fileno(), 0o644)
        while chunk := body.read(CHUNK):
            written += len(chunk)
            if written > member.size:
                raise Hostile(f"'{member.name}' is larger than the {member.size} bytes that its header says")
            file.write(chunk)
    if written < member.size:
        raise EOFError(f"'{member.name}' ends at {written} of {member.size} bytes")
    return None


def _folder(path: Path) -> None:
    if not path.is_dir():
        _folder(path.parent)
        path.mkdir()
        path.chmod(0o755)


def _members(archive: Path, raw: BinaryIO, disk: Path) -> Iterator[Member]:
    """The members of an archive, opened as `raw`, in their order. Raises `Hostile` for kinds other than files and folders."""
    if archive.name.endswith(".zip"):
        return _zip_members(raw, disk)
    if archive.name.endswith(".tar"):
        _need(disk, archive.stat().st_size)
        return _tar_members(raw)
    return _gzip_members(gzip.GzipFile(fileobj=raw))


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged header for the end of the archive; only a block of zeros is one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header where one should be: {error}") from None
        if header.type in EXTENDED and header.size > MAX_HEADER:
            raise Hostile(f"a header of {header.size} bytes")
        return header


def _tar_members(stream: IO[bytes] | gzip.GzipFile) -> Iterator[Member]:
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as tar:
        while header := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            if header.isdir():
                yield Member(header.name)
            elif header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not header.issparse():
                yield Member(header.name, header.size, partial(tar.extractfile, header))
            else:
                raise Hostile(f"'{one_line(header.name)}' is no plain file or folder (type {header.type!r})")


def _gzip_members(stream: gzip.GzipFile) -> Iterator[Member]:
    """As `_tar_members`, then the rest of the stream: only at its end is its sum checked."""
    yield from _tar_members(stream)
    if len(stream.read(MAX_PADDING)) == MAX_PADDING:
        raise Hostile(f"{MAX_PADDING} bytes and more after the last member")


def _zip_members(raw: BinaryIO, disk: Path) -> Iterator[Member]:
    with zipfile.ZipFile(raw) as whole:
        _need(disk, sum(info.file_size for info in whole.infolist()))
        for info in whole.infolist():
            name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)  # kind 0: its writer had none
            if info.flag_bits & 0x1:
                raise Hostile(f"'{one_line(name)}' is encrypted")
            if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
                raise Hostile(f"'{one_line(name)}' is no plain file or folder (mode {kind:o})")
            yield Member(name) if info.is_dir() else Member(name, info.file_size, partial(whole.open, info))


def _need(disk: Path, count: int) -> None:
    """Raise `UserError` where the disk has no room for that many bytes."""
    if count > (free := shutil.disk_usage(disk).free):
        raise UserError(f"{disk}: {size(free)} free, unpacking needs {size(count)}")
