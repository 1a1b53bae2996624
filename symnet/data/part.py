"""A download that is not whole yet: its bytes, and which file of which server they are of."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """The file that a partial download is of, as its server told it. `total`: its size, None where untold."""

    url: str = ""
    validator: str = ""
    total: int | None = None


class Part:
    """The bytes of `target` so far, beside it, and their origin."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.sidecar = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def origin(self) -> Origin:
        """What the sidecar says; unknown where it is missing or damaged."""
        try:
            return Origin(**json.loads(self.sidecar.read_bytes()))
        except (OSError, ValueError, TypeError):
            return Origin()

    def restart(self, origin: Origin) -> None:
        """Empty it, then say what it will hold: never the bytes of one file under the name of another.

        A kill in between leaves an empty part, so the sidecar needs no care to be whole.
        """
        self.path.write_bytes(b"")
        self.sidecar.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def discard(self) -> None:
        """Take both files away."""
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)
