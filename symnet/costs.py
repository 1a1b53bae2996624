"""What a test took of its machine, beside its metric files, which hold no times: `report.costs` makes a table of it.

It is no declared output: two tests of the same are not the same here, and nothing is to run again for that.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

from symnet.artifacts import Provenance, file_digest, read_json, write_json

STAGE = "spent"


@dataclass(frozen=True)
class Spent:
    """All rounds of a cell together. device: in words; read: where features came from: `records`, `features` or `images`; seconds: from
    the first episode to the last count; memory: the most bytes held, 0 where that is not known.
    """

    device: str
    read: str
    episodes: int
    seconds: float
    memory: int


def spent_beside(metrics: Path) -> Path:
    """Where it lies: beside the metric files."""
    return metrics.with_name("spent.json")


def write_spent(metrics: Path, found: Spent) -> None:
    """Write what the test took whose first metric file is `metrics`."""
    provenance = Provenance(stage=STAGE, inputs={"metrics": file_digest(metrics)})
    write_json(spent_beside(metrics), asdict(found), provenance)


def read_spent(metrics: Path) -> Spent | None:
    """What the test took that wrote `metrics`; None where that is not known. Raises `UserError` for a damaged file."""
    path = spent_beside(metrics)
    if not path.is_file():
        return None
    payload, provenance = read_json(path, STAGE)
    return Spent(**payload) if provenance.inputs == {"metrics": file_digest(metrics)} else None
