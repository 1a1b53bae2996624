"""Settings of a command line: how they are read, that they have the last word, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from symnet.errors import UserError
from symnet.experiment import Experiment, load_experiment, make_experiment, merge
from symnet.overrides import leaves, read_overrides

FILE: dict[str, Any] = {
    "experiment": "plain",
    "train": {"steps": 3, "lr": 0.5},
    "presets": {"big": {"seeds": [1], "train": {"steps": 9}}},
    "datasets": {"voc": {"train": {"epochs": 4}, "folds": {1: {"train": {"lr": 0.25}}}}, "coco": {}},
    "folds": {1: {"train": {"steps": 5}}},
    "variants": {"mine": {"method": "symnet", "model": {"tau1": 0.6}}},
    "methods": ["symnet", "mine"],
}


def given(*texts: str) -> Experiment:
    return make_experiment(merge(FILE, {"set": list(texts)}), "plain.yaml")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ("train.steps=10 train.lr=1e-3", {"train": {"steps": 10, "lr": 0.001}}),
        (["train.steps=10", "train.epochs=2"], {"train": {"epochs": 2}}),
        ("model.apa=false data.masks=null", {"model": {"apa": False}, "data": {"masks": None}}),
        ("seeds=[510,365] methods=[symnet]", {"seeds": [510, 365], "methods": ["symnet"]}),
        ("folds.1.train.lr=0.01", {"folds": {1: {"train": {"lr": 0.01}}}}),
        ("groups.pets='[cat, dog]'", {"groups": {"pets": ["cat", "dog"]}}),
        (["text.source=a=b c.bin"], {"text": {"source": "a=b c.bin"}}),
        ("a=", {"a": None}),
        ([], {}),
    ],
)
def test_values_are_yaml(texts: object, expected: dict[str, Any]) -> None:
    assert read_overrides(texts, "x") == expected


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ("train.steps", "x: set: found 'train.steps', expected key.path=value, as train.steps=10"),
        ("train..steps=1", "x: set: found 'train..steps=1', expected key.path=value"),
        ("=1", "x: set: found '=1', expected key.path=value"),
        ("a='b", 'x: set: found "a=\'b": No closing quotation'),
        ("a=[1", "x: set: a: not readable as YAML: "),
        ({"train={steps": "10}"}, "x: set: found {'train={steps': '10}'}, expected key.path=value, several with spaces between"),
        ([1], "x: set: found [1], expected key.path=value"),
    ],
)
def test_what_cannot_be_read(texts: object, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read_overrides(texts, "x")
    assert str(caught.value).startswith(told)


def test_the_last_word() -> None:
    """Over sections, preset, data set and folds; for all of them."""
    found = given("train.steps=10", "train.lr=0.125", "preset=big")
    for dataset in ("voc", "coco"):
        for fold in (None, 0, 1):
            for row in (None, "symnet", "mine"):
                train = found.settings(dataset, fold, row).train
                assert (train.steps, train.lr) == (10, 0.125)
    assert found.seeds == (1,)
    assert given("seeds=[2]", "preset=big").seeds == (2,)
    assert given("train.seed=1").settings("voc", 1).train.model_dump() | {"seed": 321} == given().settings("voc", 1).train.model_dump()


def test_one_fold_of_one_data_set() -> None:
    found = given("datasets.voc.folds.0.train.steps=7")
    assert [found.settings("voc", fold).train.total_steps(80) for fold in (0, 1)] == [7, 5]
    assert found.settings("coco", 0).train.steps == 3


def test_what_a_variant_differs_in_is_not_set_for_all_rows() -> None:
    with pytest.raises(UserError, match=r"^set: model\.tau1: is what variants\.mine differs in; set variants\.mine\.model\.tau1, or leave"):
        given("model.tau1=0.8")
    found = given("variants.mine.model.tau1=0.8", "model.tau2=0.3")
    assert [found.settings("voc", 0, row).model.tau1 for row in ("symnet", "mine")] == [0.7, 0.8]
    assert found.settings("voc", 0, "mine").model.tau2 == 0.3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trian.steps=1", "plain.yaml: trian: unknown key; allowed: "),
        ("train.step=1", "datasets.voc: train.step: unknown key; allowed: epochs, steps, "),
        ("train.steps=many", "datasets.voc: train.steps: Input should be a valid integer, found 'many'"),
        ("train=3", "datasets.voc: train: Input should be an object, found 3"),
        ("folds.7.train.lr=1", "folds.7: there is no such fold, voc has folds 0 to 3"),
        ("folds.0.protocol.episodes=5", "folds.0.protocol: a fold may override "),
        ("preset=huge", "plain.yaml: preset: found 'huge', allowed: big"),
        ("last.train.steps=1", "plain.yaml: last: unknown key"),
    ],
)
def test_wrong_ones_are_told_as_in_a_file(text: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        given(text)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("experiment: a\ndatasets: {d: {train: {steps: 3}}}\n")
    assert load_experiment(path, {"set": ["train.steps=4"]}).settings("d").train.steps == 4
    assert load_experiment(path).settings("d").train.steps == 3


def test_leaves() -> None:
    assert list(leaves({"a": 1, "b": {"c": [2], "d": {1: None}}})) == ["a", "b.c", "b.d.1"]
