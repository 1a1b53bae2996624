"""Fixtures of more than one test file."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.bench import Bench


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to go on where pytest-xdist would spread a group over its workers: its tests share a SLURM, or a long setup."""
    if config.getoption("dist", "no") == "loadgroup" and not hasattr(pytest.Item, "_nodeid"):  # where it writes the group
        raise pytest.UsageError(f"pytest-xdist keeps no groups of tests under pytest {pytest.__version__}: see pyproject.toml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave whole runs out where they were not asked for."""
    if "SYMNET_WHOLE" not in os.environ:
        skip = pytest.mark.skip(reason="SYMNET_WHOLE is not set: no whole runs, every method, dozens of kills, loads")
        for item in items:
            if item.get_closest_marker("whole"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the paper's reference outputs, $SYMNET_SHARED."""
    folder = os.environ.get("SYMNET_SHARED")
    if not folder:
        pytest.skip("SYMNET_SHARED is not set: no reference outputs to compare with")
    return Path(folder)


@pytest.fixture(scope="session")
def reference(shared: Path) -> ModuleType:
    """`weights.py` of the reference: stand-in weights made from entries' names, and made-up episodes."""
    spec = importlib.util.spec_from_file_location("reference_weights", shared / "reference" / "weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Bench"]:
    """Built once: what asks for it is of the xdist group `learning`."""
    from tests.bench import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield build(tmp_path_factory.mktemp("bench"), train={"steps": 6}, features={"dtype": "float32"})
    torch.set_num_threads(threads)
