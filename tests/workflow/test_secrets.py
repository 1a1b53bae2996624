"""What a tracking server wants to know stays in the environment: nothing that a run writes holds it."""

from pathlib import Path

import pytest

from tests.workflow.conftest import SECRETS, Project, holders_of_secrets

pytestmark = pytest.mark.xdist_group("workflow")  # one benchmark, run once


def test_no_file_of_a_run_holds_a_secret_of_its_environment(finished: Project) -> None:
    assert SECRETS.items() <= finished.environment.items()
    for part in ("journals", "logs", "tables", "settings"):
        assert list((finished.results / part).rglob("*.*")), part
    assert (finished.folder / "results" / "mlflow.db").is_file()
    assert holders_of_secrets(finished.folder) == []
    assert not [value for value in SECRETS.values() if value in finished.told]  # nor what it printed last


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_text(f"token: {SECRETS['MLFLOW_TRACKING_TOKEN']}\n")
    (tmp_path / "b").write_text("nothing")
    assert holders_of_secrets(tmp_path) == [tmp_path / "a" / "log"]
