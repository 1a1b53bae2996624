"""The lease of a training state, between real processes: alone, killed, suspended, on another node, without locks."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from symnet.journal import Run
from symnet.lease import STALE, Lost, age_of, hold, is_trained

BEAT = 0.05
LONG, SHORT = 1000.0, 1.5  # seconds without a heartbeat: never too long, and soon

# Holds the lease and writes a line for each that it gets, until its input ends: "lost" once the lease is.
HOLDER = """
import sys
from pathlib import Path
from symnet.lease import Lost, hold
with hold(Path(sys.argv[1]), lambda: None, beat=float(sys.argv[2]), stale=float(sys.argv[3])) as lease:
    print("held", flush=True)
    for _ in sys.stdin:
        try:
            lease.check()
            print("mine", flush=True)
        except Lost as lost:
            print("lost to", lost, flush=True)
"""


class Holder:
    def __init__(self, folder: Path, stale: float) -> None:
        words = [sys.executable, "-c", HOLDER, str(folder), str(BEAT), str(stale)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ask(self) -> str:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.heard()

    def heard(self) -> str:
        return self.process.stdout.readline().strip()

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(10)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[list[Holder]]:
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.kill(signal.SIGCONT)
        holder.kill()
        for stream in (holder.process.stdin, holder.process.stdout, holder.process.stderr):
            stream.close()


def start(holders: list[Holder], folder: Path, stale: float) -> Holder:
    holders.append(Holder(folder, stale))
    return holders[-1]


class Impatient(Exception):
    pass


def patience(seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def ask() -> None:
        if time.monotonic() > end:
            raise Impatient

    return ask


def edit(folder: Path, **changed: object) -> None:
    path = folder / "lease.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_one_after_the_other(tmp_path: Path, holders: list[Holder]) -> None:
    first = start(holders, tmp_path, LONG)
    assert first.heard() == "held"
    with pytest.raises(Impatient), hold(tmp_path, patience(0.3), BEAT, LONG):
        pass
    second = start(holders, tmp_path, LONG)
    assert f"waiting for process {first.process.pid} on " in second.process.stderr.readline()
    assert [first.ask() for _ in range(3)] == ["mine"] * 3
    first.end()
    assert second.heard() == "held"
    second.end()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_crowd_never_interleaves(tmp_path: Path) -> None:
    """Eight threads, each with a lock of its own, as processes have."""
    inside, seen = 0, []

    def work() -> None:
        nonlocal inside
        with hold(tmp_path, lambda: None, BEAT, LONG):
            inside += 1
            time.sleep(0.02)
            seen.append(inside)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [1] * 8


def test_a_killed_process_of_this_node_is_followed_at_once(tmp_path: Path, holders: list[Holder]) -> None:
    holder = start(holders, tmp_path, LONG)
    assert holder.heard() == "held"
    holder.kill()
    with hold(tmp_path, patience(0), BEAT, LONG) as lease:
        lease.check()
        assert json.loads((tmp_path / "lease.json").read_text())["pid"] == os.getpid()


def test_of_another_node_only_the_heartbeat_tells(tmp_path: Path, holders: list[Holder], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock may be unknown here, though it lives; and this node's clock may be an hour ahead."""
    holder = start(holders, tmp_path, LONG)
    assert holder.heard() == "held"
    holder.kill()
    edit(tmp_path, host="another", job="12")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    beating = threading.Event()

    def beat() -> None:
        while not beating.wait(BEAT):
            os.utime(tmp_path / "lease.json")

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(Impatient), hold(tmp_path, patience(2 * SHORT), BEAT, SHORT):
        pass
    beating.set()
    thread.join()
    began = time.monotonic()
    with hold(tmp_path, lambda: None, BEAT, SHORT):
        assert 0.5 < time.monotonic() - began < 10


def test_a_time_of_the_file_that_is_old_by_a_slow_clock_alone(tmp_path: Path) -> None:
    """The age is asked of the filesystem: what it says of a file touched now."""
    lease = tmp_path / "lease.json"
    lease.write_text("{}")
    assert 0 <= age_of(lease) < 1
    os.utime(lease, (time.time() - 100, time.time() - 100))
    assert 99 < age_of(lease) < 102
    lease.unlink()
    assert age_of(lease) == 0


def test_a_run_of_another_host_lives_as_long_as_its_lease(tmp_path: Path) -> None:
    run = Run("r", 0.0, host="elsewhere", pid=1)
    state = tmp_path / "state"
    assert is_trained(run, state) is None  # nothing tells
    state.mkdir()
    assert is_trained(run, state) is False  # whoever trained it has let go
    (state / "lease.json").write_text("{}")
    assert is_trained(run, state) is True
    os.utime(state / "lease.json", (time.time() - STALE - 10,) * 2)
    assert is_trained(run, state) is False
    assert is_trained(Run("r", 0.0, host=socket.gethostname(), pid=os.getpid()), state) is True  # here the process itself is asked


def test_a_suspended_process_that_wakes_writes_no_more(tmp_path: Path, holders: list[Holder], capsys: pytest.CaptureFixture[str]) -> None:
    holder = start(holders, tmp_path, SHORT)
    assert holder.heard() == "held"
    holder.kill(signal.SIGSTOP)
    with hold(tmp_path, lambda: None, BEAT, SHORT) as lease:
        assert "taking over from process" in capsys.readouterr().err
        holder.kill(signal.SIGCONT)
        assert holder.ask().startswith(f"lost to process {os.getpid()} on ")
        holder.end()  # frees the lock, which the holder of the lease never had
        lease.check()
        with pytest.raises(Impatient), hold(tmp_path, patience(2 * SHORT), BEAT, SHORT):
            pass
        assert json.loads((tmp_path / "lease.json").read_text()) == lease.me
    assert not (tmp_path / "lease.json").exists()


def test_without_locks_the_lease_alone_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with hold(tmp_path, lambda: None, BEAT, SHORT):
        with pytest.raises(Impatient), hold(tmp_path, patience(2 * SHORT), BEAT, SHORT):
            pass
        edit(tmp_path, pid=1)  # as if another had claimed it in the same moment
    assert (tmp_path / "lease.json").exists()  # it is not ours to delete
    with hold(tmp_path, lambda: None, BEAT, SHORT):
        pass


def test_of_two_claims_the_last_one_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both found the lease stale; the second wrote later."""
    (tmp_path / "lease.json").write_text('{"host": "gone", "pid": 1, "job": "", "token": "", "locked": true}')
    os.utime(tmp_path / "lease.json", (0, 0))
    plain, naps = time.sleep, []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 1:
            edit(tmp_path, host="another", pid=99, token="other")
        plain(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(Impatient), hold(tmp_path, patience(0.3), BEAT, LONG):
        pass
    assert json.loads((tmp_path / "lease.json").read_text())["pid"] == 99


def test_a_deleted_lease_is_lost(tmp_path: Path) -> None:
    with hold(tmp_path, lambda: None, BEAT, LONG) as lease:
        (tmp_path / "lease.json").unlink()
        time.sleep(5 * BEAT)
        with pytest.raises(Lost, match=r"deleted .*lease\.json"):
            lease.check()
