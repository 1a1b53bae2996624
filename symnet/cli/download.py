"""The command that fetches data sets, weights and word vectors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from symnet.cli.app import START, DryRun, app
from symnet.cli.complete import downloads
from symnet.data.catalogue import CATALOGUE, FETCHED, Entry, known, load_catalogue, parents
from symnet.errors import UserError
from symnet.progress import size

SCALE = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


@app.command(rich_help_panel=START)
def download(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Entries of the catalogue; --list shows them.", autocompletion=downloads)
    ] = None,
    root: Annotated[Path, typer.Option(envvar="SYMNET_DATA", help="Data root.")] = Path("data"),
    catalogue: Annotated[Path, typer.Option(envvar="SYMNET_CATALOGUE", help="The catalogue (TSV); its pins lie beside it.")] = CATALOGUE,
    offline: Annotated[bool, typer.Option("--offline", envvar="SYMNET_OFFLINE", help="Fetch nothing; missing is an error.")] = False,
    limit_rate: Annotated[str | None, typer.Option(help="Bytes a second at most: 500k, 20M, 1G.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the catalogue and what is there.")] = False,
    delete_archives: Annotated[bool, typer.Option("--delete-archives", help="Delete archives once they are unpacked.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Fetch data sets, weights and word vectors: resumed where it broke off, checked, unpacked to their places under the data root.

    Example: symnet download voc2012 resnet50_deepstem --root data
    """
    from symnet.data.download import Transport
    from symnet.data.obtain import obtain

    entries = load_catalogue(catalogue)
    if list_:
        print(table(entries, root))
        return
    if not names:
        raise UserError(f"download: give names, or --list; the catalogue has: {', '.join(entries)}")
    how = Transport(offline=offline, rate=None if limit_rate is None else rate_of(limit_rate))
    for name in names:
        known(entries, name)
    if dry_run:
        print("\n".join(dict.fromkeys(line for name in names for line in steps(entries[name], entries, root))))
        return
    for name in names:
        print(f"{name}: {obtain(name, entries, catalogue, root, how, delete_archives)}")


def steps(entry: Entry, entries: dict[str, Entry], root: Path) -> Iterator[str]:
    """What would be done for an entry, and before for what its place lies in, a line each."""
    for one in [*parents(entries, entry), entry]:
        place = root / one.place
        if place.exists():
            yield f"{one.name}: there already: {place}"
        elif one.kind in FETCHED:
            yield f"{one.name}: to be fetched, {size(one.bytes) if one.bytes else 'size unknown'}, from {one.url} to {place}"
        else:
            yield f"{one.name}: not fetched but {one.kind}: {one.note}; its place is {place}"


def rate_of(text: str) -> int:
    """`500k`, `20M`, `1G` or a plain number as bytes. Raises `UserError`."""
    found = re.fullmatch(r"([1-9]\d*)([kMG]?)", text)
    if found is None:
        raise UserError(f"--limit-rate: found '{text}', expected bytes a second: 500k, 20M, 1G")
    return int(found[1]) * SCALE[found[2]]


def table(entries: dict[str, Entry], root: Path) -> str:
    """The catalogue in plain columns."""
    rows = [("name", "version", "size", "kind", "there", "place")]
    for entry in entries.values():
        there = "yes" if (root / entry.place).exists() else "no"
        rows.append((entry.name, entry.version, size(entry.bytes) if entry.bytes else "--", entry.kind, there, entry.place))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
