"""The bench: that it refuses a wrong fast path, what it counts and tells, and that every fast path equals its twin."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from symnet import image_sources
from symnet.artifacts import read_json
from symnet.bench import cases, linear, loops, material, pieces, quick, report, rows, table1, timing, twins
from symnet.bench.material import ON_CPU, ON_GPU, QUICK, Disk, Material, Sizes
from symnet.bench.timing import Case, alternate, largest_error, measure
from symnet.cli import bench as command
from symnet.errors import UserError
from symnet.methods import METHODS
from symnet.model import head
from tests.marks import some

CPU = torch.device("cpu")
TINY = Sizes("efficientnet_lite0", 65, 2, 16, 16, 65, 2, rounds=2, image_side=96, large=97, tested=4, paper=81)
FIGURES = [
    "backbone",
    *(f"train step, {k}-shot{how}" for how in ("", ", from the cache") for k in (1, 5)),
    *(f"evaluation{how}, {k}-shot" for how in ("", " from records") for k in (1, 5)),
    *("evaluation from records at 81 px, 1-shot", "train step at 97 px, 1-shot"),
    *("SPM", "TDC correlations", "masked means + triplet", "bilinear resize + gradient", "upsampling + counting"),
    *("base learner step", "image store read", "HDF5 cache read", "episode records read"),
    *("backbone, folded", "backbone, folded, bfloat16"),
]

pytestmark = pytest.mark.xdist_group("bench")  # made once


@pytest.fixture(scope="module")
def made() -> Material:
    return Material(TINY, CPU)


@pytest.fixture(scope="module")
def disk(made: Material, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with material.written(made, tmp_path_factory.mktemp("disk")) as found:
        yield found


# --- fast paths and their twins


@pytest.mark.parametrize("number", range(len(FIGURES)), ids=FIGURES)
def test_every_fast_path_equals_its_twin(made: Material, disk: Disk, number: int) -> None:
    case = report.all_cases(made, disk)[number]()
    assert case.name == FIGURES[number]
    error, where = largest_error(case)
    assert error <= {"HDF5 cache read": 1e-3, "episode records read": 1e-3, "backbone, folded, bfloat16": 0.05}.get(case.name, 1e-5), where


@pytest.mark.parametrize("name", some(METHODS, "symnet", "pfenet", "hsnet", "ssp"))
def test_every_method_is_tested_to_the_same_answers(made: Material, name: str) -> None:
    case = rows.tested(made, name, 2)
    error, where = largest_error(case)
    assert error <= 5e-5, where
    recorded = METHODS[name].records(made.settings)
    assert (case.name, case.amount) == (f"{name} from {'records' if recorded else 'features'}, 2-shot", 2)
    case.fast()
    case.plain()


def test_a_method_that_answers_otherwise_is_refused(made: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "predicted", slightly_more(rows.predicted))
    with pytest.raises(UserError, match=r"hsnet from features, 1-shot: .* in lead by 1\.\de-03"):
        measure(rows.tested(made, "hsnet", 1), 1, CPU)


def slightly_more(way: Callable) -> Callable:
    return lambda *arguments, **named: way(*arguments, **named) * 1.001


@pytest.mark.parametrize(
    ("where", "name", "make", "wrong"),
    [
        (pieces, "spm", pieces.prior, "SPM: the fast path differs from its plain twin in prior by 1.0e-03, allowed 0.0001"),
        (pieces, "correlation_maps", pieces.correlations, r"TDC correlations: .* in maps by 1\.0e-03"),
        (pieces, "resize", pieces.resizing, r"bilinear resize \+ gradient: .* by 1\.\de-03"),
        (head, "co_triplet", partial(cases.train_step, shots=1), r"train step, 1-shot: .* in (triplet|gradient of \S+) by"),
        (cases, "cross_entropy", cases.base_step, r"base learner step: .* in (loss|gradient of \S+) by 1\.0e-03"),
    ],
)
def test_a_wrong_fast_path_is_refused_and_not_timed(
    made: Material, monkeypatch: pytest.MonkeyPatch, where: object, name: str, make: Callable[[Material], Case], wrong: str
) -> None:
    monkeypatch.setattr(where, name, slightly_more(getattr(where, name)))
    monkeypatch.setattr(timing, "alternate", lambda *_: pytest.fail("was timed"))
    with pytest.raises(UserError, match=wrong):
        measure(make(made), 1, CPU)


def test_a_gradient_that_is_wrong_is_refused_though_values_are_right(made: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "resize", lambda x, size: twins.resize(x.detach(), size) + 0 * twins.resize(x, size))
    with pytest.raises(UserError, match=r"in gradient \d by 1\.0e\+00"):
        measure(pieces.resizing(made), 1, CPU)


def test_the_twin_of_the_released_head_weighs_shots(made: Material) -> None:
    """K-shot weights of the model under test are not all alike, so that a twin that ignored them would be found."""
    method = made.method(5)
    psi = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    assert method.head.weigh(psi).std() > 1e-3


TRAINED = ("train step, {}-shot, as trained", "train loop, {}-shot, with loading")
GPU_FIGURES = ["TDC kernel, bfloat16", *(what.format(k) for what in TRAINED for k in (1, 5))]


@pytest.mark.parametrize("number", range(len(GPU_FIGURES)), ids=GPU_FIGURES)
def test_what_a_gpu_is_timed_with_equals_its_twin(made: Material, disk: Disk, number: int) -> None:
    """On a CPU by the plain ways: the step in float32, correlations in bfloat16 without their kernel; images as a GPU transforms them."""
    case = report.gpu_cases(made, disk)[number]()
    assert case.name == GPU_FIGURES[number]
    error, where = largest_error(case)
    assert error <= {0: 5e-3, 3: 1e-3, 4: 1e-3}.get(number, 1e-5), where
    if number:
        case.fast()
        case.plain()


def test_a_loop_that_augments_otherwise_is_refused(made: Material, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    case = loops.training_loop(made, disk, 1)
    monkeypatch.setattr(image_sources, "transform", slightly_more_of_images(image_sources.transform))
    with pytest.raises(UserError, match=r"train loop, 1-shot, with loading: .* in images by 2\.0e-03, allowed 0\.001"):
        measure(case, 1, CPU)


def slightly_more_of_images(way: Callable) -> Callable:
    def changed(*arguments: object) -> tuple[torch.Tensor, torch.Tensor]:
        images, mask = way(*arguments)
        return images * 1.002, mask

    return changed


def test_a_profile_tells_what_dominates(made: Material) -> None:
    before, after = quick.profile(made).split("\nafter\n")
    assert before.startswith("before: plain twin\n")
    assert all("aten::mkldnn_convolution" in table and "Self CPU" in table for table in (before, after))


# --- errors and times by hand


def case_of(fast: object, plain: object) -> Case:
    return Case("c", "things", 6, lambda: fast, lambda: plain)


def test_largest_error_by_hand() -> None:
    twin = {"a": torch.tensor([2.0, -4.0]), "b": torch.tensor([0.0])}
    assert largest_error(case_of({"a": torch.tensor([2.0, -4.5]), "b": torch.tensor([0.0])}, twin)) == (0.125, "a")
    assert largest_error(case_of({"a": twin["a"], "b": torch.tensor([0.25])}, twin)) == (0.25, "b")  # nothing to divide by
    assert largest_error(case_of({"a": torch.tensor([2.0, float("nan")]), "b": twin["b"]}, twin)) == (float("inf"), "a")
    assert largest_error(case_of({"a": twin["a"], "b": torch.zeros(2)}, twin)) == (float("inf"), "b")


class Clock:
    """Time passes only where a way takes it."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, []

    def way(self, name: str, *seconds: float) -> Callable[[], dict[str, torch.Tensor]]:
        left = list(seconds)

        def taken() -> dict[str, torch.Tensor]:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return {"x": torch.ones(1)}

        return taken


