"""From lists to counts in one process, on a handful of drawn images: cache, base learner, evaluation."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from symnet import base_learner, evaluate, features, train
from symnet.arrange import make_batch, requests_of
from symnet.artifacts import Provenance, file_digest, read_json
from symnet.backbones.base import Backbone, Levels
from symnet.base_learner import BaseLearner, load_base, train_base
from symnet.cells import Cell
from symnet.checkpoint import load_tensors
from symnet.cli import app
from symnet.costs import read_spent
from symnet.data.episodes import TrainingEpisodes, make_manifest, read_manifest, write_manifest
from symnet.data.folds import read_fold_list
from symnet.data.readers import open_reader
from symnet.data.transforms import augment
from symnet.embeddings import read_embeddings
from symnet.errors import UserError
from symnet.features import FIXED, FeatureCache, make_features, make_view
from symnet.feeding import feed
from symnet.image_sources import DeviceImageSource, ImageSource, ViewSource
from symnet.model.base import PSPHead
from symnet.overlays import PICTURES
from symnet.rates import Advisor, Rates, measure
from symnet.sources import CacheSource, Request
from symnet.stages import restrict, slice_settings
from symnet.system import device_name
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


def test_int8_maps_are_off_by_half_a_step_of_their_channel() -> None:
    maps = [torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]]
    maps.append(torch.relu(torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(2))))
    maps[1][0, 1] = 7.0  # a channel of one number
    numbers, scales = features.quantised(maps)
    assert (numbers.dtype, numbers.shape, scales.shape) == (torch.uint8, (2, 60 + 18), (2, 2, 5))
    cache = FeatureCache.__new__(FeatureCache)
    cache.shapes = [[3, 4, 5], [2, 3, 3]]
    found = cache.split(numbers, None, scales)
    for one, other in zip(found, maps, strict=True):
        reach = other.flatten(2).amax(2) - other.flatten(2).amin(2)
        assert ((one - other).flatten(2).abs().amax(2) <= reach / 510 * 1.001).all()
    assert torch.equal(found[1] == 0, maps[1] == 0)
    assert (found[1][0, 1] == 7).all()
    (second,) = cache.split(numbers[:, 60:], [1], scales[:, :, 3:])
    assert torch.equal(second, found[1])


def test_an_int8_cache_of_views_is_close_and_test_features_stay_as_they_are(bench: Bench, tmp_path: Path) -> None:
    experiment = bench.experiment.settings("shapes", 0)
    small = experiment.model_copy(update={"features": experiment.features.model_copy(update={"train_dtype": "int8"})})
    sizes = {}
    for split in ("train", "test"):
        arguments = bench.root, bench.list(split), split, bench.inputs.base, tmp_path / f"{split}.json", CPU, Provenance(stage="features")
        make_features(restrict(small, f"features_{split}"), *arguments)
        sizes[split] = [
            sum(path.stat().st_size for path in folder.glob(f"{name}-*/*.h5"))
            for folder, name in ((tmp_path, split), (bench.root, f"features_{split}"))
        ]
    assert sizes["test"][0] == sizes["test"][1]
    cache, exact = FeatureCache(tmp_path / "train.json"), FeatureCache(bench.root / "features_train.json")
    rows = range(len(exact.rows))
    maps = cache.maps(rows)
    assert (maps.dtype, maps.nbytes) == (torch.uint8, exact.maps(rows).nbytes // 4)
    for one, other in zip(cache.split(maps, None, **cache.scales(rows)), exact.split(exact.maps(rows)), strict=True):
        assert 0 < (one - other).norm() < 0.01 * other.norm()
    assert json.loads((tmp_path / "train.json").read_text())["payload"]["dtype"] == "float32"  # of what is read
    drawn = TrainingEpisodes(read_fold_list(bench.list("train")), 1, 1, "image")
    held = {image for image, view in cache.rows if view == FIXED}
    episodes = [e for e in (drawn[i] for i in range(40)) if not held & {e.query, *e.supports}][:3]
    source = CacheSource(tmp_path / "train.json", CPU)
    whole, few = (one.features(one.load(requests_of(episodes, (1, 0)))) for one in (source, source.only([1, 4])))
    assert all(torch.equal(few.maps[i], whole.maps[block]) for i, block in enumerate((1, 4)))
    out = bench.train(tmp_path / "out.safetensors", replace(bench.inputs, features=tmp_path / "train.json"))
    assert load_tensors(out, "train")[1]["steps"] == 6


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


def test_cached_maps_come_in_the_number_format_in_which_the_base_learner_answers(bench: Bench) -> None:
    """As maps that are computed do; what is read stays as it is stored."""
    exact = load_base(bench.inputs.base)
    low = replace(exact, head=copy.deepcopy(exact.head).bfloat16())
    settings, cache = bench.settings("train", "symnet"), bench.root / "features_test.json"
    ours, theirs = (feed("symnet", settings, bench.root, "test", cache, base, CPU) for base in (low, exact))
    requests = [Request(image, 1) for image, _ in list(FeatureCache(cache).rows)[:2]]
    found, expected = (source.features(source.load(requests)) for source in (ours, theirs))
    for one, other in zip(found.maps, expected.maps, strict=True):
        assert (one.dtype, other.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(one, other.bfloat16())


class TwoSides(Backbone):
    """Pixels in place of features: maps at stride 8 and 16, as VGG's."""

    stride = 16
    groups = (1, 1, 1)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        fine, coarse = images[:, :, ::8, ::8], images[:, :, ::16, ::16]
        return [fine, 2 * fine[:, :2], torch.cat([coarse, coarse[:, :1]], 1)]

    def levels(self, blocks: list[torch.Tensor]) -> Levels:
        return Levels(*[blocks[-1]] * 3)


