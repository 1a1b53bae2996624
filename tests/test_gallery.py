"""Galleries: what every row sees of the chosen episodes, as it was tested; the same bytes each time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from symnet import evaluate
from symnet.arrange import make_batch, requests_of
from symnet.artifacts import Provenance, file_digest
from symnet.base_learner import load_base
from symnet.cases import Case, Gallery, read_gallery, write_gallery
from symnet.cells import Cell
from symnet.checkpoint import save_tensors
from symnet.data.episodes import make_manifest, read_manifest, write_manifest
from symnet.data.folds import read_fold_list
from symnet.embeddings import read_embeddings
from symnet.episode_counts import read_episode_counts
from symnet.errors import UserError
from symnet.explain import explain
from symnet.gallery import make_gallery
from symnet.predict import Predictor, Support, find_run
from symnet.shown import Choice, failures
from symnet.sources import CacheSource
from symnet.stages import slice_settings
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once

ROWS = ("prototype", "symnet")
OUTPUTS = (("prototype", "prediction"), ("symnet", "ensemble"), ("symnet", "meta"))
CELLS = [Cell("shapes", "efficientnet_lite0", 0, row, 1) for row in ROWS]


@pytest.fixture(scope="module")
def root(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows of a fold as the workflow leaves them, tested on a round of eight episodes."""
    root = tmp_path_factory.mktemp("gallery") / "tiny"
    manifest = root / "shapes" / "lists" / "fold0" / "shot1" / "seed7.csv"
    write_manifest(manifest, make_manifest(read_fold_list(bench.list("test")), 1, 7, 8, "image"))
    model = bench.train(bench.root / "model.safetensors")
    whole = bench.experiment.settings("shapes", 0)
    (root / "settings" / "shapes" / "fold0").mkdir(parents=True)
    (root / "settings" / "tables.json").write_text(json.dumps({"rows": {row: row for row in ROWS}}))
    for cell in CELLS:
        folder = cell.folder(root)
        folder.mkdir(parents=True)
        own = shutil.copy(model, folder) if cell.method == "symnet" else None
        (root / "settings" / "shapes" / "fold0" / f"evaluate-{cell.method}.json").write_text(
            json.dumps(slice_settings(whole, "evaluate", cell.method))
        )
        features = bench.root / "features_test.json"
        inputs = evaluate.Inputs(bench.list("test"), bench.inputs.base, bench.inputs.embeddings, features, own and Path(own))
        rounds = [evaluate.Round(7, manifest, cell.metrics(root, 7), Provenance(stage="evaluate"))]
        evaluate.evaluate(bench.settings("evaluate", cell.method), bench.root, cell, cell.method, "tiny", inputs, rounds, CPU)
    shutil.copy(bench.inputs.base, CELLS[0].base(root).with_suffix(".safetensors"))
    shutil.copy(bench.inputs.embeddings, root / "shapes" / "embeddings.csv")
    return root


def show(root: Path, bench: Bench, name: str, **changes: object) -> Path:
    choice = Choice(**{"rows": ROWS, "subject": "symnet", "seed": 7, "episodes": "5,1", "failures": 1} | changes)  # type: ignore[arg-type]
    out = root / f"{name}.safetensors"
    runs = [find_run(cell.folder(root)) for cell in CELLS]
    make_gallery(runs, choice, out, bench.root, CPU, Provenance(stage="gallery", settings=name[:1]))
    return out


def test_cases_hold_what_was_tested(root: Path, bench: Bench) -> None:
    path = show(root, bench, "one")
    assert file_digest(show(root, bench, "once_more")) == file_digest(path)
    gallery = read_gallery(path)
    assert gallery.columns == ("prototype", "symnet (ensemble)", "symnet (meta)")
    assert gallery.taus == {"tau1": 0.7, "tau2": 0.4, "tau3": 0.4, "tau4": 0.55}
    tested = {cell.method: read_episode_counts(cell.episodes(root, 7)) for cell in CELLS}
    worst = failures(tested["symnet"], "padded", 1)
    assert [(case.number, case.failure) for case in gallery.cases] == [(5, False), (1, False), *((number, True) for number in worst)]
    episodes = read_manifest(root / "shapes" / "lists" / "fold0" / "shot1" / "seed7.csv")
    names, _ = read_embeddings(bench.inputs.embeddings)
    for case in gallery.cases:
        assert case.name == names[episodes[case.number].class_index - 1]
        for column, (row, output) in zip(
            gallery.columns, (("prototype", "prediction"), ("symnet", "ensemble"), ("symnet", "meta")), strict=True
        ):
            tp, fp, fn, _ = tested[row].of("padded", output)[case.number]
            assert case.scores[column] == (tp, tp + fp + fn)


