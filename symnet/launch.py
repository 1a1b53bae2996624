"""One command in several processes of this node, a GPU each: started by torchrun, and meeting in `join`.

Torchrun's own meeting place is a server on all interfaces that unpickles what it is sent. Here it is a file in a private folder, and all
traffic stays on the node.
"""

import os
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from symnet.config import TrainSettings
from symnet.errors import EXIT_AGAIN, UserError
from symnet.parallel import ALONE, Ranks, check_shares

MEETING = "SYMNET_MEETING"  # names the file where processes that `launch` started find each other
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


def can_launch(train: TrainSettings, device: str, count: int) -> bool:
    """Whether this process is to `launch` the `count` that train, being none of them. Raises `UserError` where they could not."""
    if count == 1 or dist.is_torchelastic_launched():
        return False
    check_shares(train, count)
    _have_gpus(device, count)
    return True


def launch(count: int, words: Sequence[str]) -> int:
    """Run `symnet WORDS` in `count` processes under torchrun. Returns the exit code: that of the first process that failed.

    SIGTERM and SIGUSR1 are passed on, and the processes then have half a minute to save and leave.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory(prefix="symnet-") as folder:
        os.environ |= {name: os.environ.get(name, value) for name, value in LOOPBACK.items()}
        os.environ |= {MEETING: f"file://{folder}/ranks", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # an option of newer versions
        meeting = ["--rdzv-backend", "c10d", "--rdzv-conf", "store_type=file", "--rdzv-endpoint", str(Path(folder, "agent"))]
        options = torchrun.parse_args([*meeting, "--nnodes", "1", "--nproc-per-node", str(count), "-m", "symnet", *words])
        try:
            torchrun.run(options)
        except ChildFailedError as error:
            code = error.get_first_failure()[1].exitcode
            return code if code > 0 else 128 - code
        except SignalException as error:
            return EXIT_AGAIN if error.sigval in (signal.SIGTERM, signal.SIGUSR1) else 128 + error.sigval
    return 0


@contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Meet the processes that torchrun started together with this one; alone where it started none.

    Comes before anything asks for a GPU: from here on this process sees no other than its own. device: auto, cpu or cuda. Raises
    `UserError` where there are fewer GPUs than processes.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    found = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    backend = "gloo"
    if _have_gpus(device, int(os.environ["LOCAL_WORLD_SIZE"])):
        place, names = int(os.environ["LOCAL_RANK"]), os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = names.split(",")[place] if names else str(place)
        if torch.cuda.device_count() > 1:  # they were counted without NVML, and so this process sees what it saw
            torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, os.environ.get(MEETING, "env://"), rank=found.rank, world_size=found.count)
    yield found
    dist.destroy_process_group()  # not after an error: others may wait for this one, and torchrun ends them


def _have_gpus(device: str, count: int) -> bool:
    """Whether each of `count` processes gets a GPU; with device auto, none may. Raises `UserError` where only some would."""
    there = 0 if device == "cpu" else torch.cuda.device_count()  # asks the driver, and so binds this process to none
    if there < count and (there or device == "cuda"):
        raise UserError(f"--processes: found {count}, but {there} GPUs are visible here; ask for as many GPUs, or give --device cpu")
    return there > 0
