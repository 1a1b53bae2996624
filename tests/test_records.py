"""Episode records: the counts of a test are those without them, a killed job loses little, and what does not fit is told."""

import json
import os
import re
import signal
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from typer.testing import CliRunner

from symnet import evaluate, records
from symnet.artifacts import Provenance, file_digest, read_json
from symnet.backbones.loading import build_backbone
from symnet.cells import Cell, Round, record_set
from symnet.checkpoint import load_tensors, save_tensors
from symnet.cli import app, frozen
from symnet.config import ModelSettings, Settings
from symnet.data.episodes import make_manifest, write_manifest
from symnet.data.folds import read_fold_list
from symnet.errors import UserError
from symnet.features import FeatureCache
from symnet.methods import METHODS, method_class
from symnet.methods.symnet import SymNetMethod
from symnet.model.episode import PARTS
from symnet.recorded import EpisodeRecords
from symnet.stages import restrict, slice_settings
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once

EPISODES = 20
NAMES = {"spm": {"prior0", "psi", "base"}, "hpm": {"prior0", "prior1", "prior2", "prior3", "psi", "base"}, "tdc": {"correlations"}}


class Round1:
    """One round of fold 0 in a folder of its own: episodes, a model that was not trained, records."""

    def __init__(self, bench: Bench, folder: Path, shots: int = 1, **model: object) -> None:
        self.bench, self.folder, self.shots = bench, folder, shots
        self.cell = Cell("shapes", "efficientnet_lite0", 0, "symnet", shots)
        self.manifest, self.features = folder / "seed5.csv", bench.root / "features_test.json"
        write_manifest(self.manifest, make_manifest(read_fold_list(bench.list("test")), shots, 5, EPISODES, "image"))
        whole = bench.experiment.settings("shapes", 0)
        merged = ModelSettings.model_validate({**whole.model.model_dump(), **model})
        self.settings = restrict(whole.model_copy(update={"model": merged}), "evaluate", "symnet")
        torch.manual_seed(3)
        method = method_class("symnet")(self.settings, build_backbone("efficientnet_lite0"), shots, 8, 5)
        meta = {"method": "symnet", "shots": shots, "model": merged.model_dump(mode="json")}
        self.model = folder / "model.safetensors"
        save_tensors(self.model, method.state_dict(), meta, Provenance(stage="train"))
        self.parts = METHODS["symnet"].records(self.settings)

    def record(self, part: str, dtype: str = "float32") -> Path:
        whole = self.bench.experiment.settings("shapes", 0)
        settings = restrict(whole.model_copy(update={"features": whole.features.model_copy(update={"dtype": dtype})}), "records")
        out = record_set(self.folder / dtype, part, self.shots, 5)
        provenance = Provenance(
            stage="records", settings=dtype, inputs={"episodes": file_digest(self.manifest), "features": file_digest(self.features)}
        )
        records.make_records(settings, part, [Round(5, self.manifest, out, provenance)], self.bench.inputs.base, self.features, CPU)
        return out

    def counts(self, sets: dict[str, Path], features: bool = True) -> dict:
        inputs = evaluate.Inputs(
            self.bench.list("test"), self.bench.inputs.base, self.bench.inputs.embeddings, self.features if features else None, self.model
        )
        rounds = [Round(5, self.manifest, self.folder / "seed5.json", Provenance(stage="evaluate"), sets)]
        evaluate.evaluate(self.settings, self.bench.root, self.cell, "symnet", "tiny", inputs, rounds, CPU)
        return json.loads(rounds[0].out.read_text())["payload"]["outputs"]


@pytest.fixture
def round1(bench: Bench, tmp_path: Path) -> Round1:
    return Round1(bench, tmp_path)


MODELS = [
    (1, {}),
    (2, {"variant": "released"}),
    (2, {"prior": "hpm"}),
    (1, {"prior": "pfenet", "apa": False, "triplet": False, "tdc": False}),
]


@pytest.mark.parametrize(("shots", "model"), MODELS, ids=["spm", "released 2-shot", "hpm 2-shot", "pfenet alone"])
def test_float32_records_give_the_counts_of_a_test_without_them(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shots: int, model: dict
) -> None:
    one = Round1(bench, tmp_path, shots, **model)
    without = one.counts({})
    assert set(without) == {"meta", "ensemble"}
    sets = {part: one.record(part) for part in one.parts}
    read, maps = [], FeatureCache.maps

    def spied(self: FeatureCache, rows: list[int], blocks: tuple[int, ...] | None = None) -> torch.Tensor:
        read.append(blocks)
        return maps(self, rows, blocks)

    def refuse(*_: object) -> None:
        raise AssertionError("computed, though it is recorded")

    monkeypatch.setattr(FeatureCache, "maps", spied)
    for name in ("hyper_correlations", "spm", "hpm", "pfenet_prior", "dissimilarity", "base_foreground"):
        monkeypatch.setattr(f"symnet.model.episode.{name}", refuse)
    assert one.counts(sets) == without
    assert set(read) == {(1, 4, 7)}  # what makes the mid features, and nothing else


