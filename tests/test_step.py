"""A step of training: which way it is run, that no way changes what it computes, and that the host waits for nothing in it."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from symnet import forward_backward
from symnet.arrange import batch_of
from symnet.backbones.unasked import Unasked
from symnet.base_learner import BaseLearner
from symnet.bench.material import Material, Sizes
from symnet.config import Settings
from symnet.errors import UserError
from symnet.forward_backward import Captured, ForwardBackward, Step
from symnet.image_sources import Images
from symnet.methods import METHODS, method_class
from symnet.methods.symnet import SymNetMethod
from symnet.model.divisors import Divisors
from symnet.precision import answering, to_channels_last
from symnet.sources import Columns
from symnet.step_modes import Chosen, Way, choose
from symnet.testing import predicted
from symnet.trainer import Trainer
from tests.marks import some

CPU = torch.device("cpu")
TINY = Sizes("efficientnet_lite0", 65, 2, 16, 16, 65, 2, rounds=2, image_side=96)
TRAINED = [name for name, entry in METHODS.items() if entry.trained]

pytestmark = pytest.mark.xdist_group("bench")  # made once


# --- the choice


class Clock:
    """Ways whose steps take given seconds; None: they cannot be built."""

    def __init__(self, **seconds: float | None) -> None:
        self.seconds, self.built = seconds, []

    def ways(self, **cost: float) -> list[Way[str]]:
        return [Way(name, lambda name=name: self.build(name), cost.get(name, 0)) for name in self.seconds]

    def build(self, name: str) -> str:
        self.built.append(name)
        if self.seconds[name] is None:
            raise torch.OutOfMemoryError("CUDA out of\nmemory")
        return name

    def choose(self, wanted: str, steps: int = 1000, **cost: float) -> Chosen[str]:
        return choose(wanted, self.ways(**cost), lambda name: self.seconds[name], steps)


def test_the_fastest_is_taken_and_why_is_told() -> None:
    clock = Clock(off=0.038, graph=0.019, compile=0.021)
    found = clock.choose("auto")
    assert (found.name, found.step) == ("graph", "graph")
    assert found.why == "a step took: off 38.0 ms, graph 19.0 ms, compile 21.0 ms"
    assert found.seconds == {"off": 0.038, "graph": 0.019, "compile": 0.021}


def test_a_gain_too_small_to_be_one_changes_nothing() -> None:
    assert Clock(off=0.100, graph=0.098).choose("auto").name == "off"
    assert Clock(off=0.100, graph=0.096).choose("auto").name == "graph"
    assert Clock(off=0.100, graph=0.050, compile=0.049).choose("auto").name == "graph"


def test_what_cannot_be_built_is_left_out() -> None:
    found = Clock(off=0.03, graph=None, compile=0.02).choose("auto")
    assert (found.name, found.why) == ("compile", "a step took: off 30.0 ms, graph failed (CUDA out of memory), compile 20.0 ms")
    with pytest.raises(torch.OutOfMemoryError):  # of the plain way: the caller cuts the batch
        Clock(off=None, graph=0.1).choose("auto")


@pytest.mark.parametrize(("steps", "tried"), [(100, False), (179_000, False), (181_000, True)])
def test_a_costly_way_is_tried_where_it_pays(steps: int, tried: bool) -> None:
    clock = Clock(off=0.04, graph=0.02, compile=0.01)  # 180 s, 20 times, at 0.02 s a step
    found = clock.choose("auto", steps, compile=180)
    assert ("compile" in clock.built) == tried
    assert found.name == ("compile" if tried else "graph")
    assert tried or found.why.endswith("compile not tried, the run is too short to pay for it")


def test_what_is_asked_for_is_not_measured() -> None:
    clock = Clock(off=0.1, graph=0.2)
    assert clock.choose("graph") == Chosen("graph", "graph", "asked for")
    assert clock.built == ["graph"]
    assert Clock(off=1.0).choose("auto") == Chosen("off", "off", "the only way on this device")
    with pytest.raises(UserError, match=r"train\.compile: found graph, which needs a GPU; use auto or off"):
        Clock(off=1.0).choose("graph")
    with pytest.raises(torch.OutOfMemoryError):  # here, too, the caller cuts the batch
        Clock(off=1.0, graph=None).choose("graph")

    def refused() -> str:
        raise RuntimeError("no such\nkernel")

    with pytest.raises(UserError, match=r"train\.compile: graph failed \(no such kernel\); use auto or off"):
        choose("graph", [Way("graph", refused)], lambda name: 1.0, 1000)


# --- the step


class Given(Images):
    """A source whose images are at hand."""

    def __init__(self, base: BaseLearner, side: int, device: torch.device) -> None:
        self.base, self.side, self.device, self.blocks = base, side, device, None

    def send(self, loaded: Columns) -> Columns:
        return {name: value.to(self.device) for name, value in loaded.items()}


def made(
    shots: int, device: torch.device = CPU, low: torch.dtype = torch.float32, name: str = "symnet", **model: Any
) -> tuple[ForwardBackward, list, Columns]:
    """A step's work, its episodes and what was loaded for them."""
    torch.manual_seed(0)
    material = Material(TINY, CPU)
    episodes = material.episodes(shots)
    count = len(episodes) * (1 + shots)
    loaded = {"images": material.images(count), "mask": material.masks(count)}
    base = answering(material.base, low, False).to(device)
    settings = Settings.model_validate(material.settings.model_dump() | {"model": {"channels": 16, **model}})
    method = method_class(name)(settings, base.backbone, shots, 300, material.side).to(device).train()
    method.dtype = low
    source = Given(base, material.side, device)
    if METHODS[name].images:
        source = Given(replace(base, backbone=Unasked(base.backbone.stride)), material.side, device).only((0,))
    return ForwardBackward(method, base, source, material.vectors), episodes, loaded


