"""The catalogue as shipped, and what is refused in one."""

import json
import re
from pathlib import Path

import pytest
from torchvision.datasets import sbd, voc
from torchvision.models import ResNet50_Weights, ResNet101_Weights, VGG16_BN_Weights

from symnet.config import BackboneSettings
from symnet.config_data import DataSettings, TextSettings
from symnet.data.catalogue import CATALOGUE, COLUMNS, Entry, add_pin, load_catalogue, lock_of, parents, provider
from symnet.errors import UserError

SHIPPED = load_catalogue()
GOOD = {
    "name": "a", "version": "1", "kind": "archive", "place": "x/y", "inner": "top", "url": "https://host/a.tar", "mirrors": "",
    "bytes": "5", "checksum": "md5:" + "0" * 32, "licence": "", "note": "",
}  # fmt: skip


def test_it_is_well_formed() -> None:
    assert CATALOGUE.name == "datasets.tsv"
    assert len(SHIPPED) == 18
    assert all(name == entry.name for name, entry in SHIPPED.items())
    for entry in SHIPPED.values():
        file_name = entry.url.rpartition("/")[2]
        assert entry.download == {"archive": f"downloads/{file_name}", "file": entry.place}.get(entry.kind, entry.place)
    text = CATALOGUE.read_text(encoding="utf-8")
    assert text.isascii()
    assert not re.search(r"[ \t]$| \t|\t ", re.sub(r"\t+$", "", text, flags=re.MULTILINE), re.MULTILINE)


def test_torchvision_agrees() -> None:
    year = voc.DATASET_YEAR_DICT["2012"]
    found = SHIPPED["voc2012"]
    assert (found.url, found.checksum, found.inner) == (year["url"], f"md5:{year['md5']}", year["base_dir"])
    assert (SHIPPED["sbd"].url, SHIPPED["sbd"].checksum) == (sbd.SBDataset.url, f"md5:{sbd.SBDataset.md5}")
    names = SHIPPED["sbd_train_noval"]
    assert (names.url, names.checksum) == (sbd.SBDataset.voc_train_url, f"md5:{sbd.SBDataset.voc_split_md5}")
    assert names.place.endswith(f"/{sbd.SBDataset.voc_split_filename}")
    weights = {"resnet50_tv": ResNet50_Weights, "resnet101_tv": ResNet101_Weights, "vgg16_bn": VGG16_BN_Weights}
    for name, those in weights.items():
        url = those.IMAGENET1K_V1.url
        assert SHIPPED[name].url == url
        assert SHIPPED[name].place == f"weights/{url.rpartition('/')[2]}"
        assert SHIPPED[name].checksum == f"sha256:{url[-12:-4]}"


def test_it_provides_what_the_defaults_ask_for() -> None:
    data = DataSettings()
    for place, name in {
        BackboneSettings().weights: "resnet50_deepstem",
        TextSettings().source: "googlenews",
        data.root: "voc2012",
        f"{data.root}/{data.masks}": "segmentation_class_aug",
        f"{data.root}/ImageSets/Segmentation/train_noval.txt": "sbd_train_noval",
        f"{data.root}/ImageSets/Segmentation/train.txt": "voc2012",
        "coco/annotations/instances_train2014.json": "coco2014_annotations",
        "coco2017/val2017/000000000139.jpg": "coco2017_val",
    }.items():
        found = provider(SHIPPED, place)
        assert found is not None
        assert found.name == name, place
    for place in ("weights", "coco", "VOCdevkit", "VOCdevkit/VOC2012x", "elsewhere/x"):
        assert provider(SHIPPED, place) is None


def test_parents() -> None:
    expected = {"sbd_train_noval": ["voc2012"], "segmentation_class_aug": ["voc2012"]}
    for name, entry in SHIPPED.items():
        assert [parent.name for parent in parents(SHIPPED, entry)] == expected.get(name, [])
    nested = {place: Entry(place, "1", "file", place) for place in ("a/b/c/d", "a", "a/b", "a/bc")}
    assert [parent.name for parent in parents(nested, nested["a/b/c/d"])] == ["a", "a/b"]


