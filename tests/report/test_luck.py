"""Differences that mean something: against loops, on made-up data whose truth is known, beside the main table."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from symnet.artifacts import Provenance, read_manifest
from symnet.cells import Cell
from symnet.episode_counts import EpisodeCounts, write_episode_counts
from symnet.errors import UserError
from symnet.protocols import SCORINGS
from symnet.report.bootstrap import holm, interval, luck
from symnet.report.luck import HERE, HOLDS, LUCK, differences, make_luck, rank_table
from symnet.report.paired import Paired, paired
from symnet.report.sizes import SIZES, by_size
from symnet.report.tables import make_tables
from tests.report.test_paper import compile_latex
from tests.report.test_tables import PROTOCOL, write_round

SEEDS = [510, 365]
NAMES = (("cat", "dog", "cow"), ("bus", "car", "boat"))


def round_of(outputs: tuple[str, ...], fold: int, seed: int, better: int) -> EpisodeCounts:
    """24 episodes of 10,000 pixels on nine images; the first seed has no episode of the fold's last class."""
    rng = np.random.default_rng((fold, seed))
    names = NAMES[fold][: 2 if seed == SEEDS[0] else 3]
    classes, queries = (tuple(rng.choice(own, 24).tolist()) for own in (names, [f"q{i}" for i in range(9)]))
    inside = rng.integers(500, 5000, (len(SCORINGS), 1, 24))
    rng = np.random.default_rng((fold, seed, better))
    tp = (inside * rng.uniform(0.2, 0.6, (len(SCORINGS), len(outputs), 24)) + inside * better / 10).astype(np.int64)
    fp = rng.integers(1, 900, tp.shape)
    return EpisodeCounts(outputs, queries, classes, np.stack([tp, fp, inside - tp, 10_000 - inside - fp], -1))


ROWS = {"prototype": (("prediction",), 0), "symnet": (("meta", "ensemble"), 3)}
ROUNDS = {
    row: {(fold, seed): round_of(outputs, fold, seed, better) for fold in (0, 1) for seed in SEEDS}
    for row, (outputs, better) in ROWS.items()
}


