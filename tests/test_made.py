"""Notes of what outputs were made from, and the words for what differs."""

from pathlib import Path

import pytest

from symnet.artifacts import file_digest
from symnet.data.folds import FoldList, ListRow, write_fold_list
from symnet.errors import UserError
from symnet.made import EXPERIMENT, Note, experiment_of, keep, kept_list, note_path, place, read_note, sums
from symnet.why import _code, _difference, _options, _settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of an experiment."""
    folder = tmp_path / "results" / "a b"
    (folder / EXPERIMENT).parent.mkdir(parents=True)
    (folder / EXPERIMENT).write_text("{}")
    return folder


def write_list(path: Path, *images: str) -> Path:
    write_fold_list(path, FoldList(tuple(ListRow(image, (1,), 4, 3, "a" * 64, "b" * 64) for image in images)), "s")
    return path


def test_a_note_lies_beside_no_output_and_is_read_back(root: Path, tmp_path: Path) -> None:
    listed = write_list(root / "shapes" / "lists" / "fold0" / "train.csv", "one", "two")
    other = tmp_path / "other.bin"
    other.write_bytes(b"x")
    note = Note(settings={"train": {"lr": 0.05}}, code={"symnet.train": "c"}, inputs=sums([listed, other]), options={"seeds": "7"})
    keep(root / "shapes" / "f" / "model.safetensors", "train", note)
    found = read_note(root, root / "shapes" / "f", "train")
    assert found is not None
    assert (found.settings, found.code, found.options) == (note.settings, note.code, note.options)
    assert found.inputs == {"shapes/lists/fold0/train.csv": file_digest(listed), str(other): file_digest(other)}
    assert note_path(root, root / "shapes" / "f", "train") == root / "made" / "shapes" / "f" / "train.json"
    assert read_note(root, root / "shapes" / "g", "train") is None
    assert not (root / "shapes" / "f").exists()


def test_lists_are_kept_and_checked(root: Path) -> None:
    listed = write_list(root / "lists" / "test.csv", "one", "two")
    before = listed.read_bytes()
    sha = file_digest(listed)
    keep(root / "out.json", "x", Note(inputs=sums([listed])))
    write_list(listed, "one")
    keep(root / "out.json", "x", Note(inputs={str(listed): "0" * 64}))  # changed while the job ran: no copy under a wrong name
    (copy,) = (root / "made" / "lists").iterdir()
    assert kept_list(root, sha) == before
    assert kept_list(root, "0" * 64) is None
    for damaged in (b"", copy.read_bytes()[:-9], copy.read_bytes()[:20] + b"\0" + copy.read_bytes()[21:]):
        copy.write_bytes(damaged)
        assert kept_list(root, sha) is None


def test_images_that_came_went_and_changed(root: Path) -> None:
    listed = write_list(root / "lists" / "test.csv", "one", "two", "three")
    sha = file_digest(listed)
    keep(root / "out.json", "x", Note(inputs=sums([listed])))
    later = root / "later" / "test.csv"
    write_list(later, "two", "four", "five")
    assert _difference(root, sha, later) == "2 images new, 2 gone"
    write_fold_list(later, FoldList(tuple(ListRow(image, (1,), 4, 3, "c" * 64, "b" * 64) for image in ("one", "two", "three"))), "s")
    assert _difference(root, sha, later) == "3 images changed"
    write_fold_list(later, FoldList(tuple(ListRow(image, (1,), 4, 3, "a" * 64, "b" * 64) for image in ("one", "two", "three"))), "t")
    assert _difference(root, sha, later) == "its rules, and no image"
    base = later.with_name("base.safetensors")
    base.write_bytes(b"x")
    told = f"another base learner than it was made from (sha256 was 00000000, now {file_digest(base)[:8]})"
    assert _difference(root, "0" * 64, base) == told


def test_what_lies_in_no_experiment_has_no_note(tmp_path: Path) -> None:
    keep(tmp_path / "by" / "hand.json", "x", Note())
    assert experiment_of(tmp_path / "by" / "hand.json") is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="cannot be read"):
        sums([tmp_path / "none"])


def test_places_are_named_below_the_experiment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent.parent)
    assert place(Path("results/a b"), Path("results/a b/x/y.csv")) == "x/y.csv"
    assert place(Path("results/a b"), root / "x" / "y.csv") == "x/y.csv"
    assert place(Path("results/a b"), Path("elsewhere/y.csv")) == str(root.parent.parent / "elsewhere" / "y.csv")


def test_settings_in_words() -> None:
    was = {"train": {"lr": 0.05, "old": 1}, "pixels": {"scale": [0.9, 1.1]}}
    now = {"train": {"lr": 0.01, "new": None}, "pixels": {"scale": [0.9, 1.1]}}
    assert _settings(was, now) == [
        "train.lr: was 0.05, now 0.01",
        "train.new: is asked for now, and was not: None",
        "train.old: was 1, and is not asked for now",
    ]
    assert _settings(was, was) == []


def test_code_in_words() -> None:
    was = {"symnet.model.prior": "a", "symnet.train": "b", "symnet.backbones": "c", "symnet.gone": "d"}
    now = {"symnet.model.prior": "x", "symnet.train": "b", "symnet.backbones": "y", "symnet.cells": "e"}
    assert _code(was, now) == [
        "code of symnet/backbones/__init__.py changed",
        "code of symnet/cells.py is used now, and was not",
        "code of symnet/gone.py is no longer used",
        "code of symnet/model/prior.py changed",
    ]


def test_options_in_words() -> None:
    assert _options({"seeds": "7", "weights": "a"}, {"seeds": "7,8", "weights": "b", "part": "tdc"}) == [
        "seeds: was 7, now 7,8",
        "the backbone's weights file: another one than before",
        "part: was not given, now tdc",
    ]
