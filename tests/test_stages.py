"""What a job depends on: exactly its slice of the settings, and exactly the code that it runs."""

import ast
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from symnet import modules, stages
from symnet.backbones import BACKBONES
from symnet.config import SECTIONS, Settings
from symnet.errors import UserError
from symnet.experiment import make_experiment
from symnet.methods import METHODS
from symnet.stages import (
    STAGES,
    code_hash,
    experiment_slice,
    read_slice,
    restrict,
    settings_digest,
    slice_settings,
    stage_settings,
)

OTHERS = [name for name, entry in METHODS.items() if entry.trained and name != "symnet"]
# every kind of job: stage, and method where the stage has one
JOBS = [
    *((stage, None) for stage in STAGES if not STAGES[stage].method),
    ("train", "symnet"),
    ("evaluate", "symnet"),
    ("evaluate", "prototype"),
    *((stage, method) for method in OTHERS for stage in ("train", "evaluate")),
]
IDS = [f"{stage}-{method}" if method else stage for stage, method in JOBS]
EVERY_KEY = {(section, key) for section in SECTIONS for key in type(getattr(Settings(), section)).model_fields}

Job = tuple[str, str | None]


def declared(stage: str, method: str | None) -> set[tuple[str, str]]:
    names = stage_settings(stage, method)
    return {(section, key) for section, key in EVERY_KEY if section in names or f"{section}.{key}" in names}


def test_declared_names_exist() -> None:
    for stage, method in JOBS:
        for name in stage_settings(stage, method):
            section, _, key = name.partition(".")
            assert any(section == s and key in ("", k) for s, k in EVERY_KEY), f"{stage}: {name}"


@pytest.mark.parametrize(("stage", "method"), JOBS, ids=IDS)
def test_a_slice_holds_exactly_what_is_declared(stage: str, method: str | None) -> None:
    settings = Settings()
    found = slice_settings(settings, stage, method)
    assert {(section, key) for section in found for key in found[section]} == declared(stage, method)
    whole = settings.model_dump(mode="json")
    assert all(value == whole[section][key] for section in found for key, value in found[section].items())


def test_small_slices() -> None:
    settings = Settings()
    assert slice_settings(settings, "episodes") == {"protocol": {"episodes": 1000, "sampling": "image"}}
    assert slice_settings(settings, "shapes") == {"shapes": {"train_images": 360, "test_images": 240, "side": 144, "seed": 0}}
    assert slice_settings(settings, "tables") == {}
    found = slice_settings(settings, "embeddings")
    assert found == {"text": settings.text.model_dump(), "data": {"classes": "voc"}}


@pytest.mark.parametrize(("stage", "method"), JOBS, ids=IDS)
def test_other_settings_cannot_be_read(stage: str, method: str | None) -> None:
    settings = Settings()
    restricted = restrict(settings, stage, method)
    allowed = declared(stage, method)
    for section, key in EVERY_KEY:
        if (section, key) in allowed:
            assert getattr(getattr(restricted, section), key) == getattr(getattr(settings, section), key)
        else:
            with pytest.raises(AttributeError):
                getattr(getattr(restricted, section), key)
    assert restricted.model_dump(mode="json", warnings=False) == slice_settings(settings, stage, method)
    assert settings == Settings()


