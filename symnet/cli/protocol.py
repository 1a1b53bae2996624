"""Commands that tell protocols apart."""

from pathlib import Path
from typing import Annotated, Any

import typer

from symnet.artifacts import read_json
from symnet.cli.app import protocol
from symnet.cli.complete import protocols
from symnet.config_data import ProtocolSettings
from symnet.errors import EXIT_FOUND, UserError
from symnet.experiment import load_experiment
from symnet.protocols import BLOCKS, block, differences, in_words

Source = Annotated[
    str, typer.Argument(help="A named block, an experiment file (FILE, or FILE:DATASET), or a metric file.", autocompletion=protocols)
]


@protocol.command("list")
def list_() -> None:
    """Print every named block in words.

    Example: symnet protocol list
    """
    for name in BLOCKS:
        print(f"{name}: {in_words(ProtocolSettings(name=name).model_dump())}")


@protocol.command("show")
def show(source: Source) -> None:
    """Print a protocol in words.

    Example: symnet protocol show config/config.yaml:coco20i
    """
    print(in_words(protocol_of(source)))


@protocol.command("diff")
def diff(one: Source, other: Source) -> None:
    """Say in words what differs between two protocols. Exit code 1 where anything does.

    Example: symnet protocol diff symnet-1 bam-1
    """
    found = differences(protocol_of(one), protocol_of(other))
    if not found:
        print(f"{one} and {other}: the same rules")
        return
    width = max(len(one), len(other))
    for key, words in found.items():
        print(key)
        for name, word in zip((one, other), words, strict=True):
            print(f"  {name:{width}}  {word}")
    raise typer.Exit(EXIT_FOUND)


def protocol_of(source: str) -> dict[str, Any]:
    """The rules behind a named block, an experiment file (`FILE` or `FILE:DATASET`) or a metric file. Raises `UserError`."""
    if source in BLOCKS:
        return ProtocolSettings(name=source).model_dump()
    path, _, dataset = source.partition(":")
    if not Path(path).is_file():
        block(source)  # says which names there are
    if path.endswith(".json"):
        payload, _ = read_json(path, "evaluate")
        return dict(payload["protocol"])
    experiment = load_experiment(path)
    if not dataset and len(experiment.datasets) > 1:
        raise UserError(f"{path}: has {', '.join(experiment.datasets)}; name one: {path}:{next(iter(experiment.datasets))}")
    settings = experiment.settings(dataset or next(iter(experiment.datasets)))
    return settings.protocol.model_dump() | {"image_size": settings.pixels.size}
