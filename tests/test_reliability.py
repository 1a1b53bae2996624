"""The table of faults in tests/README.md names tests that exist, and every test of kills stands in it."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = [line for line in (TESTS / "README.md").read_text().splitlines() if line.startswith("| ") and "::" in line]
NAMED = {name for line in TABLE for name in re.findall(r"`([\w/]+\.py::\w+)`", line)}


def names_in(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_test_of_the_table_exists() -> None:
    assert [name for name in sorted(NAMED) if name.partition("::")[2] not in names_in(TESTS / name.partition("::")[0])] == []


def test_every_row_names_a_test_and_counts_its_injections() -> None:
    for line in TABLE:
        area, injected, tests, count = (cell.strip() for cell in line.strip("|").split("|"))
        assert re.search(r"::test_\w+`", tests), line
        assert re.search(r"\d|every", count), line
        assert area
        assert injected


def test_every_area_is_there() -> None:
    areas = {line.split("|")[1].split(",")[0].strip() for line in TABLE}
    assert areas >= {"settings", "data", "download", "archives", "cache", "training", "checkpoint", "workflow"}
    assert areas >= {"SLURM", "tracking", "tables", "names", "weights"}


def test_every_killing_test_is_listed() -> None:
    killing = {
        f"{path.relative_to(TESTS)}::{name}"
        for path in TESTS.rglob("test_*.py")
        for name in names_in(path)
        if re.search(r"kills?_|killed_(at|while|in|fifty)", name)
    }
    assert len(killing) >= 10
    assert killing - NAMED == set()
