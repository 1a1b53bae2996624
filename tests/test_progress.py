"""What a log and a terminal see of long work."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from symnet.config_data import ShapesSettings
from symnet.data.shapes import draw_shapes
from symnet.progress import byte_progress, bytes_line, duration, progress, progress_line, size


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


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_of_bytes() -> None:
    stream = Terminal()
    with byte_progress(3_000_000, "voc", stream=stream) as tell:
        tell(1_500_000)
    assert "voc" in stream.getvalue()
    assert "1.5/3.0 MB" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_every_item() -> None:
    stream = Terminal()
    assert list(progress(range(5), 5, "folds", stream=stream)) == [0, 1, 2, 3, 4]
    assert "folds" in stream.getvalue()
    assert "ETA" in stream.getvalue()


def test_bytes_have_a_speed_and_a_time_to_go() -> None:
    now = [0.0]
    stream = io.StringIO()
    with byte_progress(10_000_000, "voc", stream=stream, clock=lambda: now[0]) as tell:
        for done in (4_000_000, 5_000_000, 6_000_000, 7_000_000):  # what is there at the start is no speed
            tell(done)
            now[0] += 6.0
    assert stream.getvalue().splitlines() == ["voc: 6.0 MB/10.0 MB (60%), 166.7 kB/s, ETA 24 s"]


@pytest.mark.parametrize(
    ("total", "new", "line"),
    [
        (None, 2_000_000, "a: 3.0 MB, 1.0 MB/s"),
        (3_000_000_000, 2_000, "a: 3.0 MB/3.0 GB (0%), 1.0 kB/s, ETA 832 h 30 min"),
        (3_000_000, 0, "a: 3.0 MB/3.0 MB (100%), 0 B/s, ETA unknown"),
    ],
)
def test_lines_of_bytes(total: int | None, new: int, line: str) -> None:
    assert bytes_line("a", 3_000_000, total, new, 2.0) == line


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (1.35e10, "13.5 GB"), (2e14, "200000.0 GB")])
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_the_drawing_of_a_data_set_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, str, int]] = []

    def heard(items: Iterable[object], total: int, what: str) -> Iterator[object]:
        found = list(items)
        told.append((total, what, len(found)))
        return iter(found)

    monkeypatch.setattr("symnet.data.shapes.progress", heard)
    draw_shapes(ShapesSettings(train_images=21, test_images=20, side=64), tmp_path / "shapes", workers=1)
    assert told == [(41, "shapes", 41)]
