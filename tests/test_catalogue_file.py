"""What the Snakemake workflow catalogue asks of a repository: its file's fields, the layout, and a graph of rules without arguments."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FLAGS = {"desc", "flags"}
DEPLOYMENT = {"conda", "apptainer", "apptainer+conda", "report"}


def test_the_fields_of_the_file() -> None:
    whole = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))
    assert set(whole) == {"usage"}
    assert set(whole["usage"]) == {"mandatory-flags", "software-stack-deployment"}
    flags, deployment = whole["usage"]["mandatory-flags"], whole["usage"]["software-stack-deployment"]
    assert set(flags) == FLAGS
    assert isinstance(flags["desc"], str)
    assert all(isinstance(flag, str) for flag in flags["flags"])
    assert set(deployment) == DEPLOYMENT
    assert {type(value) for value in deployment.values()} == {bool}


def test_the_layout() -> None:
    """Standardised usage: the main Snakefile, rules, instructions, and a README with the two words that are searched for."""
    for name in ("workflow/Snakefile", "config/README.md", "LICENSE", "environment.yml"):
        assert (ROOT / name).is_file(), name
    assert list((ROOT / "workflow" / "rules").glob("*.smk"))
    text = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    assert "snakemake" in text
    assert "workflow" in text


def test_what_it_says_of_deployment_and_report() -> None:
    """conda: every rule names the environment file; report: there is one to make."""
    rules = [path.read_text(encoding="utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk")]
    made = sum(len(re.findall(r"^\s*rule\b", text, re.MULTILINE)) for text in rules)
    named = [name for text in rules for name in re.findall(r'conda:\s+"(.+)"', text)]
    assert len(named) == made > 10
    assert {(ROOT / "workflow" / "rules" / name).resolve() for name in named} == {ROOT / "environment.yml"}
    assert any("report(" in text for text in rules)
    assert (ROOT / "workflow" / "report" / "benchmark.rst").is_file()


def test_the_graph_of_rules_is_drawn_as_the_catalogue_does(tmp_path: Path) -> None:
    for name in ("workflow", "symnet", "config"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".test", tmp_path / ".test", symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    shutil.copy(ROOT / "environment.yml", tmp_path)
    command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "-c", "1", "-d", ".test", "--forceall", "--rulegraph"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digraph snakemake_dag {")
    for rule in ("draw_shapes", "train_base", "train_method", "evaluate_method", "make_tables"):
        assert f'label = "{rule}"' in done.stdout
