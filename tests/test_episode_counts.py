"""Counts of single episodes: their sums are the metric file's, they are those of one episode after the other, and they survive the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from symnet import evaluate
from symnet.arrange import make_batch, requests_of
from symnet.artifacts import Provenance, file_digest, read_json, read_table, write_table
from symnet.base_learner import load_base
from symnet.cells import Cell, episodes_beside
from symnet.checkpoint import load_tensors
from symnet.data.classes import class_names
from symnet.data.episodes import Episode, make_manifest, read_manifest, write_manifest
from symnet.data.folds import read_fold_list
from symnet.data.readers import open_reader
from symnet.embeddings import read_embeddings
from symnet.episode_counts import EpisodeCounts, counts_of, read_episode_counts, write_episode_counts
from symnet.errors import UserError
from symnet.methods import method_class
from symnet.model.resize import resize
from symnet.protocols import SCORINGS
from symnet.sources import CacheSource
from symnet.testing import predicted
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once


@pytest.fixture(scope="module")
def tested(bench: Bench) -> Bench:
    """Two rounds of seven episodes, tested."""
    model = bench.train(bench.root / "model.safetensors")
    cell = Cell("shapes", "efficientnet_lite0", 0, "symnet", 1)
    inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, bench.root / "features_test.json", model)
    rounds = []
    for seed in (5, 6):
        manifest = bench.root / f"episodes{seed}.csv"
        write_manifest(manifest, make_manifest(read_fold_list(bench.list("test")), 1, seed, 7, "image"))
        rounds.append(evaluate.Round(seed, manifest, bench.root / f"counted{seed}.json", Provenance(stage="evaluate")))
    evaluate.evaluate(bench.settings("evaluate", "symnet"), bench.root, cell, "symnet", "tiny", inputs, rounds, CPU)
    return bench


@pytest.mark.parametrize("seed", [5, 6])
def test_they_sum_to_the_metric_file(tested: Bench, seed: int) -> None:
    metrics = tested.root / f"counted{seed}.json"
    outputs = read_json(metrics)[0]["outputs"]
    found = read_episode_counts(episodes_beside(metrics)).by_class()
    assert {output: {scoring: found[scoring][output] for scoring in SCORINGS} for output in sorted(found["padded"])} == outputs
    assert read_table(episodes_beside(metrics))[1].inputs["metrics"] == file_digest(metrics)


@torch.no_grad()
def test_each_is_its_episode_s(tested: Bench) -> None:
    """Predicted and counted one after the other, with nothing but comparisons."""
    episodes, settings = read_manifest(tested.root / "episodes5.csv"), tested.settings("evaluate", "symnet")
    base = load_base(tested.inputs.base)
    _, vectors = read_embeddings(tested.inputs.embeddings)
    method = method_class("symnet")(settings, base.backbone, 1, vectors.shape[1], 5).eval()
    method.load_state_dict(load_tensors(tested.root / "model.safetensors")[0])
    source = CacheSource(tested.root / "features_test.json", CPU)
    found = read_episode_counts(tested.root / "counted5-episodes.csv")
    assert found.outputs == ("meta", "ensemble")
    assert found.queries == tuple(episode.query for episode in episodes)
    assert found.classes == tuple(class_names("shapes")[episode.class_index - 1] for episode in episodes)
    reader = open_reader(settings.data, settings.protocol, tested.root)
    for i, episode in enumerate(episodes):
        batch = make_batch([episode], source.features(source.load(requests_of([episode]))), torch.from_numpy(vectors), base.classes)
        lead, truth = predicted(method, base.backbone, batch), batch.query_mask[0]
        for output, seen in zip(method.outputs, resize(lead, truth.shape[-1])[0] > 0, strict=True):
            four = [int((seen & (truth == 1)).sum()), int((seen & (truth == 0)).sum())]
            four += [int((~seen & (truth == 1)).sum()), int((~seen & (truth == 0)).sum())]
            assert found.of("padded", output)[i].tolist() == four
            union = sum(four[:3])
            assert found.iou("padded", output)[i] == pytest.approx(four[0] / union if union else np.nan, nan_ok=True)
        mask = reader.mask("test", episode.query)
        assert found.sizes()[i] == (mask == episode.class_index).sum() / (mask != 255).sum()


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_they_survive_the_disk_and_sum_by_class(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Any counts whose scorings have pixels and objects of their own, an episode with an empty union among them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 9))
    inside, pixels = rng.integers(0, 50, (3, 1, count)), rng.integers(100, 200, (3, 1, count))
    tp, fp = rng.integers(0, inside + 1, (3, 2, count)), rng.integers(0, 50, (3, 2, count))
    inside[:, :, 0], tp[:, :, 0], fp[:, :, 0] = 0, 0, 0
    counts = np.stack([tp, fp, inside - tp, pixels - inside - fp], -1)
    episodes = [Episode(f'a, "{i}"', int(index), ("s",)) for i, index in enumerate(rng.integers(1, 4, count))]
    found = counts_of(episodes, ["cat", "tv, monitor", "ox"], ("meta", "ensemble"), counts)
    path = tmp_path_factory.getbasetemp() / "counts.csv"
    write_episode_counts(path, found, Provenance(stage="evaluate"))
    back = read_episode_counts(path)
    assert (back.outputs, back.queries, back.classes) == (found.outputs, found.queries, found.classes)
    assert np.array_equal(back.counts, counts)
    for s, scoring in enumerate(SCORINGS):
        for o, output in enumerate(found.outputs):
            for name, row in back.by_class()[scoring][output].items():
                assert row == [sum(int(counts[s, o, i, k]) for i in range(count) if found.classes[i] == name) for k in range(4)]
    assert np.isnan(back.iou("400", "meta")[0])


def test_another_table_is_refused(tmp_path: Path) -> None:
    one = EpisodeCounts(("meta",), ("q",), ("cat",), np.ones((3, 1, 1, 4), np.int64))
    path = tmp_path / "seed5-episodes.csv"
    write_episode_counts(path, one, Provenance(stage="tables"))
    with pytest.raises(UserError, match=r"seed5-episodes\.csv: made by stage 'tables'"):
        read_episode_counts(path)
    write_table(path, ["episode", "padded.meta.union"], [[0, 5]], Provenance(stage="evaluate"))
    with pytest.raises(UserError, match=r"not the counts of a round's episodes .*; delete it and run again"):
        read_episode_counts(path)
