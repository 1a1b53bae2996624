"""The authors' checkpoints through the command line: imported, refused by name, and tested on images."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from symnet.base_learner import load_base
from symnet.checkpoint import load_tensors
from symnet.cli import app
from symnet.config import ModelSettings
from symnet.data.episodes import make_manifest, write_manifest
from symnet.data.folds import make_folds, read_fold_list
from symnet.data.shapes import draw_shapes
from symnet.errors import UserError
from symnet.experiment import load_experiment
from symnet.importing import Classes, import_checkpoint
from symnet.model import SymNet
from symnet.model.base import PSPHead
from symnet.model.released import released_name
from symnet.stages import experiment_slice


def released(shot: int = 1, classes: int = 15, **changes: Tensor | None) -> dict[str, Tensor]:
    """A small Sym-Net with random weights under the released names: head of 16 channels, class vectors of 5."""
    torch.manual_seed(0)
    settings = ModelSettings(variant="released", channels=16, hyper_channels=8)
    model = SymNet(settings, base_classes=classes, base_width=12, shot=shot, text=5, image_size=33)
    state = {released_name(name): value for name, value in model.state_dict().items()}
    state |= {name: value[:, :, None, None] for name, value in state.items() if name.startswith("kshot_rw") and value.dim() == 2}
    return {name: value for name, value in (state | changes).items() if value is not None}


def pspnet(classes: int = 15) -> dict[str, Tensor]:
    """The base learner of `released` as the authors' PSPNet file names it, each stage of the backbone twice."""
    found = {}
    for name, value in released(classes=classes).items():
        if name.startswith("layer"):
            found |= {name: value, "encoder." + name.removeprefix("layer"): value}
        elif name.startswith("learner_base.0."):
            found["ppm." + name.removeprefix("learner_base.0.")] = value
        elif name.startswith("learner_base.1."):
            found["cls." + name.removeprefix("learner_base.1.")] = value
    return found


def save(path: Path, state: Mapping[str, Tensor], wrap: Callable[[Any], Any] = lambda state: state) -> Path:
    torch.save(wrap(dict(state)), path)
    return path


WRAPS = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 142, "state_dict": state, "optimizer": {}},
    "module.": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_sym_net_becomes_a_base_learner_and_a_model(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    state = released(5)
    found = import_checkpoint(save(tmp_path / "a.pth", state, wrap), tmp_path / "out", 2)
    assert (found.kind, found.backbone, found.base_classes, found.shots) == ("symnet", "resnet50", 15, 5)
    assert [path.name for path in found.files] == ["base.safetensors", "model.safetensors"]
    base = load_base(found.files[0])
    assert base.classes == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 18, 19, 20)  # fold 2 tests 11 to 15
    tensors, meta, provenance = load_tensors(found.files[1], "train")
    assert (meta["method"], meta["shots"], meta["model"]["variant"], meta["model"]["channels"]) == ("symnet", 5, "released", 16)
    assert provenance.inputs.keys() == {"checkpoint"}
    whole = SymNet.from_released(state, shot=5, image_size=33)
    for name, value in whole.head.state_dict().items():
        assert torch.equal(tensors[f"head.{name}"], value)
    for ours, theirs in ((base.backbone, whole.backbone), (base.head, whole.base)):
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_a_pspnet_becomes_the_same_base_learner(tmp_path: Path) -> None:
    whole = import_checkpoint(save(tmp_path / "a.pth", released()), tmp_path / "a", 0).files[0]
    found = import_checkpoint(save(tmp_path / "b.pth", pspnet(), WRAPS["module."]), tmp_path / "b", 0)
    assert (found.kind, found.shots, len(found.files)) == ("pspnet", None, 1)
    ours, theirs = load_tensors(found.files[0])[0], load_tensors(whole)[0]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_coco_s_classes(tmp_path: Path) -> None:
    base = load_base(import_checkpoint(save(tmp_path / "a.pth", pspnet(60)), tmp_path / "out", 1).files[0])
    assert base.classes == tuple(c for c in range(1, 81) if (c - 2) % 4)  # fold 1 tests 2, 6, ..., 78
    serial = Classes(tuple(map(str, range(80))), 4, "serial", "COCO, serial")
    base = load_base(import_checkpoint(tmp_path / "a.pth", tmp_path / "again", 1, serial).files[0])
    assert base.classes == (*range(1, 21), *range(41, 81))


