"""Loading ahead, and the share of time that computing waits."""

import threading
from collections.abc import Iterator

import pytest
import torch

from symnet import prefetch
from symnet.prefetch import AHEAD, Stall, ahead

CPU = torch.device("cpu")


def test_pieces_come_in_order_and_are_loaded_ahead() -> None:
    loaded: list[int] = []
    free = threading.Event()

    def load(number: int) -> int:
        loaded.append(number)
        if number == AHEAD:
            free.set()
        return number * number

    pieces = ahead(load, ((str(number), number) for number in range(6)))
    assert next(pieces) == ("0", 0)
    assert free.wait(5)
    assert sorted(loaded) == [*range(AHEAD + 1)]
    assert list(pieces) == [(str(number), number**2) for number in range(1, 6)]


class Clock:
    """A time that stands unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def slow(clock: Clock, seconds: list[float]) -> Iterator[int]:
    for number, wait in enumerate(seconds):
        clock.now += wait
        yield number


def test_the_share_is_of_an_interval_and_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    stall = Stall(CPU, clock)
    items = stall.watch(slow(clock, [3, 0, 1]))
    assert next(items) == 0
    clock.now += 7  # computing
    assert stall.interval() == pytest.approx(0.3)
    assert next(items) == 1
    clock.now += 4
    assert next(items) == 2
    assert stall.interval() == pytest.approx(1 / 5)
    assert stall.total() == pytest.approx(4 / 15)
    clock.now += 1
    assert list(items) == []
    stall.tell("work")
    assert capsys.readouterr().err == "work: waited for input 25.0% of the time\n"


def test_a_wait_in_which_the_device_is_busy_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, idle = Clock(), iter([False, True])
    monkeypatch.setattr(prefetch, "_idle", lambda device: next(idle))
    stall = Stall(CPU, clock)
    assert list(stall.watch(slow(clock, [6, 2]))) == [0, 1]
    clock.now += 2
    assert stall.total() == pytest.approx(0.2)


def test_short_work_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    stall = Stall(CPU, clock)
    clock.now += 9
    stall.tell("work")
    assert capsys.readouterr().err == ""
