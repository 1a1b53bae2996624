"""Methods as rows of the table: trained, recorded and tested on the tiny benchmark."""

import json
import re
from pathlib import Path

import pytest
import torch

from symnet import evaluate, records
from symnet.artifacts import Provenance, file_digest
from symnet.backbones.loading import build_backbone
from symnet.cells import Cell, Round, record_set
from symnet.checkpoint import load_tensors
from symnet.data.episodes import make_manifest, write_manifest
from symnet.data.folds import read_fold_list
from symnet.errors import UserError
from symnet.methods import METHODS, method_class
from symnet.model.episode import PARTS
from symnet.stages import restrict
from tests.bench import CPU, Bench
from tests.marks import some

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once

ROWS = {
    "pfenet": ("prediction",),
    "bam": ("meta", "ensemble"),
    "hsnet": ("prediction",),
    "dcama": ("prediction",),
    "fecanet": ("prediction",),
    "mianet": ("prediction",),
    "cyctr": ("prediction",),
    "qpenet": ("prediction",),
    "ntrenet": ("prediction",),
    "hpa": ("prediction",),
    "ssp": ("prediction",),
    "hdmnet": ("meta", "ensemble"),
}
PARTS_OF_LOSS = {"pfenet": {"prediction", "inner"}, "bam": {"meta", "ensemble"}, "hsnet": {"prediction"}}
PARTS_OF_LOSS |= {"dcama": {"prediction"}, "fecanet": {"prediction"}, "mianet": {"prediction", "inner", "triplet"}}
PARTS_OF_LOSS |= {"cyctr": {"prediction", "auxiliary"}, "qpenet": {"prediction", "background", "initial", "simple"}}
PARTS_OF_LOSS |= {"ntrenet": {"prediction", "background", "inner", "initial", "contrast"}, "hpa": {"prediction", "auxiliary"}}
PARTS_OF_LOSS |= {"ssp": {"prediction", "unrefined", "self", "support"}}
PARTS_OF_LOSS |= {"hdmnet": {"meta", "ensemble", "distillation"}}
# Of an image of 33 pixels the deepest maps see one to four places, none in an object: what reads a support of zeros has no gradient, and
# Adam, whose recipe decays no weights, leaves it where it is (tests of parity have larger images). Nor have FECANet's biases before a
# batch norm, but for rounding.
UNSEEN = {"hsnet": {f"head.squeeze{level}.conv{n}.weight" for level, n in (("2.0", 1), ("3.0", 1), ("4.0", 1), ("4.0", 2))}}
UNTOLD = {"fecanet": ("head.enhance.",)}
UNSEEN |= {"hpa": {"head.prototypes"}}  # made before the first step
TUNED = re.compile(r"trunk\._blocks\.([3-9]|10)\._\w+_conv\.")  # of a copy of EfficientNet-Lite0, what learns
NORMS = [  # that keep their statistics in training
    name.format(n) for name in ("fuse_norm.{}", "parse.{}.1", "parse.{}.3", "parse.{}.5") for n in range(3)
]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
UNSEEN |= {"hdmnet": {f"head.match.{norm}.{name}" for norm in (*NORMS, "classify.1", "classify.3") for name in STATISTICS}}
RECORDED = {"pfenet": {"twice"}, "bam": {"twice"}, "hsnet": set(), "dcama": set(), "fecanet": set(), "mianet": {"hpm"}}
RECORDED |= {"cyctr": {"pfenet"}, "qpenet": {"twice"}, "ssp": set()}
RECORDED |= {"ntrenet": {"twice"}, "hpa": {"twice"}}
RECORDED |= {"hdmnet": {"cosine"}}


def record(bench: Bench, folder: Path, part: str, manifest: Path) -> Path:
    """A record set in float32."""
    whole = bench.experiment.settings("shapes", 0)
    settings = restrict(whole.model_copy(update={"features": whole.features.model_copy(update={"dtype": "float32"})}), "records")
    features, out = bench.root / "features_test.json", record_set(folder, part, 1, 5)
    provenance = Provenance(stage="records", inputs={"episodes": file_digest(manifest), "features": file_digest(features)})
    records.make_records(settings, part, [Round(5, manifest, out, provenance)], bench.inputs.base, features, CPU)
    return out


@pytest.mark.parametrize("method", some(ROWS, "pfenet", "bam", "hsnet", "hdmnet"))
def test_a_row_trains_and_is_tested(bench: Bench, tmp_path: Path, method: str) -> None:
    """From its model file, with records and without them: the same counts."""
    out = bench.train(tmp_path / "model.safetensors", method=method, selection="last")
    tensors, meta, _ = load_tensors(out, "train")
    assert (meta["method"], meta["model"]) == (method, getattr(bench.experiment.settings("shapes", 0), method).model_dump(mode="json"))
    settings = bench.settings("evaluate", method)
    assert tensors.keys() == method_class(method)(settings, build_backbone("efficientnet_lite0"), 1, 8, 5).state_dict().keys()
    before = load_tensors(bench.train(tmp_path / "before.safetensors", method=method, steps=1, selection="last"), "train")[0]
    same = {name for name, value in tensors.items() if torch.equal(value, before[name]) and not name.startswith(UNTOLD.get(method, ()))}
    frozen = {name for name in tensors if name.startswith("trunk.") and not TUNED.match(name)}
    assert same == UNSEEN.get(method, set()) | frozen  # every other weight learns
    journal = [json.loads(line) for line in (tmp_path / "model.jsonl").read_text().splitlines()]
    told = {name.removeprefix("loss.") for line in journal for name in line.get("values", {}) if name.startswith("loss.")}
    assert told == PARTS_OF_LOSS[method]

    manifest = tmp_path / "seed5.csv"
    write_manifest(manifest, make_manifest(read_fold_list(bench.list("test")), 1, 5, 20, "image"))
    features = bench.root / "features_test.json"
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, features, out)
    sets = {part: record(bench, tmp_path / "records", part, manifest) for part in METHODS[method].records(settings)}
    assert set(sets) == RECORDED[method]
    found = []
    for place, read in enumerate(({}, sets)):
        one = Round(5, manifest, tmp_path / f"{place}.json", Provenance(stage="evaluate"), read)
        evaluate.evaluate(settings, bench.root, Cell("shapes", "efficientnet_lite0", 0, method, 1), method, "tiny", inputs, [one], CPU)
        found.append(json.loads(one.out.read_text())["payload"]["outputs"])
    assert found[0] == found[1]
    assert set(found[0]) == set(ROWS[method])
    known = {output: sum(map(sum, scored["padded"].values())) for output, scored in found[0].items()}
    assert len(set(known.values())) == 1
    assert min(known.values()) > 0


def test_a_model_of_other_settings_is_refused(bench: Bench, tmp_path: Path) -> None:
    out = bench.train(tmp_path / "model.safetensors", method="pfenet", steps=1)
    settings = bench.settings("evaluate", "pfenet")
    other = settings.model_copy(update={"pfenet": settings.pfenet.model_copy(update={"channels": 16})})
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, bench.root / "features_test.json", out)
    with pytest.raises(UserError, match=r"was made with pfenet\.channels 8, not 16"):
        evaluate.evaluate(other, bench.root, Cell("shapes", "efficientnet_lite0", 0, "pfenet", 1), "pfenet", "tiny", inputs, [], CPU)


def test_records_are_parts_that_there_are(bench: Bench) -> None:
    settings = bench.experiment.settings("shapes", 0)
    assert {part for entry in METHODS.values() for part in entry.records(settings)} <= set(PARTS)
