"""What each job made its outputs from, in plain values: provenance holds digests, which say that something differs but not what.

    {experiment}/made/{folder of the outputs}/{stage}.json     a `Note`, written by the job when its outputs are there
    {experiment}/made/lists/{sha256}.csv.gz                    the image lists that notes name, so that images can be told apart

No rule declares these files: Snakemake deletes declared outputs before it runs a job again, and `symnet why` tells old from new.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from symnet.artifacts import MARK, Provenance, file_digest, read_json, replacing, write_json
from symnet.errors import UserError, one_line

STAGE = "made"
EXPERIMENT = Path("settings", "tables.json")  # what the folder of an experiment, results/NAME, always has


class Note(BaseModel):
    """settings: those the job depends on; code: module to sha256; inputs: path, below the experiment's folder where it is there, to
    sha256; options: what else decides, as text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, Any] = {}
    code: dict[str, str] = {}
    inputs: dict[str, str] = {}
    options: dict[str, str] = {}


def keep(out: Path, stage: str, note: Note) -> None:
    """Write the note of the job that made `out`, and copies of the lists it read. Of what lies in no experiment's folder there is none."""
    root = experiment_of(out)
    if root is None:
        return
    for name, sha in note.inputs.items():
        if name.endswith(".csv") and Path(name).name in ("train.csv", "test.csv"):
            _keep_list(root, Path(name), sha)
    inputs = {place(root, Path(name)): sha for name, sha in note.inputs.items()}
    write_json(note_path(root, out.parent, stage), note.model_copy(update={"inputs": inputs}).model_dump(), Provenance(stage=STAGE))


def experiment_of(out: Path) -> Path | None:
    """The folder results/NAME that `out` lies in; None where it lies in none."""
    return next((folder for folder in out.parents if (folder / EXPERIMENT).is_file()), None)


def note_path(root: Path, folder: Path, stage: str) -> Path:
    """Where the note of a job lies that writes to `folder`."""
    return root / "made" / place(root, folder) / f"{stage}.json"


def place(root: Path, path: Path) -> str:
    """`path` as notes name it: below `root` if it is there, else absolute."""
    whole, top = path.absolute(), root.absolute()
    return whole.relative_to(top).as_posix() if whole.is_relative_to(top) else str(whole)


def read_note(root: Path, folder: Path, stage: str) -> Note | None:
    """The note of a job; None where there is none. Raises `UserError` for a damaged one."""
    path = note_path(root, folder, stage)
    if not path.is_file():
        return None
    try:
        return Note.model_validate(read_json(path, STAGE)[0])
    except ValidationError as error:
        raise UserError(f"{path}: not a note of this version ({one_line(error)}); delete it: its job, run again, writes it anew") from None


def sums(files: Iterable[Path]) -> dict[str, str]:
    """Path to sha256, for a note. Raises `UserError` for a file that cannot be read."""
    return {str(path): file_digest(path) for path in files}


def _list_copy(root: Path, sha: str) -> Path:
    return root / "made" / "lists" / f"{sha}.csv.gz"


def _keep_list(root: Path, path: Path, sha: str) -> None:
    copy = _list_copy(root, sha)
    content = b"" if copy.is_file() else path.read_bytes()
    if content.startswith(MARK.encode()) and hashlib.sha256(content).hexdigest() == sha:  # else: changed while the job ran
        with replacing(copy) as partial:
            partial.write_bytes(gzip.compress(content, mtime=0))


def kept_list(root: Path, sha: str) -> bytes | None:
    """The image list of this sum, as a job read it; None where no whole copy is there."""
    try:
        content = gzip.decompress(_list_copy(root, sha).read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    return content if hashlib.sha256(content).hexdigest() == sha else None
