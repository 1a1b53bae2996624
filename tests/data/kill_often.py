"""`python -m tests.data.kill_often FOLDER NAME KILLS`: kill `obtain(NAME)` with SIGKILL, again and again, at any of the lines that it runs.

FOLDER holds the catalogue, some.tsv. After every kill the place is as an undisturbed run leaves it, or not there; after a run that ends,
all but the archive's own lock is, byte by byte; then the data root is wiped. A process of its own: it forks, and pytest's has threads.
Prints the kills, those that left something half done, and the runs that ended.
"""

import hashlib
import random
import shutil
import sys
from pathlib import Path

from symnet.data.catalogue import load_catalogue, marker
from symnet.data.download import Transport
from symnet.data.obtain import obtain
from tests.killing import KILLED, killed_at, lines_of


def run(name: str, folder: Path, root: Path) -> None:
    obtain(name, load_catalogue(folder / "some.tsv"), folder / "some.tsv", root, Transport(pause=0.01, stall=5))


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
    lines = lines_of(run, name, folder, root)
    shutil.rmtree(root)
    midway = ends = 0
    for turn in range(wanted):
        code = killed_at(chance.randint(1, lines), run, name, folder, root)
        assert code in (0, KILLED)
        midway += any(root.rglob("*.part")) or any(root.rglob(".*.unpacking"))
        assert digest(root / entry.place) in ("", place)
        assert digest(root / entry.place) or not marker(root, name).exists()
        if code == 0 or turn % 10 == 9 or turn == wanted - 1:
            run(name, folder, root)
            ends += 1
            assert whole(root) == everything
            shutil.rmtree(root)
    print(wanted, midway, ends)


main()