@pytest.mark.parametrize(("name", "fold"), [("a.pth", None), ("split1/a.pth", 1), ("fold2_resnet50_split3.pth", 3)])
def test_the_fold_is_read_from_the_path_or_stays_unknown(tmp_path: Path, name: str, fold: int | None) -> None:
    folder = tmp_path / "own"  # pytest's own folder is named after the test
    (folder / "split1").mkdir(parents=True)
    found = import_checkpoint(save(folder / name, pspnet()), folder / "out")
    assert found.fold == fold
    base = load_base(found.files[0])
    assert base.classes == (() if fold is None else tuple(c for c in range(1, 21) if (c - 1) // 5 != fold))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (lambda: released() | {"layer5.0.weight": torch.zeros(3)}, "foreign entry 'layer5.0.weight'"),
        (lambda: released(**{"gram_merge.weight": None}), "no entry 'gram_merge.weight'"),
        (lambda: released(**{"layer4.2.bn3.bias": torch.zeros(7)}), r"entry 'layer4.2.bn3.bias' has shape \(7,\), expected \(2048,\)"),
        (lambda: pspnet() | {"ppm.features.4.1.weight": torch.zeros(1)}, "foreign entry 'head.pyramid.4.0.weight'|ppm.features.4.1.weight"),
        (lambda: pspnet() | {"encoder.0.0.weight": torch.zeros(64, 3, 3, 3)}, "'encoder.0.0.weight' and 'layer0.0.weight' should be one"),
        (lambda: pspnet(14), "14 base classes are neither PASCAL-5i's 15 nor COCO-20i's 60"),
        (lambda: {"conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, "neither a Sym-Net .* its entries begin with conv1, fc$"),
        (lambda: {"state_dict": 7}, "holds no state dict"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, state: Callable[[], dict[str, Tensor]], told: str
) -> None:
    path = save(tmp_path / "a.pth", state())
    with pytest.raises(UserError, match=told):
        import_checkpoint(path, tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": PSPHead(8, 3, 4)}, tmp_path / "a.pth")  # a module: a general pickle
    with pytest.raises(UserError, match="not a file of plain tensors"):
        import_checkpoint(tmp_path / "a.pth", tmp_path / "out", 0)


EXPERIMENT = """
experiment: own
shots: [1]
backbone: {name: resnet50, weights: none}
text: {source: shapes, dim: 300}
data: {source: shapes, root: data/shapes, classes: shapes, lists: {train: [ImageSets/train.txt], test: [ImageSets/test.txt]}}
shapes: {train_images: 20, test_images: 40, side: 64}
protocol: {min_pixels: 64, episodes: 2}
pixels: {size: 65}
features: {cache_test: false}
model: {variant: released}
datasets: {shapes: {}}
"""


def test_the_released_model_is_imported_and_tested_through_the_command_line(
    tmp_path: Path, reference: ModuleType, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-in weights under the released names, as the authors' file holds them: `import-checkpoint`, then `evaluate`."""
    monkeypatch.chdir(tmp_path)
    weights = reference.state_dict(shared / "reference" / "released_state_dict_1shot.tsv")
    state = {name: torch.as_tensor(value) for name, value in weights.items()}
    save(tmp_path / "authors.pth", state, WRAPS["module."])
    Path("own.yaml").write_text(EXPERIMENT)
    experiment = load_experiment("own.yaml")
    draw_shapes(experiment_slice(experiment, "shapes", None, "shapes").shapes, tmp_path / "data" / "shapes", workers=1)
    make_folds(experiment_slice(experiment, "shapes", None, "folds"), tmp_path, tmp_path / "lists")
    test_list = tmp_path / "lists" / "fold0" / "test.csv"
    write_manifest(tmp_path / "episodes" / "seed7.csv", make_manifest(read_fold_list(test_list), 1, 7, 2, "image"))

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    told = run("import-checkpoint", "authors.pth", "--fold", "0", "--config", "own.yaml", "--dataset", "shapes", "--out", "imported")
    assert "symnet of resnet50, 1 shot, 15 base classes of fold 0" in told
    run("embeddings", "--config", "own.yaml", "--dataset", "shapes", "--out", "vectors.csv")
    cell = ("--dataset", "shapes", "--fold", "0", "--shot", "1", "--row", "symnet", "--backbone", "resnet50")
    files = ("--list", str(test_list), "--episodes", "episodes", "--embeddings", "vectors.csv", "--results", str(tmp_path))
    imported = ("--base", "imported/base.safetensors", "--model", "imported/model.safetensors")
    run("evaluate", "--config", "own.yaml", *cell, *files, *imported, "--seeds", "7", "--out", "cell", "--device", "cpu")
    payload = json.loads(Path("cell/seed7.json").read_text())["payload"]
    assert payload["variant"] == "released"

    with pytest.raises(UserError, match="was trained on heart, tree, ladder, mushroom, arrow, which fold 1 tests"):
        run("evaluate", "--config", "own.yaml", *(*cell[:3], "1", *cell[4:]), *files, *imported, "--seeds", "7", "--out", "cell1")

    # the same by the public door
    model = SymNet.from_released(state, image_size=65)
    counts = _counts(model, tmp_path, experiment_slice(experiment, "shapes", 0, "evaluate", "symnet"), test_list)
    assert {name: [row[scoring] for scoring in ("padded",)] for name, row in payload["outputs"].items()} == counts

    Path("other.yaml").write_text(EXPERIMENT.replace("variant: released", "variant: released, tau1: 0.6"))
    with pytest.raises(UserError, match=r"was made with model\.tau1 0\.7, not 0\.6"):
        run("evaluate", "--config", "other.yaml", *cell, *files, *imported, "--seeds", "7", "--out", "cell2", "--device", "cpu")


def _counts(model: SymNet, root: Path, settings: Any, test_list: Path) -> dict[str, list[dict[str, list[int]]]]:
    """What the model's own door predicts for the same two episodes, counted at the padded square."""
    from symnet.data.episodes import read_manifest
    from symnet.data.readers import open_reader
    from symnet.data.transforms import fit
    from symnet.embeddings import read_embeddings

    reader = open_reader(settings.data, settings.protocol, root)
    names, vectors = read_embeddings(root / "vectors.csv")
    found: dict[str, dict[str, np.ndarray]] = {"ensemble": {}, "meta": {}}
    for episode in read_manifest(root / "episodes" / "seed7.csv"):
        query, support = (fit(*reader.load("test", image), 65) for image in (episode.query, episode.supports[0]))
        of_class = [torch.where(one.mask == 255, 255, (one.mask == episode.class_index).to(torch.uint8)) for one in (query, support)]
        with torch.no_grad():
            text = torch.from_numpy(vectors[episode.class_index - 1])[None]
            out = model(query.image[None], support.image[None, None], of_class[1][None, None], text)
        for name, logits in (("ensemble", out.final), ("meta", out.meta)):
            on, truth = (logits[0, 1] > logits[0, 0]).numpy(), of_class[0].numpy()
            row = [(on & (truth == 1)).sum(), (on & (truth == 0)).sum(), (~on & (truth == 1)).sum(), (~on & (truth == 0)).sum()]
            key = names[episode.class_index - 1]
            found[name][key] = found[name].get(key, 0) + np.array(row)
    return {name: [{key: [int(n) for n in row] for key, row in sorted(rows.items())}] for name, rows in found.items()}
