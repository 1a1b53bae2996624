"""The machine a job runs on: device, threads, the signal to stop."""

import signal
import time
from types import FrameType

import torch
from torch import Tensor

from symnet.errors import UserError

HOST_MEMORY = 4 << 30


def choose_device(name: str = "auto") -> torch.device:
    """`auto`: a GPU where there is one. Raises `UserError` for another name, or for cuda without a GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: found '{name}', allowed: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device: found cuda, but no GPU is visible here; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def send(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; the host does not wait for the copy."""
    page_locked = value.pin_memory() if device.type == "cuda" and value.device.type == "cpu" else value
    return page_locked.to(device, non_blocking=True)


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was asked for. A CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    """Seconds of a clock that only goes forward, once the device has done all that it was asked for."""
    wait_for(device)
    return time.monotonic()


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken: on a GPU those that are free, on a CPU, whose memory others share, `HOST_MEMORY`."""
    if device.type != "cuda":
        return HOST_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def use_threads(count: int) -> None:
    """CPU threads of one operator. The same count gives the same bytes."""
    torch.set_num_threads(count)


def tune_cudnn(tf32: bool = False) -> None:
    """Let cuDNN try its convolutions on each new shape: images have one size, so there are few. Attention is left to torch's own kernels.

    cuDNN's comes first on newer GPUs, and raises where it has no plan for a head's odd sizes or masks. tf32: whether convolutions of
    float32 may round what they multiply to 10 bits, as torch lets them: maps then differ by a few thousandths of their largest value.
    """
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.enable_cudnn_sdp(False)


class StopSignal:
    """Turns SIGTERM, SIGUSR1 and a deadline into a question, `requested`, that a loop asks between two steps."""

    def __init__(self, deadline_seconds: float | None = None) -> None:
        self.reason = ""
        self._deadline = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self._previous = {number: signal.signal(number, self._catch) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.reason = signal.Signals(number).name

    @property
    def requested(self) -> bool:
        """Whether to save and leave; `reason` then says why."""
        if not self.reason and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "deadline"
        return bool(self.reason)

    def __enter__(self) -> "StopSignal":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back to whoever held them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