class NoWaiting(TorchDispatchMode):
    """Fails where an operation reads the device to answer on the host. What sizes a tensor by others' values fails on `meta` by itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        kinds = [{leaf.device.type for leaf in tree_leaves(held) if isinstance(leaf, torch.Tensor)} for held in ((args, kwargs), found)]
        assert "meta" not in kinds[0] or "cpu" not in kinds[1], func
        return found


class Alone(NoWaiting):
    """Fails also where one takes something from the host, which waits as well unless it is page-locked."""

    MAKERS = ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor"))  # what they make of numbers no mode sees

    def __enter__(self) -> Any:
        self.patch = pytest.MonkeyPatch()
        for owner, name in self.MAKERS:
            self.patch.setattr(owner, name, self._refuse)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.patch.undo()
        super().__exit__(*error)

    @staticmethod
    def _refuse(*_: object, **__: object) -> None:
        raise AssertionError("made of the host's numbers")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = super().__torch_dispatch__(func, types, args, kwargs)
        kinds = [{leaf.device.type for leaf in tree_leaves(held) if isinstance(leaf, torch.Tensor)} for held in ((args, kwargs), found)]
        assert "cpu" not in kinds[0] or "meta" not in kinds[1], func
        return found


@pytest.mark.parametrize("low", some([torch.float32, torch.bfloat16], torch.bfloat16))
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("prior", some(["spm", "hpm", "pfenet"], "spm"))
@pytest.mark.parametrize("shots", [1, 5])
def test_the_host_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, shots: int, variant: str, prior: str, low: torch.dtype) -> None:
    """The loop's whole step: to the device, frozen part, head, losses, gradients, what is seen, SGD."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # `meta` has none, and it only casts
    work, episodes, loaded = made(shots, torch.device("meta"), low, variant=variant, prior=prior, apa=prior != "pfenet")
    work.method.dtype = torch.float32
    settings = Settings.model_validate({"train": {"steps": 1}})
    with NoWaiting():
        trainer = Trainer(work.method, settings, 1)
        step = Step(work, "auto", 1, lambda chosen: None)
        divisors = work.method.divisors(*work.masks(work.send(episodes, loaded, None)))
        seen = step(work.send(episodes, loaded, divisors))
        total = torch.stack(list(seen.values()))
        trainer.advance()
    assert total.device.type == "meta"
    assert {"loss", "loss.ensemble", "known", "predicted.meta"} <= set(seen)


