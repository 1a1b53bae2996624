"""Index masks made once, so that jobs read PNGs alone: of VOC and SBD (`.mat` files), and of COCO (polygons).

    voc layout    {root}/{masks}/ID.png              VOC's own files, and SBD's masks in VOC's palette
    coco layout   {root}/{masks}/{split}/ID.png      what `CocoReader` draws
                  {root}/{masks}/{split}.csv         image, file_name: the split's images in their order
    both          {root}/{masks}/masks.json          what they were made from; a copy is the stage's output

A folder of VOC's that is there already, as many have it, is taken as it is.
"""

from functools import partial
from pathlib import Path, PurePath
from typing import Any

from symnet.artifacts import Provenance, digest, dump_json, file_digest, write_table, write_text
from symnet.config import Settings
from symnet.config_data import DataSettings, ProtocolSettings
from symnet.data.classes import class_names
from symnet.data.coco import COLUMNS, CocoReader
from symnet.data.images import encode_mask
from symnet.data.pngs import make_folder
from symnet.data.readers import MARK, SPLITS
from symnet.data.sbd import SbdMasks
from symnet.errors import UserError

SBD = "sbd/cls"  # under the data root
OWN = "SegmentationClass"  # VOC's masks, under `data.root`


def make_masks(settings: Settings, data_root: Path, out: Path, workers: int) -> None:
    """Stage `masks`: make the folder `data.masks`, unless it is there, and write `out`, which says what it was made from.

    For data without such a folder (COCO's with `data.masks: null`, drawn shapes) there is nothing to make. Raises `UserError`.
    """
    data = settings.data
    if data.source == "voc":
        text = _voc(data, data_root, workers)
    elif data.source == "coco" and data.masks is not None:
        text = _coco(data, settings.protocol, data_root, workers)
    else:
        text = _mark({"source": data.source, "files": {}})
    write_text(out, text)


def _mark(payload: dict[str, Any], inputs: dict[str, str] | None = None) -> str:
    return dump_json(payload, Provenance(stage="masks", settings=digest(payload), inputs=inputs or {}))


def _voc(data: DataSettings, data_root: Path, workers: int) -> str:
    assert data.masks is not None
    root, sbd = data_root / data.root, data_root / SBD
    target = root / data.masks
    if not target.exists():
        for source in (root / OWN, sbd):
            if not source.is_dir():
                raise UserError(f"data.masks: {target} is not there, and to make it {source} is missing: VOC's masks and SBD's are united")
        masks = SbdMasks(root / OWN, sbd, len(class_names(data.classes)))
        payload = {"source": "voc", "files": {"sbd": len(masks.used), "voc": len(masks.voc)}}
        mark = _mark(payload, masks.sums(workers))
        make_folder(target, mark, lambda folder: None, masks.names, masks.make, workers, data.bad_files == "skip")
    if (target / MARK).is_file():
        return (target / MARK).read_text(encoding="utf-8")
    ready = sum(1 for _ in target.glob("*.png"))
    if not ready:
        raise UserError(f"data.masks: {target} holds no PNG; delete it, and it is made from VOC's masks and SBD's")
    return _mark({"source": "voc", "files": {"ready": ready}})


def _coco(data: DataSettings, protocol: ProtocolSettings, data_root: Path, workers: int) -> str:
    assert data.masks is not None
    names = class_names(data.classes)
    target = data_root / data.root / data.masks
    if not target.exists():
        drawn = CocoReader(data.model_copy(update={"masks": None}), protocol, names, data_root, masks_only=True)
        images = {split: drawn.ids(split) for split in SPLITS}
        payload = {
            "source": "coco",
            "crowd": protocol.crowd,
            "classes": list(names),
            "files": {split: len(found) for split, found in images.items()},
        }
        sums: dict[str, str] = {split: file_digest(drawn.sources(split)[0]) for split in SPLITS}
        pngs = [f"{split}/{image}.png" for split in SPLITS for image in images[split]]
        begin, skip = partial(_write_tables, drawn, sums), data.bad_files == "skip"
        make_folder(target, _mark(payload, sums), begin, pngs, partial(_draw, drawn), workers, skip)
    made = CocoReader(data, protocol, names, data_root, masks_only=True)
    for split in SPLITS:
        made.ids(split)  # refuses masks of other annotations
    return (target / MARK).read_text(encoding="utf-8")


def _write_tables(drawn: CocoReader, sums: dict[str, str], folder: Path) -> None:
    for split in SPLITS:
        (folder / split).mkdir()
        rows = [[image, drawn.image_path(split, image).name] for image in drawn.ids(split)]
        write_table(folder / f"{split}.csv", COLUMNS, rows, Provenance(stage="masks", inputs={"annotations": sums[split]}))


def _draw(drawn: CocoReader, name: str) -> bytes:
    path = PurePath(name)
    return encode_mask(drawn.mask("train" if path.parts[0] == "train" else "test", path.stem))
