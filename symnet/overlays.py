"""A few test episodes as pictures: supports with their masks, the query with the truth and with each prediction.

Drawn of the first round of a cell, always of the same episodes: the first of each of the first classes. No rule declares the pictures,
and no number depends on them. Each holds its provenance (a PNG text), with the sum of the metric file beside which it was drawn.
"""

import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from symnet.artifacts import Provenance, canonical, check_seal, file_digest, parse_provenance, replacing, sealed
from symnet.data.episodes import Episode
from symnet.data.images import IGNORE, Pixels
from symnet.data.readers import Reader
from symnet.errors import UserError, one_line
from symnet.shown import first_of_classes

STAGE = "overlays"
PICTURES, SUPPORTS = 4, 5  # of a cell; shown of an episode
SIDE, GAP, LABEL = 160, 4, 14  # pixels: of a panel, between two, of its label
HEAD = 33  # bytes before the first chunk that may be ours: signature and IHDR
SUPPORT, TRUTH, PREDICTED, UNKNOWN = (0, 114, 178), (0, 158, 115), (213, 94, 0), (128, 128, 128)  # the colour-blind tell them apart

Predict = Callable[[int, tuple[int, int]], dict[str, Pixels]]  # episode, (h, w) -> mask [h, w] in {0, 1} by output
Panel = tuple[str, Pixels, Pixels, tuple[int, int, int]]  # label, image [h, w, 3], mask [h, w] in {0, 1, 255}, colour


def draw_overlays(folder: Path, episodes: Sequence[Episode], predict: Predict, reader: Reader, names: Sequence[str], metrics: Path) -> None:
    """Draw into `folder`, and remove what earlier tests left there. metrics: the metric file of the round."""
    made_by = Provenance(stage=STAGE, inputs={"metrics": file_digest(metrics)})
    written = set()
    for place in first_of_classes(episodes, PICTURES):
        episode = episodes[place]
        name = names[episode.class_index - 1]
        path = folder / f"{place:05d}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.png"
        write_overlay(path, picture(_panels(episode, partial(predict, place), reader)), made_by)
        written.add(path)
    for old in set(folder.glob("*.png")) - written:
        old.unlink()


def _panels(episode: Episode, predict: Callable[[tuple[int, int]], dict[str, Pixels]], reader: Reader) -> list[Panel]:
    def seen(image: str) -> tuple[Pixels, Pixels]:
        pixels, mask = _small(*reader.load("test", image))
        return pixels, np.where(mask == IGNORE, IGNORE, mask == episode.class_index).astype(np.uint8)

    panels: list[Panel] = [(f"support {i}", *seen(image), SUPPORT) for i, image in enumerate(episode.supports[:SUPPORTS], 1)]
    query, truth = seen(episode.query)
    panels.append(("truth", query, truth, TRUTH))
    found = predict((truth.shape[0], truth.shape[1]))
    return panels + [(output, query, found[output], PREDICTED) for output in sorted(found)]


def _small(image: Pixels, mask: Pixels) -> tuple[Pixels, Pixels]:
    """Both with their longer side at `SIDE`."""
    height, width = mask.shape
    scale = SIDE / max(height, width)
    at = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = Image.fromarray(image).resize(at, Image.Resampling.BILINEAR)
    return np.asarray(pixels), np.asarray(Image.fromarray(mask).resize(at, Image.Resampling.NEAREST))


def picture(panels: Sequence[Panel]) -> Image.Image:
    """Panels side by side, masks laid half over the images, pixels without a label grey."""
    whole = Image.new("RGB", (len(panels) * (SIDE + GAP) - GAP, SIDE + LABEL), "white")
    pen = ImageDraw.Draw(whole)
    for i, (label, image, mask, colour) in enumerate(panels):
        mixed = image.astype(np.uint16)
        for value, paint in ((1, colour), (IGNORE, UNKNOWN)):
            mixed[mask == value] = (mixed[mask == value] + np.array(paint, np.uint16)) // 2
        whole.paste(Image.fromarray(mixed.astype(np.uint8)), (i * (SIDE + GAP), LABEL))
        pen.text((i * (SIDE + GAP), 0), label, fill="black")
    return whole


def write_overlay(path: Path, image: Image.Image, provenance: Provenance) -> None:
    """Write a picture whole or not at all; its provenance is sealed over every other byte."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    plain = buffer.getvalue()
    with replacing(path) as partial:
        partial.write_bytes(plain[:HEAD] + _chunk(sealed(provenance, _sum(plain))) + plain[HEAD:])


def read_overlay(path: Path) -> Provenance:
    """Check a picture byte by byte; nothing of it is decoded. Raises `UserError`."""
    try:
        whole = path.read_bytes()
        end = HEAD + 12 + int.from_bytes(whole[HEAD : HEAD + 4])  # length, type and sum are 12 bytes
        chunk = whole[HEAD:end]
        found = json.loads(chunk[8:-4].partition(b"\0")[2])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole picture of symnet ({one_line(error)}); delete it: testing its cell draws it again") from None
    provenance = parse_provenance(found, path, STAGE)
    check_seal(path, provenance, _sum(whole[:HEAD] + whole[end:]) if chunk == _chunk(provenance) else "")
    return provenance


def _chunk(provenance: Provenance) -> bytes:
    """A provenance as PNG's chunk of text."""
    data = b"tEXtsymnet\0" + canonical(provenance.model_dump()).encode()
    return (len(data) - 4).to_bytes(4) + data + zlib.crc32(data).to_bytes(4)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
