"""The machine of a run by name, and what a run takes of it, asked for now and then without making the device wait."""

import importlib.util
import os
import platform
import re
from pathlib import Path

import torch

MEGABYTE = 1e6


class Usage:
    """Memory of the process and of the GPU, the GPU's load where pynvml is installed, and episodes a second."""

    def __init__(self, device: torch.device, batch_size: int) -> None:
        self.device, self.batch_size = device, batch_size
        self._load = device.type == "cuda" and importlib.util.find_spec("pynvml") is not None

    def __call__(self, steps_per_second: float) -> dict[str, float]:
        """Metrics for the journal, `system.NAME`: memory in megabytes (10^6 bytes), load in percent of time."""
        found = {"episodes_per_second": steps_per_second * self.batch_size}
        if resident := _resident():
            found["host_memory_megabytes"] = resident / MEGABYTE
        if most := _most_resident():
            found["host_memory_peak_megabytes"] = most / MEGABYTE
        if self.device.type == "cuda":  # counters of torch's allocator, kept on the host
            found["gpu_memory_megabytes"] = torch.cuda.memory_allocated(self.device) / MEGABYTE
            found["gpu_memory_reserved_megabytes"] = torch.cuda.memory_reserved(self.device) / MEGABYTE
            found["gpu_memory_peak_megabytes"] = torch.cuda.max_memory_allocated(self.device) / MEGABYTE
        if self._load:
            try:
                found["gpu_utilization_percentage"] = float(torch.cuda.utilization(self.device))
            except Exception:  # a driver without an answer (MIG, a container's limits) stops no run: it is not asked again
                self._load = False
        return {f"system.{name}": value for name, value in found.items()}


def device_name(device: torch.device, count: int = 1) -> str:
    """The device in words, as its maker names it: what times and memory were measured on. count: of such GPUs together."""
    if device.type == "cuda":
        return f"{count} x " * (count > 1) + torch.cuda.get_device_name(device)
    try:
        (model,) = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)[:1]
    except (OSError, ValueError):
        model = platform.processor() or platform.machine()
    threads = count * torch.get_num_threads()
    return f"{model}, {threads} thread{'s' * (threads > 1)}"


def peak_memory(device: torch.device) -> int:
    """The most bytes held at a time: on a GPU by this process's tensors, on a CPU by the process; 0 where the system does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _most_resident()


def _most_resident() -> int:
    try:
        (most,) = re.findall(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return 0
    return 1024 * int(most)


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell (only Linux does)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