def test_float16_records_are_as_close_as_the_format(round1: Round1) -> None:
    found = {dtype: {part: round1.record(part, dtype) for part in round1.parts} for dtype in ("float32", "float16")}
    exact, half = (EpisodeRecords(sets, round1.manifest, round1.features).read(range(EPISODES)) for sets in found.values())
    assert set(exact) == set(half) == NAMES["spm"] | NAMES["tdc"]
    for name, values in exact.items():
        assert (values.dtype, half[name].dtype) == (torch.float32, torch.float16)
        assert 0 <= values.min() < values.max() <= 1
        assert 0 < (half[name].float() - values).abs().max() <= 2**-12, name  # half a step of the format below 1
    plain, rounded = round1.counts(found["float32"]), round1.counts(found["float16"])
    moved = sum(
        abs(a - b)
        for output in plain
        for name, row in plain[output]["padded"].items()
        for a, b in zip(row, rounded[output]["padded"][name], strict=True)
    )
    pixels = 2 * sum(map(sum, plain["meta"]["padded"].values()))
    assert moved <= 2e-3 * pixels


def test_a_record_does_not_depend_on_the_episodes_computed_beside_it(round1: Round1, monkeypatch: pytest.MonkeyPatch) -> None:
    def read() -> dict[str, torch.Tensor]:
        return EpisodeRecords({part: round1.record(part) for part in round1.parts}, round1.manifest, round1.features).read([13, 2])

    together = read()
    for path in round1.folder.glob("float32/*/*/seed5-*/*"):
        path.unlink()
    monkeypatch.setattr(records, "BATCH", 3)
    for name, values in read().items():
        torch.testing.assert_close(values, together[name], rtol=1e-4, atol=1e-5)


