"""What the shell may complete: names that are cheap to know, without importing torch."""

from collections.abc import Iterable
from pathlib import Path

import typer

from symnet.backbones import BACKBONES
from symnet.data.catalogue import CATALOGUE, load_catalogue
from symnet.errors import UserError
from symnet.experiment import Experiment, load_experiment
from symnet.methods import METHODS
from symnet.protocols import BLOCKS


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Data sets of the experiment file given so far."""
    experiment = _experiment(ctx)
    return _starting(experiment.datasets, incomplete) if experiment else []


def rows(ctx: typer.Context, incomplete: str) -> list[str]:
    """Methods, and variants of the experiment file given so far."""
    experiment = _experiment(ctx)
    return _starting([*METHODS, *(experiment.variants if experiment else ())], incomplete)


def backbones(incomplete: str) -> list[str]:
    """Names of backbones."""
    return _starting(BACKBONES, incomplete)


def protocols(incomplete: str) -> list[str]:
    """Named blocks; where none fits, the shell completes files."""
    return _starting(BLOCKS, incomplete)


def downloads(incomplete: str) -> list[str]:
    """Entries of the catalogue."""
    return _starting(load_catalogue(CATALOGUE), incomplete)


def _experiment(ctx: typer.Context) -> Experiment | None:
    config = ctx.params.get("config")
    if config is None or Path(config).suffix == ".json":
        return None
    try:
        return load_experiment(config)
    except UserError:
        return None


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