def write(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("# a comment\n\n" + "".join("\t".join(row.values()) + "\n" for row in ({name: name for name in COLUMNS}, *rows)))
    return path


def test_a_row_as_an_entry(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", {**GOOD, "mirrors": "http://b/x https://c/y"})
    mirrors = ("http://b/x", "https://c/y")
    expected = Entry("a", "1", "archive", "x/y", "top", "https://host/a.tar", mirrors, 5, "md5:" + "0" * 32)
    assert load_catalogue(path) == {"a": expected}
    assert expected.urls == ("https://host/a.tar", *mirrors)
    assert expected.download == "downloads/a.tar"


@pytest.mark.parametrize(
    ("changed", "column", "allowed"),
    [
        ({"name": "A b"}, "name", "small letters"), ({"name": ""}, "name", "small letters"), ({"version": ""}, "version", "any text"),
        ({"kind": "zip"}, "kind", "file, archive, manual, made"), ({"place": ""}, "place", "a path inside"),
        ({"place": "/etc"}, "place", "a path inside"), ({"place": "a/../b"}, "place", "a path inside"),
        ({"place": "a//b"}, "place", "a path inside"), ({"place": "a/"}, "place", "a path inside"),
        ({"place": "a\\b"}, "place", "a path inside"), ({"place": ".symnet"}, "place", "a path inside"),
        ({"inner": ""}, "inner", "a folder inside the archive"), ({"inner": "../x"}, "inner", "a folder inside the archive"),
        ({"kind": "file"}, "inner", "empty for other kinds"), ({"url": ""}, "url", "http(s)"),
        ({"url": "ftp://host/a.tar"}, "url", "http(s)"), ({"url": "file:///a.tar"}, "url", "http(s)"),
        ({"url": "http:///a.tar"}, "url", "http(s)"), ({"url": "http://host/"}, "url", "http(s)"),
        ({"url": "http://[x/a.tar"}, "url", "http(s)"), ({"url": "http://host/a b.tar"}, "url", "http(s)"),
        ({"url": "http://host/a.rar"}, "url", "an archive's name ends in"), ({"url": "http://host/..%2fa.tar"}, "url", "x"),
        ({"mirrors": "ftp://host/a.tar"}, "mirrors", "http(s)"), ({"bytes": "1e9"}, "bytes", "a whole number"),
        ({"bytes": "0"}, "bytes", "a whole number"), ({"bytes": "-5"}, "bytes", "a whole number"),
        ({"checksum": "md5:00"}, "checksum", "md5:"), ({"checksum": "sha256:0123456"}, "checksum", "sha256:"),
        ({"checksum": "0" * 32}, "checksum", "md5:"), ({"checksum": "sha1:" + "0" * 40}, "checksum", "md5:"),
        ({"kind": "manual", "inner": "", "note": "x"}, "url", "empty for what is not fetched"),
        ({"kind": "manual", "inner": "", "url": "", "mirrors": "http://b/x", "note": "x"}, "mirrors", "http(s)"),
        ({"kind": "made", "inner": "", "url": ""}, "note", "words on how to get it"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_cell(changed: dict[str, str], column: str, allowed: str, tmp_path: Path) -> None:
    if allowed == "x":  # its last part, unquoted, is a plain name
        assert load_catalogue(write(tmp_path / "a.tsv", {**GOOD, **changed}))["a"].download == "downloads/a.tar"
        return
    path = write(tmp_path / "a.tsv", {**GOOD, "name": "b", "place": "b", "url": "http://host/b.tar"}, {**GOOD, **changed})
    with pytest.raises(UserError) as caught:
        load_catalogue(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: row 5: {column}: found '{' '.join({**GOOD, **changed}[column].split())}', allowed: ")
    assert allowed in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the first row must name the columns"),
        ("# only words\n", "the first row must name the columns"),
        ("name\tversion\n", "the first row must name the columns"),
        ("\t".join(COLUMNS) + "\na\t1\n", "row 2: found 2 cells, expected 11"),
        ("\xff", "the catalogue cannot be read"),
    ],
)
def test_a_wrong_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=said):
        load_catalogue(tmp_path / "a.tsv")
    with pytest.raises(UserError, match="cannot be read"):
        load_catalogue(tmp_path / "none.tsv")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"place": "p", "url": "http://host/p.tar"}, r"row 5: name: 'a' stands there twice"),
        ({"name": "b", "url": "http://host/p.tar"}, r"row 5: place: 'x/y' is that of a too"),
        ({"name": "b", "place": "p"}, r"row 5: url: its file name is that of a too, both would be downloads/a\.tar"),
    ],
)
def test_two_of_a_kind(changed: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_catalogue(write(tmp_path / "a.tsv", GOOD, {**GOOD, **changed}))


def test_pins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", {**GOOD, "checksum": "", "bytes": ""})
    entry = load_catalogue(path)["a"]
    assert (entry.checksum, entry.bytes) == ("", None)
    assert add_pin(path, Entry("z", "1", "file", "z"), 2, "b" * 64)
    assert add_pin(path, entry, 7, "a" * 64)
    assert add_pin(path, entry, 7, "a" * 64)
    assert lock_of(path) == tmp_path / "a.lock"
    assert list(json.loads(lock_of(path).read_text())) == ["a", "z"]
    pinned = load_catalogue(path)["a"]
    assert (pinned.checksum, pinned.bytes) == ("sha256:" + "a" * 64, 7)
    assert load_catalogue(write(path, {**GOOD}))["a"].checksum == GOOD["checksum"]  # its own sum goes first
    assert load_catalogue(write(path, {**GOOD, "checksum": "", "version": "2"}))["a"].checksum == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"version": "1", "bytes": 1, "sha256": "x"}}'])
def test_a_wrong_lock_file(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", GOOD)
    lock_of(path).write_text(text)
    with pytest.raises(UserError, match=r"a\.lock: .*; restore the file, or delete it to pin anew$"):
        load_catalogue(path)