def test_a_killed_job_goes_on_with_its_shards_and_ends_with_the_same_bytes(round1: Round1, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL in a child process, in the midst of the third of five shards."""
    monkeypatch.setattr(records, "PER_SHARD", 1)
    monkeypatch.setattr(records, "BATCH", 4)
    out = round1.record("tdc")
    whole = {path.name: path.read_bytes() for path in [out, *out.parent.glob("seed5-*/*")]}
    assert len(whole) == 1 + 2 * 5
    for path in [out, *out.parent.glob("seed5-*/*")]:
        path.unlink()
    plain, calls = records._columns, []

    def dying(*arguments: object) -> dict:
        calls.append(0)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    child = os.fork()
    if not child:
        monkeypatch.setattr(records, "_columns", dying)
        round1.record("tdc")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = {path: path.stat().st_mtime_ns for path in out.parent.glob("seed5-*/*.h5")}
    assert len(left) == 2
    assert not list(out.parent.glob("seed5-*/.*.partial"))  # a shard is made in memory
    round1.record("tdc")
    assert {path.name: path.read_bytes() for path in [out, *out.parent.glob("seed5-*/*")]} == whole
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert not list(out.parent.glob("seed5-*/.*.partial"))


def test_damage_is_told_when_the_records_are_opened(round1: Round1) -> None:
    sets = {part: round1.record(part) for part in round1.parts}
    (shard,) = sets["tdc"].parent.glob("seed5-*/*.h5")
    kept = shard.read_bytes()
    content = bytearray(kept)
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=r"00000\.h5: shard does not match its sha256: damaged, now removed; delete .*seed5\.json and run"):
        round1.counts(sets)
    with pytest.raises(UserError, match=r"00000\.h5: shard of .*seed5\.json not found"):
        round1.counts(sets)
    round1.record("tdc")
    assert shard.read_bytes() == kept


def test_records_that_do_not_fit_are_told(round1: Round1) -> None:
    spm, tdc = (round1.record(part) for part in round1.parts)
    with pytest.raises(UserError, match="seed 5: no records of part tdc, which symnet reads with these settings"):
        round1.counts({"spm": spm})
    with pytest.raises(UserError, match="holds part spm, expected tdc; run `symnet records` again"):
        round1.counts({"spm": spm, "tdc": spm})
    with pytest.raises(UserError, match="--records: found without --features"):
        round1.counts({"spm": spm, "tdc": tdc}, features=False)
    write_manifest(round1.manifest, make_manifest(read_fold_list(round1.bench.list("test")), 1, 6, EPISODES, "image"))
    with pytest.raises(UserError, match=r"spm/shot1/seed5\.json: was not made from .*seed5\.csv; run `symnet records` again"):
        round1.counts({"spm": spm, "tdc": tdc})


def test_parts_have_one_set_of_names() -> None:
    priors = get_args(ModelSettings.model_fields["prior"].annotation)
    found = {METHODS["symnet"].records(Settings(model=ModelSettings(prior=prior, apa=prior != "pfenet"))) for prior in priors}
    assert found == {(prior, "tdc") for prior in priors}
    assert METHODS["symnet"].records(Settings(model=ModelSettings(tdc=False))) == ("spm",)
    assert METHODS["prototype"].records(Settings()) == ()
    assert set(PARTS) == {*priors, "twice", "cosine", "tdc"} == set(get_args(get_type_hints(frozen.records)["part"]))
    rule = re.search(r'part="([a-z|]+)"', (Path(__file__).parents[1] / "workflow" / "rules" / "features.smk").read_text())
    assert rule
    assert rule[1].split("|") == list(PARTS)


def test_validation_from_records_trains_the_same_weights(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one that computes everything at every validation: the same scores and the same bytes."""
    made, kept = [], SymNetMethod.record
    monkeypatch.setattr(SymNetMethod, "record", lambda *arguments: made.append(kept(*arguments)) or made[-1])
    settings = {"validate_every": 2, "validation_episodes": 7}
    recorded = load_tensors(bench.train(tmp_path / "recorded.safetensors", **settings), "train")
    assert len(made) == 4  # batches of two: once, for three validations
    assert {values.dtype for values in made[0].values()} == {torch.float32}
    monkeypatch.setattr(SymNetMethod, "record", lambda *_: None)
    anew = load_tensors(bench.train(tmp_path / "anew.safetensors", **settings), "train")
    assert recorded[1] == anew[1]
    assert recorded[1]["score"] > 0
    assert all(torch.equal(value, anew[0][name]) for name, value in recorded[0].items())


def test_the_commands_as_typed(round1: Round1) -> None:
    """Records of two rounds, a test with them; a later round makes its own, and the others' stay."""
    bench, folder = round1.bench, round1.folder
    write_manifest(folder / "seed6.csv", make_manifest(read_fold_list(bench.list("test")), 1, 6, 4, "image"))

    def symnet(stage: str, method: str | None, *arguments: object) -> None:
        config = folder / f"{stage}.json"
        config.write_text(json.dumps(slice_settings(bench.experiment.settings("shapes", 0), stage, method)))
        done = CliRunner().invoke(app, [stage, "--config", str(config), *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    fold = ("--base", bench.inputs.base, "--features", round1.features, "--fold", 0, "--shot", 1, "--episodes", folder)
    times = []
    for seeds in ("5", "5,6"):
        for part in round1.parts:
            symnet("records", None, *fold, "--part", part, "--seeds", seeds, "--out", folder / "records")
        times.append({path: path.stat().st_mtime_ns for path in folder.glob("records/*/shot1/seed5-*/*")})
    assert len(times[0]) == 4  # of each part a shard and its sum
    assert times[0] == times[1]

    tested = ("--dataset", "shapes", "--backbone", "efficientnet_lite0", "--row", "symnet", "--list", bench.list("test"))
    tested = (*fold, *tested, "--embeddings", bench.inputs.embeddings, "--model", round1.model, "--seeds", "5,6", "--results", bench.root)
    results = []
    for name, option in (("with", ("--records", folder / "records")), ("without", ())):
        symnet("evaluate", "symnet", *tested, *option, "--out", folder / name)
        results.append([read_json(folder / name / f"seed{seed}.json", "evaluate") for seed in (5, 6)])
    recorded, plain = results
    assert [payload for payload, _ in recorded] == [payload for payload, _ in plain]
    inputs = [provenance.inputs for _, provenance in recorded]
    assert [found["records_tdc"] for found in inputs] == [file_digest(record_set(folder / "records", "tdc", 1, seed)) for seed in (5, 6)]
    assert set(inputs[0]) - set(plain[0][1].inputs) == {"records_spm", "records_tdc"}
