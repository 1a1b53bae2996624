"""What a run was made in: a lock that names every package, and the difference from the commit, without a secret."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from symnet import __version__, surroundings
from symnet.surroundings import LARGEST, capture, captured, code_diff, environment


def test_the_lock_names_python_torch_and_every_package() -> None:
    lines = environment().splitlines()
    assert lines[0].startswith(f"# python {sys.version_info.major}.{sys.version_info.minor}.")
    assert lines[1].startswith(f"# symnet {__version__}, ")
    assert lines[2] == f"# torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}, cuDNN {torch.backends.cudnn.version() or 'none'}"
    assert f"pydantic=={metadata.version('pydantic')}" in lines
    assert all("==" in line for line in lines if not line.startswith("#"))


def test_no_variable_of_the_environment_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cr3t-t0ken")
    assert "s3cr3t-t0ken" not in environment()


def test_files_are_shared_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "code_diff", lambda: "a diff\n")
    tags = capture(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(tags.values())
    assert capture(tmp_path) == tags
    path = captured(tmp_path, tags["diff"])
    assert path is not None
    assert path.read_text() == "a diff\n"
    path.write_text("another\n")
    assert captured(tmp_path, tags["diff"]) is None
    assert captured(tmp_path, "../../etc/passwd") is None
    monkeypatch.setattr(surroundings, "code_diff", lambda: "")
    assert set(capture(tmp_path)) == {"environment"}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small git checkout that stands for the one that the package runs from."""
    (tmp_path / "symnet").mkdir()
    (tmp_path / "config").mkdir()
    (tmp_path / "symnet" / "a.py").write_text("one = 1\n")
    (tmp_path / "notes.txt").write_text("mine\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(surroundings, "__file__", str(tmp_path / "symnet" / "surroundings.py"))
    monkeypatch.setattr(surroundings, "code_version", lambda: {"version": "1", "git_commit": "abc"})
    return tmp_path


def test_the_difference_of_a_dirty_tree(checkout: Path) -> None:
    assert code_diff() == ""
    (checkout / "notes.txt").write_text("not the code's business\n")
    assert code_diff() == ""
    (checkout / "symnet" / "a.py").write_text("two = 2\n")
    (checkout / "config" / "new.yaml").write_text("secret: of a file that is not tracked\n")
    found = code_diff()
    assert found.startswith("# new, not shown: config/new.yaml\ndiff --git a/symnet/a.py b/symnet/a.py\n")
    assert found.endswith("\n-one = 1\n+two = 2\n")
    assert "not tracked" not in found
    patch = found.partition("\n")[2]
    subprocess.run(["git", "-C", str(checkout), "apply", "--check", "-R"], input=patch.encode(), check=True)


def test_a_password_in_an_address_is_masked(checkout: Path) -> None:
    (checkout / "symnet" / "a.py").write_text('uri = "https://me:pa55@mlflow.lab/x"\nmail = "a@b"\n')
    found = code_diff()
    assert '"https://***@mlflow.lab/x"' in found
    assert "a@b" in found
    assert "pa55" not in found


def test_a_large_difference_is_cut(checkout: Path) -> None:
    (checkout / "symnet" / "a.py").write_text("x = 1\n" * (LARGEST // 3))
    found = code_diff()
    assert len(found) < LARGEST + 100
    assert "# cut here: " in found.splitlines()[-1]


def test_no_program_of_a_configuration_is_run(checkout: Path) -> None:
    (checkout / "prog").write_text(f"#!/bin/sh\ntouch {checkout}/ran\n")
    (checkout / "prog").chmod(0o755)
    subprocess.run(["git", "-C", str(checkout), "config", "diff.external", str(checkout / "prog")], check=True)
    (checkout / "symnet" / "a.py").write_text("two = 2\n")
    assert "+two = 2" in code_diff()
    assert not (checkout / "ran").exists()


def test_without_git_it_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_diff() == ""
    assert "of no known commit" in environment().splitlines()[1]
