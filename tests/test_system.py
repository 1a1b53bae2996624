"""What a run takes of its machine, on a CPU and on a GPU that is played."""

import importlib.util

import pytest
import torch

from symnet import system
from symnet.system import Usage


def test_a_cpu_s_memory_and_speed() -> None:
    kept = torch.zeros(20_000_000, dtype=torch.uint8) + 1  # 20 MB that are there
    found = Usage(torch.device("cpu"), 8)(2.5)
    assert set(found) == {"system.episodes_per_second", "system.host_memory_megabytes"}
    assert found["system.episodes_per_second"] == 20.0
    assert 20 < found["system.host_memory_megabytes"] < 1e5
    assert kept.sum() == 20_000_000


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system.os, "sysconf", lambda name: (_ for _ in ()).throw(OSError))
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
