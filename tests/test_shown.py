"""Which episodes figures show: settings resolved, the rule of failures against brute force."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symnet.cells import Cell
from symnet.data.episodes import Episode
from symnet.episode_counts import EpisodeCounts
from symnet.errors import UserError
from symnet.experiment import make_experiment
from symnet.figure_plan import FigurePlan
from symnet.plan import Plan
from symnet.shown import Choice, choice_of, failures, files_of, first_of_classes
from tests.workflow.conftest import TINY

EPISODES = [Episode(f"q{i}", index, ("s",)) for i, index in enumerate((3, 3, 1, 2, 3, 5, 4))]


def choice(fold: int = 0, **gallery: Any) -> Choice:
    return choice_of(make_experiment({**TINY, "gallery": gallery}, "tiny"), "shapes", fold)


def test_nothing_is_left_open() -> None:
    assert choice() == Choice(("prototype", "symnet"), "symnet", 7, "first:2", 1)
    assert choice(seed=8, rows=["symnet", "prototype"], failures=0).options() == {
        "rows": "symnet,prototype",
        "subject": "prototype",
        "seed": "8",
        "episodes": "first:2",
        "failures": "0",
    }
    explicit = {"episodes": {1: [3, 0]}, "subject": "prototype"}
    assert [choice(fold, **explicit).episodes for fold in (0, 1)] == ["first:2", "3,0"]
    assert choice(classes=0, failures=0).empty
    assert not choice(classes=0).empty


@pytest.mark.parametrize(
    ("gallery", "told"),
    [
        ({"seed": 9}, r"datasets\.shapes: gallery\.seed: found 9, allowed: 7, 8"),
        ({"rows": ["symnet", "none"]}, r"gallery\.rows: found none, allowed: prototype, symnet"),
        ({"rows": ["symnet"], "subject": "prototype"}, r"gallery\.subject: found prototype, allowed: symnet"),
        ({"episodes": {2: [0]}}, r"gallery\.episodes: found 2, allowed: 0 to 1"),
        ({"episodes": {0: [4]}}, r"gallery\.episodes\.0: found 4, allowed: 0 to 3"),
    ],
)
def test_what_the_experiment_does_not_have_is_refused(gallery: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        choice(**gallery)


def test_episodes_by_class_and_by_number() -> None:
    assert first_of_classes(EPISODES, 9) == [0, 2, 3, 5, 6]
    assert Choice(("a",), "a", 1, "first:3", 0).numbers(EPISODES) == [0, 2, 3]
    assert Choice(("a",), "a", 1, "4,1", 0).numbers(EPISODES) == [4, 1]
    with pytest.raises(UserError, match="found 7, allowed: 0 to 6"):
        Choice(("a",), "a", 1, "7", 0).numbers(EPISODES)
    with pytest.raises(UserError, match="found 'last', expected first:N"):
        Choice(("a",), "a", 1, "last", 0).numbers(EPISODES)


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_failures_against_brute_force(seed: int, count: int) -> None:
    """Small counts, so that there are ties and objects without a pixel."""
    rng = np.random.default_rng(seed)
    inside = rng.integers(0, 3, (3, 1, 12))
    tp, fp = rng.integers(0, inside + 1, (3, 2, 12)), rng.integers(0, 3, (3, 2, 12))
    counts = np.stack([tp, fp, inside - tp, np.full_like(tp, 9)], -1)
    classes = tuple(["ox", "cat"][i] for i in rng.integers(0, 2, 12))
    found = EpisodeCounts(("meta", "ensemble"), ("q",) * 12, classes, counts)
    expected: list[int] = []
    for name in sorted(set(classes)):
        best = {}
        for i in range(12):
            if classes[i] == name and inside[1, 0, i]:
                best[i] = max(tp[1, o, i] / (inside[1, 0, i] + fp[1, o, i]) for o in range(2))
        for _ in range(min(count, len(best))):
            worst = min(best, key=lambda i: (best[i], i))
            expected.append(worst)
            del best[worst]
    assert failures(found, "original", count) == expected
    assert not any(math.isnan(found.iou("original", "meta")[i]) for i in expected)


def figures(tmp_path: Path, **changes: Any) -> FigurePlan:
    return Plan({**TINY, "results": str(tmp_path), **changes}, "tiny", write=False).figures


def test_the_figures_of_an_experiment(tmp_path: Path) -> None:
    names = [one.stem for one in figures(tmp_path).all()]
    charts = ["classes-shapes-1shot", "sizes-shapes-1shot", "ranks-shapes-1shot", "costs-shapes-1shot", "curves-shapes-1shot"]
    of_folds = [f"failures-shapes-fold{fold}-1shot" for fold in (0, 1)]
    assert names == [*charts, "episodes-shapes-1shot", "regions-shapes-1shot", *of_folds]
    assert [one.stem for one in figures(tmp_path, gallery={"classes": 0, "failures": 0}).all()] == charts
    bare = {"variants": {"bare": {"method": "symnet", "model": {"apa": False}}}, "methods": ["symnet", "bare"]}
    assert "regions-shapes-1shot" not in [one.stem for one in figures(tmp_path, **bare).all()]
    assert figures(tmp_path, gallery={"classes": 0, "failures": 0}).galleries() == []
    rule = "failures are of each class the episode on which the best output of symnet has the lowest IoU (scoring padded)"
    assert figures(tmp_path).words() == {"shapes": f"round of seed 7; {rule}"}


def test_many_episodes_are_pages(tmp_path: Path) -> None:
    """10 classes a fold: 2 failures of each are 20 rows, as 2 pages; 6 first ones of two folds are 12; 4 episodes have no more."""
    protocol = {**TINY["protocol"], "episodes": 50}
    many = figures(tmp_path, gallery={"classes": 6, "failures": 2}, protocol=protocol)
    paged = ["episodes-shapes-1shot", "regions-shapes-1shot", "failures-shapes-fold0-1shot", "failures-shapes-fold1-1shot"]
    assert many.pages() == dict.fromkeys(paged, 2)
    assert [one.stem for one in many.all()][5:] == [f"{name}-{page}" for name in paged for page in (1, 2)]
    assert many.all()[-1].labels["page"] == "2 of 2"
    assert figures(tmp_path, gallery={"classes": 99, "episodes": {0: [1, 3]}, "failures": 2}).pages() == {
        "episodes-shapes-1shot": 2,
        "regions-shapes-1shot": 2,
    }
    assert figures(tmp_path, gallery={"classes": 5, "failures": 1}, protocol=protocol).pages() == {}


def test_what_a_gallery_is_made_of(tmp_path: Path) -> None:
    cells = {Cell("shapes", "lite", 1, "prototype", 5): "prototype", Cell("shapes", "lite", 1, "ours", 5): "symnet"}
    assert [str(path) for path in files_of(Path("r"), cells, 7)] == [
        "r/shapes/lists/fold1/shot5/seed7.csv",
        "r/shapes/lite/fold1/base.safetensors",
        "r/shapes/embeddings.csv",
        "r/shapes/lite/fold1/prototype/shot5/seed7-episodes.csv",
        "r/shapes/lite/fold1/ours/shot5/seed7-episodes.csv",
        "r/shapes/lite/fold1/ours/shot5/model.safetensors",
    ]
