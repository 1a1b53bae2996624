"""Tables in a paper's shape: published rows beside ours, never ranked with them; what is unfinished; LaTeX that compiles."""

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from symnet.cells import Cell
from symnet.errors import UserError
from symnet.experiment import AblationTable
from symnet.report import PUBLISHED_RESULTS
from symnet.report.tables import make_tables
from tests.report.test_tables import SEEDS, write_round

CELLS = [
    Cell("pascal5i", backbone, fold, method, shot)
    for backbone in ("resnet50", "vgg16_bn")
    for method in ("prototype", "symnet")
    for shot in (1, 5)
    for fold in range(4)
]


def value(cell: Cell) -> int:
    """IoU in percent of the first seed; the second's is 2 more."""
    return 40 + 5 * (cell.method == "symnet") + 2 * cell.shot + cell.fold


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for cell in CELLS:
        for k, seed in enumerate(SEEDS):
            names = dict.fromkeys(("cat", "dog"), value(cell) + 2 * k)
            outputs = (
                {"meta": names, "ensemble": {n: v - 3 for n, v in names.items()}} if cell.method == "symnet" else {"prediction": names}
            )
            write_round(tmp_path, cell, seed, outputs)
    return tmp_path


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def body(path: Path) -> list[list[str]]:
    """Cells of the rows between the rules."""
    lines = path.read_text().partition(r"\midrule")[2].partition(r"\bottomrule")[0].splitlines()
    return [[cell.strip() for cell in line.removesuffix(r"\\").split("&")] for line in lines if "&" in line]


