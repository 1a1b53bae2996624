"""Reading the episode records that `symnet.records` writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from symnet.artifacts import file_digest, read_json
from symnet.errors import UserError
from symnet.shards import Shards

STAGE = "records"


class EpisodeRecords:
    """Reads the record sets of one round, the columns of all parts as one. Not shared between processes: open them in each."""

    def __init__(self, sets: Mapping[str, Path], manifest: Path, features: Path) -> None:
        """sets: by part; manifest: of the episodes; features: the cache read beside them. Raises `UserError` where they do not fit."""
        self._sets = []
        for part, path in sets.items():
            payload, provenance = read_json(path, STAGE)
            if payload["part"] != part:
                raise UserError(f"{path}: holds part {payload['part']}, expected {part}; run `symnet records` again")
            for role, file in (("episodes", manifest), ("features", features)):
                if provenance.inputs.get(role) != file_digest(file):
                    raise UserError(f"{path}: was not made from {file}; run `symnet records` again")
            self._sets.append(Shards(path, payload["shards"]))

    def read(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The columns of episodes, by their numbers in the round, on the host and as they are stored."""
        return {name: shards.read(rows, name) for shards in self._sets for name in shards.columns()}

    def close(self) -> None:
        """Close the shards."""
        for shards in self._sets:
            shards.close()


def read_mixed(rounds: Sequence[EpisodeRecords], places: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
    """The columns of episodes of several rounds, by round and number in it, in their order."""
    found: dict[str, Tensor] = {}
    for number, records in enumerate(rounds):
        rows = [row for row, (of, _) in enumerate(places) if of == number]
        if rows:
            for name, values in records.read([places[row][1] for row in rows]).items():
                found.setdefault(name, values.new_empty(len(places), *values.shape[1:]))[rows] = values
    return found
