"""Work in a process of its own, killed by SIGKILL at a moment of choice.

Moments are counted in lines of this project's code, not in seconds: the same on an idle machine and on a busy one.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from ctypes import c_long
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = tuple(f"{folder}{os.sep}" for folder in (HERE, HERE.parent / "symnet"))
KILLED = -signal.SIGKILL
FORK = multiprocessing.get_context("fork")


def lines_of(work: Callable[..., object], *arguments: object) -> int:
    """How many lines `work(*arguments)` runs, in a forked process, which must end well."""
    code, lines = _run(None, work, *arguments)
    assert code == 0
    return lines


def killed_at(line: int, work: Callable[..., object], *arguments: object) -> int | None:
    """Exit code of `work(*arguments)` in a forked process that dies before its `line`-th line: `KILLED`, or 0 where it has fewer."""
    return _run(line, work, *arguments)[0]


def _run(line: int | None, work: Callable[..., object], *arguments: object) -> tuple[int | None, int]:
    count = FORK.RawValue(c_long, 0)

    def follow(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            count.value += 1
            if count.value == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return follow if event == "line" or frame.f_code.co_filename.startswith(OURS) else None

    def child() -> None:
        threading.settrace(follow)
        sys.settrace(follow)
        work(*arguments)
        sys.settrace(None)

    process = FORK.Process(target=child)
    process.start()
    process.join()
    return process.exitcode, count.value
