"""The transport: one file over http(s), resumed where it broke off, whole and checked before it gets its name.

Until then its bytes lie in `{file}.part`, and `{file}.part.json` says which file of which server they are of: its ETag or time, its
size. A server that has another file by now answers with all of it, and the download starts over.
"""

import hashlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from symnet import __version__
from symnet.data.catalogue import Entry
from symnet.data.files import publish
from symnet.data.part import Origin, Part
from symnet.errors import UserError, one_line
from symnet.progress import byte_progress, size

CHUNK = 1 << 20
LONGEST_PAUSE = 60.0
PASSING = (408, 425, 429)  # besides 5xx: answers that another try may change

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Transport:
    """How files are fetched. `rate`: bytes/s at most; `stall`: seconds without a byte until it tries again; `attempts` in a row without
    progress until it gives an address up; `pause`: seconds before the second, doubled with each."""

    offline: bool = False
    rate: int | None = None
    stall: float = 60.0
    attempts: int = 6
    pause: float = 1.0


@dataclass(frozen=True)
class Fetched:
    """A file that is in place, and its sum."""

    path: Path
    bytes: int
    sha256: str


class Again(Exception):
    """This request failed; another may not."""


class Refused(Exception):
    """This address does not give the file."""


def fetch(entry: Entry, root: Path, how: Transport) -> Fetched:
    """Bring `entry.download` under the data root: what is there and fits is kept, else its addresses are tried in turn.

    The caller is the only one at it (`files.alone`). Raises `UserError`: what is there does not fit (never overwritten), offline, no
    address gives the right file, no room on the disk.
    """
    target = root / entry.download
    part = Part(target)
    if target.exists():
        found = check(target, entry)
        part.discard()  # left where a run was killed just after the file got its name
        return found
    if how.offline:
        raise UserError(f"{entry.name}: offline, so not fetched: {' or '.join(entry.urls)}; bring it to {target}")
    reasons = []
    with _written(target), _client(how) as client:
        for url in entry.urls:
            try:
                with byte_progress(entry.bytes or part.origin().total, entry.name) as tell:
                    _download(client, url, part, entry, how, tell)
                count, md5, sha256 = measure(part.path, entry)
                if wrong := misfit(entry, count, md5, sha256):
                    raise _refused(part, wrong)
                publish(part.path, target)
                part.discard()
                return Fetched(target, count, sha256)
            except Refused as reason:
                reasons.append(f"{url}: {reason}")
    raise UserError(f"{entry.name}: not fetched: {'; '.join(reasons)}")


def check(path: Path, entry: Entry) -> Fetched:
    """A file that is there. Raises `UserError` with both sums where it is not that of `entry`."""
    count, md5, sha256 = measure(path, entry)
    if wrong := misfit(entry, count, md5, sha256):
        raise UserError(f"{path}: {wrong} by the catalogue and its lock file; move it away to have it fetched, or bring the right one")
    return Fetched(path, count, sha256)


def measure(path: Path, entry: Entry) -> tuple[int, str, str]:
    """Size, md5 and sha256 of a file, in one reading. Raises `UserError` where it cannot be read."""
    md5, sha256, done = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    try:
        with open(path, "rb") as file, byte_progress(path.stat().st_size, f"{entry.name}: checking") as tell:
            while chunk := file.read(CHUNK):
                md5.update(chunk)
                sha256.update(chunk)
                tell(done := done + len(chunk))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return done, md5.hexdigest(), sha256.hexdigest()


def misfit(entry: Entry, count: int, md5: str, sha256: str) -> str:
    """What about a file of that size and those sums is not as `entry` says; empty where it fits."""
    algorithm, _, expected = entry.checksum.partition(":")
    found = md5 if algorithm == "md5" else sha256
    if not found.startswith(expected):
        return f"{count} bytes, {algorithm} {found}; expected {entry.bytes or 'any number of'} bytes, {algorithm} {expected}"
    return f"{count} bytes; expected {entry.bytes}" if entry.bytes not in (None, count) else ""


