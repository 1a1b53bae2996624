"""SBD's .mat files, united with VOC's own masks."""

import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from symnet.artifacts import digest, file_digest
from symnet.data.images import BadFile, Pixels, check_values, encode_mask, read_mask
from symnet.errors import UserError, one_line
from symnet.progress import progress


def read_sbd(path: Path, classes: int) -> Pixels:
    """The class mask of a file of SBD's `cls`, uint8 [H, W], values 0..`classes` and 255: `GTcls.Segmentation`. Raises `BadFile`."""
    from scipy.io import loadmat  # here: slow to import

    try:
        found = loadmat(io.BytesIO(path.read_bytes()), variable_names=("GTcls",))["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # scipy raises many kinds on damaged bytes
        raise BadFile(path, f"not a whole .mat file with GTcls.Segmentation ({one_line(repr(error))})") from None
    if not isinstance(found, np.ndarray) or found.dtype != np.uint8 or found.ndim != 2 or not found.size:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise BadFile(path, f"found GTcls.Segmentation of {kind}; expected uint8 [H, W]")
    check_values(found, classes, path)
    return found


class SbdMasks:
    """The masks of both sources by file name, `ID.png`: VOC's own file where it has one, else SBD's mask."""

    def __init__(self, voc: Path, sbd: Path, classes: int) -> None:
        """voc: folder of VOC's PNGs; sbd: folder of SBD's .mat files. Raises `UserError` where SBD's has none."""
        self.classes = classes
        self.voc = {path.name: path for path in sorted(voc.glob("*.png"))}
        self.sbd = {f"{path.stem}.png": path for path in sorted(sbd.glob("*.mat"))}
        if not self.sbd:
            raise UserError(f"{sbd}: no .mat file found; expected the content of SBD's folder cls")
        self.used = {name: path for name, path in self.sbd.items() if name not in self.voc}

    @property
    def names(self) -> list[str]:
        """Names of all masks, sorted."""
        return sorted(self.voc | self.sbd)

    def make(self, name: str) -> bytes:
        """The PNG. Raises `BadFile` where its source is damaged or holds other values than a mask's."""
        if name in self.voc:
            read_mask(self.voc[name], self.classes)
            return self.voc[name].read_bytes()
        return encode_mask(read_sbd(self.used[name], self.classes))

    def sums(self, workers: int) -> dict[str, str]:
        """One sha256 for the files used of each source. Raises `UserError`."""
        return {"sbd": _sum(self.used, workers), "voc": _sum(self.voc, workers)}


def _sum(files: Mapping[str, Path], workers: int) -> str:
    with ThreadPoolExecutor(workers) as pool:
        return digest(dict(zip(files, progress(pool.map(file_digest, files.values()), len(files), "masks, sums"), strict=True)))
