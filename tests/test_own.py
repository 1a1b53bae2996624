"""Each method as its authors trained and tested it: `config/own` says what their cards do, and mixes with nothing."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from symnet import cli
from symnet.artifacts import Provenance
from symnet.backbones.loading import load_backbone
from symnet.base_learner import load_base
from symnet.cells import Cell
from symnet.checkpoint import load_tensors
from symnet.data.folds import read_fold_list
from symnet.errors import UserError
from symnet.experiment import load_experiment, read_plain
from symnet.methods import METHODS, recipe_of
from symnet.metrics import protocol_stamp
from symnet.plan import Plan
from symnet.report import Round, refuse
from symnet.train import Inputs
from tests.bench import build

pytestmark = pytest.mark.xdist_group("learning")

CONFIG = Path(__file__).parents[1] / "config"
OWN = {path.stem: path for path in sorted((CONFIG / "own").glob("*.yaml"))}
PASCAL, COCO = "pascal5i", "coco20i"
IMAGENET, BASE = (False, 1), (True, None)  # base learner: whether it trains the network, steps

# (method, data set): novel classes in training images, episodes, sampling, scoring; seeds of tests; side, random scale, flips;
# epochs, batch, seed; rate of the last group; base learner
FACTS = {
    ("pfenet", PASCAL): ("background", 5000, "released", "original", (321,), 473, (0.9, 1.1), 0.5, 200, 4, 321, 0.025, IMAGENET),
    ("pfenet", COCO): ("background", 20000, "released", "original", (321,), 641, (0.8, 1.25), 0.5, 50, 32, 321, 0.2, IMAGENET),
    ("bam", PASCAL): ("drop", 1000, "released", "original", (510, 365, 382, 322, 988), 473, (0.9, 1.1), 0.5, 200, 8, 321, 0.05, BASE),
    ("bam", COCO): ("drop", 1000, "released", "original", (510, 365, 382, 322, 988), 641, (0.8, 1.25), 0.5, 50, 8, 321, 0.05, BASE),
    ("mianet", PASCAL): ("drop", 5000, "released", "original", (1234,), 473, (0.9, 1.1), 0.5, 200, 4, 1234, 0.05, BASE),
    ("cyctr", PASCAL): ("background", 1000, "released", "original", (321,), 473, (0.9, 1.1), 0.5, 200, 4, 123, 0.0375, IMAGENET),
    ("cyctr", COCO): ("background", 5000, "released", "original", (321,), 473, (0.8, 1.25), 0.5, 50, 32, 321, 0.3, IMAGENET),
    ("qpenet", PASCAL): ("background", 1000, "released", "original", (321,), 473, (0.9, 1.1), 0.5, 100, 4, 321, 0.025, IMAGENET),
    ("qpenet", COCO): ("background", 1000, "released", "original", (321,), 473, (0.8, 1.25), 0.5, 50, 4, 321, 0.025, IMAGENET),
    ("hsnet", PASCAL): ("background", 1000, "balanced", "400", (0,), 401, (0.802, 0.802), 0, 2000, 20, 321, 1e-3, IMAGENET),
    ("hsnet", COCO): ("background", 1000, "balanced", "400", (0,), 401, (0.6266, 0.6266), 0, 2000, 40, 321, 1e-3, IMAGENET),
    ("fecanet", PASCAL): ("background", 1000, "balanced", "400", (0,), 401, (0.802, 0.802), 0, 300, 20, 321, 1e-3, IMAGENET),
    ("fecanet", COCO): ("background", 1000, "balanced", "400", (0,), 401, (0.6266, 0.6266), 0, 300, 20, 321, 1e-3, IMAGENET),
    ("dcama", PASCAL): ("background", 1000, "balanced", "400", (0,), 385, (0.77, 0.77), 0, 500, 48, 321, 1e-3, IMAGENET),
    ("dcama", COCO): ("background", 1000, "balanced", "400", (0,), 385, (0.6016, 0.6016), 0, 500, 48, 321, 1e-3, IMAGENET),
    ("hdmnet", PASCAL): ("drop", 1000, "released", "original", (510, 365, 382, 322, 988), 473, (0.9, 1.1), 0.5, 200, 8, 321, 1e-3, BASE),
    ("hdmnet", COCO): ("drop", 10000, "released", "original", (510, 365, 382, 322, 988), 633, (0.8, 1.25), 0.5, 50, 6, 321, 1e-3, BASE),
    ("ssp", PASCAL): ("background", 1000, "released", "original", (0, 1, 2, 3, 4), 473, (1, 1), 0.5, 200, 4, 321, 1e-3, IMAGENET),
    ("ssp", COCO): ("background", 4000, "released", "original", (0, 1, 2, 3, 4), 473, (1, 1), 0.5, 50, 4, 321, 1e-3, IMAGENET),
    ("ntrenet", PASCAL): ("background", 1000, "released", "original", (321,), 473, (0.9, 1.1), 0.5, 150, 4, 321, 0.025, IMAGENET),
}
STEPS = {"ssp": 6000}  # in place of epochs


@pytest.mark.parametrize(("method", "dataset"), FACTS)
def test_a_file_says_what_the_card_does(method: str, dataset: str) -> None:
    experiment = load_experiment(OWN[method])
    s = experiment.settings(dataset, 0, method)
    p, t, recipe = s.protocol, s.train, recipe_of(s, method)
    assert recipe is not None
    told = (p.novel_in_train, p.episodes, p.sampling, p.scoring, experiment.seeds, s.pixels.size, s.pixels.scale, s.pixels.flip_p)
    assert (*told, t.epochs, t.batch_size, t.seed, recipe[-1].lr, (s.base.train_backbone, s.base.steps)) == FACTS[method, dataset]
    assert (p.selection, p.split, s.base.holdout, t.steps) == (
        "test_best",
        {PASCAL: "serial", COCO: "fwb"}[dataset],
        0,
        STEPS.get(method),
    )
    assert s.base.epochs == {PASCAL: 100, COCO: 20}[dataset]
    common = load_experiment(CONFIG / "config.yaml").settings(dataset, 0, method)
    own = recipe_of(common, method)
    assert own is not None
    assert [g.model_copy(update={"lr": 0}) for g in recipe] == [g.model_copy(update={"lr": 0}) for g in own]  # but for COCO's rate


def test_all_files_are_told_of() -> None:
    assert {(name, dataset) for name, path in OWN.items() for dataset in load_experiment(path).datasets} == FACTS.keys()
    slips = {name: load_experiment(OWN[name]).settings(PASCAL, 0, name) for name in OWN}
    assert {name: getattr(slips[name], name).labels for name in ("cyctr", "qpenet")} == {"cyctr": "slipped", "qpenet": "slipped"}
    assert {getattr(slips[name], name).border for name in ("hsnet", "fecanet", "dcama")} == {"background"}
    assert (slips["fecanet"].fecanet.masked, slips["fecanet"].fecanet.values) == (False, "own")
    for name in ("cyctr", "qpenet"):
        assert load_experiment(OWN[name]).settings(COCO).data.images == {"train": "train2017", "test": "val2017"}


@pytest.mark.parametrize("method", OWN)
def test_a_file_is_one_row_with_a_folder_of_its_own(method: str, tmp_path: Path) -> None:
    plan = Plan(read_plain(OWN[method]) | {"results": str(tmp_path)}, str(OWN[method]), write=False)
    assert (plan.rows, plan.folder, METHODS[method].trained) == ([method], tmp_path / f"own_{method}", True)
    sets = [dataset for own, dataset in FACTS if own == method]
    assert {(cell.dataset, cell.fold, cell.method, cell.shot) for cell in plan.cells()} == {
        (dataset, fold, method, shot) for dataset in sets for fold in range(4) for shot in (1, 5)
    }
    assert plan.supplies.missing() == []  # all of it has a public link
    told = CliRunner().invoke(cli.app, ["protocol", "diff", *(f"{path}:{PASCAL}" for path in (CONFIG / "config.yaml", OWN[method]))])
    assert told.exit_code == 1
    assert "weights best on the test fold" in told.stdout


@pytest.mark.parametrize(("method", "dataset"), FACTS)
def test_no_table_takes_it_beside_the_common_protocol(method: str, dataset: str) -> None:
    rounds = []
    for path, row in ((CONFIG / "config.yaml", "symnet"), (OWN[method], method)):
        settings = load_experiment(path).settings(dataset)
        rules = json.loads(settings.protocol.model_dump_json()) | {"image_size": settings.pixels.size}
        payload = {"protocol": rules, "protocol_stamp": protocol_stamp(rules), "outputs": {"prediction": {}}}
        rounds.append(Round(Path(row), Cell(dataset, "resnet50", 0, row, 1), 510, payload, Provenance(stage="evaluate")))
    refuse(rounds[:1], {(rounds[0].cell, 510)})
    with pytest.raises(UserError, match=f"{dataset} mixes protocols: "):
        refuse(rounds, {(one.cell, one.seed) for one in rounds})


@pytest.mark.whole
def test_nothing_held_out_is_trained_on_and_the_network_stays_as_it_is(tmp_path: Path) -> None:
    """As `parts/own_imagenet.yaml` has it: a base learner of a step and no floor, weights chosen on the test list."""
    own = read_plain(CONFIG / "parts" / "own_imagenet.yaml")
    bench = build(tmp_path, base=own["base"] | own["datasets"][PASCAL]["base"], features={"dtype": "float32"})
    told = json.loads((tmp_path / "base.json").read_text())["payload"]
    assert (told["held_out"], told["images"]) == (0, len(read_fold_list(bench.list("train")).rows))
    plain = load_backbone(bench.settings("base").backbone, tmp_path).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in load_base(bench.inputs.base).backbone.state_dict().items())
    i = bench.inputs
    tested = Inputs(i.train_list, i.base, i.embeddings, i.features, bench.list("test"), tmp_path / "features_test.json")
    out = bench.train(tmp_path / "out.safetensors", tested, method="hsnet", selection="test_best")
    assert isinstance(load_tensors(out, "train")[1]["score"], float)
