"""From lists to counts in one process, on a handful of drawn images: cache, training that survives, evaluation."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from symnet import base_learner, evaluate, features, train
from symnet.artifacts import Provenance, file_digest
from symnet.base_learner import load_base, train_base
from symnet.cells import Cell
from symnet.config import Experiment, Settings, make_experiment
from symnet.data.episodes import make_manifest, read_manifest, write_manifest
from symnet.data.folds import make_folds, read_fold_list
from symnet.data.readers import open_reader
from symnet.data.shapes import draw_shapes
from symnet.embeddings import make_embeddings, read_embeddings
from symnet.errors import UserError
from symnet.features import FIXED, FeatureCache, make_features
from symnet.runtime import StopSignal
from symnet.sources import CacheSource, ImageSource, make_batch, requests_of
from symnet.stages import restrict
from tests.workflow.conftest import TINY

CPU = torch.device("cpu")

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


@dataclass
class Bench:
    """A folder with everything that training and evaluation of fold 0 read."""

    root: Path
    experiment: Experiment

    def settings(self, stage: str, method: str | None = None) -> Settings:
        return restrict(self.experiment.settings("shapes", 0), stage, method)

    def list(self, split: str) -> Path:
        return self.root / "lists" / "fold0" / f"{split}.csv"

    @property
    def inputs(self) -> train.Inputs:
        return train.Inputs(
            self.list("train"), self.root / "base.safetensors", self.root / "vectors.csv", self.root / "features_train.json"
        )

    def train(self, name: str, state: str, **changes: object) -> Path:
        """Train Sym-Net for some steps; runs with the same `state` go on with one another."""
        run = train.Run(
            "symnet", 1, self.root / state, self.root / f"{state}.jsonl", Provenance(stage="train", settings="s"), {}, **changes
        )
        out = self.root / f"{name}.safetensors"
        train.train(self.settings("train", "symnet"), self.root, self.inputs, run, out, CPU)
        return out


def build(root: Path, **sections: dict) -> Bench:
    settings = copy.deepcopy(TINY)
    for name, values in sections.items():
        settings[name] = {**settings.get(name, {}), **values}
    bench = Bench(root, make_experiment(settings, "tiny"))
    torch.set_num_threads(1)
    draw_shapes(bench.settings("shapes").shapes, root / "data" / "shapes", workers=2)
    make_folds(bench.settings("folds"), root, root / "lists")
    make_embeddings(bench.settings("embeddings"), root, root / "vectors.csv")
    provenance = Provenance(stage="base")
    train_base(bench.settings("base"), root, root, bench.list("train"), 0, root / "base.safetensors", CPU, provenance)
    for split in ("train", "test"):
        stage = Provenance(stage="features", settings=split)
        make_features(
            bench.settings(f"features_{split}"),
            root,
            bench.list(split),
            split,
            bench.inputs.base,
            root / f"features_{split}.json",
            CPU,
            stage,
        )
    return bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    yield build(tmp_path_factory.mktemp("bench"), train={"steps": 6}, features={"dtype": "float32"})
    torch.set_num_threads(threads)


def test_cached_and_recomputed_features_are_the_same(bench: Bench) -> None:
    base = load_base(bench.inputs.base).to(CPU)
    settings = bench.settings("evaluate", "symnet")
    reader = open_reader(settings.data, settings.protocol, bench.root)
    episodes = make_manifest(read_fold_list(bench.list("test")), 1, 5, 3, "image").episodes
    cached, computed = (
        source.features(source.load(requests_of(episodes)))
        for source in (CacheSource(bench.root / "features_test.json", CPU), ImageSource(settings, reader, "test", base, CPU))
    )
    for one, other in zip([*cached.maps, cached.base], [*computed.maps, computed.base], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(cached.mask, computed.mask)
    assert torch.equal(cached.placed, computed.placed)


def test_a_batch_arranges_queries_and_supports(bench: Bench) -> None:
    episodes = make_manifest(read_fold_list(bench.list("test")), 2, 5, 3, "image").episodes
    source = CacheSource(bench.root / "features_test.json", CPU)
    vectors = torch.from_numpy(read_embeddings(bench.inputs.embeddings)[1])
    batch = make_batch(episodes, source.features(source.load(requests_of(episodes))), vectors, (1, 2))
    cache = FeatureCache(bench.root / "features_test.json")
    for i, episode in enumerate(episodes):
        for shot, image in enumerate(episode.supports):
            row = cache.read([cache.rows[image, FIXED]])
            assert torch.equal(batch.support[3][i, shot], cache.split(row["maps"])[3][0])
            mask = row["mask"][0]
            expected = torch.where(mask == 255, 255, (mask == episode.class_index).to(torch.uint8))
            assert torch.equal(batch.support_mask[i, shot], expected)
        assert torch.equal(batch.text[i], vectors[episode.class_index - 1])
        assert batch.base_index[i] == -1 or episode.class_index in (1, 2)


def test_training_that_is_stopped_and_resumed_ends_with_the_same_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = file_digest(bench.train("whole", "state-whole"))
    seen = iter([False, False, True])  # asked twice a step at most: stops inside the run
    with monkeypatch.context() as patched:
        patched.setattr(StopSignal, "requested", property(lambda _: next(seen, True)))
        for _ in range(2):  # of six steps, two each
            with pytest.raises(train.Stopped):
                bench.train("parts", "state-parts")
            seen = iter([False, False, True])
    assert not (bench.root / "parts.safetensors").exists()
    assert file_digest(bench.train("parts", "state-parts")) == whole


def test_a_checkpoint_at_every_step_changes_nothing(bench: Bench) -> None:
    whole = file_digest(bench.train("again", "state-again"))
    assert file_digest(bench.train("often", "state-often", checkpoint_seconds=0)) == whole
    assert len(list((bench.root / "state-often").glob("step-*"))) == 2


def test_a_second_trainer_of_the_same_run_is_refused(bench: Bench) -> None:
    with train._only_writer(bench.root / "state-busy"), pytest.raises(UserError, match="another process trains this run"):
        bench.train("busy", "state-busy")


def test_a_loss_that_is_not_finite_stops_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "poly_rate", lambda *_: 1e30)
    with pytest.raises(UserError, match=r"loss is .* at step"):
        bench.train("nan", "state-nan")
    assert not (bench.root / "nan.safetensors").exists()


def test_evaluation_counts_every_pixel_once_and_gives_the_same_bytes_twice(bench: Bench) -> None:
    model = bench.train("model", "state-model")
    manifest = bench.root / "seed5.csv"
    write_manifest(manifest, make_manifest(read_fold_list(bench.list("test")), 1, 5, 6, "image"))
    cell = Cell("shapes", "efficientnet_lite0", 0, "symnet", 1)
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, bench.root / "features_test.json", model)
    sums = []
    for name in ("one", "two"):
        rounds = [evaluate.Round(5, manifest, bench.root / f"{name}.json", Provenance(stage="evaluate"))]
        evaluate.evaluate(bench.settings("evaluate", "symnet"), bench.root, cell, "tiny", inputs, rounds, CPU)
        sums.append(file_digest(bench.root / f"{name}.json"))
    assert sums[0] == sums[1]
    outputs = json.loads((bench.root / "one.json").read_text())["payload"]["outputs"]
    assert set(outputs) == {"meta", "ensemble"}
    reader = open_reader(bench.settings("evaluate", "symnet").data, bench.settings("evaluate", "symnet").protocol, bench.root)
    known = sum(int((reader.mask("test", episode.query) != 255).sum()) for episode in read_manifest(manifest))
    for output in outputs.values():
        assert sum(sum(counts) for counts in output["original"].values()) == known


def test_a_model_of_other_shots_is_refused(bench: Bench) -> None:
    model = bench.train("for-one", "state-for-one")
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, bench.root / "features_test.json", model)
    cell = Cell("shapes", "efficientnet_lite0", 0, "symnet", 2)
    with pytest.raises(UserError, match="holds symnet for 1 shots, expected symnet for 2"):
        evaluate.evaluate(bench.settings("evaluate", "symnet"), bench.root, cell, "tiny", inputs, [], CPU)


def test_a_damaged_shard_is_found_and_only_it_is_made_again(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_BYTES", 1)  # BATCH rows a shard
    out = tmp_path / "features_test.json"
    arguments = (
        bench.settings("features_test"),
        bench.root,
        bench.list("test"),
        "test",
        bench.inputs.base,
        out,
        CPU,
        Provenance(stage="features"),
    )
    make_features(*arguments)
    manifest = out.read_bytes()
    shards = sorted(tmp_path.glob("*/*.h5"))
    assert len(shards) > 1
    content = bytearray(shards[0].read_bytes())
    content[len(content) // 2] ^= 1
    shards[0].write_bytes(content)
    with pytest.raises(UserError, match="does not match its sha256"):
        FeatureCache(out)
    times = {path: path.stat().st_mtime_ns for path in shards[1:]}
    make_features(*arguments)
    assert out.read_bytes() == manifest
    assert {path: path.stat().st_mtime_ns for path in shards[1:]} == times
    FeatureCache(out).close()


def test_a_blind_base_learner_stops_the_fold(bench: Bench, tmp_path: Path) -> None:
    settings = bench.settings("base")
    object.__setattr__(settings, "base", settings.base.model_copy(update={"floor": 1.0}))
    out = tmp_path / "base.safetensors"
    with pytest.raises(UserError, match=r"below base\.floor"):
        train_base(settings, bench.root, bench.root, bench.list("train"), 0, out, CPU, Provenance(stage="base"))
    assert not out.exists()


def test_labels_of_the_base_learner() -> None:
    mask = torch.tensor([[0, 1, 2], [3, 255, 7]], dtype=torch.uint8).numpy()
    assert base_learner.base_labels(mask, (2, 7)).tolist() == [[0, 0, 1], [0, 255, 2]]
