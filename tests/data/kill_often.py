"""`python kill_often.py FOLDER NAME KILLS`: kill `obtain(NAME)` with SIGKILL, again and again, at moments of the time that it takes.

FOLDER holds the catalogue, some.tsv. After every kill the place is as an undisturbed run leaves it, or not there; after a run that ends,
all but the archive's own lock is, byte by byte; then the data root is wiped. Forks, so that Python starts once. Prints the kills, those
that left something half done, and the runs that ended.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from symnet.data.catalogue import load_catalogue
from symnet.data.download import Transport
from symnet.data.obtain import marker, obtain


def run(name: str, folder: Path, root: Path) -> None:
    obtain(name, load_catalogue(folder / "some.tsv"), folder / "some.tsv", root, Transport(pause=0.01, stall=5))


def start(name: str, folder: Path, root: Path) -> int:
    """`run` in a child process. Returns its id."""
    if child := os.fork():
        return child
    run(name, folder, root)
    os._exit(0)


def digest(path: Path) -> str:
    """Of a file, or of all the files of a folder and their names and modes; empty where nothing is."""
    if not path.exists():
        return ""
    found = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for each in found:
        total.update(f"{each.relative_to(path)} {each.stat().st_mode:o}\n".encode() + each.read_bytes())
    return total.hexdigest()


def whole(root: Path) -> str:
    """All that is there, but for which process was at it last, and half a marker of a killed one (`artifacts.replacing`)."""
    for pattern in ("*.held", ".*.partial"):
        for path in (root / ".symnet").glob(pattern):
            path.unlink()
    return digest(root)


def main() -> None:
    folder, name, wanted = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    chance, root = random.Random(0), folder / "root"
    entry = load_catalogue(folder / "some.tsv")[name]
    run(name, folder, root)  # here, so that the children find all modules loaded
    place, everything = digest(root / entry.place), whole(root)
    shutil.rmtree(root)
    begun = time.monotonic()
    os.waitpid(start(name, folder, root), 0)
    span = time.monotonic() - begun
    shutil.rmtree(root)
    midway = ends = 0
    for turn in range(wanted):
        child = start(name, folder, root)
        time.sleep(chance.uniform(0, span))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
        midway += any(root.rglob("*.part")) or any(root.rglob(".*.unpacking"))
        assert digest(root / entry.place) in ("", place)
        assert digest(root / entry.place) or not marker(root, name).exists()
        if status == 0 or turn % 10 == 9 or turn == wanted - 1:
            run(name, folder, root)
            ends += 1
            assert whole(root) == everything
            shutil.rmtree(root)
    print(wanted, midway, ends)


main()
