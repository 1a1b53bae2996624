"""The guard and the log, on made-up runs: what is told, when, how often; what is written; what stops."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from symnet.errors import UserError
from symnet.journal import Journal, Run, read_journal
from symnet.watch import Guard, Interval, Watch, observe

KNOWN, POSITIONS = 1000.0, 64.0


def entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def row(p: float = 0.2, meta: float = 1.0, ensemble: float = 1.0, predicted: tuple[float, float] = (3, 3), known: float = KNOWN) -> dict:
    """A step with a share p of foreground; meta and ensemble: cross-entropies in multiples of H(p)."""
    losses = {"loss.meta": meta * entropy(p), "loss.ensemble": ensemble * entropy(p), "loss.triplet": 0.3}
    seen = {"loss": sum(losses.values()), **losses, "known": known, "inside": p * known}
    for name, count in zip(("meta", "ensemble"), predicted, strict=True):
        seen |= {f"predicted.{name}": count, f"positions.{name}": POSITIONS}
    return seen


def told(rows: Callable[[int], dict], steps: int, length: int, supervised: tuple[str, ...] = ("meta", "ensemble")) -> dict[int, list[str]]:
    """Step to the kinds that the guard tells at it, in a run that is logged every `length` steps."""
    guard, found = Guard(supervised), {}
    for end in range(length, steps + 1, length):
        kinds = list(guard.see(Interval(end, [rows(step) for step in range(end - length + 1, end + 1)])))
        if kinds:
            found[end] = kinds
    return found


def learning(step: int) -> dict:
    """From above the prior at the start to well below it, its first fifty steps without any foreground."""
    ratio = 0.6 + 0.5 * math.exp(-step / 60)
    return row(meta=ratio, ensemble=ratio, predicted=(0, 0) if step < 50 else (step // 10, step // 20))


@pytest.mark.parametrize("length", [1, 7, 10, 20, 25, 50, 120])
def test_a_learning_run_is_left_alone(length: int) -> None:
    assert told(learning, 600, length) == {}


@pytest.mark.parametrize(
    ("length", "step"),
    # the first two intervals of at least twenty steps that begin at step 50 or later
    [(1, 90), (5, 90), (10, 90), (7, 56 + 21 + 21), (20, 100), (25, 100), (60, 180), (120, 360)],
)
@pytest.mark.parametrize("ratio", [0.981, 1.0, 1.7])
def test_a_run_at_the_prior_is_told_once_and_at_once(length: int, step: int, ratio: float) -> None:
    assert told(lambda _: row(meta=ratio, ensemble=ratio), 800, length) == {step: ["prior"]}


def test_just_below_the_bound_is_not_told() -> None:
    assert told(lambda _: row(meta=0.979, ensemble=0.979), 400, 20) == {}


def test_a_run_that_collapses_late_is_told_then() -> None:
    assert told(lambda step: learning(step) if step <= 300 else row(), 600, 20) == {340: ["prior"]}


def test_one_bad_interval_is_not_enough_nor_are_two_apart() -> None:
    assert told(lambda step: row() if (step - 1) // 20 % 2 else row(meta=0.9, ensemble=0.9), 600, 20) == {}


@pytest.mark.parametrize(
    ("supervised", "meta", "ensemble", "expected"),
    [
        (("ensemble",), 1.2, 0.9, {}),  # eq. 15: the meta logits are not held to their cross-entropy
        (("ensemble",), 1.2, 1.0, {100: ["prior"]}),
        (("meta", "ensemble"), 1.0, 0.9, {100: ["prior"]}),
        (("meta", "ensemble"), 0.9, 1.0, {100: ["prior"]}),
    ],
)
def test_outputs_of_the_objective_are_judged(supervised: tuple[str, ...], meta: float, ensemble: float, expected: dict) -> None:
    assert told(lambda _: row(meta=meta, ensemble=ensemble), 400, 20, supervised) == expected


def test_background_only_is_told_once_of_all_outputs() -> None:
    assert told(lambda _: row(meta=0.9, ensemble=0.9, predicted=(0, 0)), 600, 20) == {100: ["background"]}
    assert told(lambda _: row(meta=0.9, ensemble=0.9, predicted=(0, 1)), 600, 20) == {}
    assert told(lambda _: row(predicted=(0, 0)), 600, 20) == {100: ["prior", "background"]}


def test_steps_without_foreground_or_without_known_pixels_say_nothing() -> None:
    empty = {"loss": 0.0, "loss.meta": 0.0, "known": 0.0, "inside": 0.0, "predicted.meta": 1.0, "positions.meta": POSITIONS}
    assert told(lambda _: empty, 400, 20, ("meta",)) == {}
    assert told(lambda _: empty | {"known": KNOWN}, 400, 20, ("meta",)) == {}


def test_a_constant_answer_sits_on_the_entropy_whatever_the_steps_hold() -> None:
    """Steps differ in foreground and in known pixels: cross-entropy and entropy are over the same pixels, so they agree exactly."""
    steps = [(0.5, 10.0), (0.1, 1000.0), (0.9, 3.0), (0.3, 500.0)]
    p = sum(share * known for share, known in steps) / sum(known for _, known in steps)
    constant = [{"loss.meta": -s * math.log(p) - (1 - s) * math.log(1 - p), "known": known, "inside": s * known} for s, known in steps]
    interval = Interval(4, constant)
    assert interval.foreground == pytest.approx(p)
    assert interval.prior_entropy == pytest.approx(entropy(p))
    assert interval.cross_entropy("meta") == pytest.approx(interval.prior_entropy, rel=1e-12)


def test_observe_counts_pixels_and_positions() -> None:
    mask = torch.tensor([[[0, 1, 1, 255]], [[255, 0, 0, 1]]], dtype=torch.uint8)
    logits = torch.zeros(2, 2, 2, 2)
    logits[0, 1, 0] = 1
    logits[1, 0] = 1
    seen = observe(torch.tensor(2.0, requires_grad=True), {"meta": torch.tensor(1.5)}, {"meta": logits}, mask)
    assert {name: value.item() for name, value in seen.items()} == {
        "loss": 2.0,
        "loss.meta": 1.5,
        "known": 6.0,
        "inside": 3.0,
        "predicted.meta": 2.0,
        "positions.meta": 8.0,
    }
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in seen.values())


class Clock:
    """A second a step, unless told otherwise."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def watched(path: Path, rows: Callable[[int], dict], steps: int, seconds: float = 20.0) -> Run:
    """The journal of a run whose steps take a second each."""
    clock = Clock()
    watch = Watch(Journal(path, "run", {}, {}), ("meta", "ensemble"), seconds=seconds, clock=clock)
    for step in range(1, steps + 1):
        clock.now += 1
        watch.add(step, {name: torch.tensor(value, dtype=torch.float64) for name, value in rows(step).items()}, last=step == steps)
    return read_journal(path)[0]


