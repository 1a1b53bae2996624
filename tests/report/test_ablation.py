"""Tables that an experiment defines, and the means over groups of classes."""

import csv
from pathlib import Path

import pytest

from symnet.artifacts import Provenance, write_json
from symnet.cells import Cell
from symnet.errors import UserError
from symnet.experiment import AblationTable
from symnet.report.ablation import published
from symnet.report.tables import make_tables
from tests.report.test_tables import SEEDS, write_round

ROWS = {"none": 40, "spm": 50, "symnet": 60}
CELLS = [Cell("pascal5i", "resnet50", fold, row, 1) for fold in (0, 1) for row in ROWS]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Row to IoU; fold 1 is 10 higher, the second seed 2 higher, the meta output 5 lower."""
    for cell in CELLS:
        for k, seed in enumerate(SEEDS):
            value = ROWS[cell.method] + 10 * cell.fold + 2 * k
            names = ("cat", "dog") if cell.fold == 0 else ("bus", "cow")
            outputs = {"ensemble": dict.fromkeys(names, value), "meta": {names[0]: value - 5, names[1]: value - 15}}
            write_round(tmp_path, cell, seed, outputs, classes=list(names))
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_in_the_paper_s_order_beside_its_figures(root: Path) -> None:
    table = AblationTable(caption="Modules", published="3", rows={"SPM": "spm", "none": "none", "SPM+APA+TDC": "symnet"})
    make_tables(CELLS, SEEDS, root, root / "tables", {"modules": table})
    found = read(root / "tables" / "modules.csv")
    assert list(found[0]) == ["dataset", "shot", "output", "setting", "fold0", "fold1", "mean", "std", "seeds", "paper_mean"]
    assert [(row["output"], row["setting"], row["fold0"], row["fold1"], row["mean"], row["paper_mean"]) for row in found] == [
        ("ensemble", "SPM", "51.00", "61.00", "56.00", "65.70"),
        ("ensemble", "none", "41.00", "51.00", "46.00", "64.71"),
        ("ensemble", "SPM+APA+TDC", "61.00", "71.00", "66.00", "69.66"),
        ("meta", "SPM", "41.00", "51.00", "46.00", "65.70"),
        ("meta", "none", "31.00", "41.00", "36.00", "64.71"),
        ("meta", "SPM+APA+TDC", "51.00", "61.00", "56.00", "69.66"),
    ]
    assert {(row["std"], row["seeds"]) for row in found} == {("1.41", "2")}
    text = (root / "tables" / "modules.tex").read_text()
    assert r"\textbf{61.00} & \textbf{71.00} & \textbf{66.00} & 1.41 & 69.66 \\" in text  # the paper's column never competes
    assert text.count(r"\midrule") == 2
    assert "Table 3" in text


def test_a_table_without_published_figures(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables", {"mine": AblationTable(rows={"A": "symnet"})})
    assert [(row["setting"], row["output"]) for row in read(root / "tables" / "mine.csv")] == [("A", "ensemble"), ("A", "meta")]
    assert "paper_mean" not in (root / "tables" / "mine.csv").read_text()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (AblationTable(published="9", rows={"SPM": "spm"}), "found '9', allowed: 3, 4, 5, 6, text"),
        (AblationTable(published="3", rows={"SMP": "spm"}), "'SMP' is not in the paper's table 3: one of none, SPM, TDC, "),
    ],
)
def test_what_the_paper_did_not_print_is_refused(root: Path, table: AblationTable, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make_tables(CELLS, SEEDS, root, root / "tables", {"t": table})
    assert not (root / "tables").exists()


def test_published_figures() -> None:
    assert published("3")["SPM+APA+TDC"] == {"fold0": 69.91, "fold1": 76.16, "fold2": 69.59, "fold3": 62.96, "mean": 69.66}
    assert published("text") == {"HPM instead of SPM": {"mean": 68.42}}


def test_base_learners(root: Path) -> None:
    for fold, iou in ((0, {"bus": 0.5, "cow": 0.25}), (1, {"cat": 0.75})):
        told = {"fold": fold, "base_classes": 2, "miou": sum(iou.values()) / len(iou), "iou": iou, "images": 9, "held_out": 1, "steps": 3}
        write_json(CELLS[0].base(root).parent.with_name(f"fold{fold}") / "base.json", told, Provenance(stage="base"))
    make_tables(CELLS, SEEDS, root, root / "tables")
    assert (root / "tables" / "base.csv").read_text().splitlines() == [
        "dataset,backbone,fold,miou,worst_class,worst_iou,base_classes,images,held_out,steps",
        "pascal5i,resnet50,0,37.50,cow,25.00,2,9,1,3",
        "pascal5i,resnet50,1,75.00,cat,75.00,2,9,1,3",
    ]


def test_groups_of_classes(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables", groups={"animals": ["cat", "dog", "cow", "sheep"], "none there": ["train"]})
    found = {(row["method"], row["group"], row["scoring"]): row for row in read(root / "tables" / "groups.csv")}
    assert len(found) == 3 * 2 * 3  # rows, their outputs, scorings; a group without episodes has no line
    one = found["symnet (meta)", "animals", "padded"]
    # seed 510: cat 55, dog 45, cow 55 (70 - 15); seed 365: 2 more each
    assert (one["classes"], one["iou"], one["std"], one["seeds"]) == ("3", f"{155 / 3 + 1:.2f}", "1.41", "2")