@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("name", TRAINED)
def test_no_method_waits_or_takes_anything_from_the_host(monkeypatch: pytest.MonkeyPatch, name: str, shots: int) -> None:
    """What a graph records: all between what was sent and the gradients, once what is kept for good is made. And a test, up to its lead."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    work, episodes, loaded = made(shots, torch.device("meta"), name=name)
    to_channels_last(work.method)
    work.method.begin_step(len(episodes))
    columns = work.send(episodes, loaded, None)
    work(columns)
    with Alone():
        seen = work(columns)
    assert seen["loss"].device.type == "meta"
    assert sum(p.grad is not None for p in work.method.parameters()) > 3
    work.method.eval()
    with torch.no_grad():
        batch = batch_of(columns, work.source.made(columns), work.base.head)
        predicted(work.method, work.source.base.backbone, batch)
        with Alone():
            lead = predicted(work.method, work.source.base.backbone, batch)
    assert lead.shape[:2] == (len(episodes), len(work.method.outputs))


@pytest.mark.parametrize("name", some(TRAINED, "fecanet"))
def test_the_first_gradients_are_no_outliers(name: str) -> None:
    """Adam remembers what it saw first: a gradient of 1e9 would leave its weight where it is for the whole run."""
    work, episodes, loaded = made(1, name=name)
    work.method.begin_step(len(episodes))
    work(work.send(episodes, loaded, None))
    norms = {part: gradient.norm().item() for part, gradient in gradients(work.method).items()}
    assert 0.1 < max(norms.values()) < 100, max(norms.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", some(["symnet", "hsnet", "dcama", "ssp"], "symnet"))
def test_what_is_compiled_computes_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Traced, with its backward, and run by the library's operations: what a GPU's code is made from."""
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **options: compiled(run, backend="aot_eager", **options))
    work, episodes, loaded = made(1, name=name)
    columns = work.send(episodes, loaded, None)
    statistics = [buffer.clone() for buffer in work.method.buffers()]
    torch.manual_seed(3)
    seen, wanted = work(columns), gradients(work.method)
    work.method.zero_grad()
    for buffer, value in zip(work.method.buffers(), statistics, strict=True):
        buffer.copy_(value)
    work.method.compiled = True
    torch.manual_seed(3)
    found = work(columns)
    assert float(found["loss"]) == pytest.approx(float(seen["loss"]), rel=1e-6)
    assert gradients(work.method).keys() == wanted.keys()
    for part, gradient in gradients(work.method).items():
        torch.testing.assert_close(gradient, wanted[part], rtol=1e-5, atol=1e-6)


def test_a_wait_would_be_found() -> None:
    x = torch.ones(3, device="meta")
    for taking in (lambda: x.new_tensor([1, 2]), lambda: torch.tensor(1, device="meta"), lambda: torch.ones(3).to("meta")):
        with pytest.raises(AssertionError), Alone():
            taking()
    for wait in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 0], lambda: x.cpu(), lambda: bool(x.any())):
        with pytest.raises((AssertionError, NotImplementedError, RuntimeError)), NoWaiting():
            wait()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shots", [1, 5])
def test_a_gpu_is_not_waited_for(shots: int) -> None:
    work, episodes, loaded = made(shots, torch.device("cuda"), torch.bfloat16)
    columns = work.send(episodes, loaded, None)
    work(columns)  # what is tuned or kept, is so once
    torch.cuda.set_sync_debug_mode("error")
    try:
        work(columns)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients(method: SymNetMethod) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("shots", [1, 5])