def test_timed_in_turn_after_a_call_that_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    fast, plain = alternate(clock.way("f", 50, 2, 4, 3), clock.way("p", 90, 9, 6, 12), 3, CPU)
    assert (fast.seconds, plain.seconds) == ([2, 4, 3], [9, 6, 12])
    assert clock.calls == ["f", "p", "f", "p", "f", "p", "f", "p"]


def test_short_calls_are_timed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    fast, plain = alternate(clock.way("f", 0.5, 0.0125), clock.way("p", 0.025), 2, CPU)
    assert fast.seconds == pytest.approx([0.0125] * 2)
    assert plain.seconds == pytest.approx([0.025] * 2)
    assert clock.calls == [*"ffpp", *"ffffpp" * 2]  # 0.05 s a block; the first call says nothing of the second


def test_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    # each is called once to be checked and once to warm up
    row = measure(Case("c", "things", 6, clock.way("f", 9, 9, 2, 4, 3), clock.way("p", 9, 9, 9, 6, 12)), 3, CPU)
    assert row == {
        "name": "c",
        "unit": "things",
        "fast": {"amount": 6, "rate": 2, "median_s": 3, "least_s": 2, "most_s": 4, "rounds": 3, "peak_memory": None},
        "plain": {"amount": 6, "rate": 6 / 9, "median_s": 9, "least_s": 6, "most_s": 12, "rounds": 3, "peak_memory": None},
        "ratio": 3,
        "largest_relative_error": 0,
        "tolerance": 1e-4,
    }


