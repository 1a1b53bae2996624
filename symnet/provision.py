"""What an experiment needs under its data root, and who brings each thing: the user, a download, or our own making of masks.

What a user brought is used as it is and never written to. What we fetched or made has a marker, `{data root}/.symnet/{name}.json`, for
which the jobs that read it wait; so a job's inputs are the same before and after a download, and none where the user brought the files.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from symnet.config import DataSettings, Settings
from symnet.data.catalogue import FETCHED, MADE, Entry, parents, provider

SBD = "sbd"  # what VOC's augmented masks are made of, beside VOC itself


@dataclass(frozen=True)
class Need:
    """Something that has to lie at `place`, relative to the data root. `what` names it in messages."""

    what: str
    place: str


@dataclass(frozen=True)
class Brought:
    """How a need is met by us: the marker that says it is done, and the downloads or the making behind it."""

    need: Need
    marker: str  # name of the marker, without folder and ending
    entry: Entry | None  # None: masks drawn from annotations


def data_needs(data: DataSettings) -> list[Need]:
    """What the reader of a data set asks for; nothing for one that is drawn."""
    root = PurePosixPath(data.root)
    if data.source == "shapes":
        return []
    if data.source == "coco":
        needs = [Need("images", str(root / folder)) for folder in data.images.values()]
        needs += [Need("annotations", str(root / file)) for file in data.annotations.values()]
        return needs + ([Need("index masks", str(root / data.masks))] if data.masks else [])
    needs = [Need("images and index masks", str(root)), Need("index masks", str(root / str(data.masks)))]
    needs += [Need("images", str(root / folder)) for folder in data.images.values()]
    return needs + [Need("image list", str(root / name)) for names in data.lists.values() for name in names]


def weights_needs(settings: Settings) -> list[Need]:
    """The backbone's ImageNet weights; nothing where its package brings them."""
    backbone = settings.backbone
    return [] if backbone.weights == "package" else [Need(f"ImageNet weights of {backbone.name}", backbone.weights)]


def vectors_needs(settings: Settings) -> list[Need]:
    """The file of word vectors; nothing where they are learned."""
    return [] if settings.text.source == "shapes" else [Need("word vectors", settings.text.source)]


class Provision:
    """Who brings what, for one data root."""

    def __init__(self, root: Path, catalogue: Mapping[str, Entry]) -> None:
        self.root, self.catalogue = root, dict(catalogue)

    def marker(self, name: str) -> Path:
        """The file that says that `name` was fetched or made."""
        return self.root / ".symnet" / f"{name}.json"

    def brought(self, needs: Iterable[Need], data: DataSettings) -> list[Brought]:
        """Those needs that we meet; the others are the user's, or nobody's."""
        found: dict[str, Brought] = {}
        for need in needs:
            name, entry = self._who(need, data)
            if name and name not in found and (self.marker(name).is_file() or not (self.root / need.place).exists()):
                found[name] = Brought(need, name, entry)
        return list(found.values())

    def missing(self, needs: Iterable[Need], data: DataSettings) -> list[Need]:
        """Those that are not there and that nobody but the user can bring."""
        ours = {one.need.place for one in self.brought(needs, data)}
        folders = [PurePosixPath(place) for place in ours]
        absent = (need for need in needs if not (self.root / need.place).exists())
        return [need for need in absent if need.place not in ours and not any(PurePosixPath(need.place).is_relative_to(f) for f in folders)]

    def waits_for(self, entry: Entry) -> list[Path]:
        """Markers of what has to be in place before `entry` is: what it lies in, and, of made masks, what they are made of."""
        before = parents(self.catalogue, entry) + ([self.catalogue[SBD]] if entry.kind == MADE and SBD in self.catalogue else [])
        return [self.marker(one.name) for one in before if one.kind in FETCHED and self._ours(one)]

    def _ours(self, entry: Entry) -> bool:
        return self.marker(entry.name).is_file() or not (self.root / entry.place).exists()

    def _who(self, need: Need, data: DataSettings) -> tuple[str, Entry | None]:
        """The name of the marker behind a need, and the catalogue's entry; an empty name where nothing of ours brings it."""
        if data.source == "coco" and data.masks and need.place == str(PurePosixPath(data.root) / data.masks):
            return "masks-" + re.sub(r"[^A-Za-z0-9_.]+", "-", need.place), None
        entry = provider(self.catalogue, need.place)
        if entry is None or entry.kind not in (*FETCHED, MADE):
            return "", None
        if entry.kind == MADE and need.place != entry.place:
            return "", None
        return entry.name, entry
