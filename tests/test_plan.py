"""The plan: what the workflow has to make, and what it tells is missing."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from symnet.plan import Plan, mark

CONFIG = Path(__file__).parents[1] / "config"


def plan_of(name: str, tmp_path: Path, **changes: object) -> Plan:
    config = yaml.safe_load((CONFIG / name).read_text()) | {"results": str(tmp_path / "results"), **changes}
    return Plan(config, name, write=False)


def test_the_published_benchmark_has_all_its_cells(tmp_path: Path) -> None:
    plan = plan_of("config.yaml", tmp_path)
    assert len(plan.cells()) == 2 * 4 * 2 * 2  # data sets, folds, methods, shots
    assert len(plan.metric_files()) == 5 * len(plan.cells()) == len(set(plan.metric_files()))
    assert plan.settings("pascal5i").train.total_steps(4208) == 200 * 526
    assert plan.settings("coco20i").train.epochs == 50
    assert {plan.settings(name).pixels.size for name in plan.datasets} == {473, 641}


def test_what_is_missing_is_told_with_its_origin_and_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMNET_DATA", str(tmp_path / "none"))
    lines = plan_of("config.yaml", tmp_path).missing()
    assert len(lines) == 6
    for dataset, what, place in (
        ("pascal5i", "images and index masks", "VOCdevkit/VOC2012"),
        ("coco20i", "images and annotations", "coco"),
        ("pascal5i", "ImageNet weights of resnet50", "weights/resnet50-imagenet.pth"),
        ("coco20i", "word vectors", "word2vec/GoogleNews-vectors-negative300.bin.gz"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{dataset}: {what} are missing")]
        assert str(tmp_path / "none" / place) in line
        assert "README.md" in line
        assert "\n" not in line


def test_the_demo_misses_nothing_and_reads_its_own_data(tmp_path: Path) -> None:
    plan = plan_of("demo.yaml", tmp_path)
    assert plan.missing() == []
    assert plan.data_root("shapes") == tmp_path / "results" / "demo"


def test_the_plan_writes_settings_once(tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIG / "demo.yaml").read_text()) | {"results": str(tmp_path / "results")}
    plan = Plan(config, "demo.yaml", write=True)
    paths = sorted((tmp_path / "results").rglob("*.json"))
    assert Path(plan.slice_path("train", "shapes", 3, "symnet")) in paths
    times = [path.stat().st_mtime_ns for path in paths]
    Plan(config, "demo.yaml", write=True)
    assert [path.stat().st_mtime_ns for path in paths] == times


def test_mark_follows_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "vectors"
    assert mark(path) == ""
    path.write_bytes(b"a" * 10)
    before = mark(path)
    path.touch()
    assert mark(path) == before
    path.write_bytes(b"b" * 10)
    assert mark(path) != before


def test_training_reads_test_files_where_they_choose_its_weights_alone(tmp_path: Path) -> None:
    lists = tmp_path / "results" / "demo" / "shapes" / "lists" / "fold1" / "test.csv"
    cache = tmp_path / "results" / "demo" / "shapes" / "efficientnet_lite0" / "fold1" / "features_test.json"
    both = {"--test-list": str(lists), "--test-features": str(cache)}
    assert plan_of("demo.yaml", tmp_path).test_files("shapes", 1, "symnet") == {}
    chosen = {"protocol": {"selection": "test_best", "min_pixels": 256}}
    uncached = {2: {"features": {"cache_test": False}}}
    plan = plan_of("demo.yaml", tmp_path, **chosen, folds=uncached)
    assert plan.test_files("shapes", 1, "symnet") == both
    assert plan.test_files("shapes", 2, "symnet") == {"--test-list": str(lists).replace("fold1", "fold2")}


def test_jobs_are_told_where_they_run_and_keep_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"MALLOC_MMAP_MAX_": "7"}  # a user's own choice stays
    monkeypatch.setattr(os, "environ", environment)
    plan_of("demo.yaml", tmp_path, data_root="/there", device="cpu").export()
    assert environment == {
        "SYMNET_PYTHON": sys.executable,
        "SYMNET_DATA": "/there",
        "SYMNET_RESULTS": str(tmp_path / "results" / "demo"),
        "SYMNET_DEVICE": "cpu",
        "MALLOC_MMAP_MAX_": "7",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
    }
