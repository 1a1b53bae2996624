"""Sources and batches whose images the device transforms, against those of the host."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from symnet import feeding
from symnet.arrange import requests_of
from symnet.artifacts import file_digest
from symnet.base_batches import device_batches, host_batches
from symnet.base_learner import load_base
from symnet.data.episodes import TrainingEpisodes, make_manifest
from symnet.data.folds import read_fold_list
from symnet.data.readers import open_reader
from symnet.image_sources import DeviceImageSource, ImageSource
from symnet.journal import read_journal
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_sources_give_the_same(bench: Bench, split: str) -> None:
    base = load_base(bench.inputs.base).to(CPU)
    stage = "train" if split == "train" else "evaluate"
    settings = bench.settings(stage, "symnet")
    reader = open_reader(settings.data, settings.protocol, bench.root)
    rows = read_fold_list(bench.list(split))
    drawn = TrainingEpisodes(rows, 1, 1, "image")
    episodes = [drawn[i] for i in range(6)] if split == "train" else make_manifest(rows, 1, 6, 3, "image").episodes
    requests = requests_of(episodes, (1, 0) if split == "train" else None)
    plain, device = (kind(settings, reader, split, base, CPU) for kind in (ImageSource, DeviceImageSource))
    loaded = device.load(requests)
    expected, found = plain.features(plain.load(requests)), device.features(loaded)
    assert device.side == plain.side
    for one, other in zip([*found.maps, found.base], [*expected.maps, expected.base], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    for name in ("mask",):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert torch.equal(device.masks(requests), plain.masks(requests))


def test_what_the_source_is_depends_on_the_device(bench: Bench) -> None:
    base = load_base(bench.inputs.base)
    settings = bench.settings("train", "symnet")
    kinds = [type(feeding.feed("symnet", settings, bench.root, "train", None, base, torch.device(name))) for name in ("cpu", "meta")]
    assert kinds == [ImageSource, DeviceImageSource]


def test_both_ways_to_the_base_learners_batches_give_the_same(bench: Bench) -> None:
    settings = bench.settings("base")
    reader = open_reader(settings.data, settings.protocol, bench.root)
    train = read_fold_list(bench.list("train"))
    classes = load_base(bench.inputs.base).classes
    host = list(host_batches(settings, reader, train, classes, 3))
    device = list(device_batches(settings, reader, train, classes, 3, CPU))
    assert len(host) == len(device) == 3
    for (images, labels), (found, truth) in zip(host, device, strict=True):
        assert (found - images).abs().max() < 1e-4
        assert torch.equal(truth, labels)
    seen = set(np.unique(torch.stack([labels for _, labels in host])))
    assert {0, 1, 255} <= seen <= {*range(len(classes) + 1), 255}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_from_images_of_the_device(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    """The whole loop with the source that a GPU gets: the plain one's losses, and the same bytes at every run."""
    inputs, settings = replace(bench.inputs, features=None), {"steps": 3, "batch_size": 4, "accumulate": accumulate, "selection": "last"}
    plain = bench.train(tmp_path / "plain.safetensors", inputs, **settings)
    monkeypatch.setattr(feeding, "ImageSource", DeviceImageSource)
    first, again = (bench.train(tmp_path / f"{name}.safetensors", inputs, **settings) for name in ("first", "again"))
    assert file_digest(first) == file_digest(again)
    metrics = [read_journal(out.with_suffix(".jsonl"))[-1].metrics for out in (plain, first)]
    losses = [{name: values[3][0] for name, values in found.items() if name.startswith("loss")} for found in metrics]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert 0 <= metrics[1]["input_stall"][3][0] <= 1
