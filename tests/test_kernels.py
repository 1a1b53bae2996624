"""Triton kernels: interpreted on a CPU against their twins, compiled for GPUs that are not there, and on one that is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symnet import kernels
from symnet.bench import twins
from symnet.model import correlation
from symnet.model.correlation import correlation_maps

ROOT = Path(__file__).resolve().parent.parent
CASES = ["one shot", "five shots", "a block and a bit", "whole blocks", "fewer than a block", "empty", "full", "float16"]
HALF = (torch.float16, torch.bfloat16)

needs_triton = pytest.mark.skipif(not kernels.installed(), reason="needs Triton, which torch for CPUs does not bring")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def interpreted() -> dict[str, dict]:
    """What `interpreted.py` found. Triton reads the variable when it is first imported, so it gets a process of its own."""
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "tests.interpreted"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.xdist_group("kernels")
@pytest.mark.parametrize("case", CASES)
def test_the_correlation_kernel_is_its_twins(interpreted: dict, case: str) -> None:
    errors = interpreted["correlation"][case]
    assert errors.keys() == {"plain", "chunked"}
    assert max(errors.values()) < (2e-4 if case == "float16" else 1e-6), errors  # of cosines
    assert interpreted["correlation"].keys() == set(CASES)


@needs_triton
@pytest.mark.xdist_group("kernels")
@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 1), ("float16", 1), ("bfloat16", 2)])  # the interpreter cuts bfloat16 off
def test_the_join_kernel_is_its_twin(interpreted: dict, dtype: str, allowed: float) -> None:
    assert interpreted["join"][f"torch.{dtype}"] <= allowed


@needs_triton
@pytest.mark.parametrize(("capability", "products"), [(80, "mma.sync"), (90, "wgmma.mma_async")])
def test_kernels_compile_to_matrix_instructions(capability: int, products: str) -> None:
    """For an A100 and a H100, the first tiles, in bfloat16; loads are asynchronous, in a pipeline."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from symnet.kernels.correlation import _CONFIGS, _kernel
    from symnet.kernels.join import _kernel as join

    def compiled(kernel: object, pointers: dict[str, str], numbers: dict[str, str], constants: dict, **options: int) -> str:
        signature = pointers | numbers | dict.fromkeys(constants, "constexpr")
        attributes = {(i,): [["tt.divisibility", 16]] for i in range(len(pointers))}
        source = ASTSource(kernel, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]

    tile = _CONFIGS[0]
    pointers = dict.fromkeys(("query", "support"), "*bf16") | dict.fromkeys(("index", "count"), "*i32")
    pointers |= dict.fromkeys(("weight", "out"), "*fp32")
    constants = {"channels": 1024, "precision": "ieee", **tile.kwargs}
    numbers = {"positions": "i32", "shots": "i32"}
    ptx = compiled(_kernel, pointers, numbers, constants, num_warps=tile.num_warps, num_stages=tile.num_stages)
    assert products in ptx
    assert "cp.async" in ptx
    pointers = dict.fromkeys(("x", "shortcut", "bias", "rectified"), "*bf16")
    assert "max" in compiled(join, pointers, {"numbers": "i32"}, {"channels": 512, "block": 2048})


def test_a_kernel_is_for_gpus_and_for_what_needs_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not kernels.fits(torch.ones(1))

    class OnGPU:
        is_cuda, dtype, requires_grad, device = True, torch.bfloat16, False, torch.device("cuda")

    class Trained(OnGPU):
        requires_grad = True

    class Exact(OnGPU):
        dtype = torch.float64

    monkeypatch.setattr(kernels, "works", lambda device: device == torch.device("cuda"))
    assert kernels.fits(OnGPU(), OnGPU())
    assert not kernels.fits(OnGPU(), Trained())
    assert not kernels.fits(OnGPU(), Exact())
    with torch.no_grad():
        assert kernels.fits(Trained())
    monkeypatch.setattr(kernels, "works", lambda device: False)
    assert not kernels.fits(OnGPU())


@needs_triton
def test_a_triton_that_does_not_work_is_told_once_and_left(capfd: pytest.CaptureFixture[str]) -> None:
    """As on a node without a C compiler: here there is no GPU, and Triton finds no driver."""
    kernels.works.cache_clear()
    assert [kernels.works(torch.device("cpu")) for _ in range(2)] == [False, False]
    told = capfd.readouterr().err
    assert told.count("plain calls") == 1
    assert told.startswith("Triton is installed but does not work on cpu (")
    kernels.works.cache_clear()


@pytest.mark.parametrize("dtype", HALF)
def test_correlations_of_16_bits_stay_near(dtype: torch.dtype) -> None:
    """The plain ways, pair by pair (on a CPU) and all at once (as on a GPU without Triton). Features are far from unit length."""
    torch.manual_seed(0)
    query, support = 60 * torch.randn(2, 96, 9, 9), 60 * torch.randn(2, 2, 96, 9, 9)
    mask = (torch.rand(2, 2, 9, 9) < 0.3).float()
    mask[0, 0] = 0
    expected = twins.correlation_maps([query], [support], mask)
    low = [query.to(dtype)], [support.to(dtype)]
    found = correlation_maps(*low, mask)
    foreground = (mask.flatten(2) == 1).flatten(0, 1)
    at_once = correlation._all_at_once(low[0][0].flatten(2).transpose(1, 2), low[1][0].flatten(0, 1).flatten(2), foreground, 1000)
    at_once = at_once.view(2, 2, -1).mean(1) / query.flatten(2).norm(dim=1)
    assert found.dtype == at_once.dtype == torch.float32
    for one in (found, at_once.view_as(found)):
        assert (one - expected).abs().max() < 2e-3 * expected.abs().max()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize(("channels", "side", "shots"), [(512, 60, 1), (2048, 60, 1), (40, 21, 5)])
def test_the_kernel_on_a_gpu(dtype: torch.dtype, channels: int, side: int, shots: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, channels, side, side, device="cuda").to(dtype)
    support = torch.randn(2, shots, channels, side, side, device="cuda").to(dtype)
    mask = (torch.rand(2, shots, side, side, device="cuda") < 0.3).float()
    expected = twins.correlation_maps([query.float()], [support.float()], mask)
    found = correlation_maps([query], [support], mask)
    assert (found - expected).abs().max() < (1e-4 if dtype == torch.float32 else 5e-3) * expected.abs().max()
