"""What a run takes of its machine, on a CPU and on a GPU that is played."""

import importlib.util
from pathlib import Path

import pytest
import torch

from symnet import system
from symnet.system import Usage, device_name, peak_memory


def test_a_cpu_s_memory_and_speed() -> None:
    kept = torch.zeros(20_000_000, dtype=torch.uint8) + 1  # 20 MB that are there
    found = Usage(torch.device("cpu"), 8)(2.5)
    assert set(found) == {f"system.{name}" for name in ("episodes_per_second", "host_memory_megabytes", "host_memory_peak_megabytes")}
    assert found["system.episodes_per_second"] == 20.0
    assert 20 < found["system.host_memory_megabytes"] < 1e5
    assert kept.sum() == 20_000_000
    assert found["system.host_memory_peak_megabytes"] > found["system.host_memory_megabytes"] - 1


def test_a_cpu_s_peak_is_the_process_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert peak_memory(torch.device("cpu")) > 50e6  # PyTorch alone is more
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 99 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 12 kB\n")
    monkeypatch.setattr(system, "Path", lambda name: tmp_path / "status")
    assert peak_memory(torch.device("cpu")) == 1234 * 1024


def test_a_device_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Made Up 7\n\nprocessor\t: 1\nmodel name\t: Made Up 7\n")
    monkeypatch.setattr(system, "Path", lambda name: tmp_path / "cpuinfo")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert (device_name(torch.device("cpu")), device_name(torch.device("cpu"), 2)) == ("Made Up 7, 1 thread", "Made Up 7, 2 threads")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Big GPU")
    assert (device_name(torch.device("cuda")), device_name(torch.device("cuda"), 4)) == ("Big GPU", "4 x Big GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    assert peak_memory(torch.device("cuda")) == 7
    monkeypatch.setattr(system, "Path", lambda name: tmp_path / "none")
    monkeypatch.setattr(system.platform, "processor", lambda: "")
    monkeypatch.setattr(system.platform, "machine", lambda: "riscv64")
    assert device_name(torch.device("cpu")) == "riscv64, 1 thread"


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(system.os, "sysconf", lambda name: (_ for _ in ()).throw(OSError))
    monkeypatch.setattr(system, "Path", lambda name: tmp_path / "none")
    assert peak_memory(torch.device("cpu")) == 0
    assert set(Usage(torch.device("cpu"), 8)(1.0)) == {"system.episodes_per_second"}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU whose counters are numbers, and what was asked of it. Nothing here may wait for it."""
    asked: list[str] = []
    for name, value in (("memory_allocated", 3e6), ("memory_reserved", 5e6), ("max_memory_allocated", 4e6), ("utilization", 87)):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name, value=value: asked.append(name) or value)
    for name in ("synchronize", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("the device is waited for"))
    return asked


def test_a_gpu_s_memory_and_load(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = Usage(device, 1)(1.0)
    assert {name.removeprefix("system.gpu_"): value for name, value in found.items() if "gpu" in name} == {
        "memory_megabytes": 3.0,
        "memory_reserved_megabytes": 5.0,
        "memory_peak_megabytes": 4.0,
    }
    assert "utilization" not in gpu  # without pynvml there is nobody to ask
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert Usage(device, 1)(1.0)["system.gpu_utilization_percentage"] == 87.0


def test_a_driver_that_refuses_is_asked_once(gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def refuse(device: torch.device) -> int:
        gpu.append("refused")
        raise RuntimeError("not supported")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    usage = Usage(torch.device("cuda"), 1)
    assert "system.gpu_utilization_percentage" not in usage(1.0) | usage(1.0)
    assert gpu.count("refused") == 1
