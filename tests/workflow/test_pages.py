"""The pages docs/add-a-*.md, done word by word in a copy of the project with a finished benchmark that is smaller than the demo.

A block of python or yaml whose first line is `# FILE` is written to FILE; of one with `# FILE, in NAME` the rest is put below the line
where NAME begins. A block of sh is run.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from symnet.experiment import merge
from tests.workflow.conftest import REPORT, ROOT, TINY, Project

pytestmark = pytest.mark.xdist_group("whole")  # one benchmark, run once

PAGES = sorted(path.name for path in (ROOT / "docs").glob("add-a-*.md"))


class Page:
    """The blocks of a page, for a project whose demo is its tiny experiment."""

    def __init__(self, name: str, project: Project, small: dict | None = None) -> None:
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        text = text.replace("config/demo.yaml", "tiny.yaml").replace("results/demo", "results/tiny")
        self.project, self.told = project, ""
        self.small = small or {}  # laid over experiment files, where they would take long
        self.blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def write(self) -> list[str]:
        """All files and insertions, without running a command. Returns the files."""
        return [self._put(text) for kind, text in self.blocks if kind in ("python", "yaml")]

    def follow(self) -> None:
        """Every block, in the page's order."""
        for kind, text in self.blocks:
            if kind in ("python", "yaml"):
                self._put(text)
            elif kind == "sh":
                self._run(text)

    def _put(self, text: str) -> str:
        head, _, rest = text.partition("\n")
        name, _, place = head.removeprefix("# ").partition(", in ")
        path = self.project.folder / name
        if place:
            lines = path.read_text().splitlines(keepends=True)
            (number,) = (number for number, line in enumerate(lines) if re.match(rf"{place}\b.*[{{(\[]$", line))
            rest = "".join([*lines[: number + 1], rest, *lines[number + 1 :]])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(merge(yaml.safe_load(rest), self.small)) if path.suffix == ".yaml" else rest)
        return name

    def _run(self, text: str) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYMNET_")} | {
            "PYTHONPATH": str(self.project.folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=self.project.folder, env=environment, capture_output=True, text=True, timeout=580, check=False)
        self.told += done.stdout + done.stderr
        assert done.returncode == 0, self.told


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short(name: str) -> None:
    assert len((ROOT / "docs" / name).read_text().splitlines()) < 90


@pytest.mark.whole
def test_add_a_method(own: Project) -> None:
    page = Page("add-a-method.md", own)
    assert page.write() == ["symnet/methods/matcher.py", "symnet/methods/__init__.py"]
    assert own.planned() == {}  # another method reruns nothing
    given = ("--config", "set=methods=[prototype,symnet,matcher]")
    assert own.planned_with(*given) == {"train_method": 2, "evaluate_method": 2, "make_gallery": 2, **REPORT}
    assert "method=symnet" not in own.told
    (own.folder / "symnet" / "methods" / "__init__.py").write_text((ROOT / "symnet" / "methods" / "__init__.py").read_text())
    page.follow()
    assert "Nothing to be done" in page.told
    with open(own.results / "tables" / "main.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["matcher", "prototype", "symnet (ensemble)", "symnet (meta)"]
    assert 0 < float(rows["matcher"]["mean"]) < 100
    assert re.search(r"^matcher +-- ", page.told, re.MULTILINE)
    assert own.planned_with(*given) == {}


@pytest.mark.whole
def test_add_a_backbone(own: Project) -> None:
    page = Page("add-a-backbone.md", own)
    assert page.write() == ["symnet/backbones/resnet18.py", "symnet/backbones/__init__.py"]
    assert own.planned() == {}
    save = "import torch; from torchvision.models import resnet18; torch.save(resnet18().state_dict(), 'data/weights/resnet18.pth')"
    (own.folder / "data" / "weights").mkdir(parents=True)
    (own.folder / "tests").mkdir()
    for name in ("__init__.py", "conftest.py", "marks.py", "test_backbones.py", "test_folded.py", "test_trunk.py"):
        shutil.copy(ROOT / "tests" / name, own.folder / "tests")
    subprocess.run([sys.executable, "-c", save], cwd=own.folder, check=True)
    shutil.copy(ROOT / "symnet" / "backbones" / "__init__.py", own.folder / "symnet" / "backbones")
    page.follow()
    passed = re.search(r"^(\d+) passed, \d+ deselected", page.told, re.MULTILINE)
    assert passed
    assert int(passed[1]) >= 5
    fold = own.results / "shapes" / "resnet18" / "fold0"
    assert json.loads((fold / "base.json").read_text())["payload"]["steps"] == 2
    assert (fold / "symnet" / "shot1" / "model.safetensors").stat().st_size > 10_000


@pytest.mark.whole
def test_add_a_data_set(own: Project) -> None:
    root = own.folder / "data" / "fruit"
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(90):
        mask = np.zeros((48, 64), np.uint8)
        mask[8:40, 10:50] = number % 6 + 1
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / "images" / f"{number:03d}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number:03d}.png")
    names = ("apple", "banana", "cherry", "grape", "lemon", "mango")
    lines = [f"{name} {' '.join(map(str, rng.normal(size=8).round(3)))}" for name in names]
    (own.folder / "data" / "words.txt").write_text("\n".join([f"{len(lines)} 8", *lines, ""]))
    sizes = {name: TINY[name] for name in ("pixels", "base", "features")}
    small = {**sizes, "data": {"folds": 2}, "text": {"source": "words.txt", "dim": 8}, "protocol": {"min_pixels": 64, "episodes": 4}}
    page = Page("add-a-dataset.md", own, {**small, "shots": [1], "seeds": [7], "methods": ["prototype"]})
    page.follow()
    counts = (own.folder / "results" / "fruit" / "fruit" / "counts.txt").read_text()
    assert counts.strip() in page.told
    with open(own.folder / "results" / "fruit" / "tables" / "main.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["dataset"], row["method"], row["protocol"][:8]) == ("fruit", "prototype", "fruit-1-")
    # the masks, by hand: every image shows one class, of which each of the two folds tests three
    index = (own.folder / "results" / "fruit" / "fruit" / "lists" / "fold0" / "test.csv").read_text()
    assert {int(line[:3]) % 6 for line in index.splitlines() if line[:3].isdigit()} == {0, 1, 2}


@pytest.mark.whole
def test_add_a_protocol(own: Project) -> None:
    page = Page("add-a-protocol.md", own)
    page.follow()
    assert "mine-1" not in (own.folder / "symnet" / "protocols.py").read_text()
    words = (
        "queries in turn through the whole test list",
        "query classes drawn uniformly",
        "scored at the padded square",
        "scored at original size",
    )
    assert all(word in page.told for word in words)
    for path in own.results.glob("shapes/efficientnet_lite0/fold*/*/shot1/seed*.json"):
        rules = json.loads(path.read_text())["payload"]["protocol"]
        assert (rules["name"], rules["sampling"], rules["scoring"]) == ("lab-1", "balanced", "original")
    assert "train_method" not in page.told.partition("Job stats:")[2].partition("total")[0]
    assert re.search(r"^shapes, 1-shot, efficientnet_lite0, lab-1-[0-9a-f]{8}, 2 seeds", page.told, re.MULTILINE)
