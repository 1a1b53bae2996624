"""Fetching from a server that misbehaves: the right bytes under the final name, or a clear error and nothing there."""

import hashlib
import json
import random
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bad_server import Handler, Site, right, status
from typer.testing import CliRunner

from symnet.cli import app
from symnet.cli.download import rate_of
from symnet.data import catalogue as catalogue_module
from symnet.data.catalogue import COLUMNS, Entry, load_catalogue, load_pins
from symnet.data.download import Fetched, Transport, fetch
from symnet.data.files import alone
from symnet.data.obtain import marker, obtain
from symnet.data.part import Origin, Part
from symnet.errors import UserError

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()
HOW = Transport(stall=0.2, attempts=3, pause=0.0)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site(CONTENT)
    yield found
    found.close()


def entry_of(site: Site, **changed: Any) -> Entry:
    entry = Entry("thing", "1", "file", "weights/thing.bin", url=site.url, bytes=len(CONTENT), checksum=f"md5:{MD5}")
    return replace(entry, **changed)


def fetched(entry: Entry, root: Path, how: Transport = HOW) -> None:
    """Fetch, and see that nothing but the right file lies there."""
    found = fetch(entry, root, how)
    assert found == Fetched(root / entry.place, len(CONTENT), SHA256)
    assert found.path.read_bytes() == CONTENT
    assert [path.name for path in found.path.parent.iterdir()] == [found.path.name]


def refused(entry: Entry, root: Path, how: Transport = HOW) -> str:
    """Fetch in vain: one line, and no final name. Returns the line."""
    with pytest.raises(UserError) as caught:
        fetch(entry, root, how)
    assert not (root / entry.place).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        ([], [None]),
        ([right(part=0.3)], [None, "bytes=90000-"]),  # the connection is cut
        ([right(part=0.3), right(part=0.5)], [None, "bytes=90000-", "bytes=195000-"]),
        ([right(part=0.3), right(heed=False)], [None, "bytes=90000-"]),  # ignores Range
        ([right(part=0.3), right('"two"')], [None, "bytes=90000-"]),  # changes between two ranges: all of it comes
        ([right(part=0.3), right('"one"', ETag='"two"')], [None, "bytes=90000-", None]),  # changes, and ignores If-Range
        ([right(part=0.3), right(Content_Range="bytes 90000-300000/300001")], [None, "bytes=90000-", None]),
        ([right(part=0.3), right(Content_Range="bytes 80000-299999/300000")], [None, "bytes=90000-", None]),
        ([right(part=0.3), right(Content_Range="nonsense")], [None, "bytes=90000-", None]),
        ([right(part=0.3), status(416, Content_Range="bytes */300000")], [None, "bytes=90000-", None]),
        ([status(500)], [None, None]),
        ([status(429), status(503)], [None, None, None]),
        ([right(part=0.3, stall=0.6)], [None, "bytes=90000-"]),  # stalls
        ([right(part=0.3, length=False)], [None, "bytes=90000-"]),  # ends early without a word
        ([right(part=0.3, Content_Length=90000)], [None, "bytes=90000-"]),  # or with a wrong one
        ([right("", part=0.3), right("")], [None, "bytes=90000-"]),  # nothing to know the file by
        ([right('W/"weak"', part=0.3), right("")], [None, "bytes=90000-"]),
        ([status(302, Location="/elsewhere.bin")], [None, None]),
    ],
    ids=[
        "none", "cut", "cut twice", "Range ignored", "changed", "changed, If-Range ignored", "another size", "another start",
        "a nonsense range", "416", "500", "429, 503", "a stall", "an early end", "a short Content-Length", "no validator",
        "a weak validator", "a redirect",
    ],
)  # fmt: skip
def test_faults_that_pass(answers: list[Any], ranges: list[str | None], site: Site, tmp_path: Path) -> None:
    site.answers = list(answers)
    fetched(entry_of(site), tmp_path)
    assert site.ranges == ranges
    fetched(entry_of(site), tmp_path)  # there: nothing is asked
    assert len(site.requests) == len(ranges)


