"""The code of symnet's modules: what each holds, without comments and docstrings, and which others it imports.

To parse them all takes a second, and every job asks. In a folder where Snakemake works, what was found of a text is therefore remembered,
under the text's sha256: another text, or another version of this file or of Python, is read anew.
"""

import ast
import hashlib
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from symnet.artifacts import Provenance, read_json, write_json
from symnet.errors import UserError

FOLDER = Path(__file__).parent
MEMORY = Path(".snakemake", f"symnet-modules.{sys.implementation.cache_tag}.json")


class Code(NamedTuple):
    """Of a text with this sha256: the sha256 of its code, and what it imports, where that is or could be a module of symnet."""

    text: str
    code: str
    imports: list[str]


def codes(roots: Iterable[str], left_out: Collection[str] = ()) -> dict[str, str]:
    """The modules reached by import statements from `roots`, themselves among them, and the sha256 of each one's code."""
    found: dict[str, str] = {}
    waiting, known = list(roots), len(_memory())
    while waiting:
        name = waiting.pop()
        if name not in found and name not in left_out:
            code = _code(name)
            found[name] = code.code
            waiting += [imported for imported in code.imports if file_of(imported)]
    if len(_memory()) > known:
        _remember()
    return dict(sorted(found.items()))


@cache
def file_of(name: str) -> Path | None:
    """Where a module of symnet lies; None where it is none. Not by importlib, which would import what is above it, and torch with that."""
    stem = FOLDER.joinpath(*name.split(".")[1:])
    return next((path for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()), None)


def read(text: str) -> Code:
    """A module's text, read."""
    tree, imports = ast.parse(text), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return Code(_sha256(text), _sha256(ast.dump(tree)), [name for name in imports if name.split(".")[0] == "symnet"])


def _text(name: str) -> str:
    path = file_of(name)
    if path is None:
        raise ModuleNotFoundError(name)
    return path.read_text(encoding="utf-8")


@cache
def _code(name: str) -> Code:
    text = _text(name)
    known = _memory()
    key = _sha256(text)
    if key not in known:
        known[key] = read(text)
    return known[key]


@cache
def _memory() -> dict[str, Code]:
    """By sha256 of text; nothing where the file is absent, damaged, or of another version of this one."""
    try:
        found, made = read_json(MEMORY, "modules")
    except UserError:
        return {}
    return {text: Code(text, code, imports) for text, code, imports in found} if made.code == _own() else {}


def _remember() -> None:
    """Of the modules that there are now, if Snakemake has made its folder, and it may be written."""
    if not MEMORY.parent.is_dir():
        return
    present = {_sha256(path.read_text(encoding="utf-8")) for path in FOLDER.rglob("*.py")}
    with suppress(OSError):
        write_json(MEMORY, [code for text, code in _memory().items() if text in present], Provenance(stage="modules", code=_own()))


def _own() -> str:
    return _sha256(Path(__file__).read_text(encoding="utf-8"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
