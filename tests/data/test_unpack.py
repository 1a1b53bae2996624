"""Archives, good and hostile: a whole folder of plain files, or nothing, and never a file elsewhere."""

import gzip
import io
import itertools
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from symnet.data import unpack as module
from symnet.data.unpack import unpack
from symnet.errors import UserError


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo, path: Path, mode: str = "w") -> Path:
    """(name, bytes), a name ending in / for a folder, or a header as it is."""
    with tarfile.open(path, mode) as tar:
        for member in members:
            header = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            content = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            if header.name.endswith("/"):
                header.type = tarfile.DIRTYPE
            header.size = header.size or len(content)
            header.mode = 0o4777
            tar.addfile(header, io.BytesIO(content) if content else None)
    return path


def zip_of(*members: tuple[str, bytes] | zipfile.ZipInfo, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as whole:
        for member in members:
            if isinstance(member, zipfile.ZipInfo):
                whole.writestr(member, b"there")
            else:
                whole.writestr(*member)
    return path


GOOD: tuple[tuple[str, bytes], ...] = (
    ("top/", b""), ("./top/set/a.txt", b"a" * 70_000), ("top/set/b/", b""), ("top/set/b/c", b"c"), ("top/set/.hidden", b"h"),
    ("top/setting.txt", b"no"), ("other/set/x", b"no"), ("top/set/empty/", b""), ("top/set/b/", b"")
)  # fmt: skip


def good_tar(path: Path) -> Path:
    return tar_of(*GOOD, path=path)


def good_tgz(path: Path) -> Path:
    return tar_of(*GOOD, path=path, mode="w:gz")


def good_zip(path: Path) -> Path:
    return zip_of(*GOOD[:-1], path=path)


MAKERS: dict[str, Callable[[Path], Path]] = {"a.tar": good_tar, "a.tar.gz": good_tgz, "a.tgz": good_tgz, "a.zip": good_zip}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.mark.parametrize("name", MAKERS)
def test_what_comes_out(name: str, root: Path) -> None:
    archive = MAKERS[name](root / name)
    scratch = root / "places/.set.unpacking"
    (scratch / "half").mkdir(parents=True)  # what a killed run left
    unpack(archive, "top/set", root / "places/set", "data")
    place = root / "places/set"
    found = {str(path.relative_to(place)): path for path in place.rglob("*")}
    assert set(found) == {"a.txt", "b", "b/c", ".hidden", "empty"}
    assert found["a.txt"].read_bytes() == b"a" * 70_000
    assert found["b/c"].read_bytes() == b"c"
    assert all(stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644) for path in (place, *found.values()))
    assert [path.name for path in (root / "places").iterdir()] == ["set"]


def refused(archive: Path, root: Path, inner: str = "top/set", **limits: int) -> str:
    """Unpack in vain: nothing but the archive is there, inside or outside. Returns the one line, without the archive's path."""
    before = {path: path.lstat().st_mtime_ns for path in root.parent.rglob("*") if path != root}
    with pytest.raises(UserError) as caught:
        unpack(archive, inner, root / "set", "data", **limits)
    assert {path: path.lstat().st_mtime_ns for path in root.parent.rglob("*") if path != root} == before
    said = str(caught.value)
    assert "\n" not in said
    return said.removeprefix(f"{archive}: ").removeprefix("refused, nothing of it was unpacked: ")


def header(name: str, kind: bytes, link: str = "", **values: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    for key, value in values.items():
        setattr(found, key, value)
    return found


OUTSIDE = ("../x", "top/set/../../x", "/etc/x", "//x", "C:/x", "c:x", "top\\set\\x", "..", "top/set/..", "top/set/a\nb", "top/set/\x1b[2J")


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_names_outside(name: str, make: Any, root: Path) -> None:
    archive = make(("top/set/a", b"a"), (name, b"x"), path=root / ("a.tar" if make is tar_of else "a.zip"))
    assert refused(archive, root).endswith("is no plain name inside the archive")


def test_a_name_with_an_end_inside_it(root: Path) -> None:
    info = zipfile.ZipInfo("top/set/abcdefgh")
    archive = zip_of(info, path=root / "a.zip")
    archive.write_bytes(archive.read_bytes().replace(b"top/set/abcdefgh", b"top/set/a\0../../"))
    assert refused(archive, root).endswith("is no plain name inside the archive")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "../../outside"), (tarfile.SYMTYPE, "a"), (tarfile.LNKTYPE, "top/set/a"), (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""), (tarfile.BLKTYPE, ""), (tarfile.FIFOTYPE, ""), (tarfile.CONTTYPE, ""), (b"Z", ""), (b"D", ""),
    ],
)  # fmt: skip
def test_members_that_are_no_files(kind: bytes, link: str, root: Path) -> None:
    archive = tar_of(("top/set/a", b"a"), header("top/set/b", kind, link), ("top/set/b/c", b"c"), path=root / "a.tar")
    assert refused(archive, root) == f"'top/set/b' is no plain file or folder (type {kind!r})"
    archive = tar_of(("top/set/a", b"a"), header("elsewhere", kind, link), path=root / "a.tar")  # also where it would not be written
    assert refused(archive, root).startswith("'elsewhere' is no plain file or folder")


