"""Fixtures of more than one test file."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the paper's reference outputs, $SYMNET_SHARED."""
    folder = os.environ.get("SYMNET_SHARED")
    if not folder:
        pytest.skip("SYMNET_SHARED is not set: no reference outputs to compare with")
    return Path(folder)