def test_maps_of_several_sides_pass_through_the_cache(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseLearner("two sides", TwoSides(), PSPHead(4, 3, 8), (1, 2), "").to(CPU)
    monkeypatch.setattr(features, "load_base", lambda path: base)
    settings, out = bench.settings("features_test"), tmp_path / "features_test.json"
    make_features(settings, bench.root, bench.list("test"), "test", bench.inputs.base, out, CPU, Provenance(stage="features"))
    cache = FeatureCache(out)
    assert cache.shapes == [[3, 5, 5], [2, 5, 5], [4, 3, 3]]
    reader = open_reader(settings.data, settings.protocol, bench.root)
    rows = list(cache.rows)[:3]
    expected = base.backbone(torch.stack([make_view(settings, reader, "test", row).image for row in rows]))
    places = [cache.rows[row] for row in rows]
    column = cache.maps(places)
    assert column.shape == (3, 3 * 25 + 2 * 25 + 4 * 9)
    for found, wanted in zip(cache.split(column), expected, strict=True):
        assert torch.equal(found, wanted)
    twice = [places[2], places[0], places[2]]  # some maps of rows, one of them asked for twice
    assert cache.maps(twice, (2, 0)).shape == (3, 4 * 9 + 3 * 25)
    for found, block in zip(cache.split(cache.maps(twice, (2, 0)), (2, 0)), (2, 0), strict=True):
        assert torch.equal(found, expected[block][[2, 0, 2]])
    images = ImageSource(bench.settings("evaluate", "symnet"), reader, "test", base, CPU)
    assert (CacheSource(out, CPU).side, images.side) == (3, 3)


def test_novel_pixels_of_training_images_are_background_before_the_crop_is_chosen(bench: Bench) -> None:
    """Of an image of a novel class alone, the crop has no foreground to keep: the first place that was drawn is taken."""
    settings = bench.settings("features_train")
    reader = open_reader(settings.data, settings.protocol, bench.root)
    base = load_base(bench.inputs.base).classes
    mixed = [r for r in read_fold_list(bench.root / "lists" / "train.csv").rows if set(r.classes) - set(base)]
    assert mixed
    for row in mixed[:6]:
        image, mask = reader.load("train", row.image)
        view = make_view(settings, reader, "train", (row.image, 0), base)
        assert set(view.mask.unique().tolist()) <= {0, 255, *base}
        rng = np.random.default_rng([settings.features.seed, 0, *row.image.encode()])
        kept = np.isin(mask, [*base, 255])
        pixels, truth = augment(image, np.where(kept, mask, 0).astype(np.uint8), settings.pixels, rng)
        assert torch.equal(view.image, pixels)
        assert torch.equal(view.mask, truth)


def test_a_batch_arranges_queries_and_supports(bench: Bench) -> None:
    episodes = make_manifest(read_fold_list(bench.list("test")), 2, 5, 3, "image").episodes
    source = CacheSource(bench.root / "features_test.json", CPU)
    vectors = torch.from_numpy(read_embeddings(bench.inputs.embeddings)[1])
    batch = make_batch(episodes, source.features(source.load(requests_of(episodes))), vectors, (1, 2))
    cache = FeatureCache(bench.root / "features_test.json")
    for i, episode in enumerate(episodes):
        for shot, image in enumerate(episode.supports):
            row = [cache.rows[image, FIXED]]
            assert torch.equal(batch.support[3][i, shot], cache.split(cache.maps(row))[3][0])
            mask = cache.read(row, ["mask"])["mask"][0]
            expected = torch.where(mask == 255, 255, (mask == episode.class_index).to(torch.uint8))
            assert torch.equal(batch.support_mask[i, shot], expected)
        assert torch.equal(batch.text[i], vectors[episode.class_index - 1])
        assert batch.base_index[i] == -1 or episode.class_index in (1, 2)


def test_evaluation_counts_every_pixel_once_and_gives_the_same_bytes_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = bench.train(bench.root / "model.safetensors")
    manifest = bench.root / "seed5.csv"
    write_manifest(manifest, make_manifest(read_fold_list(bench.list("test")), 1, 5, 6, "image"))
    cell = Cell("shapes", "efficientnet_lite0", 0, "symnet", 1)
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, bench.root / "features_test.json", model)
    sums = []
    for name in ("one", "two"):
        rounds = [evaluate.Round(5, manifest, bench.root / f"{name}.json", Provenance(stage="evaluate"))]
        evaluate.evaluate(bench.settings("evaluate", "symnet"), bench.root, cell, "symnet", "tiny", inputs, rounds, CPU)
        sums.append([file_digest(path) for path in (bench.root / f"{name}.json", *sorted((bench.root / "overlays").iterdir()))])
    assert sums[0] == sums[1]
    assert len(sums[0]) == 1 + PICTURES
    spent = read_spent(bench.root / "two.json")
    assert spent is not None
    assert (spent.episodes, spent.read, spent.device) == (6, "features", device_name(CPU))
    assert 0 < spent.seconds < 60
    assert spent.memory > 1e8

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(evaluate, "draw_overlays", full)  # costs a word, and no number
    rounds = [evaluate.Round(5, manifest, bench.root / "three.json", Provenance(stage="evaluate"))]
    evaluate.evaluate(bench.settings("evaluate", "symnet"), bench.root, cell, "symnet", "tiny", inputs, rounds, CPU)
    assert file_digest(bench.root / "three.json") == sums[0][0]
    assert "no pictures of episodes (no space left)" in capsys.readouterr().out
    outputs = json.loads((bench.root / "one.json").read_text())["payload"]["outputs"]
    assert set(outputs) == {"meta", "ensemble"}
    reader = open_reader(bench.settings("evaluate", "symnet").data, bench.settings("evaluate", "symnet").protocol, bench.root)
    known = sum(int((reader.mask("test", episode.query) != 255).sum()) for episode in read_manifest(manifest))
    for output in outputs.values():
        assert sum(sum(counts) for counts in output["original"].values()) == known