def test_bfloat16_gives_the_losses_and_the_gradients_of_float32(shots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses to a hundredth; the gradient points the same way. Weights and gradients stay float32."""
    for name in ("dropout", "dropout2d"):
        monkeypatch.setattr(torch.nn.functional, name, lambda x, *_, **__: x)
    found = []
    for low in (torch.float32, torch.bfloat16):
        work, episodes, loaded = made(shots, low=low, variant="released")
        torch.manual_seed(1)
        seen = work(work.send(episodes, loaded, None))
        found.append((seen, torch.cat([g.flatten() for g in gradients(work.method).values()])))
    assert found[1][1].dtype == torch.float32
    for name, value in found[0][0].items():
        if name.startswith("loss"):
            assert float(found[1][0][name]) == pytest.approx(float(value), rel=0.02), name
    assert torch.nn.functional.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.98


def test_divisors_travel_as_tensors() -> None:
    """Of a batch that is twice this one: every loss and gradient is half."""
    work, episodes, loaded = made(2, variant="released")
    work.method.eval()
    whole = work(work.send(episodes, loaded, None))
    own = work.method.divisors(*work.masks(work.send(episodes, loaded, None)))
    double = Divisors(2 * own.pixels, 2 * own.episodes, 2 * own.usable)
    half = work(work.send(episodes, loaded, double))
    for name in whole:
        share = 0.5 if name.startswith("loss") else 1.0
        assert float(half[name]) == pytest.approx(share * float(whole[name]), rel=1e-5), name


# --- recordings


class Recording:
    """A CUDA graph on a CPU: what is replayed runs again, and writes to the memory that the recording wrote to."""

    current: "Recording"

    def __init__(self) -> None:
        self.work: Callable[[], tuple[list[torch.Tensor], torch.Tensor]]

    def replay(self) -> None:
        gradients, seen = self.work()
        for held, new in zip(self.gradients, gradients, strict=True):
            held.copy_(new)
        self.seen.copy_(seen)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    """Stands in for torch.cuda's graphs."""

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: contextlib.nullcontext(),
        "empty_cache": lambda: None,
        "CUDAGraph": Recording,
        "graph": lambda graph, capture_error_mode: contextlib.nullcontext(),
    }.items():
        monkeypatch.setattr(forward_backward.torch.cuda, name, value)
    return Recording


def captured(work: ForwardBackward, columns: Columns) -> Captured:
    parameters = [p for p in work.method.parameters() if p.requires_grad]
    found = Captured(work, parameters, columns, work.method.zero_grad)
    graph = found.graph
    graph.gradients, graph.seen = [g for g in found.gradients if g is not None], found.seen

    def again() -> tuple[list[torch.Tensor], torch.Tensor]:
        kept = [p.grad for p in parameters]
        for p in parameters:
            p.grad = None
        seen = torch.stack(list(work(found.columns).values()))
        fresh = [p.grad for p in parameters if p.grad is not None]
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient
        return fresh, seen

    graph.work = again
    return found


def test_a_recording_hands_over_gradients_and_adds_those_of_a_step_s_parts(recorded: type[Recording]) -> None:
    work, episodes, loaded = made(1)
    work.method.eval()  # no dropout
    other = {**loaded, "images": loaded["images"].flip(0)}
    columns = [work.send(episodes, one, None) for one in (loaded, other)]
    expected = []
    for one in columns:
        work.method.zero_grad()
        expected.append((work(one), gradients(work.method)))
    work.method.zero_grad()
    replay = captured(work, columns[0])
    assert all(p.grad is None for p in work.method.parameters())
    for one, (seen, wanted) in zip(columns, expected, strict=True):
        work.method.zero_grad()
        found = replay(one)
        assert {n: float(v) for n, v in found.items()} == pytest.approx({n: float(v) for n, v in seen.items()})
        for name, gradient in gradients(work.method).items():
            torch.testing.assert_close(gradient, wanted[name])
    work.method.zero_grad()
    first = replay(columns[0])
    replay(columns[1])  # a second part of the same step
    assert float(first["loss"]) == pytest.approx(float(expected[0][0]["loss"]))  # not written over
    for name, gradient in gradients(work.method).items():
        torch.testing.assert_close(gradient, expected[0][1][name] + expected[1][1][name], rtol=1e-4, atol=1e-5)