TRAINED: list[Job] = [("train", "symnet"), *(("train", method) for method in OTHERS)]
TESTED: list[Job] = [("evaluate", "symnet"), ("evaluate", "prototype"), *(("evaluate", method) for method in OTHERS)]
CHANGED: dict[str, dict] = {
    "pfenet": {"channels": 16},
    "bam": {"channels": 16},
    "hsnet": {"border": "background"},
    "mianet": {"channels": 16},
    "cyctr": {"channels": 16},
    "qpenet": {"labels": "slipped"},
    "hdmnet": {"tokens": 16},
}
CHANGED |= {"ntrenet": {"channels": 16}, "hpa": {"auxiliary": "cross_entropy"}}
CHANGED |= {"fecanet": {"masked": False}, "dcama": {"dropout": 0.0}, "ssp": {"refine": False}}
FEATURES: list[Job] = [("features_test", None), ("features_train", None)]
RECORDED: list[Job] = [("records", None)]
MASKS: list[Job] = [("masks", None)]
STORED: list[Job] = [("store", None)]
COUNTED: list[Job] = [("counts", None)]
LISTED: list[Job] = [("folds", None), ("base", None), *FEATURES, *TRAINED, *TESTED]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"train": {"lr": 0.1}}, TRAINED),
        ({"train": {"seed": 1}}, TRAINED),
        ({"protocol": {"episodes": 7}}, [("episodes", None), *TESTED]),
        ({"protocol": {"scoring": "original"}}, TESTED),
        ({"protocol": {"selection": "last"}}, [*TRAINED, *TESTED]),
        ({"protocol": {"split": "fwb"}}, [*COUNTED, *LISTED]),
        ({"protocol": {"name": "mine"}}, TESTED),
        ({"protocol": {"min_pixels": 7}}, [*COUNTED, *LISTED]),
        ({"protocol": {"crowd": "drop"}}, [*MASKS, *COUNTED, *STORED, *LISTED]),
        ({"data": {"root": "x"}}, [*MASKS, *STORED, *LISTED]),
        ({"data": {"classes": "shapes"}}, [("embeddings", None), *MASKS, *COUNTED, *STORED, *LISTED]),
        ({"store": {"images": True}}, []),
        ({"model": {"tau1": 0.6}}, [("train", "symnet"), ("evaluate", "symnet")]),
        *(({method: CHANGED[method]}, [("train", method), ("evaluate", method)]) for method in OTHERS),
        ({"evaluate": {"batch_size": 1}}, TESTED),
        ({"evaluate": {"precision": "bfloat16"}}, TESTED),
        ({"train": {"precision": "bfloat16"}}, TRAINED),
        ({"features": {"precision": "bfloat16"}}, [*FEATURES, *TESTED]),
        ({"features": {"cache_test": False}}, TESTED),
        ({"features": {"records": False}}, []),
        ({"features": {"dtype": "float32"}}, [*FEATURES, *RECORDED]),
        ({"features": {"train_views": 2}}, [("features_train", None), *TRAINED]),
        ({"pixels": {"flip_p": 0}}, [("base", None), ("features_train", None), *TRAINED]),
        ({"pixels": {"size": 97}}, [("base", None), *FEATURES, *RECORDED, *TRAINED, *TESTED]),
        ({"backbone": {"weights": "x"}}, [("base", None)]),
        ({"base": {"lr": 1}}, [("base", None)]),
        ({"base": {"holdout": 0.2}}, [("base", None), ("features_train", None), *TRAINED]),
        ({"text": {"dim": 50}}, [("embeddings", None)]),
        ({"shapes": {"seed": 1}}, [("shapes", None)]),
    ],
    ids=str,
)
def test_what_a_setting_reruns(changed: dict[str, Any], expected: list[Job]) -> None:
    other = Settings.model_validate(changed)
    assert [job for job in JOBS if settings_digest(other, *job) != settings_digest(Settings(), *job)] == sorted(expected, key=JOBS.index)