@contextmanager
def _written(target: Path) -> Iterator[None]:
    """The folder of `target`; what the disk refuses is the user's to mend."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from None


def _client(how: Transport) -> httpx.Client:
    """Proxies come from the environment. Raises `UserError` where those make no sense."""
    try:
        return httpx.Client(
            headers={"Accept-Encoding": "identity", "User-Agent": f"symnet/{__version__}"},
            timeout=httpx.Timeout(how.stall),
            follow_redirects=True,
            max_redirects=10,
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise UserError(f"proxy settings of the environment: {one_line(error)}") from None


def _download(client: httpx.Client, url: str, part: Part, entry: Entry, how: Transport, tell: Tell) -> None:
    """Fill `part` from one address, with as many requests as it takes. Raises `Refused`."""
    failures, furthest = 0, part.size
    while True:
        try:
            return _request(client, url, part, entry, how, tell)
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as error:
            raise Refused(one_line(error)) from None
        except (Again, httpx.TransportError) as error:
            reason = one_line(error) or type(error).__name__
        failures = 1 if part.size > furthest else failures + 1
        furthest = max(furthest, part.size)
        if failures >= how.attempts:
            raise Refused(f"{reason} ({failures} attempts without progress; what came is kept)")
        pause = min(how.pause * 2 ** (failures - 1), LONGEST_PAUSE)
        print(f"{entry.name}: {reason}; trying again in {pause:.0f} s", file=sys.stderr, flush=True)
        time.sleep(pause)


def _request(client: httpx.Client, url: str, part: Part, entry: Entry, how: Transport, tell: Tell) -> None:
    """One request for what is missing, appended as it comes. Raises `Again`, `Refused`, httpx's errors."""
    origin, have = part.origin(), part.size
    if have and have == (entry.bytes or origin.total):
        return
    headers = {}
    if have and (origin.validator or origin.url == url):
        headers = {"Range": f"bytes={have}-"} | ({"If-Range": origin.validator} if origin.validator else {})
    with client.stream("GET", url, headers=headers) as response:
        total = _accept(response, url, part, origin, entry)
        have = part.size
        if entry.bytes is not None and total is not None and total > entry.bytes:
            raise _refused(part, f"{total} bytes, expected {entry.bytes}")
        expected = entry.bytes or total
        if expected is not None and expected - have > (free := shutil.disk_usage(part.path.parent).free):
            raise UserError(f"{part.path.parent}: {size(free)} free, {entry.name} needs {size(expected - have)} more")
        done = _append(response, part, expected, how, tell)
    if expected is not None and done < expected:
        raise Again(f"ended at {done} of {expected} bytes")


def _accept(response: httpx.Response, url: str, part: Part, origin: Origin, entry: Entry) -> int | None:
    """Make `part` ready for a response's body. Returns the size of the whole file where it is told. Raises `Again`, `Refused`."""
    status, validator = response.status_code, _validator(response)
    if status == 200:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        part.restart(Origin(url, validator, entry.bytes or total))  # a size told wrong must not be held against the next answer
        return total
    if status == 206 and "Range" in response.request.headers:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        total = int(told[2]) if told and told[2] != "*" else origin.total
        if told is None or int(told[1]) != part.size:
            raise _again(part, f"asked for bytes from {part.size}, got '{response.headers.get('Content-Range', '')}'")
        if validator not in ("", origin.validator) or origin.total not in (None, total):
            raise _again(part, "the file changed between two requests")
        return total
    if status == 416:
        raise _again(part, "refused the range asked for")
    if status in PASSING or status >= 500:
        raise Again(f"HTTP {status}")
    raise Refused(f"HTTP {status}")


def _append(response: httpx.Response, part: Part, expected: int | None, how: Transport, tell: Tell) -> int:
    """Append a body. Returns the bytes that `part` then holds. Raises `Refused` as soon as there are more than `expected`."""
    start = time.monotonic()
    have = done = part.size
    tell(done)
    with open(part.path, "ab") as file:
        for chunk in response.iter_raw():
            done += len(chunk)
            if expected is not None and done > expected:
                raise _refused(part, f"sends more than the {expected} bytes expected")
            file.write(chunk)
            tell(done)
            if how.rate:
                time.sleep(max(0.0, (done - have) / how.rate - (time.monotonic() - start)))
    return done


def _validator(response: httpx.Response) -> str:
    """What If-Range takes: a strong ETag, else a time."""
    etag: str = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _refused(part: Part, reason: str) -> Refused:
    part.discard()
    return Refused(reason)


def _again(part: Part, reason: str) -> Again:
    part.discard()
    return Again(f"{reason}; starting over")