def test_sparse_files(root: Path) -> None:
    old = header("top/set/b", tarfile.GNUTYPE_SPARSE)
    assert "is no plain file or folder" in refused(tar_of(("top/set/a", b"a"), old, path=root / "a.tar"), root)
    new = header("top/set/b", tarfile.REGTYPE, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": "9", "GNU.sparse.numblocks": "1"})
    assert "is no plain file or folder" in refused(tar_of(("top/set/a", b"a"), new, path=root / "b.tar"), root)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR])
def test_zip_members_that_are_no_files(kind: int, root: Path) -> None:
    info = zipfile.ZipInfo("top/set/b")
    info.external_attr = (kind | 0o777) << 16
    assert refused(zip_of(info, path=root / "a.zip"), root) == f"'top/set/b' is no plain file or folder (mode {kind:o})"


def test_encryption(root: Path) -> None:
    archive = zip_of(("top/set/a", b"a"), path=root / "a.zip")
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flags, in the member's own header and in the directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    assert refused(archive, root) == "'top/set/a' is encrypted"


@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a", "a/"), ("a/", "a"), ("b//a", "b/a")])
def test_a_name_twice(names: tuple[str, str], root: Path) -> None:
    members = [(f"top/set/{name}", b"" if name.endswith("/") else b"x") for name in names]
    assert refused(tar_of(*members, path=root / "a.tar"), root).endswith("stands in it twice")


def test_a_file_as_a_folder(root: Path) -> None:
    for number, names in enumerate((("a", "a/b"), ("a/b", "a"))):
        said = refused(tar_of(*((f"top/set/{name}", b"x") for name in names), path=root / f"{number}.tar"), root)
        assert said.endswith("(File exists)")
    assert refused(tar_of(("top/set", b"x"), path=root / "a.tar"), root) == "holds no folder 'top/set'"


def test_too_many_members(root: Path) -> None:
    members = [(f"top/set/{number}", b"") for number in range(1001)]
    for archive in (tar_of(*members, path=root / "a.tar"), zip_of(*members, path=root / "a.zip")):
        assert refused(archive, root, max_members=1000) == "more than 1000 members"
    unpack(root / "a.tar", "top/set", root.parent / "fits", "data", max_members=1001)
    assert len(list((root.parent / "fits").iterdir())) == 1001


def test_members_without_end(root: Path) -> None:
    """The limit's headers are read, the next one ends it; what is not under `inner` counts too."""
    block = tarfile.TarInfo("x/0000000").tobuf()
    start, total = block.index(b"0000000"), sum(block) - 7 * ord("0")

    def blocks() -> Any:
        for number in itertools.count():
            digits = b"%07d" % number
            checksum = b"%06o\0 " % (8 * ord(" ") + sum(digits) + total - sum(block[148:156]))
            yield block[:start] + digits + block[start + 7 : 148] + checksum + block[156:]

    archive = root / "a.tgz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.writelines(itertools.islice(blocks(), 20_001))
    assert refused(archive, root, max_members=20_000) == "more than 20000 members"
    assert module.MAX_MEMBERS == 500_000


