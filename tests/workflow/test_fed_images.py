"""A row that is fed images: beside others, whose jobs and caches stay; and alone. Real snakemake, real runs."""

import copy
import json

import pytest

from tests.workflow.conftest import REPORT, TINY, Project
from tests.workflow.test_why import STALE, python

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once


def with_methods(*methods: str) -> dict:
    return copy.deepcopy(TINY) | {"methods": list(methods)}


@pytest.mark.whole
def test_it_is_added_to_a_finished_benchmark(own: Project) -> None:
    """Nothing of the other rows runs again; its test pictures and figures are made as theirs are."""
    own.configure(with_methods(*TINY["methods"], "ssp"))
    assert own.planned() == {"train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}
    assert "method=prototype" not in own.told
    own.run()
    assert own.planned() == {}
    assert json.loads(python(own, "-c", STALE)) == []  # which caches it reads, `symnet why` and the rules say alike
    cell = own.results / "shapes" / "efficientnet_lite0" / "fold0" / "ssp" / "shot1"
    counted = json.loads((cell / "seed7.json").read_text())["payload"]["outputs"]["prediction"]["padded"]
    assert sum(map(sum, counted.values())) > 0
    assert list((cell / "overlays").glob("*.png"))


@pytest.mark.whole
def test_alone_it_asks_for_no_cache_of_test_images(own: Project) -> None:
    own.configure(with_methods("ssp") | {"experiment": "alone"})
    planned = own.planned()
    assert planned["cache_features"] == 2  # the views that it trains on, of each fold
    assert "make_records" not in planned
    own.configure(with_methods("ssp", "prototype") | {"experiment": "alone"})
    assert own.planned()["cache_features"] == 4
