"""Settings: what is refused and how it is said, what overrides what, and that the files of config/ are in step with the models."""

import copy
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from symnet import cli, config_reference
from symnet.config import SECTIONS, BaseSettings, OptimiserSettings, Settings
from symnet.errors import UserError
from symnet.experiment import GATHERED, Experiment, load_experiment, make_experiment, merge
from symnet.report.ablation import published

FOLDER = Path(__file__).resolve().parent.parent / "config"
FILES = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("own/*.yaml")])
PLAIN: dict[str, Any] = {"experiment": "plain", "datasets": {"voc": {}}}


def make(over: Mapping[str, Any]) -> Experiment:
    return make_experiment(merge(PLAIN, over), "plain.yaml")


def message(over: Mapping[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        make(over)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


OWN = "model, pfenet, bam, hsnet, mianet, fecanet, dcama, cyctr, qpenet, ntrenet, hpa, ssp, hdmnet"  # sections of methods
METHOD_NAMES = "prototype, symnet, pfenet, bam, hsnet, mianet, fecanet, dcama, cyctr, qpenet, ntrenet, hpa, ssp, hdmnet"
SECTION_NAMES = f"data, store, shapes, protocol, pixels, backbone, text, base, features, {OWN}, train, evaluate, gallery"
TOP_NAMES = (
    "experiment, data_root, download, results, device, threads, shots, seeds, methods, variants, published, tables, groups, preset, "
)
TOP_NAMES += "presets, datasets, folds"


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"trian": {}}, f"plain.yaml: trian: unknown key; allowed: {TOP_NAMES}, {SECTION_NAMES}"),
        ({"common": {}}, f"plain.yaml: common: unknown key; write its sections ({SECTION_NAMES}) at the top of the file"),
        ({"evaluate": {"batch": 8}}, "datasets.voc: evaluate.batch: unknown key; allowed: batch_size, precision"),
        ({"datasets": {"voc": {"trian": {}}}}, f"datasets.voc: trian: unknown key; allowed: {SECTION_NAMES}"),
        ({"datasets": {"voc": {"text": {"dims": 3}}}}, "datasets.voc: text.dims: unknown key; allowed: source, dim"),
        ({"folds": {2: {"evaluate": {"x": 1}}}}, "datasets.voc, fold 2: evaluate.x: unknown key; allowed: batch_size, precision"),
        ({"data": {"images": {"val": "x"}}}, "datasets.voc: data.images.val.[key]: Input should be 'train' or 'test', found 'val'"),
    ],
)
def test_unknown_keys(over: dict[str, Any], expected: str) -> None:
    assert message(over) == expected


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"threads": "2"}, "plain.yaml: threads: Input should be a valid integer, found '2'"),
        ({"threads": True}, "plain.yaml: threads: Input should be a valid integer, found True"),
        ({"seeds": [1, "5"]}, "plain.yaml: seeds.1: Input should be a valid integer, found '5'"),
        ({"train": {"lr": "0.1"}}, "datasets.voc: train.lr: Input should be a valid number, found '0.1'"),
        ({"train": {"batch_size": 8.0}}, "datasets.voc: train.batch_size: Input should be a valid integer, found 8.0"),
        ({"train": {"batch_size": True}}, "datasets.voc: train.batch_size: Input should be a valid integer, found True"),
        ({"model": {"apa": 1}}, "datasets.voc: model.apa: Input should be a valid boolean, found 1"),
        ({"train": None}, "datasets.voc: train: Input should be an object, found None"),
        ({"datasets": {"voc": 7}}, "plain.yaml: datasets.voc: Input should be an object, found 7"),
        ({"datasets": {"voc": {"folds": [1]}}}, "datasets.voc.folds: found [1], expected a mapping from a fold to its overrides"),
        ({"preset": ["gpu"]}, "plain.yaml: preset: Input should be a valid string, found ['gpu']"),
        ({"preset": "gpu", "presets": 3}, "plain.yaml: presets: Input should be an object, found 3"),
        ({"preset": "gpu", "presets": {"gpu": 3}}, "plain.yaml: presets.gpu: Input should be an object, found 3"),
    ],
)
def test_wrong_types(over: dict[str, Any], expected: str) -> None:
    assert message(over) == expected