def test_a_row_s_shots_stand_side_by_side(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables")
    found = read(root / "tables" / "paper-pascal5i.csv")
    assert [(row["backbone"], row["method"]) for row in found] == [
        ("ResNet-50", "prototype"),
        ("ResNet-50", "symnet (ensemble), paper"),
        ("ResNet-50", "symnet (meta), paper"),
        ("VGG-16", "prototype"),
        ("VGG-16", "symnet (ensemble), paper"),
        ("VGG-16", "symnet (meta), paper"),
    ]
    meta = found[2]
    # seeds 47 + fold and 49 + fold; means over the folds 48.5 and 50.5, their deviation the root of 2
    assert [meta[f"1-shot fold{fold}"] for fold in range(4)] == ["48.00", "49.00", "50.00", "51.00"]
    assert (meta["1-shot mean"], meta["1-shot std"], meta["5-shot mean"], meta["published"]) == ("49.50", "1.41", "57.50", "False")
    tex = body(root / "tables" / "paper-pascal5i.tex")
    assert tex[2][:3] == ["", "symnet (meta), paper", r"\textbf{48.00}"]
    assert tex[2][6] == r"\textbf{49.50{\scriptsize$\pm$1.41}}"
    assert tex[1][2] == r"\underline{45.00}"


def test_published_rows_are_the_print_s_and_never_ranked(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables", published={"pascal5i": "pascal5i"})
    found = read(root / "tables" / "paper-pascal5i.csv")
    theirs = [row for row in found if row["published"] == "True"]
    printed = [row for row in read(PUBLISHED_RESULTS) if row["dataset"] == "pascal5i"]
    assert len(printed) == 2 * len(theirs) == 30
    for row in printed:
        (own,) = [one for one in theirs if (one["method"], one["backbone"]) == (row["method"], row["backbone"])]
        for name in ("fold0", "fold1", "fold2", "fold3", "mean"):
            assert float(own[f"{row['shot']}-shot {name}"]) == float(row[name])
        assert row["note"] in own["note"]
    order = [row["backbone"] for row in found]
    assert order == sorted(order, key=["VGG-16", "ResNet-50"].index)
    tex = body(root / "tables" / "paper-pascal5i.tex")
    for line in tex:
        assert (r"$^\dagger$" in line[1]) == (not any("scriptsize" in cell for cell in line))
        if r"$^\dagger$" in line[1]:
            assert not any("textbf" in cell or "underline" in cell for cell in line)
    assert sum(r"\textbf" in line[2] for line in tex) == 2  # ours, of either backbone: the same figures
    notes = (root / "tables" / "paper-pascal5i.tex").read_text().partition(r"\bottomrule")[2]
    assert "not ranked with ours" in notes
    assert "PFENet, VGG-16: 5-shot mean printed as 69.00" in notes


def test_the_page_says_what_the_latex_says(root: Path) -> None:
    table = AblationTable(caption="A <b> & c", rows={"x <y>": "symnet", "z": "prototype"})
    make_tables(CELLS, SEEDS, root, root / "tables", {"mine": table}, published={"pascal5i": "pascal5i"})
    page = (root / "tables" / "paper-pascal5i.html").read_text()
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    cells = [re.findall(r'<td(?: class="([^"]*)")?>(.*?)</td>', row) for row in rows[1:]]
    assert len(cells) == 15 + 6
    line = next(row for row in cells if row[1][1] == "symnet (meta), paper")
    assert line[3] == ("n best", "48.00")
    assert line[7] == ("n best", "49.50 <small>&plusmn; 1.41</small>")
    for row in cells:
        assert "\u2020" in row[1][1] or any("small" in text for _, text in row)
        assert not ("\u2020" in row[1][1] and any("best" in kind or "second" in kind for kind, _ in row))
    mine = (root / "tables" / "mine.html").read_text()
    assert "A &lt;b&gt; &amp; c, mIoU in percent" in mine
    assert "<td>x &lt;y&gt;</td>" in mine
    assert "http" not in mine + page


def test_an_unfinished_cell_takes_its_means_with_it(root: Path) -> None:
    gone = Cell("pascal5i", "resnet50", 2, "symnet", 5)
    gone.metrics(root, SEEDS[1]).unlink()
    with pytest.raises(UserError, match=r"fold2/symnet/shot5/seed365"):
        make_tables(CELLS, SEEDS, root, root / "tables")
    assert not (root / "tables").exists()
    told = make_tables(CELLS, SEEDS, root, root / "tables", partial=True)
    assert len(told) == 1
    assert "fold2/symnet/shot5/seed365" in told[0]
    line = next(one for one in body(root / "tables" / "paper-pascal5i.tex") if one[1] == "symnet (meta), paper")
    assert line[7:] == [r"\textbf{56.00}", r"\textbf{57.00}", "--", r"\textbf{59.00}", "--"]
    assert "--" not in line[2:7]
    scorings = [r for r in read(root / "tables" / "scorings.csv") if (r["backbone"], r["method"]) == ("resnet50", "symnet (meta)")]
    assert {(r["shot"], r["mean"] == "", r["fb_iou"] == "") for r in scorings} == {("1", False, False), ("5", True, True)}
    for cell in CELLS:
        cell.metrics(root, SEEDS[0]).unlink(missing_ok=True)
    with pytest.raises(UserError, match="no cell has all of its rounds yet"):
        make_tables(CELLS, SEEDS, root, root / "tables", partial=True)


def compile_latex(folder: Path, names: list[str]) -> None:
    """The tables `names` of a folder as one document, all.pdf; nothing of it may be too wide."""
    if shutil.which("pdflatex") is None:
        assert "CI" not in os.environ, "pdflatex is missing: install Debian's texlive-latex-recommended"
        pytest.skip("pdflatex is not installed")
    inputs = "\n".join(rf"\input{{{name}}}" for name in names)
    head = r"\documentclass{article}\usepackage{booktabs,graphicx,longtable}"
    (folder / "all.tex").write_text(rf"{head}\begin{{document}}{inputs}\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(r"^(?:Overfull|LaTeX Warning: (?!Label|There were)).*", done.stdout, re.MULTILINE)


def test_the_latex_compiles(root: Path) -> None:
    make_tables(CELLS, SEEDS, root, root / "tables", published={"pascal5i": "pascal5i"})
    names = [path.name for path in sorted((root / "tables").glob("*.tex"))]
    assert names == ["classes-pascal5i-1shot.tex", "classes-pascal5i-5shot.tex", "main.tex", "paper-pascal5i.tex", "scorings.tex"]
    compile_latex(root / "tables", names)
