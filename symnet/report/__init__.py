"""What a researcher sees. This file: metric files, read and refused; every table and figure starts from it.

A number of a report is never made of what does not belong together: two protocols in one data set, a round that is missing or there
twice, counts that give no IoU are refused, all of them in one message.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symnet.artifacts import Provenance, read_json
from symnet.cells import Cell
from symnet.errors import UserError, one_line
from symnet.metrics import fb_iou, mean_iou
from symnet.protocols import SCORINGS

KEYS = ("variant", "protocol", "protocol_stamp", "classes", "outputs", "left_out", "episodes")  # of a metric file, beside the cell
PUBLISHED = Path(__file__).with_name("ablations.csv")  # Tables 3 to 6 of the paper
PUBLISHED_RESULTS = Path(__file__).with_name("published.csv")  # Tables 1 and 2
PUBLISHED_SETS = {"voc": "pascal5i", "coco": "coco20i"}  # data.classes -> the data set's name there
SHOWN = 8  # problems told in one message


@dataclass(frozen=True)
class Round:
    """One metric file: a cell tested with one seed."""

    path: Path
    cell: Cell
    seed: int
    payload: Mapping[str, Any]
    provenance: Provenance

    def outputs(self) -> dict[str, Mapping[str, Mapping[str, Sequence[int]]]]:
        """Row name -> scoring -> class -> counts. A method with one output gives its own name, else `symnet (meta)`."""
        outputs, method = self.payload["outputs"], self.cell.method
        return {method if len(outputs) == 1 else f"{method} ({output})": outputs[output] for output in sorted(outputs)}


def read_rounds(paths: Iterable[Path]) -> list[Round]:
    """Read metric files. Raises `UserError` naming every one that is missing or broken."""
    rounds, problems = [], []
    for path in paths:
        try:
            rounds.append(read_round(path))
        except UserError as error:
            problems.append(str(error))
    _stop(problems, "metric files are missing or broken")
    return rounds


def read_round(path: Path) -> Round:
    """Read one metric file and make sure that its counts are scores. Raises `UserError`."""
    try:
        payload, provenance = read_json(path, "evaluate")
        cell = Cell(**{key: payload["cell"][key] for key in ("dataset", "backbone", "fold", "method", "shot")})
        one = Round(path, cell, payload["cell"]["seed"], {key: payload[key] for key in KEYS}, provenance)
        if not one.payload["outputs"]:
            raise ValueError("no class had an episode")
        for scored in one.outputs().values():
            for scoring in SCORINGS:
                mean_iou(scored[scoring]), fb_iou(scored[scoring])
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except KeyError as error:
        raise UserError(f"{path}: not a metric file, {error} is not in it; delete it and run again") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: {one_line(error)}; delete it and run again") from None
    return one


def refuse(rounds: Sequence[Round], expected: set[tuple[Cell, int]]) -> None:
    """Raise `UserError` with the list of what must not stand in one table: `expected` is every cell with every seed."""
    problems: list[str] = []
    found: dict[tuple[Cell, int], Path] = {}
    stamps: dict[str, dict[str, Path]] = {}
    outputs: dict[str, dict[str, Path]] = {}
    for one in rounds:
        key = (one.cell, one.seed)
        if key in found:
            problems.append(f"{_place(*key)} is there twice, in {found[key]} and {one.path}")
        found.setdefault(key, one.path)
        stamps.setdefault(one.cell.dataset, {}).setdefault(one.payload["protocol_stamp"], one.path)
        outputs.setdefault(f"{one.cell.method} on {one.cell.dataset}", {}).setdefault(" + ".join(sorted(one.payload["outputs"])), one.path)
    problems += [f"{_place(*key)} is missing" for key in sorted(expected - set(found))]
    problems += [f"{_place(*key)} was not asked for, found in {found[key]}" for key in sorted(set(found) - expected)]
    problems += [f"{dataset} mixes protocols: {_each(kinds)}" for dataset, kinds in stamps.items() if len(kinds) > 1]
    problems += [f"{method} has different outputs: {_each(kinds)}" for method, kinds in outputs.items() if len(kinds) > 1]
    _stop(problems, "the metric files do not make a table")


def _stop(problems: Sequence[str], what: str) -> None:
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"{what}: {'; '.join(problems[:SHOWN])}{more}")


def _place(cell: Cell, seed: int) -> str:
    return str(cell.metrics(Path(), seed).with_suffix(""))


def _each(kinds: Mapping[str, Path]) -> str:
    return ", ".join(f"{kind} ({path})" for kind, path in sorted(kinds.items()))
