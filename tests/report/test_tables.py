"""Tables: values by hand, refusals, what is bold, what is escaped."""

import csv
import re
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from symnet.artifacts import Provenance, read_json, write_json
from symnet.cells import Cell
from symnet.errors import UserError
from symnet.metrics import protocol_stamp
from symnet.report.latex import Printed, escape, latex
from symnet.report.tables import format_table, make_tables

PROTOCOL = {
    "name": "symnet-1",
    "novel_in_train": "drop",
    "min_pixels": 2048,
    "crowd": "ignore",
    "split": "serial",
    "episodes": 1000,
    "sampling": "image",
    "scoring": "padded",
    "selection": "base_val",
    "image_size": 473,
}
SEEDS = [510, 365]


def counts(percent: int) -> list[int]:
    """Foreground IoU of `percent`, background IoU 50."""
    return [percent, 100 - percent, 0, 100 - percent]


def write_round(root: Path, cell: Cell, seed: int, outputs: dict[str, dict[str, int]], path: Path | None = None, **changes: Any) -> Path:
    """`outputs`: output -> class -> IoU in percent at the padded square; 10 less at original size and at 400x400."""
    protocol, override = PROTOCOL | changes.pop("protocol", {}), changes.pop("override", {})
    payload = {
        "cell": {"experiment": "e", **cell.as_dict(), "seed": seed},
        "variant": "paper" if cell.method == "symnet" else "",
        "protocol": protocol,
        "protocol_stamp": protocol_stamp(protocol),
        "classes": ["cat", "dog"],
        "outputs": {
            output: {
                "padded": {name: counts(value) for name, value in values.items()},
                "original": {name: counts(value - 10) for name, value in values.items()},
                "400": {name: counts(value - 10) for name, value in values.items()},
            }
            for output, values in outputs.items()
        },
        "left_out": {},
        "episodes": 1000,
    } | changes
    payload |= override
    path = path or cell.metrics(root, seed)
    write_json(path, payload, Provenance(stage="evaluate"))
    return path


def symnet(fold: int, shot: int = 1, dataset: str = "pascal5i") -> Cell:
    return Cell(dataset, "resnet50", fold, "symnet", shot)


