"""Who brings what: the user, a download, or our own making; and what each waits for."""

from pathlib import Path

import pytest

from symnet.config import Settings
from symnet.data.catalogue import load_catalogue, marker
from symnet.provision import NEEDS, Need, Provision, data_needs, vectors_needs, weights_needs

LISTS = {
    "train": ("ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/train_noval.txt"),
    "test": ("ImageSets/Segmentation/val.txt",),
}
VOC = "VOCdevkit/VOC2012"
PASCAL = Settings.model_validate({"data": {"lists": LISTS}})
COCO = Settings.model_validate(
    {
        "data": {
            "source": "coco",
            "root": "coco",
            "classes": "coco",
            "masks": "masks",
            "images": {"train": "train2014", "test": "val2014"},
            "annotations": {"train": "annotations/instances_train2014.json", "test": "annotations/instances_val2014.json"},
        }
    }
)
OWN = Settings.model_validate({"data": {"root": "mine", "classes": ("ant", "bee"), "folds": 2}})


def provision(root: Path, download: bool = True) -> Provision:
    return Provision(root, load_catalogue(), download)


def names(settings: Settings, root: Path, download: bool = True) -> list[str]:
    return sorted(provision(root, download).brought(data_needs(settings.data), settings.data))


def missing(settings: Settings, root: Path, download: bool = True) -> list[str]:
    return [need.place for need in provision(root, download).missing(data_needs(settings.data), settings.data)]


def test_an_empty_data_root_is_filled_by_downloads_and_making(tmp_path: Path) -> None:
    assert names(PASCAL, tmp_path) == ["sbd_train_noval", "segmentation_class_aug", "voc2012"]
    assert names(COCO, tmp_path) == ["coco2014_annotations", "coco2014_train", "coco2014_val", "masks-coco-masks"]
    assert (missing(PASCAL, tmp_path), missing(COCO, tmp_path)) == ([], [])
    one = provision(tmp_path)
    assert one.before("segmentation_class_aug", PASCAL.data) == ["voc2012", "sbd"]
    assert one.before("sbd_train_noval", PASCAL.data) == ["voc2012"]
    assert one.before("masks-coco-masks", COCO.data) == ["coco2014_annotations"]
    assert one.before("voc2012", PASCAL.data) == []
    assert {name: one.is_made(name) for name in ("voc2012", "segmentation_class_aug", "masks-coco-masks")} == {
        "voc2012": False,
        "segmentation_class_aug": True,
        "masks-coco-masks": True,
    }


def test_what_the_user_brought_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / VOC / "SegmentationClassAug").mkdir(parents=True)
    assert names(PASCAL, tmp_path) == ["sbd_train_noval"]  # VOC's own archive lacks SBD's list
    assert provision(tmp_path).before("sbd_train_noval", PASCAL.data) == []
    (tmp_path / VOC / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / VOC / "ImageSets" / "Segmentation" / "train_noval.txt").touch()
    assert names(PASCAL, tmp_path) == []


def test_the_answer_is_the_same_after_the_download(tmp_path: Path) -> None:
    before = names(PASCAL, tmp_path)
    (tmp_path / VOC / "SegmentationClassAug").mkdir(parents=True)
    (tmp_path / VOC / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / VOC / "ImageSets" / "Segmentation" / "train_noval.txt").touch()
    marker(tmp_path, "x").parent.mkdir()
    for name in before:
        marker(tmp_path, name).touch()
    assert names(PASCAL, tmp_path) == names(PASCAL, tmp_path, download=False) == before


def test_a_marker_whose_folder_is_gone_is_forgotten(tmp_path: Path) -> None:
    marker(tmp_path, "x").parent.mkdir()
    for name in ("voc2012", "sbd"):
        marker(tmp_path, name).touch()
    (tmp_path / "sbd").mkdir()
    provision(tmp_path).forget_what_is_gone()
    assert sorted(path.stem for path in (tmp_path / ".symnet").iterdir()) == ["sbd"]


def test_without_downloads_what_is_absent_is_missing_once(tmp_path: Path) -> None:
    assert missing(PASCAL, tmp_path, download=False) == [VOC]  # not each of its folders
    assert missing(COCO, tmp_path, download=False) == [
        "coco/train2014",
        "coco/val2014",
        "coco/annotations/instances_train2014.json",
        "coco/annotations/instances_val2014.json",
        "coco/masks",
    ]
    (tmp_path / VOC / "JPEGImages").mkdir(parents=True)
    assert set(missing(PASCAL, tmp_path, download=False)) == {f"{VOC}/SegmentationClassAug"} | {
        f"{VOC}/{n}" for n in sum(LISTS.values(), ())
    }
    (tmp_path / "sbd").mkdir()
    assert f"{VOC}/SegmentationClassAug" not in missing(PASCAL, tmp_path, download=False)  # can be made
    assert names(PASCAL, tmp_path, download=False) == ["segmentation_class_aug"]
    assert provision(tmp_path, download=False).before("segmentation_class_aug", PASCAL.data) == []


def test_data_that_no_catalogue_knows_is_the_user_s(tmp_path: Path) -> None:
    assert names(OWN, tmp_path) == []
    assert missing(OWN, tmp_path) == ["mine"]
    (tmp_path / "mine" / "JPEGImages").mkdir(parents=True)
    assert missing(OWN, tmp_path) == ["mine/SegmentationClassAug"]


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({}, ["weights/resnet50-imagenet.pth", "word2vec/GoogleNews-vectors-negative300.bin.gz"]),
        ({"backbone": {"name": "efficientnet_lite0", "weights": "package"}, "text": {"source": "shapes"}}, []),
    ],
)
def test_weights_and_vectors(changes: dict, needs: list[str]) -> None:
    settings = Settings.model_validate(changes)
    assert [need.place for need in weights_needs(settings) + vectors_needs(settings)] == needs
    assert set(NEEDS) == {"data", "weights", "vectors"}


def test_drawn_data_needs_nothing() -> None:
    assert data_needs(Settings.model_validate({"data": {"source": "shapes", "root": "data/shapes"}}).data) == []


def test_words(tmp_path: Path) -> None:
    one = provision(tmp_path)
    assert one.in_words("voc2012").startswith("2.0 GB from https://")
    assert one.in_words("voc2012").endswith("(symnet download voc2012)")
    assert one.in_words("segmentation_class_aug") == "made here from VOC 2012 and SBD"
    assert one.in_words("masks-coco-masks") == "made here"
    assert one.origin(Need("x", f"{VOC}/JPEGImages")).startswith("from https://")
    assert "shared drives" in one.origin(Need("x", "weights/resnet50_v2.pth"))
    assert "config/datasets.tsv" in one.origin(Need("x", "elsewhere"))
