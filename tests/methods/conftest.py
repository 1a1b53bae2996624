"""Fixtures of methods' tests."""

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="session")
def state(reference: ModuleType, shared: Path) -> Any:
    """Released state dicts, by method and file."""

    @functools.cache
    def read(method: str, keys: str) -> dict[str, np.ndarray]:
        known = reference.read_keys(shared / "methods" / "golden" / method / f"{keys}.tsv")
        return {name: reference.tensor(name, shape) for name, shape in known if not name.startswith("classifier.")}  # large, and not used

    return read
