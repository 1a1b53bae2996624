"""Tables of scorings and classes: values by hand, what is bold, a table longer than a page."""

from pathlib import Path

from symnet.report.latex import PAGE
from symnet.report.tables import make_tables
from tests.report.test_paper import body, compile_latex
from tests.report.test_tables import SEEDS, prototype, symnet, write_round


def write(root: Path) -> None:
    """Two folds of two classes; symnet is better at cats."""
    for fold in (0, 1):
        for k, seed in enumerate(SEEDS):
            write_round(root, symnet(fold), seed, {"ensemble": {"cat": 60 + fold + 4 * k, "dog": 40}, "meta": {"cat": 50, "dog": 30}})
            write_round(root, prototype(fold), seed, {"prediction": {"cat": 30, "dog": 70}})
    make_tables([make(fold) for make in (symnet, prototype) for fold in (0, 1)], SEEDS, root, root / "tables")


def test_every_scoring_beside_the_others(tmp_path: Path) -> None:
    write(tmp_path)
    tex = (tmp_path / "tables" / "scorings.tex").read_text()
    assert "mIoU padded & FB-IoU padded & mIoU original & FB-IoU original & mIoU 400 & FB-IoU 400" in tex
    assert "mIoU and FB-IoU in percent; mean over folds, then mean over 2 seeds. " in tex
    rows = body(tmp_path / "tables" / "scorings.tex")
    # of cats and dogs together, mean over seeds and folds: (50.25 + 52.25) / 2; 10 less at the other sizes; FB-IoU with a background of 50
    assert [row[2] for row in rows] == ["prototype", "symnet (ensemble)", "symnet (meta)"]
    assert rows[1][5] == r"\textbf{51.25}"
    assert (rows[0][5], rows[0][7], rows[2][9]) == (r"\underline{50.00}", r"\underline{40.00}", "30.00")
    assert rows[2][6] == "45.00"  # (40 + 50) / 2, foreground and background of all classes together
    assert '<th class="n">FB-IoU 400</th>' in (tmp_path / "tables" / "scorings.html").read_text()


def test_every_class_with_the_best_of_its_line(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "tables" / "classes-pascal5i-1shot.tex"
    assert r"Backbone & Fold & Class & Prototype & Symnet (ensemble) & Symnet (meta) \\" in path.read_text()
    assert "IoU in percent by class, pascal5i, 1-shot; mean over 2 seeds. " in path.read_text()
    assert body(path) == [
        ["resnet50", "0", "cat", "30.00", r"\textbf{62.00}", r"\underline{50.00}"],
        ["", "", "dog", r"\textbf{70.00}", r"\underline{40.00}", "30.00"],
        ["resnet50", "1", "cat", "30.00", r"\textbf{63.00}", r"\underline{50.00}"],
        ["", "", "dog", r"\textbf{70.00}", r"\underline{40.00}", "30.00"],
    ]
    page = path.with_suffix(".html").read_text()
    assert '<td class="n">30.00</td><td class="n best">62.00</td><td class="n second">50.00</td>' in page


def test_more_classes_than_fit_on_a_page(tmp_path: Path) -> None:
    names = [f"class {n}" for n in range(PAGE + 5)]
    for seed in SEEDS:
        write_round(tmp_path, prototype(0), seed, {"prediction": dict.fromkeys(names, 40)}, classes=names)
    make_tables([prototype(0)], SEEDS, tmp_path, tmp_path / "tables")
    path = tmp_path / "tables" / "classes-pascal5i-1shot.tex"
    text = path.read_text()
    assert text.startswith("% \\usepackage{booktabs, longtable}\n\\begin{longtable}{lllr}\n")
    assert text.partition(r"\endlastfoot")[2].count("class ") == PAGE + 5
    compile_latex(tmp_path / "tables", [path.name])
