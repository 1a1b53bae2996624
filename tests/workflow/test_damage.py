"""No kind of artifact is read when it is not what was written: a byte flipped, the end cut off, nothing left. Those of a real run."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from symnet.artifacts import Provenance, read_json
from symnet.artifacts import read_manifest as read_files
from symnet.base_learner import load_base
from symnet.cases import read_gallery
from symnet.checkpoint import load_tensors
from symnet.data import stored as stored_images
from symnet.data.episodes import read_manifest
from symnet.data.folds import read_fold_list
from symnet.data.index import read_index
from symnet.data.readers import open_reader
from symnet.data.store import make_store
from symnet.data.stored import Store
from symnet.embeddings import read_embeddings
from symnet.episode_counts import read_episode_counts
from symnet.errors import UserError
from symnet.experiment import make_experiment
from symnet.features import FeatureCache
from symnet.made import read_note
from symnet.overlays import read_overlay
from symnet.recorded import EpisodeRecords
from symnet.report import read_round
from symnet.report.tables import format_table
from tests.workflow.conftest import TINY, Project

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once

FOLD, LISTS = "shapes/efficientnet_lite0/fold0", "shapes/lists/fold0"
CELL, GALLERY = f"{FOLD}/symnet/shot1", f"{FOLD}/gallery/shot1/episodes.safetensors"


@dataclass(frozen=True)
class Kind:
    """file: a pattern below the results, of which the first file is damaged; read: what its readers call, given the results."""

    file: str
    read: Callable[[Path], object]


def records(root: Path) -> EpisodeRecords:
    return EpisodeRecords(
        {"tdc": root / FOLD / "records/tdc/shot1/seed7.json"}, root / LISTS / "shot1/seed7.csv", root / FOLD / "features_test.json"
    )


def stored(root: Path) -> object:
    settings = make_experiment(TINY, "tiny").settings("shapes", 0)
    fold_list = read_fold_list(root / LISTS / "test.csv")
    stored_images._checked.cache_clear()  # as another process would look at it
    reader = open_reader(settings.data, settings.protocol, root, store=Store.of_lists(root / "store.json", {"test": fold_list}))
    return reader.load("test", fold_list.rows[0].image)


KINDS = {
    "drawn set": Kind("data/shapes/shapes.json", lambda root: read_json(root / "data/shapes/shapes.json", "shapes")),
    "index": Kind("shapes/lists/index.csv", lambda root: read_index(root / "shapes/lists")),
    "skipped": Kind("shapes/lists/skipped.csv", lambda root: read_index(root / "shapes/lists")),
    "list": Kind(f"{LISTS}/test.csv", lambda root: read_fold_list(root / LISTS / "test.csv")),
    "episodes": Kind(f"{LISTS}/shot1/seed7.csv", lambda root: read_manifest(root / LISTS / "shot1/seed7.csv")),
    "class vectors": Kind("shapes/embeddings.csv", lambda root: read_embeddings(root / "shapes/embeddings.csv")),
    "counts": Kind("shapes/counts.csv", lambda root: read_files(root / "shapes/counts.json", "counts")),
    "counts in words": Kind("shapes/counts.txt", lambda root: read_files(root / "shapes/counts.json", "counts")),
    "sums of counts": Kind("shapes/counts.json", lambda root: read_files(root / "shapes/counts.json", "counts")),
    "store": Kind("store.json", stored),
    "shard of a store": Kind("store-*/*.h5", stored),
    "base learner": Kind(f"{FOLD}/base.safetensors", lambda root: load_base(root / FOLD / "base.safetensors")),
    "its measures": Kind(f"{FOLD}/base.json", lambda root: read_json(root / FOLD / "base.json", "base")),
    "features": Kind(f"{FOLD}/features_test.json", lambda root: FeatureCache(root / FOLD / "features_test.json")),
    "shard of features": Kind(f"{FOLD}/features_test-*/*.h5", lambda root: FeatureCache(root / FOLD / "features_test.json")),
    "records": Kind(f"{FOLD}/records/tdc/shot1/seed7.json", records),
    "shard of records": Kind(f"{FOLD}/records/tdc/shot1/seed7-*/*.h5", records),
    "model": Kind(f"{CELL}/model.safetensors", lambda root: load_tensors(root / CELL / "model.safetensors", "train")),
    "metrics": Kind(f"{CELL}/seed7.json", lambda root: read_round(root / CELL / "seed7.json")),
    "counts of episodes": Kind(f"{CELL}/seed7-episodes.csv", lambda root: read_episode_counts(root / CELL / "seed7-episodes.csv")),
    "gallery": Kind(GALLERY, lambda root: read_gallery(root / GALLERY)),
    "picture": Kind(f"{CELL}/overlays/*.png", lambda root: read_overlay(sorted((root / CELL / "overlays").iterdir())[0])),
    "table": Kind("tables/main.csv", lambda root: format_table(root / "tables/main.csv")),
    "table for a paper": Kind("tables/main.tex", lambda root: read_files(root / "tables/tables.json", "tables")),
    "figure": Kind("figures/*.pdf", lambda root: read_files(root / "figures/figures.json", "figures")),
    "sums of figures": Kind("figures/figures.json", lambda root: read_files(root / "figures/figures.json", "figures")),
    "sums of tables": Kind("tables/tables.json", lambda root: format_table(root / "tables/main.csv")),
    "tracking": Kind("tracking.json", lambda root: read_json(root / "tracking.json", "track")),
    "note": Kind(f"made/{CELL}/train.json", lambda root: read_note(root, root / CELL, "train")),
}


@pytest.fixture(scope="module")
def results(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the results of the finished benchmark, with an image store."""
    root = tmp_path_factory.mktemp("damage") / "tiny"
    shutil.copytree(finished.results, root)
    settings = make_experiment(TINY, "tiny").settings("shapes", 0)
    make_store(settings, root, root / "shapes" / "lists", root / "store.json", 1, Provenance(stage="store"))
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("name", KINDS)
def test_damage_is_told_in_one_line(results: Path, name: str) -> None:
    kind = KINDS[name]
    path = sorted(results.glob(kind.file))[0]
    whole = path.read_bytes()
    kind.read(results)
    last = len(whole.rstrip()) - 1
    flips = [whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :] for i in {0, 9, last // 3, last // 2, last - 40, last}]
    cuts = [b"", whole[: last // 2], whole[:last]]
    try:
        for damaged in [*flips, *cuts]:
            path.write_bytes(damaged)
            with pytest.raises(UserError) as caught:
                kind.read(results)
            told = str(caught.value)
            assert str(path) in told
            assert len(told.splitlines()) == 1
            assert any(word in told for word in ("again", "provenance", "expected")), told
    finally:
        path.write_bytes(whole)
    kind.read(results)


def test_every_kind_is_here(results: Path) -> None:
    """A new kind of file in the results has to join the table, or say why it is none."""
    none = ("*/JPEGImages/*", "*/SegmentationClassAug/*", "*/ImageSets/*", "logs/*", "journals/*", "settings/*", "state/*", "made/lists/*")
    none += (
        "*.sha256",
        "*.seal",
        "*/.stat.json",
        "*/lock",
        "*/counts*.html",
        "*/counts-classes.csv",
    )  # logs, caches, what sums vouch for
    kinds = [
        *(kind.file for kind in KINDS.values()),
        "made/*.json",
        "tables/*",
        "figures/*",
        "shapes/*/*.csv",
        "shapes/*/*.json",
        "shapes/*/*.h5",
    ]
    kinds += ["shapes/*/model.safetensors", "shapes/*/base.safetensors", "shapes/*/overlays/*.png", "shapes/*/gallery/*.safetensors"]
    files = [path.relative_to(results) for path in results.rglob("*") if path.is_file()]
    assert [str(path) for path in files if not any(fnmatchcase(path.as_posix(), one) for one in (*none, *kinds))] == []