def test_if_range_names_the_file(site: Site, tmp_path: Path) -> None:
    stamp = "Wed, 21 Oct 2015 07:28:00 GMT"
    for validator, headers in (('"one"', {}), (stamp, {"ETag": 'W/"weak"', "Last_Modified": stamp})):
        site.answers = [right(part=0.3, **headers)]
        fetched(entry_of(site), tmp_path / validator[:3])
        assert site.requests[-1][1]["If-Range"] == validator
    assert site.requests[0][1]["Accept-Encoding"] == "identity"


def test_what_came_outlives_a_failure(site: Site, tmp_path: Path) -> None:
    site.answers = [right(part=0.3)] + [status(500)] * 3
    said = refused(entry_of(site), tmp_path)
    assert said == f"thing: not fetched: {site.url}: HTTP 500 (3 attempts without progress; what came is kept)"
    part = Part(tmp_path / "weights/thing.bin")
    assert part.origin() == Origin(site.url, '"one"', 300_000)
    assert part.path.read_bytes() == CONTENT[:90_000]
    fetched(entry_of(site), tmp_path)
    assert site.ranges[-1] == "bytes=90000-"


def test_a_damaged_sidecar_means_starting_over(site: Site, tmp_path: Path) -> None:
    site.answers = [right(part=0.3)] + [status(500)] * 3
    refused(entry_of(site), tmp_path)
    Part(tmp_path / "weights/thing.bin").sidecar.write_text("{")
    fetched(entry_of(site), tmp_path)
    assert site.ranges[-1] is None


def test_all_there_but_the_name(site: Site, tmp_path: Path) -> None:
    part = Part(tmp_path / "weights/thing.bin")
    part.path.parent.mkdir()
    part.restart(Origin(site.url, '"one"', 300_000))
    part.path.write_bytes(CONTENT)
    fetched(entry_of(site, bytes=None), tmp_path)
    assert site.requests == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (status(404), "HTTP 404"),
        (status(206), "HTTP 206"),
        (status(302, Location="/file.bin"), "Exceeded maximum allowed redirects."),
        (status(302, Location="ftp://127.0.0.1/file.bin"), "Request URL has an unsupported protocol 'ftp://'."),
        (right(heed=False, part=0.3), "(3 attempts without progress; what came is kept)"),
        (right(part=0, length=False), "ended at 0 of 300000 bytes (3 attempts without progress; what came is kept)"),
    ],
)
def test_faults_that_stay(answer: Any, said: str, site: Site, tmp_path: Path) -> None:
    site.always = answer
    found = refused(entry_of(site), tmp_path)
    assert found.startswith(f"thing: not fetched: {site.url}: ")
    assert found.endswith(said)
    assert len(site.requests) <= 11


def endless(handler: Handler) -> None:
    """Bytes without end, their number untold."""
    handler.head(200)
    while True:
        handler.wfile.write(CONTENT)


def test_too_many_bytes(site: Site, tmp_path: Path) -> None:
    site.always = endless
    assert refused(entry_of(site), tmp_path).endswith(": sends more than the 300000 bytes expected")
    site.always = right()
    assert refused(entry_of(site, bytes=299_999), tmp_path).endswith(": 300000 bytes, expected 299999")
    assert list((tmp_path / "weights").iterdir()) == []
    assert len(site.requests) == 2


def test_a_wrong_sum(site: Site, tmp_path: Path) -> None:
    wrong = "0" * 32
    said = refused(entry_of(site, checksum=f"md5:{wrong}"), tmp_path)
    assert said.endswith(f": 300000 bytes, md5 {MD5}; expected 300000 bytes, md5 {wrong}")
    assert list((tmp_path / "weights").iterdir()) == []
    assert len(site.requests) == 1


def test_a_prefix_of_sha256(site: Site, tmp_path: Path) -> None:
    fetched(entry_of(site, checksum=f"sha256:{SHA256[:8]}", bytes=None), tmp_path)
    assert SHA256 in refused(entry_of(site, checksum="sha256:00000000", bytes=None), tmp_path / "other")


