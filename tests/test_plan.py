"""The plan: what the workflow has to make, and what it tells is missing."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from symnet.artifacts import mark
from symnet.plan import Plan

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


PLACES = (
    ("pascal5i", "images and index masks", "VOCdevkit/VOC2012", "VOCtrainval_11-May-2012.tar"),
    ("coco20i", "images", "coco/train2014", "train2014.zip"),
    ("pascal5i", "ImageNet weights of resnet50", "weights/resnet50-imagenet.pth", "pretrained_resnet/resnet50-imagenet.pth"),
    ("coco20i", "word vectors", "word2vec/GoogleNews-vectors-negative300.bin.gz", "word2vec-google-news-300.gz"),
)


def test_what_is_missing_is_told_with_its_origin_and_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMNET_DATA", str(tmp_path / "none"))
    plan = plan_of("config.yaml", tmp_path, download=False)
    assert plan.supplies.to_fetch() == []
    lines = plan.supplies.missing()
    assert len(lines) == 10
    for dataset, what, place, source in PLACES:
        (line,) = [line for line in lines if line.startswith(f"{dataset}: {what} missing: put it at {tmp_path / 'none' / place}, ")]
        assert source in line


def test_what_will_be_fetched_is_told_once_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMNET_DATA", str(tmp_path))
    supplies = plan_of("config.yaml", tmp_path).supplies
    assert supplies.missing() == []
    lines = supplies.to_fetch()
    assert len(lines) == len(supplies.names) == 10  # VOC, SBD and its list, COCO's three, weights, vectors; two kinds of masks made
    for _, _, place, source in PLACES:
        assert len([line for line in lines if str(tmp_path / place) in line and source in line]) == 1
    for what, name in (("weights", "resnet50_deepstem"), ("vectors", "googlenews")):
        assert supplies.fetched("pascal5i", what) == supplies.fetched("coco20i", what) == [str(tmp_path / ".symnet" / f"{name}.json")]
    assert (supplies.weights_mark("pascal5i"), supplies.vectors_mark("coco20i")) == ("", "")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet50-imagenet.pth").write_bytes(b"a user's own")
    assert supplies.fetched("pascal5i", "weights") == []
    assert supplies.weights_mark("pascal5i") != ""


def test_the_demo_misses_nothing_and_reads_its_own_data(tmp_path: Path) -> None:
    plan = plan_of("demo.yaml", tmp_path)
    assert (plan.supplies.missing(), plan.supplies.to_fetch(), plan.supplies.names) == ([], [], [])
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


def test_records_are_for_rows_that_read_them_where_test_features_are_cached(tmp_path: Path) -> None:
    variants = {"none": {"method": "symnet", "model": {"prior": "pfenet", "apa": False, "tdc": False}}}
    off = {2: {"features": {"records": False}}, 3: {"features": {"cache_test": False}}}
    rows = {"methods": ["prototype", "symnet", "none"], "variants": variants}
    plan = plan_of("demo.yaml", tmp_path, **rows, folds=off, seeds=[3, 4], features={"records": True})
    folder = tmp_path / "results" / "demo" / "shapes" / "efficientnet_lite0" / "fold1" / "records"
    wanted = {"prototype": (), "symnet": ("spm", "tdc"), "none": ("pfenet",)}
    for row, parts in wanted.items():
        expected = [str(folder / part / "shot5" / f"seed{seed}.json") for part in parts for seed in (3, 4)]
        assert plan.record_files("shapes", 1, row, 5) == expected
        assert plan.record_files("shapes", 2, row, 5) == plan.record_files("shapes", 3, row, 5) == []


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 30), (10, 300), (20, 600), (60, 3000), (1440, 85800)])
def test_training_has_to_leave_before_its_time_limit(tmp_path: Path, minutes: int, seconds: int) -> None:
    assert plan_of("demo.yaml", tmp_path).deadline_option({"runtime": minutes}) == ["--deadline", str(seconds)]


def test_without_a_time_limit_training_has_no_deadline(tmp_path: Path) -> None:
    assert plan_of("demo.yaml", tmp_path).deadline_option({"mem_mb": 1}) == []


@pytest.mark.parametrize(("resources", "option"), [({"gpu": 4}, ["--processes", "4"]), ({"gpu": 1}, []), ({}, []), ({"gpu": "<TBD>"}, [])])
def test_training_has_a_process_for_each_of_several_gpus(tmp_path: Path, resources: dict, option: list[str]) -> None:
    assert plan_of("demo.yaml", tmp_path).processes_option(resources) == option