def test_pictures_are_the_images_and_what_each_row_says_of_them(root: Path, bench: Bench) -> None:
    """Images of 64 pixels are not made smaller."""
    settings = bench.settings("evaluate", "symnet")
    gallery = read_gallery(show(root, bench, "one"))
    reader = evaluate.open_reader(settings.data, settings.protocol, bench.root)
    episodes = read_manifest(root / "shapes" / "lists" / "fold0" / "shot1" / "seed7.csv")
    for cell in CELLS:
        predictor = Predictor(find_run(cell.folder(root)), 1, CPU, bench.root)
        for case in gallery.cases:
            episode = episodes[case.number]
            (query, truth), (support, mask) = (reader.load("test", image) for image in (episode.query, episode.supports[0]))
            truth, mask = (np.where(m == 255, 255, m == episode.class_index).astype(np.uint8) for m in (truth, mask))
            for name, expected in {"query": query, "truth": truth, "support": support, "mask": mask}.items():
                assert np.array_equal(case.pictures[name], expected)
            (found,) = predictor.predict([Support(support, mask)], [query], case.name)
            for column in gallery.columns:
                if column.startswith(cell.method):
                    output = column.partition("(")[2].rstrip(")") or "prediction"
                    assert np.array_equal(case.pictures[f"of {column}"], found.mask(output))


@torch.no_grad()
def test_priors_and_regions_are_those_of_the_model(root: Path, bench: Bench) -> None:
    """SPM is the prior that this row uses; the regions are cut by its thresholds (or are twelve positions, all of the nine here)."""
    gallery = read_gallery(show(root, bench, "one"))
    predictor = Predictor(find_run(CELLS[1].folder(root)), 1, CPU, bench.root)
    source = CacheSource(bench.root / "features_test.json", CPU)
    _, vectors = read_embeddings(bench.inputs.embeddings)
    episodes = read_manifest(root / "shapes" / "lists" / "fold0" / "shot1" / "seed7.csv")
    base = load_base(bench.inputs.base)
    for case in gallery.cases[:2]:
        requests = requests_of([episodes[case.number]])
        batch = make_batch([episodes[case.number]], source.features(source.load(requests)), torch.from_numpy(vectors), base.classes)
        seen = explain(predictor.method, base.backbone, batch)
        prior = torch.nn.functional.interpolate(seen["prior"][None], (33, 33), mode="bilinear", align_corners=True)[0, 0]
        height, width = case.pictures["query"].shape[:2]
        placed = 32 * height // max(height, width) // 8 * 8, 32 * width // max(height, width) // 8 * 8
        cut = (255 * prior[: placed[0], : placed[1]].clamp(0, 1)).round().numpy().astype(np.uint8)
        expected = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(case.pictures["SPM"].astype(int) - expected).max() <= 1  # rounding
        assert case.pictures["HPM"].shape == (height, width)
        assert not np.array_equal(case.pictures["HPM"], case.pictures["SPM"])
        regions, spm = case.pictures["regions"], case.pictures["SPM"].astype(float)
        assert {1, 3} <= set(np.unique(regions)) <= {0, 1, 2, 3}
        assert spm[regions == 1].mean() > spm[regions != 1].mean()
        assert spm[regions == 3].mean() < spm[regions != 3].mean()


def test_a_row_without_a_prior_has_no_regions(root: Path, bench: Bench) -> None:
    gallery = read_gallery(show(root, bench, "plain", subject="prototype", episodes="first:2", failures=0))
    assert gallery.taus == {}
    assert [case.failure for case in gallery.cases] == [False, False]
    assert not any("regions" in case.pictures for case in gallery.cases)
    assert all("SPM" in case.pictures for case in gallery.cases)  # of symnet, which is shown as well


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.safetensors"
    save_tensors(path, {"a": torch.zeros(1)}, {"cases": []}, Provenance(stage="gallery"))
    with pytest.raises(UserError, match=r"episodes\.safetensors: not a gallery of this version .* delete it and run again"):
        read_gallery(path)
    save_tensors(path, {"a": torch.zeros(1)}, {}, Provenance(stage="train"))
    with pytest.raises(UserError, match="made by stage 'train', expected 'gallery'"):
        read_gallery(path)


def test_an_episode_that_is_shown_twice_comes_back_twice(tmp_path: Path) -> None:
    pictures = {"query": np.arange(12, dtype=np.uint8).reshape(2, 2, 3), "of symnet (meta)": np.eye(2, dtype=np.uint8)}
    cases = tuple(Case(3, "cat", failure, {"symnet (meta)": (1, 4)}, pictures) for failure in (False, True))
    whole = Gallery("d", 0, 1, 7, "padded", "symnet", ("symnet (meta)",), {"tau1": 0.7}, cases)
    write_gallery(tmp_path / "g", whole, Provenance(stage="gallery"))
    back = read_gallery(tmp_path / "g")
    assert replace(back, cases=()) == replace(whole, cases=())
    for one, other in zip(back.cases, cases, strict=True):
        assert replace(one, pictures={}) == replace(other, pictures={})
        assert all(np.array_equal(one.pictures[name], picture) for name, picture in pictures.items())