def test_mirrors_in_turn(site: Site, tmp_path: Path) -> None:
    other = Site(CONTENT[:-1] + b"x")
    mirrors = (other.url, site.url)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/file.bin"
        fetched(entry_of(site, url=nobody, mirrors=mirrors), tmp_path)
        assert len(other.requests) == len(site.requests) == 1
        said = refused(entry_of(site, url=nobody, mirrors=(other.url,)), tmp_path / "other")
    assert said.index(nobody) < said.index(other.url)
    assert hashlib.md5(other.content).hexdigest() in said
    other.close()


def test_a_mirror_goes_on_where_another_broke_off(site: Site, tmp_path: Path) -> None:
    other = Site(CONTENT)
    site.answers = [right(part=0.3)] + [status(500)] * 3
    fetched(entry_of(site, mirrors=(other.url,)), tmp_path)
    assert other.ranges == ["bytes=90000-"]
    other.close()


def test_offline(site: Site, tmp_path: Path) -> None:
    said = refused(entry_of(site), tmp_path, replace(HOW, offline=True))
    assert said == f"thing: offline, so not fetched: {site.url}; bring it to {tmp_path / 'weights/thing.bin'}"
    fetched(entry_of(site), tmp_path)
    fetched(entry_of(site), tmp_path, replace(HOW, offline=True))
    assert len(site.requests) == 1


def test_what_is_there_is_never_overwritten(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "weights/thing.bin"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        fetch(entry_of(site), tmp_path, HOW)
    mine = hashlib.md5(b"mine").hexdigest()
    assert str(caught.value).startswith(f"{path}: 4 bytes, md5 {mine}; expected 300000 bytes, md5 {MD5} by the catalogue")
    assert path.read_bytes() == b"mine"
    assert site.requests == []


def test_the_rate_is_kept(site: Site, tmp_path: Path) -> None:
    start = time.monotonic()
    fetched(entry_of(site), tmp_path, replace(HOW, rate=600_000))
    assert 0.5 <= time.monotonic() - start < 10


def test_a_proxy_of_the_environment(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", site.url.removesuffix("/file.bin"))
    fetched(entry_of(site, url="http://host.invalid/far.bin"), tmp_path)
    assert site.requests[0][0] == "http://host.invalid/far.bin"
    monkeypatch.setenv("HTTP_PROXY", "nonsense://x")
    assert refused(entry_of(site), tmp_path / "other").startswith("proxy settings of the environment: ")


def test_no_room(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=299_999))
    assert refused(entry_of(site), tmp_path) == f"{tmp_path / 'weights'}: 300.0 kB free, thing needs 300.0 kB more"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300_000))
    fetched(entry_of(site), tmp_path)


