"""Journals: what is written is read back, whatever was torn."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from symnet import __version__
from symnet.journal import Journal, Run, code_version, is_alive, read_journal


def losses(run: Run) -> dict[int, float]:
    return {step: value for step, (value, _) in run.metrics.get("loss", {}).items()}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "shot1.jsonl", "run-a", {"train": {"lr": 0.05}}, {"code": "c0de"})


def test_a_run_is_read_back(journal: Journal) -> None:
    journal.log(20, loss=0.5, miou=31)
    journal.log(10, loss=0.75)
    journal.end("FINISHED")
    (run,) = read_journal(journal.path)
    assert (run.id, run.status, run.reason, run.torn, run.resumed) == ("run-a", "FINISHED", "", 0, 0)
    assert run.params == {"train": {"lr": 0.05}}
    assert run.tags["code"] == "c0de"
    assert run.tags["version"] == __version__
    assert list(run.metrics) == ["loss", "miou"]
    assert list(losses(run).items()) == [(10, 0.75), (20, 0.5)]
    assert run.started <= run.metrics["loss"][20][1] <= run.metrics["loss"][10][1] <= run.ended == run.last  # type: ignore[operator]


def test_every_line_is_json_with_event_run_and_time(journal: Journal) -> None:
    journal.log(1, loss=0.5)
    journal.end("FAILED", "loss is nan\nat step 1")
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["start", "metric", "end"]
    assert all(line["run"] == "run-a" and line["time"] > 1e9 for line in lines)
    assert lines[1]["values"] == {"loss": 0.5}
    assert read_journal(journal.path)[0].reason == "loss is nan\nat step 1"


def test_a_resumed_run_repeats_steps_and_the_last_value_wins(journal: Journal) -> None:
    for step in (1, 2, 3):
        journal.log(step, loss=float(step))
    again = Journal(journal.path, "run-a", {"train": {"lr": 0.05}}, {})
    again.log(2, loss=20.0)
    (run,) = read_journal(journal.path)
    assert (run.resumed, run.status) == (1, "RUNNING")
    assert losses(run) == {1: 1.0, 2: 20.0, 3: 3.0}


def test_the_time_at_work_leaves_out_what_lies_between_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 14.0, 19.0, 100.0, 103.0, 105.0])
    monkeypatch.setattr("symnet.journal.time.time", lambda: 1e9 + next(times))
    journal = Journal(tmp_path / "a.jsonl", "run", {}, {})
    journal.log(1, loss=1)
    journal.log(2, loss=1)  # and is killed
    again = Journal(journal.path, "run", {}, {})
    again.log(2, loss=1)
    again.end("FINISHED")
    (run,) = read_journal(journal.path)
    assert run.worked == pytest.approx(9 + 5)
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(lines[1:3]))  # without its start it has worked from its first line on
    assert read_journal(journal.path)[0].worked == pytest.approx(5)


def test_a_resume_after_an_end_runs_again(journal: Journal) -> None:
    journal.end("KILLED", "SIGTERM")
    Journal(journal.path, "run-a", {}, {})
    (run,) = read_journal(journal.path)
    assert (run.status, run.reason, run.ended) == ("RUNNING", "", None)


def test_the_run_started_last_stands_last(journal: Journal) -> None:
    Journal(journal.path, "run-b", {}, {}).log(1, loss=1.0)
    assert [run.id for run in read_journal(journal.path)] == ["run-a", "run-b"]
    Journal(journal.path, "run-a", {}, {})
    assert [(run.id, run.resumed) for run in read_journal(journal.path)] == [("run-b", 0), ("run-a", 1)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_by_name(journal: Journal, value: float) -> None:
    before = journal.path.read_bytes()
    with pytest.raises(ValueError, match=r"miou is .* at step 7"):
        journal.log(7, loss=0.5, miou=value)
    assert journal.path.read_bytes() == before


def test_a_last_line_torn_at_any_byte_costs_only_itself(journal: Journal) -> None:
    journal.log(1, loss=1.0)
    journal.log(2, loss=2.0)
    whole = journal.path.read_bytes()
    start = whole.rstrip(b"\n").rindex(b"\n") + 1
    for cut in range(start, len(whole) + 1):
        journal.path.write_bytes(whole[:cut])
        kept = {1: 1.0} if cut < len(whole) - 1 else {1: 1.0, 2: 2.0}  # only the newline is missing: the line is whole
        torn = int(start < cut < len(whole) - 1)
        (run,) = read_journal(journal.path)
        assert (losses(run), run.torn) == (kept, torn), cut
        journal.log(3, loss=3.0)  # the same writer, or one that resumes
        (run,) = read_journal(journal.path)
        assert (losses(run), run.torn) == (kept | {3: 3.0}, torn), cut
        assert journal.path.read_bytes().count(b"\n") == 2 + (cut > start) + 1


def test_a_torn_start_starts_afresh(journal: Journal) -> None:
    whole = journal.path.read_bytes()
    for cut in range(0, len(whole) - 1, 7):
        journal.path.write_bytes(whole[:cut])
        assert read_journal(journal.path) == []
        Journal(journal.path, "run-a", {"seed": 1}, {}).log(1, loss=1.0)
        (run,) = read_journal(journal.path)
        assert (run.params, run.resumed, losses(run), run.torn) == ({"seed": 1}, 0, {1: 1.0}, int(cut > 0))


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\xfe",
        b"[1, 2]",
        b"7",
        b"{}",
        b"[" * 100_000,
        b'{"event": "metric", "run": "run-a", "time": 1, "step": 1e999, "values": {}}',
        b'{"event": "metric", "run": "run-a", "time": 1, "step": 1, "values": {"loss": NaN}}',
        b'{"event": "metric", "run": "run-a", "time": 1, "step": 1, "values": [1]}',
        b'{"event": "end", "run": "run-a", "time": 1, "status": "DONE", "reason": ""}',
        b'{"event": "start", "run": "run-a", "time": 1}',
    ],
)
def test_garbage_in_the_middle_is_counted(journal: Journal, garbage: bytes) -> None:
    journal.log(1, loss=1.0)
    with open(journal.path, "ab") as file:
        file.write(garbage + b"\n")
    journal.log(2, loss=2.0)
    (run,) = read_journal(journal.path)
    assert (losses(run), run.torn, run.status) == ({1: 1.0, 2: 2.0}, 1, "RUNNING")


WRITER = """
import sys
from symnet.journal import Journal
journal = Journal(sys.argv[1], sys.argv[2], {}, {})
for step in range(int(sys.argv[3])):
    journal.log(step, loss=step / 7, rate=float(step))
