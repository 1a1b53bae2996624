"""Paired episodes and their bootstrap: against loops, and on made-up data whose truth is known."""

import numpy as np
import pytest

from symnet.errors import UserError
from symnet.report.bootstrap import holm, interval, luck
from symnet.report.paired import paired
from tests.report.luck_rounds import ROUNDS, SEEDS, made_up, round_of


def test_means_are_the_main_table_s_by_loops() -> None:
    found = paired(ROUNDS, "400")
    assert found.rows == ("prototype", "symnet (ensemble)", "symnet (meta)")
    assert found.classes == ("cat", "cow", "dog", "boat", "bus", "car")
    for r, (row, output) in enumerate([("prototype", "prediction"), ("symnet", "ensemble"), ("symnet", "meta")]):
        by_seed, by_fold, by_class = [], {0: [], 1: []}, {name: [] for name in found.classes}
        for seed in SEEDS:
            of_folds = []
            for fold in (0, 1):
                sums = ROUNDS[row][fold, seed].by_class()["400"][output]
                ious = {name: 100 * tp / (tp + fp + fn) for name, (tp, fp, fn, _) in sums.items()}
                assert len(ious) == (2 if seed == SEEDS[0] else 3)
                of_folds.append(np.mean(list(ious.values())))
                by_fold[fold].append(of_folds[-1])
                for name, iou in ious.items():
                    by_class[name].append((iou, 1 / len(ious)))
            by_seed.append(np.mean(of_folds))
        assert found.miou[r] == pytest.approx(np.mean(by_seed), abs=1e-9)
        np.testing.assert_allclose(found.by_fold[:, r], [np.mean(by_fold[fold]) for fold in (0, 1)])
        expected = [np.average(*np.transpose(by_class[name])[0:1], weights=np.transpose(by_class[name])[1]) for name in found.classes]
        np.testing.assert_allclose(found.by_class[:, r], expected)


def test_other_episodes_are_refused() -> None:
    other = {key: round_of(("x",), key[0], key[1] + 1, 0) for key in ROUNDS["prototype"]}
    with pytest.raises(UserError, match=r"^other, fold 0, seed 510: other episodes than prototype; test both again$"):
        paired({**ROUNDS, "other": other}, "padded")


def test_the_bootstrap_by_loops() -> None:
    """The same draws, image by image and class by class."""
    found = paired(ROUNDS, "padded")
    drawn = luck(found, 5, seed=3)
    episodes, classes = np.zeros_like(drawn.episodes), np.zeros_like(drawn.classes)
    means = np.zeros((len(found.classes), len(found.rows)))
    for c in range(len(found.classes)):
        own = found.sums[found.unit_class == c]
        picks = np.random.default_rng((3, 0, c)).integers(len(own), size=(5, max(len(own) - 1, 1)), dtype=np.int32)
        for s in np.flatnonzero(found.there[c]):
            for r in range(len(found.rows)):
                before = 100 * own[:, s, r, 0].sum() / own[:, s, r, 1].sum()
                means[c, r] += found.share[c, s] * before
                for b, pick in enumerate(picks):
                    total = own[pick, s, r].sum(0)
                    after = 100 * total[0] / total[1] if total[1] else before
                    episodes[b, r] += found.share[c, s] * (after - before)
    for fold in (0, 1):
        own = means[found.fold == fold]
        for b, pick in enumerate(np.random.default_rng((3, 1, fold)).integers(3, size=(5, 2), dtype=np.int32)):
            classes[b] += 3 * own[pick].mean(0) - own.sum(0)
    np.testing.assert_allclose(drawn.episodes, episodes, atol=1e-9)
    np.testing.assert_allclose(drawn.classes, classes, atol=1e-9)
    assert np.abs(episodes).min(0).max() > 0
    assert np.abs(classes).min(0).max() > 0


def test_what_is_drawn_in_pieces_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up(np.random.default_rng(0))
    whole = luck(found, 50, 1)
    monkeypatch.setattr("symnet.report.bootstrap.AT_ONCE", 7 * 20)
    again = luck(found, 50, 1)
    np.testing.assert_allclose(again.episodes, whole.episodes, atol=1e-9)
    np.testing.assert_allclose(again.classes, whole.classes, atol=1e-9)


@pytest.mark.parametrize(("classes", "episodes"), [(0.0, 0.2), (0.03, 0.1), (0.1, 0.02)])
def test_variances_are_those_of_repeated_draws(classes: float, episodes: float) -> None:
    """Of other episodes, and of other episodes and classes: neither part is counted twice, whichever is the larger."""
    rng = np.random.default_rng(4)
    found = [made_up(rng, classes, episodes) for _ in range(200)]
    truth = np.var([one.miou[0] - one.miou[1] for one in found])
    told = np.array([[part.var() for part in luck(one, 100).of(0, 1)] for one in found[:60]]).mean(0)
    assert told[1] / truth == pytest.approx(1, abs=0.25)
    expected = (100 * episodes) ** 2 / (20 * 20)  # of the mean of 20 classes with 20 images
    assert told[0] / expected == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("classes", [0.0, 0.02, 0.1])
def test_rows_that_are_equal_in_law_are_told_apart_at_the_nominal_rate(classes: float) -> None:
    rng = np.random.default_rng(7)
    rejected = 0
    for number in range(200):
        found = made_up(rng, classes, folds=4, units=12)
        _, deviations = luck(found, 300, number).of(0, 1)
        rejected += interval(found.miou[0] - found.miou[1], deviations, 0.05).p <= 0.05
    assert 3 <= rejected <= 20  # 10 are expected, with a deviation of 3


def test_a_difference_that_is_there_is_found_and_covered() -> None:
    rng = np.random.default_rng(8)
    covered = found_ = 0
    for number in range(60):
        found = made_up(rng, 0.02, effect=0.05, units=12)
        one = interval(found.miou[1] - found.miou[0], luck(found, 300, number).of(1, 0)[1], 0.05)
        covered, found_ = covered + (one.low <= 5 <= one.high), found_ + (one.p <= 0.05)
    assert covered >= 52
    assert found_ == 60


def test_the_other_way_round_it_is_the_negative() -> None:
    found = made_up(np.random.default_rng(1), 0.02)
    drawn = luck(found, 200)
    for one, other in zip(drawn.of(0, 1), drawn.of(1, 0), strict=True):
        np.testing.assert_array_equal(one, -other)
    there, back = (interval(d, drawn.of(*pair)[1], 0.05) for d, pair in ((1.5, (0, 1)), (-1.5, (1, 0))))
    assert (there.low, there.high, there.p) == (-back.high, -back.low, back.p)


def test_an_interval_leaves_0_out_where_p_is_not_above_the_level() -> None:
    deviations = np.random.default_rng(0).normal(size=999)
    for difference in np.linspace(1.5, 2.5, 41):
        one = interval(difference, deviations, 0.05)
        assert (one.low > 0) == (one.p <= 0.05)
    assert interval(9.0, deviations, 0.05).p == 1 / 1000


def test_p_values_are_corrected_as_holm_has_it() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.6]), [1, 1])
    assert holm([]).tolist() == []