def made_up(
    rng: np.random.Generator, classes: float = 0.0, episodes: float = 0.1, effect: float = 0.0, units: int = 20, folds: int = 4
) -> Paired:
    """Two rows on five classes a fold. The second row's IoU is off the first's by `effect`, by deviations `classes` and `episodes`."""
    count = 5 * folds
    mean = rng.uniform(0.4, 0.6, count)
    means = np.stack([mean, mean + effect + rng.normal(0, classes, count)], 1).repeat(units, 0)  # [U, 2]
    union = rng.integers(500, 1500, (count * units, 1)).repeat(2, 1)
    shared = rng.normal(0, 0.1, (count * units, 1))  # an image is hard for both
    ious = np.clip(means + shared + rng.normal(0, episodes / 2**0.5, means.shape), 0, 1)
    sums = np.stack([(ious * union).round(), union], -1).astype(np.int64)[:, None]
    own = np.arange(count)
    return Paired(("a", "b"), tuple(f"c{i}" for i in own), own // 5, own.repeat(units), np.ones((count, 1), bool), sums)


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


def test_equal_rows_have_no_difference_and_a_p_of_1() -> None:
    found = made_up(np.random.default_rng(1))
    found.sums[:, :, 1] = found.sums[:, :, 0]
    (line,) = differences(found, 100).to_dict("records")
    assert (line["difference"], line["low"], line["high"], line["p"], line["p_here"], line["ahead"]) == (0, 0, 0, 1, 1, 0)
    assert line["verdict"] == LUCK


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


def test_what_a_difference_means() -> None:
    verdicts = {}
    for name, made in {
        HOLDS: made_up(np.random.default_rng(5), 0.01, 0.05, 0.1),
        HERE: made_up(np.random.default_rng(6), 0.3, 0.01, 0.05),
        LUCK: made_up(np.random.default_rng(5), 0.0, 0.1, 0.0),
    }.items():
        (line,) = differences(made, 400).to_dict("records")
        verdicts[name] = line["verdict"]
        assert line["difference"] == pytest.approx(abs(made.miou[0] - made.miou[1]))
        ahead = made.by_class[:, 0] > made.by_class[:, 1]
        assert line["ahead"] == (ahead if line["row"] == "a" else ~ahead).sum()
    assert verdicts == {name: name for name in verdicts}


def test_sizes_by_loops() -> None:
    table = by_size(ROUNDS, "padded")
    assert len(table) == 3 * len(SIZES)
    edges = {"below 0.03": (0, 0.03), "0.03 to 0.1": (0.03, 0.1), "0.1 to 0.25": (0.1, 0.25), "from 0.25": (0.25, 1)}
    for line in table[table["method"] == "symnet (meta)"].to_dict("records"):
        low, high = edges[line["size"]]
        sums: dict[tuple[int, str], np.ndarray] = {}
        episodes = 0
        for (fold, _), found in ROUNDS["symnet"].items():
            for name, counts, size in zip(found.classes, found.of("padded", "meta"), found.of("original", "meta"), strict=True):
                if low <= (size[0] + size[2]) / 10_000 < high:
                    sums[fold, name] = sums.get((fold, name), 0) + counts
                    episodes += 1
        assert (line["episodes"], line["classes"]) == (episodes, len(sums))
        expected = np.mean([100 * c[0] / c[:3].sum() for c in sums.values()]) if sums else np.nan
        assert line["miou"] == pytest.approx(expected, nan_ok=True)
    assert table["miou"].isna().sum() == 0 or (table["episodes"][table["miou"].isna()] == 0).all()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment of two rows and the tables of what is luck; metric files are sums of the episodes."""
    root = tmp_path_factory.mktemp("luck")
    for row, own in ROUNDS.items():
        for (fold, seed), found in own.items():
            cell = Cell("pascal5i", "resnet50", fold, row, 1)
            by_class = found.by_class()
            sums = {output: {scoring: by_class[scoring][output] for scoring in SCORINGS} for output in found.outputs}
            write_round(root, cell, seed, {}, classes=list(NAMES[fold]), override={"outputs": sums})
            write_episode_counts(cell.episodes(root, seed), found, Provenance(stage="evaluate"))
    make_tables(CELLS, SEEDS, root, root / "tables")
    make_luck(root, root / "tables", CELLS, SEEDS, {"pascal5i": PROTOCOL["scoring"]})
    return root


CELLS = [Cell("pascal5i", "resnet50", fold, row, 1) for fold in (0, 1) for row in ROWS]


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_differences_are_those_of_the_main_table(root: Path) -> None:
    means = {line["method"]: float(line["mean"]) for line in read(root / "tables" / "main.csv")}
    lines = read(root / "tables" / "differences.csv")
    assert len(lines) == 3
    for line in lines:
        assert float(line["difference"]) == pytest.approx(means[line["row"]] - means[line["other"]], abs=0.011)
        assert float(line["difference"]) >= 0
        assert float(line["low"]) <= float(line["difference"]) <= float(line["high"])
        assert float(line["p_holm"]) >= float(line["p"]) > 0
    ranks = {line["method"]: line for line in read(root / "tables" / "ranks.csv")}
    assert {name: round(float(line["miou"]), 2) for name, line in ranks.items()} == pytest.approx(means, abs=0.006)
    assert lines[-1]["verdict"] == LUCK
    assert {line["other"] for line in lines[:2]} == {"prototype"}


def test_files_are_vouched_for_and_the_same_twice(root: Path, tmp_path: Path) -> None:
    files = {path.name for path in read_manifest(root / "tables" / "luck.json", "luck")}
    assert files == {f"{name}.{end}" for name in ("differences", "ranks", "sizes") for end in ("csv", "tex", "html")}
    make_luck(root, tmp_path, CELLS, SEEDS, {"pascal5i": "padded"})
    for name in files | {"luck.json"}:
        assert (tmp_path / name).read_bytes() == (root / "tables" / name).read_bytes()
    page = (root / "tables" / "differences.html").read_text()
    assert "<td>1</td>" in page
    assert "corrected for all pairs" in page


def test_its_latex_compiles(root: Path, tmp_path: Path) -> None:
    for name in ("differences", "ranks", "sizes"):
        (tmp_path / f"{name}.tex").write_bytes((root / "tables" / f"{name}.tex").read_bytes())
    compile_latex(tmp_path, ["differences.tex", "ranks.tex", "sizes.tex"])


def test_a_missing_round_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seed988"):
        make_luck(root, tmp_path, CELLS, [*SEEDS, 988], {"pascal5i": "padded"})
    assert not list(tmp_path.iterdir())


def test_one_row_has_nothing_to_be_compared_with(root: Path, tmp_path: Path) -> None:
    make_luck(root, tmp_path, [cell for cell in CELLS if cell.method == "prototype"], SEEDS, {"pascal5i": "padded"})
    assert read(tmp_path / "differences.csv") == []
    (line,) = read(tmp_path / "ranks.csv")
    assert (line["rank"], line["friedman"], line["critical_difference"]) == ("1.0000", "1.0000", "0.0000")
    assert pd.read_csv(tmp_path / "sizes.csv")["method"].unique().tolist() == ["prototype"]


def test_ranks_of_classes_and_folds() -> None:
    found = paired(ROUNDS, "padded")
    table = rank_table(found).set_index("method")
    for r, name in enumerate(found.rows):
        ahead = (found.by_class > found.by_class[:, [r]]).sum(1) + 1
        assert table.at[name, "rank"] == pytest.approx(ahead.mean())
        assert table.at[name, "rank_folds"] == pytest.approx(((found.by_fold > found.by_fold[:, [r]]).sum(1) + 1).mean())
    assert table.index[-1] == "prototype"
