"""What a command sets up on the machine it runs on."""

import pytest
import torch

from symnet.cli.jobs import use_device


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_on_a_gpu_is_float32_but_where_a_command_asks_for_less(monkeypatch: pytest.MonkeyPatch, tf32: bool) -> None:
    """torch lets cuDNN round what convolutions of float32 multiply; only the base learner's training does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=not tf32):
        assert use_device("auto", torch.get_num_threads(), tf32) == torch.device("cuda")
        assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32) == (True, tf32)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before)
    assert not torch.backends.cuda.matmul.allow_tf32
