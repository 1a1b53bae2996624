"""What is timed of the forms that a GPU gets: folded backbone, TDC's kernel, the step in 16 bits as a CUDA graph; and its profile.

Twins are plain float32, so what is compared differs by the rounding of 16 bits, and the tolerance says so.
"""

from collections.abc import Callable
from typing import Any

import torch

from symnet.arrange import asked
from symnet.backbones.folded import Folded
from symnet.base_learner import BaseLearner
from symnet.bench import twins
from symnet.bench.cases import plain_step
from symnet.bench.material import BASE_CLASSES, Material
from symnet.bench.pieces import blocks_of
from symnet.bench.timing import Case, Values, numbered
from symnet.forward_backward import ForwardBackward, Step
from symnet.methods.symnet import SymNetMethod
from symnet.model.correlation import correlation_maps
from symnet.precision import answering, precision_of, to_channels_last
from symnet.runtime import wait_for
from symnet.sources import Columns, Features
from symnet.step_modes import Chosen
from symnet.trainer import Trainer

AS_TRAINED = "train step, {}-shot, as trained"
ROUNDING = 0.05  # of bfloat16, through a network
ROWS = 15  # of a profile


def folded(material: Material, low: bool = False) -> Case:
    """The backbone with batch norm folded, in float32 or in bfloat16, channels last; the twin is the network as it was trained."""
    images = material.images(2 * material.sizes.batch)
    dtype = torch.bfloat16 if low else torch.float32
    network = Folded(material.backbone, dtype, low or material.device.type == "cuda")

    def fast() -> Values:
        with torch.no_grad():
            return numbered("map", network(images))

    def plain() -> Values:
        with torch.no_grad():
            return numbered("map", material.backbone(images))

    name = "backbone, folded" + (", bfloat16" if low else "")
    return Case(name, "images", len(images), fast, plain, tolerance=ROUNDING if low else 1e-4)


def correlation_kernel(material: Material) -> Case:
    """TDC's correlation maps by the Triton kernel, of bfloat16 features in channels-last order. 1 shot."""
    query, support, mask = blocks_of(material, material.backbone.block_channels)
    order = torch.channels_last
    low_query = [q.to(torch.bfloat16, memory_format=order) for q in query]
    low_support = [s.flatten(0, 1).to(torch.bfloat16, memory_format=order).unflatten(0, s.shape[:2]) for s in support]

    def fast() -> Values:
        return {"maps": correlation_maps(low_query, low_support, mask)}

    def plain() -> Values:
        return {"maps": twins.correlation_maps(query, support, mask)}

    return Case("TDC kernel, bfloat16", "episodes", material.sizes.batch, fast, plain, tolerance=5e-3)


def as_trained(material: Material, shots: int) -> Case:
    """A step of training from images on, as `symnet train` runs it on this device; losses are compared, without dropout."""
    work, method, columns = _work(material, shots)
    trainer = Trainer(method, material.settings, steps=1 << 20)
    step = Step(work, "auto", trainer.steps, _tell)
    plain, losses = plain_step(material, method, columns["images"], columns["mask"], shots)

    def fast() -> None:
        step(columns)
        trainer.advance()

    def compare() -> Any:
        method.eval()
        seen = work(columns)
        yield {name: seen[f"loss.{name}"] for name in losses()}, losses()
        method.zero_grad(set_to_none=True)
        method.train()

    amount = material.sizes.batch
    return Case(AS_TRAINED.format(shots), "episodes", amount, fast, plain, compare, tolerance=ROUNDING)


def profile(material: Material) -> str:
    """What dominates a one-shot step, by the plain twin and as trained: the operations that took longest, and their calls."""
    work, own, columns = _work(material, 1)
    method = material.method(1)
    trainers = [Trainer(one, material.settings, steps=1 << 20) for one in (method, own)]
    plain = plain_step(material, method, columns["images"], columns["mask"], 1, trainers[0])[0]
    step = Step(work, "off", 1 << 20, _tell)  # a graph is one operation: its parts are told apart

    def quick() -> None:
        step(columns)
        trainers[1].advance()

    return "\n".join(f"{name}\n{_profiled(way, material.device)}" for name, way in (("before: plain twin", plain), ("after", quick)))


class _AtHand:
    """A source whose images lie on the device."""

    def __init__(self, base: BaseLearner, device: torch.device) -> None:
        self.base, self.device = base, device

    def made(self, columns: Columns, answered: int | None = None) -> Features:
        from symnet.features import forward

        return Features(*forward(self.base, columns["images"], answered), columns["mask"])


def _work(material: Material, shots: int) -> tuple[ForwardBackward, SymNetMethod, Columns]:
    """A step as trained, its method, and what it reads."""
    device, precision = material.device, precision_of("auto", material.device)
    last = device.type == "cuda"
    base = answering(material.base, precision.frozen, last)
    method = material.method(shots)
    if last:
        to_channels_last(method)
    method.dtype = precision.trained
    episodes = material.episodes(shots)
    count = len(episodes) * (1 + shots)
    columns = {"images": material.images(count), "mask": material.masks(count)}
    source: Any = _AtHand(base, device)
    columns |= asked(episodes, material.vectors, BASE_CLASSES, device)
    return ForwardBackward(method, base, source, material.vectors), method, columns


def _tell(chosen: Chosen) -> None:
    print(f"bench: train.compile: {chosen.name}; {chosen.why}", flush=True)


def _profiled(way: Callable[[], object], device: torch.device) -> str:
    """A table of the operations of one call, longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    for _ in range(3):
        way()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profiling(activities=activities, acc_events=True) as found:  # torch 2.11 warns without: it asks of cycles, and this is one
        way()
        wait_for(device)
    return found.key_averages().table(sort_by="self_device_time_total" if on_gpu else "self_cpu_time_total", row_limit=ROWS)
