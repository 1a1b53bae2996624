"""Work in a process of its own, killed by SIGKILL at a moment of choice."""

import multiprocessing
from collections.abc import Callable


def killed_after(seconds: float | None, work: Callable[..., object], *arguments: object) -> int | None:
    """Exit code of `work(*arguments)` in a forked process that lives `seconds` at most; None: as long as it takes."""
    child = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode
