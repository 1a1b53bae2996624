"""What a tracking server wants to know stays in the environment: nothing that a run writes holds it."""

import pytest

from tests.workflow.conftest import SECRETS, Project

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once


def test_no_file_of_a_run_holds_a_secret_of_its_environment(finished: Project) -> None:
    """Journals, logs, artifacts, the store of MLflow, what Snakemake notes; and what it prints."""
    files = [path for path in finished.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    for part in ("journals", "logs", "tables", "settings"):
        assert [path for path in files if finished.results / part in path.parents], part
    assert finished.folder / "results" / "mlflow.db" in files
    assert [path for path in files if ".snakemake" in path.parts]
    told = finished.told + "".join(path.read_bytes().decode(errors="replace") for path in files if path.stat().st_size < 10_000_000)
    assert len(told) > 1_000_000
    assert [name for name, value in SECRETS.items() if value in told] == []


def test_the_search_finds_what_is_there(finished: Project) -> None:
    assert [path for path in finished.results.rglob("*") if path.is_file() and b"efficientnet_lite0" in path.read_bytes()]
    assert SECRETS.items() <= finished.environment.items()