print("done", flush=True)
sys.stdin.read()
"""


def writer(path: Path, run: str, steps: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), run, str(steps)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_eight_writers_of_eight_journals_lose_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / f"shot{i}.jsonl" for i in range(8)]
    for process in [writer(path, path.stem, 100) for path in paths]:
        process.communicate(timeout=60)
        assert process.returncode == 0
    for path in paths:
        (run,) = read_journal(path)
        assert (run.id, run.torn, losses(run)) == (path.stem, 0, {step: step / 7 for step in range(100)})


def test_a_killed_process_is_told_from_a_living_one(tmp_path: Path) -> None:
    path = tmp_path / "shot1.jsonl"
    process = writer(path, "run-a", 3)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    (run,) = read_journal(path)
    assert (run.status, run.pid, is_alive(run)) == ("RUNNING", process.pid, True)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    assert is_alive(run) is False
    run.host = "another"
    assert is_alive(run) is None


def test_another_process_with_the_same_number_is_not_the_run(journal: Journal) -> None:
    (run,) = read_journal(journal.path)
    assert is_alive(run) is True
    assert run.born is not None
    run.born += 1
    assert is_alive(run) is False


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_code_is_told_by_its_commit() -> None:
    found = code_version()
    head = subprocess.run(["git", "-C", os.fspath(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert found["git_commit"] == head.stdout.strip()
        assert found["git_dirty"] in ("true", "false")
    else:
        assert found == {"version": __version__}