def test_an_integer_is_a_number() -> None:
    assert make({"train": {"lr": 1}}).settings("voc").train.lr == 1.0


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"train": {"lr": 0}}, "datasets.voc: train.lr: Input should be greater than 0, found 0"),
        ({"train": {"lr": float("inf")}}, "datasets.voc: train.lr: Input should be a finite number, found inf"),
        ({"model": {"alpha": float("nan")}}, "datasets.voc: model.alpha: Input should be a finite number, found nan"),
        ({"base": {"floor": 5}}, "datasets.voc: base.floor: Input should be less than or equal to 1, found 5"),
        (
            {"backbone": {"name": "vgg"}},
            "datasets.voc: backbone.name: allowed: resnet50, resnet101, resnet50_tv, resnet101_tv, vgg16_bn, efficientnet_lite0, "
            "found 'vgg'",
        ),
        ({"pixels": {"size": 474}}, "datasets.voc: pixels.size: must be 8n+1 (nearest: 473), found 474"),
        ({"base": {"size": 480}}, "datasets.voc: base.size: must be 8n+1 (nearest: 481), found 480"),
        ({"pixels": {"scale": [1.1, 0.9]}}, "datasets.voc: pixels.scale: must be [low, high] with 0 < low <= high, found [1.1, 0.9]"),
        ({"base": {"scale": [0, 1]}}, "datasets.voc: base.scale: must be [low, high] with 0 < low <= high, found [0, 1]"),
        ({"seeds": [510, 365, 510]}, "plain.yaml: seeds: given twice: 510, found [510, 365, 510]"),
        ({"shots": [1, 1]}, "plain.yaml: shots: given twice: 1, found [1, 1]"),
        ({"experiment": "../up"}, "plain.yaml: experiment: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_.-]*$', found '../up'"),
        ({"preset": "gpu"}, "plain.yaml: preset: found 'gpu', allowed: none is defined"),
        ({"preset": "gpu", "presets": {"cpu": {}, "small": {}}}, "plain.yaml: preset: found 'gpu', allowed: cpu, small"),
        ({"folds": {7: {}}}, "folds.7: there is no such fold, voc has folds 0 to 3"),
        ({"datasets": {"voc": {"folds": {4: {}}}}}, "datasets.voc.folds.4: there is no such fold, voc has folds 0 to 3"),
        ({"data": {"folds": 0}}, "datasets.voc: data.folds: Input should be greater than or equal to 1, found 0"),
    ],
)
def test_impossible_values(over: dict[str, Any], expected: str) -> None:
    assert message(over) == expected


def test_thresholds_in_order() -> None:
    assert "tau3 (0.6) must be below tau4 (0.55)" in message({"model": {"tau3": 0.6}})
    assert "tau3 (0.55) must be below tau4 (0.55)" in message({"model": {"tau3": 0.55}})


def test_apa_needs_spm() -> None:
    expected = "model: apa needs prior spm or hpm: its query prototype is drawn by their thresholds (found prior: pfenet)"
    assert expected in message({"model": {"prior": "pfenet"}})
    assert make({"model": {"prior": "pfenet", "apa": False}}).settings("voc").model.prior == "pfenet"