def test_bombs(root: Path) -> None:
    zeros = bytes(3_000_000)
    for archive in (
        tar_of(("top/set/a", zeros), path=root / "a.tgz", mode="w:gz"),
        zip_of(("top/set/a", zeros), path=root / "a.zip"),
        tar_of(("elsewhere", zeros), path=root / "b.tgz", mode="w:gz"),
    ):
        assert archive.stat().st_size < 10_000
        assert refused(archive, root, max_bytes=2_999_999).endswith("of 3000000 bytes makes more than 3.0 MB")
    many = [(f"top/set/{number}", bytes(1000)) for number in range(10)]
    assert refused(tar_of(*many, path=root / "c.tar"), root, max_bytes=9_999).startswith("'top/set/9' of 1000 bytes makes more")
    huge = header("top/set/a", tarfile.REGTYPE, size=1 << 62)
    archive = root / "d.tar"
    archive.write_bytes(huge.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert refused(archive, root).startswith(f"'top/set/a' of {1 << 62} bytes makes more than 200.0 GB")
    archive.write_bytes(header("top/set/a", tarfile.REGTYPE, size=-5).tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "'top/set/a' of -5 bytes" in refused(archive, root)


def test_a_zip_that_holds_more_than_it_says(root: Path) -> None:
    archive = zip_of(("top/set/a", bytes(3_000_000)), path=root / "a.zip")
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<L", 3_000_000), struct.pack("<L", 1000)))
    assert refused(archive, root).startswith("damaged (Bad CRC-32 for file 'top/set/a'")


def test_a_body_larger_than_its_header(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_of(("top/set/a", b"abc"), path=root / "a.tar")
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda self, member: io.BytesIO(b"abcd"))
    assert refused(archive, root) == "'top/set/a' is larger than the 3 bytes that its header says"


def test_a_long_name_that_fills_the_memory(root: Path) -> None:
    archive = root / "a.tgz"
    with gzip.open(archive, "wb") as file:
        file.write(header("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1 << 30).tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1 << 20))
    assert refused(archive, root) == f"a header of {1 << 30} bytes"
    deep = ("top/set/" + "d/" * 3000 + "x", b"x")
    assert refused(tar_of(deep, path=root / "b.tar"), root).endswith("(File name too long)")


@pytest.mark.parametrize("name", MAKERS)
def test_damage(name: str, root: Path) -> None:
    """Cut anywhere, an archive is refused; so is one whose bytes are not those of an archive."""
    archive = MAKERS[name](root / name)
    whole = archive.read_bytes()
    last = len(whole) if name != "a.tar" else 77_000  # after the last member: zeros that end the archive
    for length in sorted({0, 1, 100, 511, 512, 513, 1024, 1536, 2048, 70_000, last // 2, last - 100, last - 1} & set(range(last))):
        archive.write_bytes(whole[:length])
        said = refused(archive, root)
        assert said.startswith("damaged (") or "holds no folder" in said, length
    archive.write_bytes(b"<html>not found</html>" * 1000)
    assert refused(archive, root).startswith("damaged (")


def test_a_header_overwritten(root: Path) -> None:
    archive = tar_of(("top/set/a", b"a"), ("top/set/b", b"b"), path=root / "a.tar")
    data = bytearray(archive.read_bytes())
    data[1024 + 5] ^= 1
    archive.write_bytes(data)
    assert refused(archive, root).startswith("damaged (no header where one should be: bad checksum)")


def test_a_flipped_bit(root: Path) -> None:
    archive = root / "a.zip"
    with zipfile.ZipFile(archive, "w") as whole:  # stored
        whole.writestr("top/set/a", b"hello")
    archive.write_bytes(archive.read_bytes().replace(b"hello", b"hellp"))
    assert refused(archive, root) == "damaged (Bad CRC-32 for file 'top/set/a'); delete it and run again"
    archive = good_tgz(root / "a.tgz")
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1  # the sum of all
    archive.write_bytes(data)
    assert refused(archive, root).startswith("damaged (CRC check failed")


def test_padding_without_end(root: Path) -> None:
    archive = good_tgz(root / "a.tgz")
    data = gzip.decompress(archive.read_bytes()) + bytes(2 << 20)
    archive.write_bytes(gzip.compress(data))
    assert refused(archive, root) == "1048576 bytes and more after the last member"


def test_no_such_folder_inside(root: Path) -> None:
    for name, maker in MAKERS.items():
        assert refused(maker(root / name), root, inner="top/sett") == "holds no folder 'top/sett'"


def test_no_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage(root)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=70_000))
    for name in ("a.tar", "a.zip"):
        assert " free, unpacking needs " in refused(MAKERS[name](root / name), root)


def test_a_target_that_is_there(root: Path) -> None:
    archive = good_tar(root / "a.tar")
    (root / "set").mkdir()
    (root / "set/mine").write_text("mine")
    assert refused(archive, root).endswith("(Directory not empty)")
    assert (root / "set/mine").read_text() == "mine"