def test_a_slice_through_a_file_and_from_an_experiment(tmp_path: Path) -> None:
    found = {"experiment": "a", "datasets": {"d": {"folds": {1: {"train": {"lr": 0.5}}}}}}
    experiment = make_experiment(found, "a.yaml")
    for fold, rate in ((0, 0.05), (1, 0.5)):
        direct = experiment_slice(experiment, "d", fold, "train", "symnet")
        path = tmp_path / f"{fold}.json"
        path.write_text(json.dumps(slice_settings(experiment.settings("d", fold), "train", "symnet")))
        assert read_slice(path, "train", "symnet").model_dump(warnings=False) == direct.model_dump(warnings=False)
        assert direct.train.lr == rate


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not readable as JSON: "),
        ("[]", "the whole: Input should be an object, found []"),
        ('{"train": {"x": 1}}', "train.x: unknown key; allowed: epochs, "),
        ('{"train": {"lr": "1"}}', "train.lr: Input should be a valid number, found '1'"),
    ],
)
def test_a_wrong_slice_file(content: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_slice(path, "train", "symnet")
    assert str(caught.value).startswith(f"{path}: {expected}")


def test_no_slice_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: no such settings file$"):
        read_slice(tmp_path / "none.json", "train")


CODE_JOBS = [(*job, backbone) for job in JOBS for backbone in BACKBONES]
Hashes = dict[tuple[str, str | None, str], str]


def source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Code hashes of all jobs, with the source of some modules replaced."""
    text_of = modules._text
    monkeypatch.setattr(modules, "MEMORY", tmp_path / "modules.json")  # what is made up here stays here

    def clear() -> None:
        stages._hash_modules.cache_clear()
        modules._code.cache_clear()

    def compute(replaced: Mapping[str, str]) -> Hashes:
        monkeypatch.setattr(modules, "_text", lambda name: replaced[name] if name in replaced else text_of(name))
        clear()
        return {job: code_hash(*job) for job in CODE_JOBS}

    yield compute
    clear()


def names() -> list[str]:
    root = Path(stages.__file__).parent
    found = (path.relative_to(root.parent).with_suffix("") for path in sorted(root.rglob("*.py")))
    return [".".join(path.parts).removesuffix(".__init__") for path in found]


def reworded(text: str) -> str:
    """Other docstrings, no comments, another layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Expr(ast.Constant("Other words."))
    return f"# A comment.\n{ast.unparse(tree)}\n"


def test_words_change_no_hash(hashes: Any) -> None:
    texts = {name: reworded(source(name)) for name in names()}
    assert all(texts[name] != source(name) for name in texts if source(name))
    assert hashes(texts) == hashes({})


def test_the_hash_is_the_same_whichever_job_asks_first(hashes: Any) -> None:
    whole = hashes({})
    stages._hash_modules.cache_clear()
    modules._code.cache_clear()
    assert {job: code_hash(*job) for job in reversed(CODE_JOBS)} == whole


@pytest.mark.parametrize(
    "name",
    [
        "config",
        "cli",
        "costs",
        "journal",
        "artifacts",
        "cells",
        "errors",
        "progress",
        "plan",
        "stages",
        "watch",
        "experiment",
        "validating",
    ],
)
def test_plumbing_reruns_nothing(name: str, hashes: Any) -> None:
    assert hashes({f"symnet.{name}": source(f"symnet.{name}") + "\nCHANGED = 1\n"}) == hashes({})


ALL_TRAINED, ALL_TESTED = ({f"{stage}-{method}" for stage, method in jobs} for jobs in (TRAINED, TESTED))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("symnet.report.tables", {"tables", "track"}),  # whose run shows the main table
        ("symnet.tracking", {"track"}),
        ("symnet.shelf", {"track"}),
        ("symnet.data.shapes_draw", {"shapes"}),
        ("symnet.data.store", {"store"}),
        ("symnet.evaluate", ALL_TESTED),
        ("symnet.records", {"records"}),
        ("symnet.methods.prototype", {"evaluate-prototype"}),
        ("symnet.methods.symnet", {"train-symnet", "evaluate-symnet", "gallery"}),
        *((METHODS[name].module, {f"train-{name}", f"evaluate-{name}"}) for name in OTHERS),
        ("symnet.methods", set()),
        ("symnet.methods.door", set()),
        ("symnet.model.aspp", {f"{stage}-{method}" for stage in ("train", "evaluate") for method in ("bam", "hpa")}),
        (
            "symnet.model.decoder",
            {"gallery", *(f"{stage}-{method}" for stage in ("train", "evaluate") for method in ("symnet", "pfenet", "mianet", "ntrenet"))},
        ),
        ("symnet.model.squeeze", {"train-hsnet", "evaluate-hsnet", "train-fecanet", "evaluate-fecanet"}),
        ("symnet.model.cycle", {f"{stage}-{method}" for stage in ("train", "evaluate") for method in ("cyctr", "qpenet")}),
        ("symnet.model.matching", {"train-hdmnet", "evaluate-hdmnet"}),
        (
            "symnet.model.correlation",
            {
                "records",
                "gallery",
                *(f"{s}-{m}" for s in ("train", "evaluate") for m in ("symnet", "pfenet", "bam", "mianet", "cyctr", "qpenet", "hdmnet")),
                *(f"{s}-{m}" for s in ("train", "evaluate") for m in ("ntrenet", "hpa")),
            },
        ),
        ("symnet.gallery", {"gallery"}),
        ("symnet.report.grids", {"figures"}),
        (
            "symnet.data.transforms",
            {"base", "features_test", "features_train", "records", "costs", "gallery", *ALL_TRAINED, *ALL_TESTED},
        ),
    ],
)
def test_what_code_reruns(name: str, expected: set[str], hashes: Any) -> None:
    plain, changed = hashes({}), hashes({name: source(name) + "\nCHANGED = 1\n"})
    assert {IDS[JOBS.index(job[:2])] for job in CODE_JOBS if plain[job] != changed[job]} == expected


@pytest.mark.parametrize("module", sorted({module for module, _ in BACKBONES.values()}))
def test_a_backbone_reruns_its_own_jobs(module: str, hashes: Any) -> None:
    plain, changed = hashes({}), hashes({module: source(module) + "\nCHANGED = 1\n"})
    with_network = {"base", "features_test", "features_train", "records", "train", "evaluate"}
    assert {job for job in CODE_JOBS if plain[job] != changed[job]} == {
        job for job in CODE_JOBS if job[0] in with_network and BACKBONES[job[2]][0] == module
    }