@pytest.mark.parametrize("over", [{"experiment": "plain"}, {"experiment": "plain", "datasets": {}}])
def test_an_experiment_without_data_sets(over: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^plain\.yaml: datasets: "):
        make_experiment(over, "plain.yaml")


@pytest.mark.parametrize("section", sorted(set(SECTIONS) - {"base", "features", *OWN.split(", "), "train", "evaluate"}))
def test_a_fold_may_not_change_what_is_measured(section: str) -> None:
    allowed = f"a fold may override base, features, {OWN}, train, evaluate only"
    assert message({"folds": {0: {section: {}}}}) == f"folds.0.{section}: {allowed}"
    assert message({"datasets": {"voc": {"folds": {1: {section: {}}}}}}) == f"datasets.voc.folds.1.{section}: {allowed}"


def test_no_such_fold_or_data_set() -> None:
    experiment = make({})
    with pytest.raises(UserError, match=r"^fold 7 of voc: there are folds 0 to 3$"):
        experiment.settings("voc", 7)
    with pytest.raises(UserError, match=r"^dataset 'coco' is not in experiment 'plain': one of voc$"):
        experiment.settings("coco")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make({}).settings("voc").train.lr = 1.0  # type: ignore[misc]


def test_merge_order() -> None:
    """The file's sections < preset < data set < folds < the data set's folds."""
    keys = ("lr", "power", "momentum", "weight_decay", "batch_size", "seed")

    def override(value: int, first: int) -> dict[str, Any]:
        return {"train": {key: value if key in ("batch_size", "seed") else value / 10 for key in keys[first:]}}

    whole = {
        **override(1, 1),
        "preset": "p",
        "presets": {"p": override(2, 2), "other": override(9, 0)},
        "datasets": {"voc": {**override(3, 3), "folds": {1: override(5, 5)}}, "coco": {}},
        "folds": {1: override(4, 4)},
    }
    experiment = make(whole)

    def found(dataset: str, fold: int | None) -> list[float]:
        train = experiment.settings(dataset, fold).train
        return [getattr(train, key) for key in keys]

    assert found("voc", 1) == [0.05, 0.1, 0.2, 0.3, 4, 5]
    assert found("voc", 0) == [0.05, 0.1, 0.2, 0.3, 3, 3]
    assert found("voc", None) == [0.05, 0.1, 0.2, 0.3, 3, 3]
    assert found("coco", 1) == [0.05, 0.1, 0.2, 0.2, 4, 4]


def test_a_preset_may_hold_any_other_key() -> None:
    experiment = make({"preset": "p", "presets": {"p": {"experiment": "small", "seeds": [3], "datasets": {"coco": {}}}}})
    assert str(experiment.folder) == "results/small"
    assert experiment.seeds == (3,)
    assert list(experiment.datasets) == ["voc", "coco"]


def test_later_epochs_replace_earlier_steps() -> None:
    experiment = make(
        {
            "train": {"steps": 50, "batch_size": 4},
            "preset": "p",
            "presets": {"p": {"train": {"epochs": 3}}},
            "datasets": {"voc": {}, "coco": {"train": {"steps": 7}, "folds": {0: {"train": {"epochs": 2}}, 1: {"train": {"lr": 1}}}}},
        }
    )
    steps = [experiment.settings(*where).train.total_steps(10) for where in (("voc",), ("coco",), ("coco", 0), ("coco", 1))]
    assert steps == [6, 7, 4, 7]


def test_total_steps() -> None:
    assert OptimiserSettings(epochs=3, batch_size=4).total_steps(11) == 6
    assert OptimiserSettings(epochs=3, batch_size=4).total_steps(3) == 3
    assert BaseSettings(steps=5).total_steps(1000) == 5


leaves = st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=2)
trees = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(leaves, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3), max_leaves=8),
    max_size=3,
)


