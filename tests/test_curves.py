"""Curves by epoch: means over exactly the steps of an epoch, of epochs that are over."""

import random

import pytest

from symnet.curves import by_epoch
from symnet.journal import Run


def run(losses: dict[int, float], scores: dict[int, float] | None = None, epoch: int = 4, ended: float | None = None) -> Run:
    metrics = {"loss": losses, "val.miou": scores or {}, "rate": {1: 1.0}}
    found = {name: {step: (value, float(step)) for step, value in points.items()} for name, points in metrics.items() if points}
    return Run("r", 0.0, tags={"epoch_steps": str(epoch)}, metrics=found, ended=ended)


def test_an_interval_over_the_end_of_an_epoch_is_shared() -> None:
    found = by_epoch(run({3: 1.0, 6: 2.0, 8: 5.0}, ended=9.0))
    assert found == {("loss", 1): ((3 * 1 + 2) / 4, 6.0), ("loss", 2): ((2 * 2 + 2 * 5) / 4, 8.0)}


def test_an_epoch_under_way_is_left_out() -> None:
    """Its mean would change, and MLflow's metrics never do."""
    assert by_epoch(run({3: 1.0, 7: 1.0})) == {("loss", 1): (1.0, 7.0)}
    assert by_epoch(run({4: 1.0}, {4: 30.0})) == {}  # its validation may be under way
    assert by_epoch(run({4: 1.0}, {4: 30.0}, ended=5.0)) == {("loss", 1): (1.0, 4.0), ("val.miou", 1): (30.0, 4.0)}


def test_the_last_score_of_an_epoch() -> None:
    assert by_epoch(run({9: 1.0}, {2: 10.0, 4: 20.0, 8: 40.0}))["val.miou", 1] == (20.0, 4.0)
    assert by_epoch(run({9: 1.0}, {2: 10.0, 4: 20.0, 8: 40.0}))["val.miou", 2] == (40.0, 8.0)


@pytest.mark.parametrize("tag", ["", "x"])
def test_a_journal_without_epochs_has_no_curve(tag: str) -> None:
    one = run({3: 1.0})
    one.tags["epoch_steps"] = tag
    assert by_epoch(one) == {}
    assert by_epoch(run({})) == {}


def test_means_are_those_of_the_steps() -> None:
    """Intervals at random, each constant: the mean over an epoch is the mean over its steps."""
    rng = random.Random(0)
    for _ in range(50):
        length, last = rng.randint(1, 9), rng.randint(10, 60)
        ends = [*sorted(rng.sample(range(1, last), 5)), last]
        losses = {end: float(rng.randint(0, 9)) for end in ends}
        of_step = [losses[min(end for end in ends if end >= step)] for step in range(1, last + 1)]
        found = by_epoch(run(losses, epoch=length, ended=99.0))
        assert len(found) == last // length
        for (_, epoch), (value, _) in found.items():
            steps = of_step[(epoch - 1) * length : epoch * length]
            assert value == pytest.approx(sum(steps) / length)
