"""Test episodes as figures show them: the file of a fold and shot, with pictures, maps, and the predictions of every row shown.

Pictures are small (`SIDE`), and kept as they are: drawing them needs no data set, no model and no GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from symnet.artifacts import Provenance
from symnet.checkpoint import load_tensors, save_tensors
from symnet.errors import UserError, one_line

STAGE = "gallery"
SIDE = 240  # pixels, at most, of a picture's longer side
REGIONS = ("foreground", "hard", "background")  # numbers 1 to 3 of a map of regions


@dataclass(frozen=True)
class Case:
    """An episode: its number in the round, whether it is shown as a failure, and of each column [intersection, union], as they were tested.

    `pictures`, uint8: `query` and `support` (the first of the shots) [h, w, 3]; `truth` and `mask` (the support's) [h, w] in {0, 1, 255};
    `HPM` and `SPM`, priors [h, w], 255 for 1; `regions` [h, w], 0 or the number in `REGIONS`; `of COLUMN`, a prediction [h, w] in {0, 1}.
    Priors and regions are there where a row has them.
    """

    number: int
    name: str
    failure: bool
    scores: Mapping[str, tuple[int, int]]
    pictures: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Gallery:
    """The cases of a fold and shot. `columns`: outputs of rows, named as in the tables; `subject`: the row whose failures and regions are
    shown; `taus`: its thresholds, where it has regions.
    """

    dataset: str
    fold: int
    shot: int
    seed: int
    scoring: str
    subject: str
    columns: tuple[str, ...]
    taus: Mapping[str, float]
    cases: tuple[Case, ...]


def write_gallery(path: Path, gallery: Gallery, provenance: Provenance) -> None:
    """Write a gallery whole or not at all. An episode that is shown twice is stored once."""
    own = {key: value for key, value in vars(gallery).items() if key != "cases"}
    cases = [{key: value for key, value in vars(case).items() if key != "pictures"} for case in gallery.cases]
    pictures = {f"{case.number}/{name}": torch.from_numpy(one) for case in gallery.cases for name, one in case.pictures.items()}
    save_tensors(path, pictures, {**own, "cases": cases}, provenance)


def read_gallery(path: Path) -> Gallery:
    """Read and check a gallery. Raises `UserError`."""
    tensors, meta, _ = load_tensors(path, STAGE)
    try:
        return Gallery(
            **{
                **meta,
                "columns": tuple(meta["columns"]),
                "cases": tuple(_case(case, tensors) for case in meta["cases"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a gallery of this version ({one_line(error)}); delete it and run again") from None


def _case(found: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Case:
    head = f"{found['number']}/"
    pictures = {name.removeprefix(head): value.numpy() for name, value in tensors.items() if name.startswith(head)}
    scores = {column: (intersection, union) for column, (intersection, union) in found["scores"].items()}
    return Case(**{**found, "scores": scores}, pictures=pictures)