def test_an_image_store_changes_no_byte_of_any_artifact(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command that reads images, as typed, with and without --store; with it, no file is decoded."""

    def symnet(stage: str, *arguments: object, method: str | None = None) -> None:
        config = tmp_path / f"{stage}.json"
        config.write_text(json.dumps(slice_settings(bench.experiment.settings("shapes", 0), stage, method)))
        command = "features" if stage.startswith("features") else stage
        done = CliRunner().invoke(app, [command, "--config", str(config), *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} is decoded")

    write_manifest(tmp_path / "seed5.csv", make_manifest(read_fold_list(bench.list("test")), 1, 5, 2, "image"))
    symnet("store", "--index", bench.root / "lists", "--out", tmp_path / "images.json", "--results", bench.root)
    made = []
    for store in ([], ["--store", tmp_path / "images.json"]):
        if store:
            monkeypatch.setattr("symnet.data.readers.read_image", refuse)
            monkeypatch.setattr("symnet.data.voc.read_mask", refuse)
        out = tmp_path / ("stored" if store else "plain")
        out.mkdir()
        (out / "data").symlink_to(bench.root / "data")
        common = ["--fold", 0, "--results", out, "--device", "cpu", *store]
        learned = ["--base", out / "base.safetensors", "--embeddings", bench.inputs.embeddings]
        cell = ["--dataset", "shapes", "--backbone", "efficientnet_lite0", "--row", "symnet", "--shot", 1, *learned, *common]
        symnet("base", "--list", bench.list("train"), "--out", out / "base.safetensors", *common)
        tests = ["--split", "test", "--list", bench.list("test"), "--base", out / "base.safetensors"]
        symnet("features_test", *tests, "--out", out / "features_test.json", *common)
        symnet("train", "--list", bench.list("train"), "--out", out / "model.safetensors", *cell, method="symnet")
        rounds = ["--list", bench.list("test"), "--episodes", tmp_path, "--seeds", 5, "--model", out / "model.safetensors"]
        symnet("evaluate", *rounds, "--out", out, *cell, method="symnet")
        artifacts = [path for path in (*out.glob("*.*"), *out.glob("*/*.h5")) if path.name != "spent.json"]  # which tells the time
        made.append({str(path.relative_to(out)): file_digest(path) for path in artifacts})
    assert {"base.safetensors", "base.json", "features_test.json", "model.safetensors", "seed5.json"} < set(made[0])
    assert made[0] == made[1]


def test_a_model_of_other_shots_is_refused(bench: Bench) -> None:
    model = bench.train(bench.root / "for-one.safetensors")
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, bench.root / "features_test.json", model)
    cell = Cell("shapes", "efficientnet_lite0", 0, "symnet", 2)
    with pytest.raises(UserError, match="holds symnet for 1 shots, expected symnet for 2"):
        evaluate.evaluate(bench.settings("evaluate", "symnet"), bench.root, cell, "symnet", "tiny", inputs, [], CPU)


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


@pytest.mark.parametrize(("broken", "left"), [(1, 3), (2, 1), (4, 0)])
def test_the_first_step_whose_loss_breaks_is_named(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int, left: int
) -> None:
    """Of five steps, looked at two at a time, and at the end."""
    settings = bench.settings("base")
    object.__setattr__(settings, "base", settings.base.model_copy(update={"steps": 5}))
    losses = iter([1.0] * broken + [float("nan")] * (5 - broken))
    monkeypatch.setattr(base_learner, "learn", lambda *_: torch.tensor(next(losses)))
    monkeypatch.setattr(base_learner, "CHECK", 2)
    with pytest.raises(UserError, match=rf"base learner of fold 0: loss is nan at step {broken}; lower base\.lr"):
        train_base(settings, bench.root, bench.root, bench.list("train"), 0, tmp_path / "base.safetensors", CPU, Provenance(stage="base"))
    assert len(list(losses)) == left


def test_a_base_learner_is_measured_by_class(bench: Bench) -> None:
    """Two images of 2 x 2: IoU by hand, a class that does not occur left out; and what stands beside the weights."""

    class Given(torch.nn.Module):
        """A head that answers what it is asked for: logits are the images."""

        def forward(self, high: torch.Tensor) -> torch.Tensor:
            return high

    class Same(Given):
        def levels(self, maps: torch.Tensor) -> Levels:
            return Levels(maps, maps, maps)

    found = torch.tensor([[[1, 1], [2, 0]], [[2, 2], [0, 1]]])  # 3 base classes, of which 3 never occurs
    labels = torch.tensor([[[1, 0], [2, 255]], [[2, 1], [0, 1]]])
    images = torch.nn.functional.one_hot(found, 4).permute(0, 3, 1, 2).float()
    for size in (1, 2):  # images a batch
        batches = zip(images.split(size), labels.split(size), strict=True)
        assert base_learner.measure(Same(), Given(), batches, 3, CPU) == {0: 2 / 4, 1: 2 / 3}

    told, _ = read_json(bench.inputs.base.with_suffix(".json"), "base")
    assert told["miou"] == pytest.approx(sum(told["iou"].values()) / len(told["iou"]))
    assert (told["fold"], told["base_classes"], told["steps"]) == (0, 10, 2)
    assert told["images"] + told["held_out"] == len(read_fold_list(bench.list("train")).rows)


def test_labels_of_the_base_learner() -> None:
    mask = torch.tensor([[0, 1, 2], [3, 255, 7]], dtype=torch.uint8).numpy()
    assert base_learner.base_labels(mask, (2, 7)).tolist() == [[0, 0, 1], [0, 255, 2]]


# --- views that are kept, or computed when they are asked for


@pytest.mark.parametrize(
    ("seconds", "kept"), [((0.8, 0.8, 0.1), True), ((0.8, 0.08, 0.1), True), ((0.08, 0.04, 0.1), False), ((4.0, 0.01, 0.9), True)]
)
def test_what_the_machine_does_faster_is_done(tmp_path: Path, seconds: tuple[float, float, float], kept: bool) -> None:
    """Eight images take so long to be loaded by one of four threads, computed, and read."""
    load, compute, read = seconds
    now, told = [0.0], []

    def clock() -> float:
        """Reading is what happens between two looks at the clock without another word."""
        if told and told.pop() == "asked":
            now[0] += read
        told.append("asked")
        return now[0]

    def work(took: float) -> None:
        told.clear()
        told.append("worked")
        now[0] += took

    maps = np.zeros((8, 100), np.float16)
    rates = measure(8, lambda: work(load), 4, lambda: work(compute), maps, tmp_path / "new", CPU, clock)
    assert (rates.loaded, rates.computed) == pytest.approx((32 / load, 8 / compute))
    assert rates.read == pytest.approx(8 / read)
    assert rates.keep is kept
    assert str(rates).startswith("maps of training views are " + ("kept in the cache: " if kept else "not kept, training computes them: "))
    assert f"{8 / read:.3g} images/s read, {8 / compute:.3g}/s computed" in str(rates)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("kind", [ImageSource, DeviceImageSource])
def test_views_that_are_not_kept_are_the_views_of_the_cache(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[ImageSource]
) -> None:
    experiment = bench.experiment.settings("shapes", 0)
    auto = experiment.model_copy(update={"features": experiment.features.model_copy(update={"train_cache": "auto"})})
    out = tmp_path / "features_train.json"
    arguments = bench.root, bench.list("train"), "train", bench.inputs.base, out, CPU, Provenance(stage="features")
    monkeypatch.setattr(features, "measure", lambda *_: Rates(loaded=90, computed=80, read=70))
    make_features(restrict(auto, "features_train"), *arguments)
    assert "70 images/s read, 80/s computed, 90/s loaded" in capsys.readouterr().out
    shards = next(tmp_path.glob("features_train-*"))
    size = sum(path.stat().st_size for path in shards.glob("*.h5"))
    assert size < 0.1 * sum(path.stat().st_size for path in bench.root.glob("features_train-*/*.h5"))

    base, settings = load_base(bench.inputs.base).to(CPU), bench.settings("train", "symnet")
    opened = feed("symnet", settings, bench.root, "train", out, base, CPU)
    assert isinstance(opened, ViewSource)
    reader = open_reader(settings.data, settings.protocol, bench.root)
    source, cache = ViewSource(out, kind(settings, reader, "train", base, CPU)), CacheSource(bench.inputs.features, CPU)
    drawn = TrainingEpisodes(read_fold_list(bench.list("train")), 1, 1, "image")
    held = [image for image, view in cache.cache.rows if view == FIXED]
    episodes = [e for e in (drawn[i] for i in range(40)) if not {*held} & {e.query, *e.supports}][:4]
    for requests in (requests_of(episodes, (1, 0)), [Request(image, 1) for image in held[:3]]):
        found, expected = (one.features(one.load(requests)) for one in (source, cache))
        few = source.only([2]).features(source.only([2]).load(requests))
        assert torch.equal(found.mask, expected.mask)
        assert torch.equal(source.masks(requests), expected.mask)
        close = {"rtol": 1e-4, "atol": 1e-4} if kind is ImageSource else {"rtol": 0.02, "atol": 0.02}
        for one, other in zip([*found.maps, found.base, *few.maps], [*expected.maps, expected.base, expected.maps[2]], strict=True):
            torch.testing.assert_close(one, other, **close)

    monkeypatch.setattr(features, "measure", lambda *_: Rates(loaded=90, computed=60, read=70))
    make_features(restrict(auto, "features_train"), *arguments)  # on another machine
    assert isinstance(feed("symnet", settings, bench.root, "train", out, base, CPU), CacheSource)
    assert not shards.exists()
    again = CacheSource(out, CPU)
    requests = requests_of(episodes, (1, 0))
    assert torch.equal(again.load(requests)["maps"], cache.load(requests)["maps"])


def test_training_on_views_that_are_not_kept_is_training_on_the_cache(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = bench.experiment.settings("shapes", 0)
    auto = experiment.model_copy(update={"features": experiment.features.model_copy(update={"train_cache": "auto"})})
    monkeypatch.setattr(features, "measure", lambda *_: Rates(loaded=9, computed=8, read=7))
    arguments = bench.root, bench.list("train"), "train", bench.inputs.base, tmp_path / "thin.json", CPU, Provenance(stage="features")
    make_features(restrict(auto, "features_train"), *arguments)
    inputs = replace(bench.inputs, features=tmp_path / "thin.json")
    one, other = (
        load_tensors(bench.train(tmp_path / f"{name}.safetensors", which, steps=3, selection="last"), "train")[0]
        for name, which in (("cache", None), ("views", inputs))
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("computed", "read", "told"),
    [
        (20.0, 400.0, "a step takes 1 s, 0.8 of them for the backbone. With cached views .*400 images/s read here.* would take about 0.2;"),
        (20.0, 20.0, ""),  # nor from a cache would it be much faster
        (2000.0, 4000.0, ""),  # the backbone is not what takes the time
        (10.0, 4000.0, "a step takes 1 s, 1 of them for the backbone. .* about 0.05;"),
    ],
)
def test_a_run_that_would_be_faster_on_cached_views_is_told_once(computed: float, read: float, told: str) -> None:
    clock = iter(float(i) for i in range(0, 100, 20))  # asked at its third step and at its twenty-third
    advisor = Advisor(16, lambda: Rates(0.0, computed, read), lambda: next(clock))
    lines = [advisor.step() for _ in range(60)]
    assert [number for number, line in enumerate(lines, start=1) if line] == [23] * bool(told)
    assert re.match(told, lines[22])


def test_a_run_on_images_measures_and_one_on_a_cache_does_not(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advised: list[tuple[int, Rates]] = []

    class Told(Advisor):
        def step(self) -> str:
            advised.append((self.images, self.rates()))
            return "by the backbone"

    monkeypatch.setattr(train, "Advisor", Told)
    bench.train(tmp_path / "cache.safetensors", steps=1, batch_size=2, selection="last")
    assert advised == []
    bench.train(tmp_path / "images.safetensors", replace(bench.inputs, features=None), steps=1, batch_size=2, selection="last")
    ((images, rates),) = advised
    assert images == 4
    assert min(rates.computed, rates.read) > 0
    assert "train: by the backbone" in capsys.readouterr().out
