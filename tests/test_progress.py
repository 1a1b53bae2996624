"""What a log and a terminal see of long work."""

import io

import pytest

from symnet.progress import duration, progress, progress_line


def run(seconds_each: float, total: int) -> list[str]:
    now = [0.0]
    stream = io.StringIO()
    for item in progress(range(total), total, "folds", stream=stream, clock=lambda: now[0]):
        assert item == int(now[0] / seconds_each + 0.5)
        now[0] += seconds_each
    return stream.getvalue().splitlines()


def test_a_line_every_ten_seconds() -> None:
    assert run(0.125, 250) == [
        "folds: 80/250 (32%), 8/s, ETA 21 s",
        "folds: 160/250 (64%), 8/s, ETA 11 s",
        "folds: 240/250 (96%), 8/s, ETA 1 s",
    ]


def test_short_work_says_nothing() -> None:
    assert run(0.1, 90) == []


def test_rates_below_ten_keep_two_figures() -> None:
    assert progress_line("train", 3, 1003, 20.0) == "train: 3/1003 (0%), 0.15/s, ETA 111 min"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7140, "119 min"), (12000, "3 h 20 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_terminal_gets_a_bar_and_every_item() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    assert list(progress(range(5), 5, "folds", stream=stream)) == [0, 1, 2, 3, 4]
    assert "folds" in stream.getvalue()
    assert "ETA" in stream.getvalue()
