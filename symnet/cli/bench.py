"""The command that measures speed."""

from pathlib import Path
from typing import Annotated

import typer

from symnet.cli.app import START, Device, Threads, app
from symnet.cli.jobs import use_device
from symnet.errors import UserError


@app.command(rich_help_panel=START)
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller on a CPU (2 minutes), fewer rounds on a GPU.")] = False,
    json: Annotated[Path | None, typer.Option(help="File to write the figures to.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Tell in the end which operations dominate a training step.")] = False,
    methods: Annotated[
        bool, typer.Option("--methods", help="Time tests of every method instead, against the released codes' manner.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="File (.png, .svg, .pdf) for a plot of cost against episodes, images, shots.")] = None,
    device: Device = "auto",
    threads: Threads = 2,
) -> None:
    """Time every fast path against its plain twin, in this process, once both are found to compute the same.

    Example: symnet bench --quick --json bench.json --plot bench.png
    """
    from symnet.bench.linear import costs
    from symnet.bench.linear import plot as draw
    from symnet.bench.material import Material, sizes_for
    from symnet.bench.quick import profile as profile_of
    from symnet.bench.report import bench as measure
    from symnet.bench.report import bench_methods, text_of, write

    if methods and (plot is not None or profile):
        raise UserError("bench: --plot and --profile are of Sym-Net; leave --methods out")
    used = use_device(device, threads)
    sizes = sizes_for(used, quick)
    found = bench_methods(sizes, used) if methods else measure(sizes, used)
    print(text_of(found), flush=True)
    if json is not None:
        write(found, json)
    if plot is not None:
        found["costs"] = costs(Material(sizes, used))
        draw(found["costs"], f"{found['device']}, {found['threads']} CPU threads", plot)
        if json is not None:
            write(found, json)
    if profile:
        print(profile_of(Material(sizes, used)))
    if failed := found["failed"]:
        raise UserError(f"bench: {len(failed)} of {len(failed) + len(found['figures'])} figures are missing, as said above")