# --- Table 1


def test_table_1_by_hand() -> None:
    """An hour a unit of each rate: 3,036,800 episodes of whole batches, 820,000 tested a number of shots, 24,000 of them unlike."""
    trained, tested = ({1: count / 3600, 5: count / 2 / 3600} for count in (3_036_800, 820_000))
    rates = table1.Rates(trained, tested, backbone=1, record={1: 24_000 / 3600, 5: 24_000 / 3600})
    assert table1.hours(rates) == pytest.approx(
        {
            "train 1-shot": 1,
            "train 5-shot": 2,
            "validate and test 1-shot": 1,
            "validate and test 5-shot": 2,
            "records, once": 2,
            "test images through the backbone, once": 1737 / 3600,
            "total": 8 + 1737 / 3600,
        }
    )
    again = table1.hours(table1.Rates(trained, tested, backbone=1, record=None))
    assert again["total"] == pytest.approx(6)


@pytest.mark.parametrize(("train", "evaluate", "hours"), [((38.3, 9.9), (25.2, 7.8), 145.5), ((422, 186), (2357, 770), 6.9)])
def test_table_1_at_known_rates(train: tuple[float, float], evaluate: tuple[float, float], hours: float) -> None:
    """The released code's 146 hours, whose testing rates hold the backbone; a prototype's 7."""
    rates = table1.Rates(*(dict(zip(table1.SHOTS, found, strict=True)) for found in (train, evaluate)), float("inf"), None)
    assert table1.hours(rates)["total"] == pytest.approx(hours, abs=0.1)


# --- cost