def flat(tree: Mapping[str, Any], at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        found |= flat(value, (*at, key)) if isinstance(value, Mapping) else {(*at, key): value}
    return found


@given(trees, trees)
def test_merge_leaf_by_leaf(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Every leaf of the later one, and those of the earlier that lie on no path of the later's."""
    before = copy.deepcopy((base, over))
    new = flat(over)
    stays = {p: v for p, v in flat(base).items() if not any(p[: len(q)] == q or q[: len(p)] == p for q in new)}
    assert flat(merge(base, over)) == stays | new
    assert (base, over) == before
    assert merge(merge(base, over), over) == merge(base, over)


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_merge_of_epochs_and_steps(old_steps: bool, old_epochs: bool, new_steps: bool, new_epochs: bool) -> None:
    old = {"steps": 1} if old_steps else {}
    old |= {"epochs": 2} if old_epochs else {}
    new = {"steps": 3} if new_steps else {}
    new |= {"epochs": 4} if new_epochs else {}
    found = merge({"train": old}, {"train": new})["train"]
    assert found.get("epochs") == (4 if new_epochs else 2 if old_epochs else None)
    assert found.get("steps") == (3 if new_steps else 1 if old_steps and not new_epochs else None)


HOSTILE = [
    "it's",
    'a"b',
    "a\nb",
    "a\r\nb",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "%s {x} \\n",
    "\u2028",
    "é\tè",
    "{",
    "../x",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_gives_one_line(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: one line, exit code 2, nothing run, nothing made."""
    monkeypatch.chdir(tmp_path)
    places: list[dict[str, Any]] = [
        {"experiment": text},
        {"preset": text},
        {"datasets": {text: {}}},
        {text: 1},
        {"train": {text: 1}},
        {"train": {"lr": text}},
        {"folds": {0: {text: {}}}},
        {"datasets": {"voc": {"folds": {text: {}}}}},
    ]
    for over in places:
        Path("bad.yaml").write_text(yaml.safe_dump(merge(PLAIN, over)), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["symnet", "shapes", "--config", "bad.yaml", "--dataset", "voc", "--out", "out"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        told = capsys.readouterr()
        assert (caught.value.code, told.out) == (2, "")
        assert told.err.startswith("symnet: ")
        assert told.err.endswith("\n")
        assert len(told.err.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [", "not readable as YAML: "),
        (b"a: \xff", "not readable as YAML: "),
        (b"- 1", "found list, expected a mapping of settings"),
        (b"", "found NoneType, expected a mapping of settings"),
        (b"experiment: a\ndatasets: {d: {train: {lr: 2020-01-01}}}", "Object of type date is not JSON serializable"),
        (b"experiment: !!python/object/apply:os.getcwd []", "not readable as YAML: "),
    ],
)
def test_unreadable_files(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such experiment file$"):
        load_experiment(tmp_path / "none.yaml")


def test_the_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMNET_DATA", raising=False)
    assert make({}).root == Path("data")
    monkeypatch.setenv("SYMNET_DATA", "/disk/sets")
    assert make({}).root == Path("/disk/sets")
    assert make({"data_root": "/other"}).root == Path("/other")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shipped_experiments(path: Path) -> None:
    """Each loads, alone and with each of its presets, whose every value then holds."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert load_experiment(path).experiment == found["experiment"]
    for name, preset in (found.get("presets") or {}).items():
        experiment = load_experiment(path, {"preset": name})
        plain = experiment.model_dump(mode="json") | json.loads(experiment.settings(next(iter(experiment.datasets))).model_dump_json())
        values = flat(plain)
        assert {key: values[key] for key in flat(preset)} == flat(preset)


def test_the_gpu_preset_has_its_own_results() -> None:
    assert str(load_experiment(FOLDER / "pascal_mini.yaml").folder) == "results/pascal_mini"
    assert str(load_experiment(FOLDER / "pascal_mini.yaml", {"preset": "gpu"}).folder) == "results/pascal_mini_gpu"


@pytest.mark.parametrize("name", ["README.md", "schema.json"])
def test_the_reference_is_in_step(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == config_reference.texts()[name], "run: python -m symnet.config_reference"


def test_every_key_is_described() -> None:
    text = config_reference.readme()
    for name, field in Settings.model_fields.items():
        assert field.annotation is not None
        for key, one in field.annotation.model_fields.items():
            assert one.description, f"{name}.{key}"
            assert f"| `{name}.{key}` |" in text
    for key, one in Experiment.model_fields.items():
        assert one.description, key
        assert (f"| `{key}` |" in text) == (key not in GATHERED)


def test_lines_of_the_reference() -> None:
    lines = config_reference.readme().splitlines()
    assert "| `train.lr` | number | `0.05` | above 0 | initial rate (the released code's 0.005 x 10) |" in lines
    assert (
        "| `train.validate_every` | whole number or null | `null` | 1 and more | steps between validations; null: once an epoch |" in lines
    )
    assert "| `base.scale` | list of 2 numbers | `[0.5, 2.0]` |  | range of the random scale |" in lines
    assert '| `features.dtype` | choice | `"float16"` | `float16`, `float32` | number format of cached maps and records |' in lines


VALIDATOR = Draft202012Validator(config_reference.schema())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_schema_takes_the_shipped_experiments(path: Path) -> None:
    Draft202012Validator.check_schema(config_reference.schema())
    found = json.loads(json.dumps(yaml.safe_load(path.read_text(encoding="utf-8"))))  # an editor sees keys as text, too
    assert [error.message for error in VALIDATOR.iter_errors(found)] == []


@pytest.mark.parametrize(
    "over",
    [
        {"trian": {}},
        {"common": {}},
        {"train": {"lr": "x"}},
        {"train": {"lr": 0}},
        {"evaluate": {"batch": 1}},
        {"datasets": {"voc": {"trian": {}}}},
        {"datasets": {"a b": {}}},
        {"datasets": {"voc": {"folds": {"0": {"protocol": {}}}}}},
        {"folds": {"0": {"data": {}}}},
        {"folds": {"x": {}}},
        {"presets": {"p": {"trian": {}}}},
        {"shots": []},
    ],
)
def test_the_schema_refuses(over: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(merge(PLAIN, over))
    assert VALIDATOR.is_valid(PLAIN)


def test_a_file_extends_others_and_null_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("experiment: a\ntrain: {lr: 0.5, steps: 3}\ndatasets: {one: {}, two: {}}\nshots: [5]\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\ntrain: {lr: 0.25}\nseeds: [7]\n")
    (tmp_path / "c.yaml").write_text("extends: [a.yaml, b.yaml]\nexperiment: c\ndatasets: {two: null}\n")
    found = load_experiment(tmp_path / "c.yaml")
    assert (found.experiment, found.shots, found.seeds, list(found.datasets)) == ("c", (5,), (7,), ["one"])
    assert (found.settings("one").train.lr, found.settings("one").train.steps) == (0.25, 3)
    plain = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert make_experiment(plain, f"x.yaml, {tmp_path}/c.yaml") == found  # as the workflow names several files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: none.yaml", "none.yaml: no such experiment file"),
        ("extends: c.yaml", "extends: {0}/c.yaml extends itself"),
        ("extends: 7", "{0}/c.yaml: extends: found 7, expected the name of a file beside it, or a list of such names"),
        ("extends: .", "{0}: no such experiment file"),
    ],
)
def test_what_cannot_be_extended(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_experiment(tmp_path / "c.yaml")
    assert expected.format(tmp_path) in str(caught.value)


ROW = {"variants": {"mine": {"method": "symnet", "model": {"tau1": 0.6}}}, "methods": ["symnet", "mine"]}


def test_a_variant_is_a_method_with_other_settings() -> None:
    found = make(ROW | {"folds": {1: {"model": {"tau1": 0.5, "tau2": 0.3}}}})
    assert found.method_of("mine") == found.method_of("symnet") == "symnet"
    assert [found.settings("voc", 1, row).model.tau1 for row in ("symnet", "mine")] == [0.5, 0.6]  # a row is the same in all folds
    assert found.settings("voc", 1, "mine").model.tau2 == 0.3


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"variants": {"mine": {}}}, f"variants.mine.method: found None, allowed: {METHOD_NAMES}"),
        (
            {"variants": {"mine": {"method": "x"}}},
            f"variants.mine.method: found 'x', allowed: {METHOD_NAMES}",
        ),
        ({"variants": {"symnet": {"method": "symnet"}}}, "variants.symnet: is the name of a method; give the variant another"),
        (
            {"variants": {"m": {"method": "symnet", "base": {}}}},
            f"variants.m.base: a variant may override method, {OWN}, train, evaluate only",
        ),
        (
            {"variants": {"m": {"method": "symnet", "model": {"prior": "pfenet"}}}},
            "datasets.voc, fold 0, variants.m: model: apa needs prior spm or hpm: its query prototype is drawn by their thresholds "
            "(found prior: pfenet)",
        ),
        (
            {"methods": ["mine"]},
            f"methods: found 'mine', allowed: {METHOD_NAMES}, or a name in variants",
        ),
        ({"tables": {"t": {"rows": {"A": "mine"}}}}, "tables.t.rows.A: found 'mine', allowed: what methods lists (prototype, symnet)"),
        ({"tables": {"main": {"rows": {"A": "symnet"}}}}, "tables.main: is a table of every experiment; give this one another name"),
        ({"tables": {"t": {"rows": {}}}}, "plain.yaml: tables.t.rows: Dictionary should have at least 1 item after validation, not 0"),
    ],
)
def test_rows_that_cannot_be(over: dict[str, Any], expected: str) -> None:
    assert message(over).startswith(expected)


def test_the_ablations_are_the_papers() -> None:
    """Each row of Tables 3 to 6 and the HPM row: the setting it names, and nothing else."""
    found = load_experiment(FOLDER / "ablations.yaml")
    assert list(found.datasets) == ["pascal5i"]
    assert found.shots == (1,)
    whole = found.settings("pascal5i", 0, "symnet").model.model_dump()

    def changes(row: str) -> dict[str, Any]:
        return {key: value for key, value in found.settings("pascal5i", 0, row).model.model_dump().items() if value != whole[key]}

    told = {label: changes(row) for table in found.tables.values() for label, row in table.rows.items()}
    no_spm, no_apa, no_tdc = {"prior": "pfenet"}, {"apa": False}, {"tdc": False}
    assert told == {
        "none": no_spm | no_apa | no_tdc,
        "SPM": no_apa | no_tdc,
        "TDC": no_spm | no_apa,
        "SPM+APA": no_tdc,
        "SPM+TDC": no_apa,
        "SPM+APA+TDC": {},
        "tau3=0.45 tau4=0.55": {"tau3": 0.45},
        "tau3=0.45 tau4=0.60": {"tau3": 0.45, "tau4": 0.6},
        "tau3=0.40 tau4=0.55": {},
        "tau3=0.40 tau4=0.60": {"tau4": 0.6},
        "support": no_apa,
        "support+query": {"text": False, "triplet": False},
        "support+text": {"query_prototype": False, "triplet": False},
        "support+query+text, no co-triplet": {"triplet": False},
        "support+query+text, co-triplet": {},
        "hyper dim 32": {"hyper_channels": 32},
        "hyper dim 48": {},
        "hyper dim 64": {"hyper_channels": 64},
        "HPM instead of SPM": {"prior": "hpm"},
    }
    for name in ("ablations", "demo_ablations", "mini_ablations"):
        for table in load_experiment(FOLDER / f"{name}.yaml").tables.values():
            assert table.published is not None
            assert set(table.rows) == set(published(table.published))  # every line of the paper's table, by its words
