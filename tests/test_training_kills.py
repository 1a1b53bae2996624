"""A training that is killed at chosen and at random moments, or told to leave: it ends with the bytes of one that was left alone."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from symnet import checkpoint, train
from symnet.artifacts import file_digest
from symnet.journal import read_journal
from symnet.methods.symnet import SymNetMethod
from symnet.validation import Validation
from tests.bench import Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once

STEPS = 24
SETTINGS: dict[str, Any] = {"steps": STEPS, "validate_every": 2, "checkpoint_seconds": 0}
STOPPED = 75


def at_call(owner: Any, name: str, number: int, signal_: int, before: Callable[..., object] = lambda *_: None) -> None:
    """Send this process a signal in the `number`th call of a function, after `before` with its arguments."""
    plain, calls = getattr(owner, name), []

    def dying(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == number:
            before(*arguments)
            os.kill(os.getpid(), signal_)
        return plain(*arguments, **options)

    setattr(owner, name, dying)


def half_a_file(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])


def no_harm() -> None:
    pass


# What happens in the child process that trains, while it trains; each goes on where the one before was.
HARMS: dict[str, Callable[[], None]] = {
    "in a step": lambda: at_call(SymNetMethod, "losses", 3, signal.SIGKILL),
    "between the step and its checkpoint": lambda: at_call(checkpoint, "save_tensors", 2, signal.SIGKILL),
    "with half a checkpoint written": lambda: at_call(Path, "write_bytes", 3, signal.SIGKILL, half_a_file),
    "before it is read back": lambda: at_call(checkpoint, "load_tensors", 4, signal.SIGKILL),
    "before the oldest goes": lambda: at_call(Path, "unlink", 3, signal.SIGKILL),
    "in a validation": lambda: at_call(Validation, "score", 2, signal.SIGKILL),
    "SIGTERM in a step": lambda: at_call(SymNetMethod, "losses", 2, signal.SIGTERM),
    "SIGUSR1 in a validation": lambda: at_call(Validation, "score", 1, signal.SIGUSR1),
    "before the result": lambda: at_call(train, "save_tensors", 1, signal.SIGKILL),
}


def start(bench: Bench, out: Path, harm: Callable[[], None]) -> int:
    """Train in a child process. Returns its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        harm()
        bench.train(out, **SETTINGS)
        code = 0
    except train.Stopped:
        code = STOPPED
    finally:
        os._exit(code)


def end_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(out: Path, whole: str) -> None:
    """The bytes; and a journal that has every step and no torn line."""
    assert file_digest(out) == whole
    (run,) = read_journal(out.with_suffix(".jsonl"))
    assert (run.status, run.torn) == ("FINISHED", 0)
    assert max(run.metrics["loss"]) == STEPS
    assert list(run.metrics["base_val.miou"]) == list(range(2, STEPS + 1, 2))


@pytest.fixture(scope="module")
def whole(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> str:
    return file_digest(bench.train(tmp_path_factory.mktemp("whole") / "whole.safetensors", **SETTINGS))


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_every_kind_of_moment(bench: Bench, tmp_path: Path, whole: str) -> None:
    out = tmp_path / "own.safetensors"
    for name, harm in HARMS.items():
        expected = STOPPED if name.startswith("SIG") else -signal.SIGKILL
        assert end_of(start(bench, out, harm)) == expected, name
        assert not out.exists()
    assert end_of(start(bench, out, no_harm)) == 0
    check(out, whole)
    (run,) = read_journal(out.with_suffix(".jsonl"))
    assert run.resumed == len(HARMS)
    assert not list((tmp_path / "own").glob(".*.partial"))
    assert len(list((tmp_path / "own").glob("step-*"))) == 2


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_at_twenty_random_moments(bench: Bench, tmp_path: Path, whole: str) -> None:
    out, chance = tmp_path / "own.safetensors", random.Random(2)
    began = time.monotonic()
    assert end_of(start(bench, out, no_harm)) == 0
    longest = time.monotonic() - began  # however busy the machine is

    def forget() -> None:
        check(out, whole)
        shutil.rmtree(tmp_path / "own")
        out.unlink()
        out.with_suffix(".jsonl").unlink()

    forget()
    kills = 0
    while kills < 20:
        child = start(bench, out, no_harm)
        time.sleep(chance.uniform(0, longest / 2))
        os.kill(child, signal.SIGKILL)
        code = end_of(child)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if out.exists():
            assert end_of(start(bench, out, no_harm)) == 0
            forget()
    assert end_of(start(bench, out, no_harm)) == 0
    check(out, whole)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_deadline_is_met_by_a_checkpoint(bench: Bench, tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again, until it is done: at least a step each time."""
    out, plain = tmp_path / "own.safetensors", train.train
    with monkeypatch.context() as patched:
        patched.setattr(train, "train", partial(plain, deadline=0.0))
        for _ in range(3):
            with pytest.raises(train.Stopped, match=r"^deadline at step \d+ of 24; its state is saved, run the same command again$"):
                bench.train(out, **SETTINGS)
    (run,) = read_journal(out.with_suffix(".jsonl"))
    assert (run.status, run.tags["resumed_at"], run.reason.split(" at ")[0]) == ("KILLED", "2", "deadline")
    bench.train(out, **SETTINGS)
    check(out, whole)