def prototype(fold: int, shot: int = 1, dataset: str = "pascal5i") -> Cell:
    return Cell(dataset, "resnet50", fold, "prototype", shot)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two folds, two methods, two seeds, one shot."""
    for fold in (0, 1):
        for k, seed in enumerate(SEEDS):
            both = {"cat": 60 + 10 * fold + 4 * k, "dog": 40 + k}
            write_round(tmp_path, symnet(fold), seed, {"ensemble": both, "meta": {name: value - 2 for name, value in both.items()}})
            write_round(tmp_path, prototype(fold), seed, {"prediction": {"cat": 30, "dog": 70 - fold}})
    return tmp_path


CELLS = [cell(fold) for fold in (0, 1) for cell in (symnet, prototype)]


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_main_by_hand(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables")
    text = (root / "tables" / "main.csv").read_text()
    assert text.splitlines()[0] == "dataset,method,backbone,variant,protocol,shot,fold0,fold1,mean,std,seeds"
    found = rows(root / "tables" / "main.csv")
    assert [row["method"] for row in found] == ["prototype", "symnet (ensemble)", "symnet (meta)"]
    # ensemble: seed 510 folds 50 and 55 -> 52.5; seed 365 folds 52.5 and 57.5 -> 55
    assert found[1] == {
        "dataset": "pascal5i",
        "method": "symnet (ensemble)",
        "backbone": "resnet50",
        "variant": "paper",
        "protocol": protocol_stamp(PROTOCOL),
        "shot": "1",
        "fold0": "51.25",
        "fold1": "56.25",
        "mean": "53.75",
        "std": f"{statistics.stdev([52.5, 55.0]):.2f}",
        "seeds": "2",
    }
    assert (found[0]["variant"], found[0]["fold0"], found[0]["fold1"], found[0]["mean"], found[0]["std"]) == (
        "",
        "50.00",
        "49.50",
        "49.75",
        "0.00",
    )
    assert (found[2]["mean"], found[2]["std"]) == ("51.75", "1.77")


def test_scorings_and_classes_by_hand(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables")
    found = {(row["method"], row["scoring"]): row for row in rows(root / "tables" / "scorings.csv")}
    assert len(found) == 9
    assert found["symnet (ensemble)", "padded"]["mean"] == "53.75"
    assert found["symnet (ensemble)", "original"]["mean"] == "43.75"
    assert found["symnet (ensemble)", "400"]["mean"] == "43.75"
    # prototype, padded: fold 0 [100, 100, 0, 100], fold 1 [99, 101, 0, 101] -> background always 1/2
    assert found["prototype", "padded"]["fb_iou"] == "49.88"
    classes = {(row["method"], row["fold"], row["class"], row["scoring"]): row for row in rows(root / "tables" / "per_class.csv")}
    assert len(classes) == 3 * 2 * 2 * 3
    cat = classes["symnet (meta)", "1", "cat", "original"]
    assert (cat["iou"], cat["std"], cat["seeds"]) == ("60.00", f"{statistics.stdev([58, 62]):.2f}", "2")


def test_provenance_beside_the_tables_and_the_same_bytes_twice(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables")
    before = {path.name: path.read_bytes() for path in (root / "tables").iterdir()}
    make_tables(CELLS[::-1], SEEDS[::-1], root, root / "again")
    after = {path.name: path.read_bytes() for path in (root / "again").iterdir()}
    assert {name: before[name] for name in before if name != "tables.json"} == {
        name: after[name] for name in after if name != "tables.json"
    }
    tables, provenance = read_json(root / "tables" / "tables.json", "tables")
    printed = {f"{name}{end}" for name in ("main", "paper-pascal5i") for end in (".csv", ".tex", ".html")}
    detail = {f"{name}{end}" for name in ("scorings", "classes-pascal5i-1shot") for end in (".tex", ".html")}
    assert set(tables) == {"scorings.csv", "per_class.csv", "groups.csv", "base.csv", *printed, *detail}
    assert len(provenance.inputs) == 8


def test_one_seed_has_no_spread_and_data_sets_keep_their_order(tmp_path: Path) -> None:
    cells = [prototype(0, shot, dataset) for dataset in ("voc", "coco") for shot in (5, 1)]
    for cell in cells:
        write_round(tmp_path, cell, 510, {"prediction": {"cat": 33}})
    make_tables(cells, [510], tmp_path, tmp_path / "tables")
    found = rows(tmp_path / "tables" / "main.csv")
    assert [(row["dataset"], row["shot"]) for row in found] == [("voc", "1"), ("voc", "5"), ("coco", "1"), ("coco", "5")]
    assert {(row["mean"], row["std"], row["seeds"]) for row in found} == {("33.00", "0.00", "1")}


def test_fewer_folds_leave_their_columns_empty(tmp_path: Path) -> None:
    cells = [prototype(fold) for fold in range(4)] + [prototype(fold, dataset="small") for fold in range(2)]
    for cell in cells:
        write_round(tmp_path, cell, 510, {"prediction": {"cat": 33}})
    make_tables(cells, [510], tmp_path, tmp_path / "tables")
    found = rows(tmp_path / "tables" / "main.csv")
    assert [[row[f"fold{fold}"] for fold in range(4)] for row in found] == [["33.00"] * 4, ["33.00", "33.00", "", ""]]
    assert found[1]["mean"] == "33.00"
    assert "33.00} & -- & --" in (tmp_path / "tables" / "main.tex").read_text()


def refused(root: Path, cells: list[Cell] = CELLS, seeds: list[int] = SEEDS) -> str:
    with pytest.raises(UserError) as caught:
        make_tables(cells, seeds, root, root / "tables")
    assert not (root / "tables").exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_rounds_are_listed(root: Path) -> None:
    symnet(0).metrics(root, 365).unlink()
    prototype(1).metrics(root, 510).unlink()
    message = refused(root)
    assert str(symnet(0).metrics(root, 365)) in message
    assert str(prototype(1).metrics(root, 510)) in message


def test_two_protocols_in_one_data_set(root: Path) -> None:
    write_round(root, prototype(1), 365, {"prediction": {"cat": 30}}, protocol={"episodes": 999})
    message = refused(root)
    assert "pascal5i mixes protocols" in message
    assert protocol_stamp(PROTOCOL) in message
    assert protocol_stamp(PROTOCOL | {"episodes": 999}) in message


def test_two_protocols_in_two_data_sets_are_told_apart(root: Path) -> None:
    cells = [*CELLS, prototype(0, dataset="coco20i")]
    for seed in SEEDS:
        write_round(root, cells[-1], seed, {"prediction": {"cat": 30}}, protocol={"episodes": 5000, "scoring": "original"})
    make_tables(cells, SEEDS, root, root / "tables")
    text = (root / "tables" / "main.tex").read_text()
    rest = "weights best on held-out images of base classes, input of side 473"
    assert f"1000 episodes a seed, queries in turn through the whole test list, scored at the padded square, {rest}" in text
    assert f"5000 episodes a seed, queries in turn through the whole test list, scored at original size, {rest}" in text
    assert "over 2 seeds" in text
    assert rows(root / "tables" / "main.csv")[-1]["mean"] == "20.00"


def test_a_run_twice(root: Path) -> None:
    write_round(root, symnet(0), 510, {"ensemble": {"cat": 11}, "meta": {"cat": 11}}, path=symnet(0).metrics(root, 365))
    message = refused(root)
    assert "pascal5i/resnet50/fold0/symnet/shot1/seed510 is there twice" in message
    assert "pascal5i/resnet50/fold0/symnet/shot1/seed365 is missing" in message


def test_outputs_that_differ(root: Path) -> None:
    write_round(root, symnet(1), 365, {"meta": {"cat": 30}})
    assert "symnet on pascal5i has different outputs: ensemble + meta" in refused(root)


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({}, "no class had an episode"),
        ({"prediction": {"padded": {}, "original": {}}}, "no class had an episode"),
        ({"prediction": {"padded": {"cat": [0, 0, 0, 9]}, "original": {"cat": [1, 0, 0, 9]}}}, "class cat: union is empty"),
        ({"prediction": {"padded": {"cat": [1.5, 0, 0, 9]}, "original": {"cat": [1, 0, 0, 9]}}}, "whole numbers"),
        ({"prediction": {"padded": {"cat": [1, 0, 0, 9]}}}, "'original' is not in it"),
        ({"prediction": None}, "not subscriptable"),
    ],
)
def test_counts_that_are_no_scores(root: Path, outputs: dict[str, Any], told: str) -> None:
    path = write_round(root, prototype(1), 365, {}, override={"outputs": outputs})
    message = refused(root)
    assert str(path) in message
    assert told in message


def test_nan_and_damage_name_the_file(root: Path) -> None:
    for path, old, new in ((prototype(0).metrics(root, 510), "30", "NaN"), (symnet(0).metrics(root, 510), "60", "61")):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    message = refused(root)
    assert str(prototype(0).metrics(root, 510)) in message
    assert f"{symnet(0).metrics(root, 510)}: content does not match" in message


def body(root: Path) -> list[list[str]]:
    """Cells of the LaTeX table's lines between the first \\midrule and \\bottomrule; a rule is an empty list."""
    lines = (root / "tables" / "main.tex").read_text().splitlines()
    inner = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    return [[] if line == r"\midrule" else [cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in inner]


def test_best_is_bold_and_second_underlined_per_column_and_group(root: Path) -> None:
    cells = [*CELLS, symnet(0, 5), prototype(0, 5)]
    for seed in SEEDS:
        write_round(root, symnet(0, 5), seed, {"ensemble": {"cat": 20}, "meta": {"cat": 25}})
        write_round(root, prototype(0, 5), seed, {"prediction": {"cat": 25}})
    make_tables(cells, SEEDS, root, root / "tables")
    assert body(root) == [
        ["pascal5i", "1", "prototype", "resnet50", "", r"\underline{50.00}", "49.50", "49.75", "0.00"],
        ["", "", "symnet (ensemble)", "resnet50", "paper", r"\textbf{51.25}", r"\textbf{56.25}", r"\textbf{53.75}", "1.77"],
        ["", "", "symnet (meta)", "resnet50", "paper", "49.25", r"\underline{54.25}", r"\underline{51.75}", "1.77"],
        [],
        ["pascal5i", "5", "prototype", "resnet50", "", r"\textbf{25.00}", "--", r"\textbf{25.00}", "0.00"],
        ["", "", "symnet (ensemble)", "resnet50", "paper", r"\underline{20.00}", "--", r"\underline{20.00}", "0.00"],
        ["", "", "symnet (meta)", "resnet50", "paper", r"\textbf{25.00}", "--", r"\textbf{25.00}", "0.00"],
    ]


def test_names_are_escaped_and_left_out_classes_told(tmp_path: Path) -> None:
    cell = Cell("my_set & 50%", "efficientnet_lite0", 0, "symnet", 1)
    left_out = {"potted_plant": "4 images, 6 needed for 5 shots & more"}
    write_round(tmp_path, cell, 510, {"a_b": {"cat": 30}, "c": {"cat": 40}}, left_out=left_out, classes=["cat", "potted_plant", "cow"])
    make_tables([cell], [510], tmp_path, tmp_path / "tables")
    text = (tmp_path / "tables" / "main.tex").read_text()
    assert r"my\_set \& 50\% & 1 & symnet (a\_b) & efficientnet\_lite0 & paper &" in text
    assert r"Left out: my\_set \& 50\%, fold 0, 1-shot: potted\_plant (4 images, 6 needed for 5 shots \& more); " in text
    assert r"1-shot, seed 510: cow (no episode drawn)." in text
    assert not re.search(r"(?<!\\)[_%#$]", "\n".join(text.splitlines()[1:]))
    assert rows(tmp_path / "tables" / "main.csv")[0]["dataset"] == "my_set & 50%"
    assert text.index(r"\end{tabular}") < text.index("Left out") < text.index(r"\end{table}")


def test_escape() -> None:
    assert escape(r"a\b_c%d&e#f{g}~^<>$") == (
        r"a\textbackslash{}b\_c\%d\&e\#f\{g\}\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\$"
    )


def test_what_stands_in_a_cell_is_escaped_as_names_are() -> None:
    """Of a p-value, `<` in LaTeX's default encoding is an inverted exclamation mark."""
    text = latex(Printed(pd.DataFrame({"row": ["a_b"], "p": ["< 0.001"], "miou": [1.234]}), ["row"], "c"))
    assert r"a\_b & \textless{} 0.001 & \textbf{1.23} \\" in text


def test_a_terminal_gets_plain_text(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables")
    lines = format_table(root / "tables" / "main.csv").splitlines()
    assert lines[0] == f"pascal5i, 1-shot, resnet50, {protocol_stamp(PROTOCOL)}, 2 seeds, mIoU in percent"
    assert [line.split() for line in lines if line.startswith("symnet (ens")] == [
        ["symnet", "(ensemble)", "paper", "51.25", "56.25", "53.75", "1.77"]
    ]
    assert max(map(len, lines)) <= 80
    with pytest.raises(UserError, match="not found; run"):
        format_table(root / "none.csv")
