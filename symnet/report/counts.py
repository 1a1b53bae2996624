"""The count report of a data set: images, classes and (image, class) pairs per fold and split, beside the field's published counts.

Lists that differ by a few images give other numbers, and nobody sees it: so they are counted, every time, and a difference is flagged.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symnet.artifacts import Provenance, file_digest, write_manifest, write_text
from symnet.config import Settings
from symnet.data.classes import class_names
from symnet.data.folds import FoldList, novel_classes, read_fold_list
from symnet.data.index import Index, read_index
from symnet.data.readers import SPLITS

STAGE = "counts"
PUBLISHED_COUNTS = Path(__file__).with_name("counts.csv")
COLUMNS = ["list", "fold", "images", "published", "pairs", "published_pairs", "differs", "source"]
SHOWN = COLUMNS[:-1]  # to a person
CLASS_COLUMNS = ["class", "fold", "train_images", "test_images"]

Row = dict[str, Any]


def make_counts(settings: Settings, dataset: str, lists: Path, out: Path) -> str:
    """Count the lists in the folder `lists`; write `out` (CSV) and STEM-classes.csv, both as pages too, and STEM.txt: the text returned.

    STEM.json tells their sums and those of the inputs. Raises `UserError` where a list is missing or damaged.
    """
    index, _ = read_index(lists)
    names = class_names(settings.data.classes)
    paths = {(split, fold): lists / f"fold{fold}" / f"{split}.csv" for fold in range(settings.data.folds) for split in SPLITS}
    found = {key: read_fold_list(path) for key, path in paths.items()}
    rows = [counted(one, split, fold, settings) for (split, fold), one in found.items()]
    classes = _classes(index, names, settings)
    told = in_text(dataset, index, rows, classes)
    texts = {out.name: _csv(COLUMNS, rows), f"{out.stem}-classes.csv": _csv(CLASS_COLUMNS, classes), f"{out.stem}.txt": told + "\n"}
    remarks, told_of = _remarks(index, rows, classes), _head(dataset, index, classes)
    texts[f"{out.stem}.html"] = _page(rows, SHOWN, f"{told_of}: images, and pairs of image and class, in the lists", remarks)
    texts[f"{out.stem}-classes.html"] = _page(classes, CLASS_COLUMNS, f"{told_of}: images in which a class counts", [])
    for name, text in texts.items():
        write_text(out.with_name(name), text)
    rules = settings.protocol.model_dump(warnings=False)
    inputs = {f"{split}{fold}": file_digest(path) for (split, fold), path in paths.items()} | {"index": file_digest(lists / "index.csv")}
    made_by = Provenance(stage=STAGE, protocol=rules, inputs=inputs)
    write_manifest(out.with_suffix(".json"), map(out.with_name, texts), made_by)
    return told


def write_differences(settings: Settings, lists: Path, other: Path, out: Path) -> str:
    """Write which images stand in the lists of one folder and not of the other, CSV: list, fold, image, only_in. Returns a summary."""
    rows, told = [], []
    for fold in range(settings.data.folds):
        for split in SPLITS:
            ours, theirs = ([r.image for r in read_fold_list(at / f"fold{fold}" / f"{split}.csv").rows] for at in (lists, other))
            for one, two, where in ((ours, set(theirs), lists), (theirs, set(ours), other)):
                alone = [image for image in one if image not in two]
                rows += [{"list": split, "fold": fold, "image": image, "only_in": str(where)} for image in alone]
                told += [f"{split} list of fold {fold}: {len(alone)} images only in {where}"] * bool(alone)
    write_text(out, _csv(["list", "fold", "image", "only_in"], rows))
    return "\n".join(told) or f"{lists} and {other}: the same images"


def counted(made: FoldList, split: str, fold: int, settings: Settings) -> Row:
    """Images and (image, class) pairs of a list, what was published of it, and by how much it differs."""
    images, pairs = len(made), sum(len(row.classes) for row in made.rows)
    row: Row = {"list": split, "fold": fold, "images": images, "pairs": pairs}
    known = published(settings, split, fold)
    if known is None:
        return row | {"published": "", "published_pairs": "", "differs": "", "source": ""}
    low, high = int(known["images_from"]), int(known["images_to"])
    off = min(images - low, 0) or max(images - high, 0)
    off_pairs = pairs - int(known["pairs"]) if known["pairs"] else 0
    differs = [f"{off:+d} images"] * bool(off) + [f"{off_pairs:+d} pairs"] * bool(off_pairs)
    span = str(low) if low == high else f"{low}-{high}"
    return row | {"published": span, "published_pairs": known["pairs"], "differs": ", ".join(differs), "source": known["source"]}


def published(settings: Settings, split: str, fold: int) -> Mapping[str, str] | None:
    """The published counts of a fold's list under these rules, where any are known. Test lists do not depend on `novel_in_train`."""
    rules = settings.protocol
    with open(PUBLISHED_COUNTS, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            same = (row["classes"], row["split"], row["min_pixels"]) == (settings.data.classes, rules.split, str(rules.min_pixels))
            if same and (row["list"], row["fold"]) == (split, str(fold)) and row["novel_in_train"] in ("", rules.novel_in_train):
                return row
    return None


def _classes(index: Index, names: tuple[str, ...], settings: Settings) -> list[Row]:
    """Per class the fold that tests it, and the images of either split in which it counts."""
    fold_of = {c: f for f in range(settings.data.folds) for c in novel_classes(f, len(names), settings.data.folds, settings.protocol.split)}
    images: dict[tuple[int, str], int] = {(c, split): 0 for c in fold_of for split in SPLITS}
    for row in index.rows:
        for value, pixels in row.pixels:
            if value in fold_of and pixels >= settings.protocol.min_pixels:
                images[value, row.split] += 1
    return [
        {"class": names[c - 1], "fold": fold_of[c], "train_images": images[c, "train"], "test_images": images[c, "test"]}
        for c in sorted(fold_of)
    ]


def in_text(dataset: str, index: Index, rows: list[Row], classes: list[Row]) -> str:
    """The report as plain text."""
    table = [[name.replace("_", " ") for name in SHOWN], *([str(row[name]) or "--" for name in SHOWN] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(SHOWN))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([_head(dataset, index, classes), "", *lines, "", *_remarks(index, rows, classes)])


def _head(dataset: str, index: Index, classes: list[Row]) -> str:
    of_split = {split: sum(row.split == split for row in index.rows) for split in SPLITS}
    return f"{dataset}: {of_split['train']} train and {of_split['test']} test images, {len(classes)} classes"


def _remarks(index: Index, rows: list[Row], classes: list[Row]) -> list[str]:
    """What stands under the table: how it differs from the published counts, what cannot be tested, and what was left out."""
    different = [f"{row['list']} list of fold {row['fold']} ({row['differs']})" for row in rows if row["differs"]]
    known = any(row["published"] for row in rows)
    lines = ["as published" if known else "no counts were published for these classes and rules"]
    if different:
        lines = [f"DIFFERS from the published counts: {'; '.join(different)}"]
    rare = [f"{row['class']} ({row['test_images']})" for row in classes if row["test_images"] < 2]
    if rare:
        lines.append(f"classes with fewer than 2 test images, which cannot be tested: {', '.join(rare)}")
    if index.skipped:
        lines.append(f"left out as unusable: {len(index.skipped)}")
        lines += [f"  {one.split} {one.image}: {one.file}: {one.reason}" for one in index.skipped]
    return lines


def _page(rows: list[Row], columns: list[str], caption: str, notes: list[str]) -> str:
    """Rows as a page, fold by fold."""
    import pandas as pd  # here: the plan reads this module before every job

    from symnet.report.html import html
    from symnet.report.latex import Printed

    shown = pd.DataFrame(rows, columns=["fold", *(name for name in columns if name != "fold")]).sort_values("fold", kind="stable")
    return html(Printed(shown.astype(str).replace("", "--"), ["fold"], caption, notes), pd.DataFrame(index=shown.index))


def _csv(columns: list[str], rows: list[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
