"""The bench as a whole: every case, a table, a JSON, and the hours of the paper's Table 1."""

import platform
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from symnet import __version__
from symnet.artifacts import Provenance, digest, write_json
from symnet.bench import cases, pieces, quick, rows, table1
from symnet.bench.loops import training_loop
from symnet.bench.material import Disk, Material, Sizes, written
from symnet.bench.timing import Case, convolving, measure
from symnet.errors import UserError
from symnet.methods import METHODS
from symnet.progress import progress
from symnet.stages import module_hash

STAGE = "bench"


def bench(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measure every figure. Returns device, versions, threads, sizes, figures and the hours of Table 1, as plain values.

    A figure whose fast path does not compute what its twin does, or for which memory is not enough, is left out, and so are the hours;
    `failed` says why.
    """
    material = Material(sizes, device)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        with convolving():
            disk = held.enter_context(written(material, Path(folder)))
        figures, failed = _measured(all_cases(material, disk), sizes, device)
        left = [] if device.type == "cuda" else [make().name for make in gpu_cases(material, disk)]
    hours = {} if failed else {"table1": {"assumed": table1.ASSUMED, "hours": projection(figures)}}
    return {**machine(device), "sizes": asdict(sizes), "figures": figures, "failed": failed, "needs_gpu": left, **hours}


def bench_methods(sizes: Sizes, device: torch.device) -> dict[str, Any]:
    """Measure the test of every method, 1 and 5 shots: what `bench` returns, without the hours."""
    material = Material(sizes, device)
    makers: list[Callable[[], Case]] = [partial(rows.tested, material, name, shots) for name in METHODS for shots in table1.SHOTS]
    figures, failed = _measured(makers, sizes, device)
    return {**machine(device), "sizes": asdict(sizes), "figures": figures, "failed": failed, "needs_gpu": []}


def _measured(makers: list[Callable[[], Case]], sizes: Sizes, device: torch.device) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures, and why others are missing."""
    figures, failed = [], []
    for make in progress(makers, len(makers), "bench, figures"):
        try:
            with convolving():
                case = make()
            figures.append(measure(case, sizes.rounds, device))
        except UserError as error:
            failed.append(str(error))
        except torch.OutOfMemoryError:
            failed.append(f"bench: after {figures[-1]['name'] if figures else 'nothing'}: not enough memory for {sizes.size} px")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return figures, failed


def all_cases(material: Material, disk: Disk) -> list[Callable[[], Case]]:
    """What makes each case, in the order of the table; a case's tensors are freed with it."""
    whole = (cases.train_step, partial(cases.train_step, cached=True), cases.evaluation, cases.recorded)
    of_shots = [partial(make, material, shots) for make in whole for shots in table1.SHOTS]
    sizes = material.sizes
    parts = (pieces.prior, pieces.correlations, pieces.regions_and_triplet, pieces.resizing, pieces.counting, cases.base_step)
    return [
        partial(cases.backbone, material),
        *of_shots,
        *([partial(cases.larger, cases.recorded, "evaluation from records", material, sizes.paper)] if sizes.paper else []),
        partial(cases.larger, cases.train_step, "train step", material, sizes.large),
        *(partial(make, material) for make in parts),
        partial(pieces.store_read, disk),
        partial(pieces.cache_read, material, disk),
        partial(pieces.records_read, material, disk),
        partial(quick.folded, material),
        partial(quick.folded, material, low=True),
        *(gpu_cases(material, disk) if material.device.type == "cuda" else []),
    ]


def gpu_cases(material: Material, disk: Disk) -> list[Callable[[], Case]]:
    """Those that are nothing on a CPU."""
    steps = [partial(quick.as_trained, material, shots) for shots in table1.SHOTS]
    return [partial(quick.correlation_kernel, material), *steps, *(partial(training_loop, material, disk, shots) for shots in table1.SHOTS)]


def machine(device: torch.device) -> dict[str, Any]:
    """Device, threads and versions."""
    versions = {"symnet": __version__, "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    versions["h5py"] = h5py.__version__
    if device.type == "cuda":
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        name = torch.cuda.get_device_name(device)
    else:
        name = f"CPU, {_processor()}"
    return {"device": name, "threads": torch.get_num_threads(), "versions": versions}


def _processor() -> str:
    """Its name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def projection(figures: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The hours of Table 1 at the rates measured, at the sizes measured, of the fast paths and of the twins."""
    found = {}
    for side in ("fast", "plain"):
        rate = {figure["name"]: figure[side]["rate"] for figure in figures}
        train, evaluate, recorded = (
            {k: rate[f"{what}, {k}-shot"] for k in table1.SHOTS} for what in ("train step", "evaluation", "evaluation from records")
        )
        train |= {k: rate[name] for k in table1.SHOTS if (name := quick.AS_TRAINED.format(k)) in rate}
        found[side] = table1.hours(table1.Rates(train, recorded, rate["backbone"], evaluate if side == "fast" else None))
    return found


def text_of(found: dict[str, Any]) -> str:
    """The table for a terminal: a figure a line, then the hours."""
    sizes = found["sizes"]
    lines = [
        f"{found['device']}, {found['threads']} CPU threads, torch {found['versions']['torch']}, float32; on a GPU, twins round "
        "what convolutions multiply (TF32), as the released code does",
        f"{sizes['backbone']}, {sizes['size']} px, batch {sizes['batch']}, {sizes['channels']} channels; medians of {sizes['rounds']} "
        "rounds in turn, (least..most)",
        "",
        f"{'':32}{'fast':>34}  {'plain twin':>34} {'ratio':>8} {'largest error':>14}",
    ]
    for figure in found["figures"]:
        sides = "  ".join(f"{_rate(figure[side], figure['unit']):>34}" for side in ("fast", "plain"))
        lines.append(f"{figure['name']:32}{sides} {figure['ratio']:>7.2f}x {figure['largest_relative_error']:>14.1e}")
        if figure["fast"]["peak_memory"]:
            memory = "  ".join(f"{figure[side]['peak_memory'] / 2**30:>30.1f} GiB" for side in ("fast", "plain"))
            lines.append(f"{'  peak memory':32}{memory}")
    lines += [f"{name:32}{'needs a GPU':>34}" for name in found["needs_gpu"]]
    lines += ["", *found["failed"]] if found["failed"] else []
    if "table1" not in found:
        return "\n".join(lines)
    lines += ["", f"Table 1 of the paper at these rates and sizes, hours: {table1.ASSUMED}"]
    hours = found["table1"]["hours"]
    for part in hours["fast"]:
        lines.append(f"  {part:34}{hours['fast'][part]:>30.2f}  {hours['plain'][part]:>34.2f}")
    return "\n".join(lines)


def _rate(side: dict[str, Any], unit: str) -> str:
    amount = side["amount"]
    spread = f"({_short(amount / side['most_s'])}..{_short(amount / side['least_s'])})"
    return f"{_short(side['rate'])} {unit}/s {spread}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def write(found: dict[str, Any], out: Path) -> None:
    """The JSON, as an artifact."""
    settings = digest({name: found[name] for name in ("sizes", "device", "threads")})
    write_json(out, found, Provenance(stage=STAGE, settings=settings, code=module_hash(__name__)))
