"""What an experiment needs under its data root, and who brings each thing: the user, a download, or our own making of masks.

What a user brought is used as it is and never written to. What we fetched or made has a marker, `{data root}/.symnet/{name}.json`, for
which the jobs that read it wait; so a job's inputs are the same before and after a download, and none where the user brought the files.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from symnet.config import Settings
from symnet.config_data import DataSettings
from symnet.data.catalogue import FETCHED, MADE, Entry, marker, parents, provider
from symnet.progress import size

SBD = "sbd"  # what VOC's augmented masks are made of, beside VOC itself


@dataclass(frozen=True)
class Need:
    """Something that has to lie at `place`, relative to the data root. `what` names it in messages."""

    what: str
    place: str


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


# What each kind of job asks for.
NEEDS: dict[str, Callable[[Settings], list[Need]]] = {
    "data": lambda settings: data_needs(settings.data),
    "weights": weights_needs,
    "vectors": vectors_needs,
}


class Provision:
    """Who brings what, for one data root. `download`: whether we may fetch."""

    def __init__(self, root: Path, catalogue: Mapping[str, Entry], download: bool = True) -> None:
        self.root, self.catalogue, self.download = root, dict(catalogue), download

    def marker(self, name: str) -> Path:
        """The file that says that `name` was fetched or made."""
        return marker(self.root, name)

    def brought(self, needs: Iterable[Need], data: DataSettings) -> dict[str, Need]:
        """Those needs that we meet, by the name of their marker; the others are the user's, or nobody's."""
        found: dict[str, Need] = {}
        for need in needs:
            name = self._who(need, data)
            if name and self._ours(name, self.catalogue[name].place if name in self.catalogue else need.place):
                found.setdefault(name, need)
        return found

    def missing(self, needs: Iterable[Need], data: DataSettings) -> list[Need]:
        """Those that are not there and that nobody but the user can bring."""
        needs = list(needs)
        folders = [self.catalogue[name].place if name in self.catalogue else need.place for name, need in self.brought(needs, data).items()]
        absent = [need for need in needs if not (self.root / need.place).exists()]
        alone = [need for need in absent if not any(PurePosixPath(need.place).is_relative_to(folder) for folder in folders)]
        return [need for need in alone if not any(_inside(need, other) for other in alone)]

    def before(self, name: str, data: DataSettings) -> list[str]:
        """Names of what has to be in place before `name` is: what it lies in, and, of masks that we make, what they are made of."""
        if name not in self.catalogue:
            return list(self.brought([need for need in data_needs(data) if need.what == "annotations"], data))
        around = self._ingredients(self.catalogue[name])
        return [one.name for one in around if one.kind in FETCHED and self._can_bring(one) and self._ours(one.name, one.place)]

    def is_made(self, name: str) -> bool:
        """Whether the need behind a marker is met by making masks, not by fetching."""
        return name not in self.catalogue or self.catalogue[name].kind == MADE

    def forget_what_is_gone(self) -> None:
        """Remove the markers of what was fetched and then taken away: it is to be fetched anew."""
        for entry in self.catalogue.values():
            if self.marker(entry.name).is_file() and not (self.root / entry.place).exists():
                self.marker(entry.name).unlink()

    def origin(self, need: Need) -> str:
        """Where a user gets what is missing."""
        entry = provider(self.catalogue, need.place)
        if entry is None:
            return "sources and checksums of the field's data sets: config/datasets.tsv"
        return f"from {entry.url}" if entry.url else entry.note

    def in_words(self, name: str) -> str:
        """Where something that we meet comes from."""
        entry = self.catalogue.get(name)
        if self.is_made(name) or entry is None:
            return "made here" if entry is None else "made here from VOC 2012 and SBD"
        return f"{'' if entry.bytes is None else size(entry.bytes) + ' '}from {entry.url} (symnet download {name})"

    def _ours(self, name: str, place: str) -> bool:
        return self.marker(name).is_file() or not (self.root / place).exists()

    def _who(self, need: Need, data: DataSettings) -> str:
        """The name of the marker behind a need; empty where nothing of ours brings it."""
        if data.source == "coco" and data.masks and need.place == str(PurePosixPath(data.root) / data.masks):
            annotated = all((self.root / other.place).exists() for other in data_needs(data) if other.what == "annotations")
            return "masks-" + re.sub(r"[^A-Za-z0-9_.]+", "-", need.place) if annotated or self.download else ""
        entry = provider(self.catalogue, need.place)
        return entry.name if entry and self._can_bring(entry) else ""

    def _can_bring(self, entry: Entry) -> bool:
        """Whether we may fetch `entry`, or did, or have what its masks are made of."""
        if entry.kind not in (*FETCHED, MADE):
            return False
        made = entry.kind == MADE and all((self.root / one.place).exists() for one in self._ingredients(entry))
        return self.download or made or self.marker(entry.name).is_file()

    def _ingredients(self, entry: Entry) -> list[Entry]:
        """What has to be in place before `entry`: what it lies in, and, of masks that we make, SBD."""
        return parents(self.catalogue, entry) + ([self.catalogue[SBD]] if entry.kind == MADE and SBD in self.catalogue else [])


def _inside(need: Need, other: Need) -> bool:
    return PurePosixPath(other.place) in PurePosixPath(need.place).parents
