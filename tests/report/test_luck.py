"""Tables of what is luck: what a difference means, and their files beside the main table."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from symnet.artifacts import Provenance, read_manifest
from symnet.cells import Cell
from symnet.episode_counts import write_episode_counts
from symnet.errors import UserError
from symnet.protocols import SCORINGS
from symnet.report.luck import HERE, HOLDS, KEPT, LUCK, differences, make_luck, rank_table
from symnet.report.paired import paired
from symnet.report.tables import make_tables
from tests.report.luck_rounds import NAMES, ROUNDS, ROWS, SEEDS, made_up
from tests.report.test_paper import compile_latex
from tests.report.test_tables import PROTOCOL, write_round


def test_equal_rows_have_no_difference_and_a_p_of_1() -> None:
    found = made_up(np.random.default_rng(1))
    found.sums[:, :, 1] = found.sums[:, :, 0]
    (line,) = differences(found, 100).to_dict("records")
    assert (line["difference"], line["low"], line["high"], line["p"], line["p_here"], line["ahead"]) == (0, 0, 0, 1, 1, 0)
    assert line["verdict"] == LUCK


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
    for name in ("differences", "ranks"):
        assert KEPT in (root / "tables" / f"{name}.html").read_text()


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