def test_trials_leave_generators_and_gradients_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    work, episodes, loaded = made(1)
    columns = work.send(episodes, loaded, None)
    torch.manual_seed(5)
    seen, wanted = work(columns), gradients(work.method)
    work.method.zero_grad()

    told: list[Chosen] = []

    def choice(wanted: str, ways: list, seconds: Callable, steps: int) -> Chosen:
        ways[0].build()(columns)  # a trial: draws dropout, leaves gradients
        return Chosen("off", ways[0].build(), "trial", {"off": 1.0})

    monkeypatch.setattr(forward_backward, "choose", choice)
    monkeypatch.setattr(forward_backward, "_gpu_state", lambda _: None)
    work.source.device = torch.device("cuda")
    step = Step(work, "auto", 10, told.append)
    torch.manual_seed(5)
    found = step(columns)
    assert float(found["loss"]) == float(seen["loss"])
    assert all(torch.equal(gradient, wanted[name]) for name, gradient in gradients(work.method).items())
    assert [chosen.name for chosen in told] == ["off"]
    step(columns)
    assert len(told) == 1  # the same shapes
    step({name: value[:1] if name in ("classes", "text", "base_index") else value[::2] for name, value in columns.items()})
    assert len(told) == 2  # fewer episodes


def test_a_trial_begins_with_what_the_one_before_began_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """NTRENet's memory has room for what one step brings, and a trial is a dozen steps' computing within one."""
    work, episodes, loaded = made(1, name="ntrenet")
    work.method.begin_step(len(episodes))
    columns = work.send(episodes, loaded, None)
    before = {name: buffer.clone() for name, buffer in work.method.named_buffers()}
    seen: list[dict[str, torch.Tensor]] = []

    def choice(wanted: str, ways: list, seconds: Callable, steps: int) -> Chosen:
        assert seconds(ways[0].build()) > 0
        seen.append({name: buffer.clone() for name, buffer in work.method.named_buffers()})
        return Chosen("off", ways[0].build(), "trial")

    monkeypatch.setattr(forward_backward, "choose", choice)
    monkeypatch.setattr(forward_backward, "_gpu_state", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    work.source.device = torch.device("cuda")
    Step(work, "auto", 10, lambda chosen: None)(columns)
    assert seen[0].keys() == before.keys()
    assert all(torch.equal(seen[0][name], before[name]) for name in before)
    memory = work.method.memory
    assert int(memory.filled) == len(memory.owner) > 0  # by the one step after the trials


def test_after_a_recording_that_failed_the_thread_has_its_own_stream(monkeypatch: pytest.MonkeyPatch, recorded: type[Recording]) -> None:
    """And what torch took for recording has come to its end: a recording that succeeds follows."""
    work, episodes, loaded = made(1)
    calls: list[object] = []

    @contextlib.contextmanager
    def graph(held: object, capture_error_mode: str = "global") -> Iterator[None]:
        calls.append(capture_error_mode)
        yield
        if len(calls) == 1:
            raise RuntimeError("invalidated")

    own = torch.cuda.Stream()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: own)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "set_stream", calls.append)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: calls.append(device))
    with pytest.raises(RuntimeError, match="invalidated"):
        captured(work, work.send(episodes, loaded, None))
    assert calls == ["thread_local", own, "global", "cuda", own]


def test_on_a_cpu_nothing_is_tried() -> None:
    work, episodes, loaded = made(1)
    step = Step(work, "auto", 10, lambda chosen: pytest.fail("told"))
    step(work.send(episodes, loaded, None))
    with pytest.raises(UserError, match="which needs a GPU"):
        Step(work, "compile", 10, lambda chosen: None)(work.send(episodes, loaded, None))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shots", [1, 5])
def test_a_graph_computes_what_the_plain_step_does(shots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    work, episodes, loaded = made(shots, torch.device("cuda"), variant="released")
    work.method.eval()
    columns = work.send(episodes, loaded, None)
    seen, wanted = work(columns), gradients(work.method)
    work.method.zero_grad()
    replay = Captured(work, [p for p in work.method.parameters() if p.requires_grad], columns, work.method.zero_grad)
    for _ in range(2):
        work.method.zero_grad()
        found = replay(columns)
        assert float(found["loss"]) == pytest.approx(float(seen["loss"]), rel=1e-4)
        for name, gradient in gradients(work.method).items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4)
