"""Code of modules: what of a text counts, what is reached from it, and that what is remembered is what is there."""

import ast
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from symnet import modules
from symnet.artifacts import read_json, write_json

PLAIN = "import os\n\nfrom symnet.data import images, readers\n\nX = 1\n\n\ndef f(a):\n    return a\n"
WORDS = '''"""Words."""
import os  # of the system

from symnet.data import images, readers
X = 1  # one
def f(a):
    """
    More words.
    """
    return a
'''


def test_words_and_layout_are_no_code() -> None:
    plain, words = modules.read(PLAIN), modules.read(WORDS)
    assert (plain.code, plain.imports) == (words.code, words.imports)
    assert plain.code == hashlib.sha256(ast.dump(ast.parse(PLAIN)).encode()).hexdigest()
    assert plain.text == hashlib.sha256(PLAIN.encode()).hexdigest() != words.text
    assert plain.imports == ["symnet.data", "symnet.data.images", "symnet.data.readers"]
    for change in (("X = 1", "X = 2"), ("return a", "return -a"), ("def f(a)", "def f(b)")):
        assert modules.read(PLAIN.replace(*change)).code != plain.code


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three modules, of which `one` imports `two`."""
    texts = {"__init__": "", "one": "from symnet.two import x\n", "two": "x = 1\n", "three": "from symnet import one\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(modules, "FOLDER", tmp_path)
    monkeypatch.setattr(modules, "MEMORY", tmp_path / ".snakemake" / "modules.json")
    modules.MEMORY.parent.mkdir()
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """As a process that begins."""
    for cached in (modules.file_of, modules._code, modules._memory):
        cached.cache_clear()


def digests(package: Path, *names: str) -> dict[str, str]:
    return {f"symnet.{name}": modules.read((package / f"{name}.py").read_text()).code for name in names}


def test_what_is_reached(package: Path) -> None:
    assert modules.codes(["symnet.two"]) == digests(package, "two")
    assert modules.codes(["symnet.one"]) == digests(package, "one", "two")
    assert list(modules.codes(["symnet.three"], {"symnet"})) == ["symnet.one", "symnet.three", "symnet.two"]
    assert modules.codes(["symnet.three"], {"symnet", "symnet.one"}) == digests(package, "three")
    with pytest.raises(ModuleNotFoundError, match=r"symnet\.four"):
        modules.codes(["symnet.four"])


def test_a_text_is_read_once_and_then_remembered(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = modules.codes(["symnet.one"])
    forget()
    monkeypatch.setattr(modules, "read", lambda text: pytest.fail(f"read again: {text}"))
    assert modules.codes(["symnet.one"]) == first
    monkeypatch.undo()


def test_another_text_is_read_anew_and_an_old_one_forgotten(package: Path) -> None:
    first = modules.codes(["symnet.one"])
    (package / "two.py").write_text("x = 2\n")
    forget()
    second = modules.codes(["symnet.one"])
    assert second == digests(package, "one", "two")
    assert {name for name in first if first[name] != second[name]} == {"symnet.two"}
    held = read_json(modules.MEMORY, "modules")[0]
    assert sorted(text for text, _, _ in held) == sorted(
        hashlib.sha256((package / f"{name}.py").read_bytes()).hexdigest() for name in ("one", "two")
    )


@pytest.mark.parametrize("damage", ["", "{", "[]", "FLIPPED", "OLD"])
def test_a_memory_that_cannot_be_used_is_made_again(package: Path, damage: str) -> None:
    first = modules.codes(["symnet.one"])
    whole = modules.MEMORY.read_text()
    known, provenance = read_json(modules.MEMORY)
    wrong = [[text, "wrong", imports] for text, _, imports in known]
    if damage == "OLD":  # whole, by an earlier version
        write_json(modules.MEMORY, wrong, provenance.model_copy(update={"code": "another"}))
    else:
        modules.MEMORY.write_text(whole.replace(known[0][1], "wrong") if damage == "FLIPPED" else damage)
    forget()
    assert modules.codes(["symnet.one"]) == first
    assert modules.MEMORY.read_text() == whole


def test_outside_of_a_workflow_s_folder_nothing_is_written(package: Path) -> None:
    modules.MEMORY.parent.rmdir()
    before = set(package.rglob("*"))
    assert modules.codes(["symnet.one"]) == digests(package, "one", "two")
    assert set(package.rglob("*")) == before


def test_what_cannot_be_written_is_not_missed(package: Path) -> None:
    modules.MEMORY.mkdir()  # in its place
    assert modules.codes(["symnet.one"]) == digests(package, "one", "two")
    forget()
    assert modules.codes(["symnet.one"]) == digests(package, "one", "two")


def test_reading_all_of_symnet_imports_none_of_it() -> None:
    """A job that plans need not wait for torch."""
    code = "import sys; from symnet.modules import codes; found = codes(['symnet.train']); print(len(found), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True)
    count, torch = done.stdout.split()
    assert int(count) > 30
    assert torch == "False"