@pytest.mark.whole
def test_cost_is_measured_at_growing_counts_and_plotted(made: Material, tmp_path: Path) -> None:
    found = linear.costs(made)
    batch = TINY.batch
    assert {name: of["counts"] for name, of in found.items()} == {
        "episodes tested, 1-shot": [batch * n for n in linear.STEPS],
        "images through the backbone": [batch * n for n in linear.STEPS],
        f"shots, of {batch} episodes tested": list(linear.STEPS),
    }
    assert all(len(of["seconds"]) == 5 and min(of["seconds"]) > 0 for of in found.values())
    linear.plot(found, "here", tmp_path / "cost.svg")
    drawn = (tmp_path / "cost.svg").read_text()
    assert drawn.startswith("<?xml")
    assert drawn.count('id="axes_') == 3
    linear.plot(found, "here", tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


# --- the command


def test_sizes() -> None:
    cuda = torch.device("cuda")
    assert (material.sizes_for(CPU, True), material.sizes_for(CPU, False), material.sizes_for(cuda, False)) == (QUICK, ON_CPU, ON_GPU)
    assert vars(material.sizes_for(cuda, True)) == {**vars(ON_GPU), "rounds": 5}
    assert (ON_GPU.backbone, ON_GPU.size, ON_GPU.batch) == ("resnet50", 473, 8)


@pytest.mark.whole
def test_the_command_prints_a_table_and_writes_a_json(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(material, "sizes_for", lambda device, quick: TINY)
    monkeypatch.setattr(report, "written", lambda *_: nullcontext(disk))
    monkeypatch.setattr(timing, "BLOCK", 1e-9)
    command.bench(quick=True, json=tmp_path / "bench.json", device="cpu", threads=1)
    found, provenance = read_json(tmp_path / "bench.json", "bench")
    assert provenance.code
    assert found.keys() == {"device", "threads", "versions", "sizes", "figures", "failed", "needs_gpu", "table1"}
    assert found["failed"] == []
    assert found["threads"] == 1
    assert found["device"].startswith("CPU, ")
    assert found["versions"].keys() == {"symnet", "python", "torch", "numpy", "h5py"}
    assert found["sizes"] == vars(TINY)
    assert [figure["name"] for figure in found["figures"]] == FIGURES
    for figure in found["figures"]:
        for side in (figure["fast"], figure["plain"]):
            assert 0 < side["least_s"] <= side["median_s"] <= side["most_s"]
            assert side["rate"] == pytest.approx(side["amount"] / side["median_s"])
            assert (side["rounds"], side["peak_memory"]) == (2, None)
        assert figure["ratio"] == pytest.approx(figure["fast"]["rate"] / figure["plain"]["rate"])
        assert (figure["fast"]["amount"] > figure["plain"]["amount"]) == figure["name"].startswith("evaluation from records")
        assert 0 <= figure["largest_relative_error"] <= figure["tolerance"]
    rate = {figure["name"]: figure["fast"]["rate"] for figure in found["figures"]}
    assert found["table1"]["hours"]["fast"]["train 1-shot"] == pytest.approx(3_036_800 / rate["train step, 1-shot"] / 3600)
    assert found["table1"]["assumed"].startswith(
        "4 folds of PASCAL-5i, 1 and 5 shots, 200 epochs in batches of 8, 1000 episodes of validation"
    )
    assert found["needs_gpu"] == GPU_FIGURES
    printed = capsys.readouterr().out
    assert printed.count("needs a GPU") == 5
    assert all(name in printed for name in [*FIGURES, *found["table1"]["hours"]["fast"], found["device"], "1 CPU threads", "65 px"])


def test_a_figure_that_fails_costs_its_own_line(
    made: Material, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def short_of_memory() -> Case:
        raise torch.OutOfMemoryError("the device's words")

    right, wrong = (replace(pieces.prior(made), name=name, tolerance=tolerance) for name, tolerance in (("right", 1.0), ("wrong", -1.0)))
    monkeypatch.setattr(material, "sizes_for", lambda device, quick: TINY)
    monkeypatch.setattr(report, "written", lambda *_: nullcontext(disk))
    monkeypatch.setattr(report, "all_cases", lambda *_: [lambda: wrong, lambda: right, short_of_memory])
    with pytest.raises(UserError, match="2 of 3 figures are missing"):
        command.bench(quick=True, json=tmp_path / "bench.json", device="cpu", threads=1)
    found, _ = read_json(tmp_path / "bench.json", "bench")
    assert [figure["name"] for figure in found["figures"]] == ["right"]
    assert "table1" not in found
    refused, short = found["failed"]
    assert refused.startswith("bench: wrong: the fast path differs from its plain twin in prior by ")
    assert short == "bench: after right: not enough memory for 65 px"
    assert capsys.readouterr().out.splitlines()[-2:] == [refused, short]


@pytest.mark.whole
def test_a_profile_and_a_plot_come_with_the_figures(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(material, "sizes_for", lambda device, quick: TINY)
    monkeypatch.setattr(report, "written", lambda *_: nullcontext(disk))
    monkeypatch.setattr(report, "all_cases", lambda material, _: [partial(pieces.prior, material)])
    monkeypatch.setattr(report, "projection", lambda figures: {"fast": {}})
    command.bench(json=tmp_path / "bench.json", plot=tmp_path / "bench.png", profile=True, device="cpu", threads=1)
    found, _ = read_json(tmp_path / "bench.json", "bench")
    assert ([figure["name"] for figure in found["figures"]], len(found["costs"])) == (["SPM"], 3)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.index("SPM") < printed.index("before: plain twin") < printed.index("\nafter\n")
    with pytest.raises(UserError, match="leave --methods out"):
        command.bench(methods=True, profile=True, device="cpu", threads=1)


@pytest.mark.whole
def test_methods_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(material, "sizes_for", lambda device, quick: TINY)
    monkeypatch.setattr(report, "METHODS", ["prototype", "pfenet"])
    monkeypatch.setattr(timing, "BLOCK", 1e-9)
    command.bench(quick=True, json=tmp_path / "bench.json", methods=True, device="cpu", threads=1)
    found, _ = read_json(tmp_path / "bench.json", "bench")
    wanted = [f"{what}, {k}-shot" for what in ("prototype from features", "pfenet from records") for k in (1, 5)]
    assert [figure["name"] for figure in found["figures"]] == wanted
    assert [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()[-4:]] == wanted
    with pytest.raises(UserError, match="leave --methods out"):
        command.bench(methods=True, plot=tmp_path / "plot.png", device="cpu", threads=1)