def test_a_place_that_cannot_be_written(site: Site, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    assert refused(entry_of(site), tmp_path).startswith(f"{tmp_path / 'weights/thing.bin'}: cannot be written (")


def write_catalogue(path: Path, *entries: Entry) -> dict[str, Entry]:
    def cell(value: object) -> str:
        return " ".join(value) if isinstance(value, tuple) else "" if value is None else str(value)

    rows = [COLUMNS, *(tuple(cell(getattr(entry, column)) for column in COLUMNS) for entry in entries)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return load_catalogue(path)


def test_the_first_download_pins(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, unpinned = tmp_path / "some.tsv", entry_of(site, checksum="", bytes=None)
    obtain("thing", write_catalogue(path, unpinned), path, tmp_path / "a", HOW)
    assert load_pins(path)["thing"].model_dump() == {"version": "1", "bytes": 300_000, "sha256": SHA256}
    locked = (tmp_path / "some.lock").read_bytes()

    site.content = CONTENT[:-1] + b"x"
    with pytest.raises(UserError) as caught:
        obtain("thing", load_catalogue(path), path, tmp_path / "b", HOW)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(site.content).hexdigest() in str(caught.value)
    assert not (tmp_path / "b/weights/thing.bin").exists()
    with pytest.raises(UserError, match=r"some\.lock has .* by now"):  # the pin came while this one was under way
        obtain("thing", {"thing": unpinned}, path, tmp_path / "c", HOW)
    assert (tmp_path / "some.lock").read_bytes() == locked

    newer = write_catalogue(path, replace(unpinned, version="2"))
    assert newer["thing"].checksum == ""
    monkeypatch.setattr(catalogue_module, "write_text", lambda path, text: (_ for _ in ()).throw(PermissionError(13, "denied")))
    obtain("thing", newer, path, tmp_path / "d", HOW)
    assert f"thing: not pinned: {tmp_path / 'some.lock'} cannot be written" in capsys.readouterr().err
    assert marker(tmp_path / "d", "thing").exists()


def make_archive(path: Path) -> bytes:
    """tar.gz of the folder top/set with three files, and one beside it."""
    with tarfile.open(path, "w:gz") as tar:
        for name, text in (("top/set/a.txt", "a" * 9000), ("top/set/b/c.txt", "c"), ("top/set/list.txt", "x"), ("top/other.txt", "o")):
            source = path.with_name("member")
            source.write_text(text)
            tar.add(source, name)
    return path.read_bytes()


def archive_entries(site: Site, tmp_path: Path) -> dict[str, Entry]:
    """An archive, a list inside its place, a folder made by hand inside it, and a file by hand."""
    site.content = make_archive(tmp_path / "a.tgz")
    base = site.url.removesuffix("/file.bin")
    data = Entry("data", "1", "archive", "set", "top/set", f"{base}/a.tgz", bytes=len(site.content))
    names = Entry("names", "1", "file", "set/lists/names.txt", "", f"{base}/names.txt")
    made = Entry("made", "1", "made", "set/masks", note="made by hand")
    hand = Entry("hand", "1", "manual", "weights/hand.pth", note="ask for it")
    return write_catalogue(tmp_path / "some.tsv", data, names, made, hand)


def test_an_archive_in_its_place(site: Site, tmp_path: Path) -> None:
    entries, path, root = archive_entries(site, tmp_path), tmp_path / "some.tsv", tmp_path / "root"
    assert obtain("names", entries, path, root, HOW) == root / "set/lists/names.txt"  # its parent first
    assert [request[0] for request in site.requests] == ["/a.tgz", "/names.txt"]
    assert sorted(str(found.relative_to(root / "set")) for found in (root / "set").rglob("*.txt")) == [
        "a.txt", "b/c.txt", "list.txt", "lists/names.txt"
    ]  # fmt: skip
    payload = json.loads(marker(root, "data").read_text())["payload"]
    sha256 = hashlib.sha256(site.content).hexdigest()
    assert payload == {"name": "data", "version": "1", "bytes": len(site.content), "sha256": sha256, "files": 3, "unpacked": 9002}
    assert (root / "downloads/a.tgz").exists()
    obtain("data", entries, path, root, replace(HOW, offline=True))
    assert len(site.requests) == 2

    marked = marker(root, "data").read_bytes()  # killed between the rename and the marker
    marker(root, "data").unlink()
    shutil.rmtree(root / "set/lists")
    obtain("data", entries, path, root, replace(HOW, offline=True), delete_archives=True)
    assert marker(root, "data").read_bytes() == marked
    assert list((root / "downloads").iterdir()) == []

    newer = {**entries, "data": replace(entries["data"], version="2")}
    with pytest.raises(UserError, match=r"is version '1', the catalogue has '2'; move it"):
        obtain("data", newer, path, root, HOW)


def test_what_is_brought_by_hand(site: Site, tmp_path: Path) -> None:
    entries, path, root = archive_entries(site, tmp_path), tmp_path / "some.tsv", tmp_path / "root"
    with pytest.raises(UserError, match=r"^hand: not fetched but manual: ask for it; its place is .*weights/hand\.pth$"):
        obtain("hand", entries, path, root, HOW)
    with pytest.raises(UserError, match=r"^made: not fetched but made: made by hand; its place is .*set/masks$"):
        obtain("made", entries, path, root, HOW)
    with pytest.raises(UserError, match=r"^download: found 'nothing', the catalogue has: data, names, made, hand$"):
        obtain("nothing", entries, path, root, HOW)
    assert site.requests == []
    (root / "set/masks").mkdir(parents=True)
    (root / "set/masks/a.png").write_bytes(b"12345")
    (root / "weights").mkdir()
    (root / "weights/hand.pth").write_bytes(b"123")
    for name in ("made", "hand", "data"):
        obtain(name, entries, path, root, replace(HOW, offline=True))
    payloads = {name: json.loads(marker(root, name).read_text())["payload"] for name in ("made", "hand", "data")}
    assert [payloads["made"][key] for key in ("bytes", "sha256", "files", "unpacked")] == [None, None, 1, 5]
    assert [payloads["data"][key] for key in ("bytes", "sha256", "files", "unpacked")] == [None, None, 1, 5]
    assert [payloads["hand"][key] for key in ("bytes", "files", "unpacked")] == [3, 1, 3]
    assert set(load_pins(path)) == {"hand"}


def test_one_at_a_time(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries, path, root = archive_entries(site, tmp_path), tmp_path / "some.tsv", tmp_path / "root"
    site.always = right(slow=0.01)
    threads = [threading.Thread(target=obtain, args=("data", entries, path, root, HOW)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.requests) == 1
    with alone(root / "lock", "thing"):
        waiting = threading.Thread(target=lambda: alone(root / "lock", "thing").__enter__())
        waiting.start()
        time.sleep(0.05)
    waiting.join()
    assert "thing: waiting for process " in capsys.readouterr().err


def test_the_command(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive_entries(site, tmp_path)
    options = ["--catalogue", str(tmp_path / "some.tsv"), "--root", str(tmp_path / "root")]
    run = CliRunner().invoke
    found = run(app, ["download", "data", "names", "--delete-archives", "--limit-rate", "20M", *options])
    assert found.exit_code == 0, found.exception
    assert found.output.splitlines()[-2:] == [f"data: {tmp_path / 'root/set'}", f"names: {tmp_path / 'root/set/lists/names.txt'}"]
    assert list((tmp_path / "root/downloads").iterdir()) == []
    assert run(app, ["download", "--list", *options]).output.splitlines() == [
        "name   version  size   kind     there  place",
        f"data   1        {len(site.content)} B  archive  yes    set",
        f"names  1        {len(site.content)} B  file     yes    set/lists/names.txt",
        "made   1        --     made     no     set/masks",
        "hand   1        --     manual   no     weights/hand.pth",
    ]
    monkeypatch.setenv("SYMNET_OFFLINE", "1")
    found = run(app, ["download", "data", *options[:2], "--root", str(tmp_path / "new")])
    assert isinstance(found.exception, UserError)
    assert "data: offline, so not fetched: http://127.0.0.1:" in str(found.exception)
    assert "give names, or --list" in str(run(app, ["download", *options]).exception)


def test_rates() -> None:
    assert [rate_of(text) for text in ("1", "500k", "20M", "3G")] == [1, 500_000, 20_000_000, 3_000_000_000]
    for text in ("0", "20MB", "-1", "1.5M", ""):
        with pytest.raises(UserError, match="--limit-rate: found"):
            rate_of(text)


def test_no_torch_is_needed() -> None:
    code = "import sys, symnet.data.obtain, symnet.data.download; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def killed(tmp_path: Path, name: str) -> None:
    """50 kills at random lines; the child process checks the place after each, and the whole after each run that ends."""
    command = [sys.executable, "-m", "tests.data.kill_often", str(tmp_path), name, "50"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    kills, midway, ends = map(int, done.stdout.split())
    assert kills == 50
    assert midway >= 15
    assert ends >= 3


@pytest.mark.whole
def test_killed_while_downloading(site: Site, tmp_path: Path) -> None:
    site.always = right(slow=0.002)
    write_catalogue(tmp_path / "some.tsv", entry_of(site))
    killed(tmp_path, "thing")
    assert sum(asked is not None for asked in site.ranges) >= 10  # most runs went on where another was killed


@pytest.mark.whole
def test_killed_while_unpacking(site: Site, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        (tmp_path / "member").write_bytes(CONTENT[:3000])
        for number in range(150):
            tar.add(tmp_path / "member", f"set/{number % 7}/{number}.bin")
    site.content = (tmp_path / "a.tgz").read_bytes()
    sha256 = hashlib.sha256(site.content).hexdigest()
    url = site.url.replace("file.bin", "a.tgz")
    write_catalogue(tmp_path / "some.tsv", Entry("data", "1", "archive", "set", "set", url, checksum=f"sha256:{sha256}"))
    killed(tmp_path, "data")
