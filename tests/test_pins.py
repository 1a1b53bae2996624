"""pyproject.toml (floors), constraints.txt (everything, exact) and environment.yml (direct, exact) agree."""

import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def pins(lines: list[str]) -> dict[str, str]:
    """Name to version of `name==version` lines."""
    found: dict[str, str] = {}
    for line in lines:
        name, equals, version = line.partition("==")
        assert equals, f"{line}: not an exact version"
        assert canonicalize_name(name) not in found, f"{name}: pinned twice"
        assert str(Requirement(line).specifier) == f"=={version}"
        found[canonicalize_name(name)] = version
    return found


PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = pins((ROOT / "constraints.txt").read_text(encoding="utf-8").split())
CONDA: list[Any] = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
ENVIRONMENT = pins(next(entry["pip"] for entry in CONDA if isinstance(entry, dict)))
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
DEVELOPMENT = [Requirement(line) for extra in PROJECT["optional-dependencies"].values() for line in extra]


def test_exact_versions_satisfy_the_floors() -> None:
    for wanted in (*DIRECT, *DEVELOPMENT):
        name = canonicalize_name(wanted.name)
        assert name in CONSTRAINTS, f"{wanted.name}: not in constraints.txt"
        assert wanted.specifier.contains(CONSTRAINTS[name]), f"{wanted}: constraints.txt has {CONSTRAINTS[name]}"


def test_the_environment_holds_the_direct_ones_at_the_same_versions() -> None:
    assert {name: CONSTRAINTS[name] for name in ENVIRONMENT} == ENVIRONMENT
    assert set(ENVIRONMENT) == {canonicalize_name(wanted.name) for wanted in DIRECT}


def test_the_environment_has_a_python_that_is_allowed() -> None:
    version = next(entry.removeprefix("python=") for entry in CONDA if isinstance(entry, str) and entry.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_constraints_are_sorted() -> None:
    names = [line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()]
    assert names == sorted(names)
