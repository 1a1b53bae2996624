import copy
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]

# Two folds, one shot, two seeds, everything as small as it goes: the machinery of the benchmark, not its numbers.
TINY = {
    "experiment": "tiny",
    "shots": [1],
    "seeds": [7, 8],
    "methods": ["prototype", "symnet"],
    "backbone": {"name": "efficientnet_lite0", "weights": "package"},
    "text": {"source": "shapes", "dim": 8},
    "data": {
        "source": "shapes",
        "root": "data/shapes",
        "classes": "shapes",
        "folds": 2,
        "lists": {"train": ["ImageSets/train.txt"], "test": ["ImageSets/test.txt"]},
    },
    "shapes": {"train_images": 60, "test_images": 80, "side": 64},
    "protocol": {"min_pixels": 64, "episodes": 4},
    "pixels": {"size": 33, "scale": [0.5, 0.6]},
    "base": {
        "steps": 2,
        "batch_size": 4,
        "size": 33,
        "width": 8,
        "train_backbone": False,
        "floor": 0.0,
        "scale": [0.5, 0.6],
        "holdout": 0.2,
    },
    "features": {"train_views": 1},
    "model": {"channels": 8},
    "pfenet": {"channels": 8},
    "cyctr": {"channels": 16},
    "qpenet": {"channels": 16},
    "ntrenet": {"channels": 8},
    "hpa": {"channels": 8},
    "hdmnet": {"channels": 8, "tokens": 16},
    "bam": {"channels": 8},
    "mianet": {"channels": 8},
    "train": {"steps": 3, "batch_size": 2, "validation_episodes": 2},
    "datasets": {"shapes": {}},
}

REPORT = {"make_tables": 1, "make_luck": 1, "make_costs": 1, "make_figures": 1, "sync_tracking": 1}  # jobs that any changed number asks for

# Of the environment of the finished benchmark: none of it may be found in what it wrote (test_secrets.py).
SECRETS = {name: f"5ecret-{name.lower()}" for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole runs may take longer than others, on a busy machine."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


class Project:
    """A copy of the project that a test may edit, with its own results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Snakefile", "all", "workflow", "symnet", "profiles", "slurm", "config", "environment.yml"):
            source = ROOT / name
            if source.is_symlink():
                (folder / name).symlink_to(source.readlink())
            elif source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        self.told = ""  # what the last run or dry run printed
        self.seconds = 0.0  # what the last run took
        self.environment: dict[str, str] = {}  # what Snakemake is told beside the usual
        self.configure(TINY)

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def configure(self, settings: dict) -> None:
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def snakemake(self, *arguments: str, configfile: tuple[str, ...] = ("tiny.yaml",)) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SYMNET_")}
        environment |= {"PYTHONPATH": str(self.folder), **self.environment}
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--configfile", *configfile]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=580, check=False)

    def run(self, *targets: str) -> None:
        """To its end, or as far as these files need."""
        began = time.monotonic()
        done = self.snakemake(*targets)
        self.seconds = time.monotonic() - began
        self.told = done.stdout + done.stderr
        assert done.returncode == 0, self.told

    def planned(self) -> dict[str, int]:
        """Rule to number of jobs that a dry run lists, `all` left out."""
        return self.planned_of("tiny.yaml")

    def planned_with(self, *arguments: str) -> dict[str, int]:
        """As `planned`, with more arguments to Snakemake."""
        return self.planned_of("tiny.yaml", arguments=arguments)

    def planned_of(self, *configfile: str, arguments: tuple[str, ...] = ()) -> dict[str, int]:
        """As `planned`, of other experiment files."""
        done = self.snakemake("-n", *arguments, configfile=configfile)
        assert done.returncode == 0, done.stdout + done.stderr
        text = self.told = done.stdout + done.stderr
        counts = re.findall(r"^(\w+)\s+(\d+)$", text.partition("Job stats:")[2].partition("\ntotal")[0], re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in ("all", "total", "job")}

    @contextmanager
    def inverted_image(self) -> Iterator[list[Path]]:
        """One image of fold 1's tests, and of no other fold's, is another; gives the test lists of both folds."""
        lists = [self.results / "shapes" / "lists" / f"fold{fold}" / "test.csv" for fold in (0, 1)]
        images = [{line.split(",")[0] for line in path.read_text().splitlines()[2:]} for path in lists]
        image = self.results / "data" / "shapes" / "JPEGImages" / f"{sorted(images[1] - images[0])[0]}.jpg"
        kept = image.with_suffix(".kept")
        shutil.copy2(image, kept)
        ImageOps.invert(Image.open(kept)).save(image)
        try:
            yield lists
        finally:
            kept.replace(image)


def holders_of_secrets(folder: Path) -> list[Path]:
    """Files that hold one of `SECRETS`: journals, logs, artifacts, the store of MLflow, what Snakemake notes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 10_000_000]
    return [path for path in files if any(value.encode() in path.read_bytes() for value in SECRETS.values())]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A benchmark that has run to its table. Of several workers one runs it, the others copy its results."""
    project = Project(tmp_path_factory.mktemp("tiny"))
    project.environment = dict(SECRETS)
    folder = tmp_path_factory.getbasetemp()
    kept = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "finished"
    took = kept / "seconds"
    with FileLock(kept.with_suffix(".lock")):
        if took.exists():
            project.seconds = float(took.read_text())
            copy_results(kept, project.folder)
        else:
            project.run()
            shutil.rmtree(kept, ignore_errors=True)  # of a worker that died
            kept.mkdir()
            copy_results(project.folder, kept)
            took.write_text(str(project.seconds))
    return project


def copy_results(source: Path, target: Path) -> None:
    """And what Snakemake noted of them."""
    for name in ("results", ".snakemake"):
        shutil.copytree(source / name, target / name, symlinks=True)


@pytest.fixture
def project(finished: Project) -> Iterator[Project]:
    """The finished benchmark; what the test edits, and what reading the plan rewrites, is put back."""
    watched = [
        *finished.folder.glob("symnet/**/*.py"),
        *finished.results.glob("settings/**/*.json"),
        *finished.results.glob("*/lists/**/*.csv"),
    ]
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in watched}
    yield finished
    finished.configure(TINY)
    for path, (content, modified) in kept.items():
        if path.read_bytes() != content:
            path.write_bytes(content)
            os.utime(path, ns=(modified, modified))


@pytest.fixture
def own(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished benchmark, to go on from."""
    shutil.copytree(finished.folder, tmp_path / "own", symlinks=True)
    project = copy.copy(finished)
    project.folder = tmp_path / "own"
    return project