def test_the_journal_has_means_shares_and_the_prior(tmp_path: Path) -> None:
    def steps(step: int) -> dict:
        return row(p=0.1, meta=0.5, predicted=(16, 0)) if step % 2 else row(p=0.5, meta=0.7, known=3 * KNOWN, predicted=(32, 8))

    run = watched(tmp_path / "run.jsonl", steps, 50)
    assert list(run.metrics["loss"]) == [20, 40, 50]
    values = {name: metric[20][0] for name, metric in run.metrics.items()}
    assert values["loss.meta"] == pytest.approx((0.5 * entropy(0.1) + 0.7 * entropy(0.5)) / 2)
    assert values["foreground.truth"] == pytest.approx((0.1 + 3 * 0.5) / 4)
    assert values["prior_entropy"] == pytest.approx(entropy(1.6 / 4))
    assert values["foreground.meta"] == pytest.approx(24 / 64)
    assert values["foreground.ensemble"] == pytest.approx(4 / 64)
    assert values["steps_per_second"] == pytest.approx(1)
    assert not [name for name in run.metrics if name.startswith("warning")]


def test_the_rate_is_of_steps_that_were_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is still at work when the host has asked for the last step: what it takes until the values are read counts."""
    clock, stack = Clock(), torch.stack

    def waited(tensors: list[torch.Tensor]) -> torch.Tensor:
        clock.now += 3 * (tensors[0].dim() == 1)  # the rows of the interval, not the values of a step
        return stack(tensors)

    watch = Watch(Journal(tmp_path / "run.jsonl", "run", {}, {}), (), seconds=20, clock=clock)
    monkeypatch.setattr(torch, "stack", waited)
    for step in (1, 2):
        clock.now += 1
        watch.add(step, {name: torch.tensor(value, dtype=torch.float64) for name, value in row().items()}, last=step == 2)
    assert read_journal(tmp_path / "run.jsonl")[0].metrics["steps_per_second"][2][0] == pytest.approx(2 / 5)


def test_a_collapsed_run_is_told_in_one_line_and_in_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = watched(tmp_path / "run.jsonl", lambda _: row(predicted=(0, 0)), 400)
    prior, background = capsys.readouterr().out.splitlines()
    for line in (prior, background):
        assert line.startswith("warning: step 100: the run ")
        for seen in ("ensemble 0.5004, meta 0.5004", "the prior's entropy 0.5004", "foreground share 0.2000", "predicted meta 0.0000"):
            assert seen in line
        for remedy in ("train.lr", "model.meta_loss", "model.triplet_distance"):
            assert remedy in line
    assert "nothing but the class prior" in prior
    assert "background only" in background
    assert {name: list(steps) for name, steps in run.metrics.items() if name.startswith("warning")} == {
        "warning.prior": [100],
        "warning.background": [100],
    }


def test_a_learning_run_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watched(tmp_path / "run.jsonl", learning, 400)
    assert capsys.readouterr().out == ""


def test_the_device_is_waited_for_once_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    for name in ("tolist", "item", "__float__", "__bool__", "cpu", "numpy"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, *a, _plain=plain: waits.append(self) or _plain(self, *a))
    watched(tmp_path / "run.jsonl", lambda _: row(), 100)
    assert len(waits) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_part_that_is_not_finite_is_named_at_its_first_step(value: float, tmp_path: Path) -> None:
    def steps(step: int) -> dict:
        broken = {"loss.triplet": value, "loss": value} if step >= 24 else {}
        return row() | broken | ({"loss.meta": math.nan, "loss.ensemble": math.nan, "loss": math.nan} if step >= 25 else {})

    with pytest.raises(UserError) as caught:
        watched(tmp_path / "run.jsonl", steps, 400)
    told = f"training: loss is {value} at step 24 (triplet is {value}); lower train.lr (or the recipe's), or look at the inputs"
    assert str(caught.value) == told
