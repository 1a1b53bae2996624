"""The SLURM profile: one table of the stages, whose every line is a rule, and what has to be set so that jobs survive."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROFILE: dict[str, Any] = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
TABLE = PROFILE["set-resources"]
SMALL = {"make_folds", "count_images", "make_episodes"}  # `default-resources` are enough
GPU = {"train_base", "cache_features", "make_records", "train_method", "evaluate_method", "make_gallery"}


def rules() -> dict[str, str]:
    """Text of every rule, by name; of those made in a loop, without the data set."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    pieces = re.split(r"^ *rule ?(\w*):$", text, flags=re.MULTILINE)[1:]
    named = {}
    for name, body in zip(pieces[::2], pieces[1::2], strict=True):
        inner = re.search(r'name:\n *f"(\w+)_\{', body)
        named[name or (inner[1] if inner else "")] = body
    return named


def value(text: object, attempt: int) -> int:
    """`60 * attempt`, or a number."""
    found = re.fullmatch(r"(\d+)( \* attempt)?", str(text))
    assert found is not None, text
    return int(found[1]) * (attempt if found[2] else 1)


def test_every_job_has_its_line_and_every_line_its_rule() -> None:
    found = rules()
    local = {name for name, body in found.items() if "localrule: True" in body}
    assert local == {"fetch_data", "sync_tracking"}
    assert set(TABLE) == set(found) - local - SMALL


def test_gpus() -> None:
    assert {name for name, line in TABLE.items() if "gpu" in line} == GPU
    assert not [name for name, line in TABLE.items() if {"gres", "gpus", "nvidia_gpu"} & set(line)]  # never beside `gpu`


@pytest.mark.parametrize("name", [*TABLE, "default"])
def test_a_retry_gets_more(name: str) -> None:
    """Of memory always. Of time too, but where the retry goes on from a state."""
    line = PROFILE["default-resources"] if name == "default" else TABLE[name]
    for key in ("runtime", "mem_mb"):
        first, second = value(line[key], 1), value(line[key], 2)
        assert second == (first if (name, key) == ("train_method", "runtime") else 2 * first)
    assert value(line["mem_mb"], 1) >= 4000
    assert name == "default" or line["cpus_per_task"] >= 1


def test_what_keeps_jobs_alive() -> None:
    expected = {
        "executor": "slurm",
        "keep-going": True,
        "slurm-requeue": True,
        "slurm-status-command": "squeue",
        "retries": 3,
        "latency-wait": 60,
    }
    assert {key: PROFILE[key] for key in expected} == expected
    assert not [name for name, body in rules().items() if "retries:" in body]  # a rule's own would run inside the allocation as well


def test_the_literal_command_finds_it() -> None:
    """Snakemake looks for `--profile slurm` in ./slurm."""
    assert (ROOT / "slurm" / "config.yaml").resolve() == ROOT / "workflow" / "profiles" / "slurm" / "config.yaml"
