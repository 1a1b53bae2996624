"""Training by two processes, and in more parts where memory is short: the numbers of one that has all of it."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from symnet import launch, train
from symnet.artifacts import file_digest
from symnet.base_learner import load_base
from symnet.checkpoint import load_tensors
from symnet.config import TrainSettings
from symnet.data.episodes import TrainingEpisodes
from symnet.data.folds import read_fold_list
from symnet.embeddings import read_embeddings
from symnet.errors import EXIT_AGAIN, UserError
from symnet.journal import read_journal
from symnet.methods import METHODS, method_class
from symnet.methods.symnet import SymNetMethod
from symnet.parallel import ALONE, Ranks, check_shares
from symnet.runtime import StopSignal
from symnet.sources import CacheSource
from symnet.stages import slice_settings
from symnet.validation import Validation
from tests.bench import CPU, Bench

pytestmark = pytest.mark.xdist_group("learning")  # one bench, built once
STEPS: dict[str, Any] = {"steps": 4, "batch_size": 4, "selection": "last"}
JUDGED: dict[str, Any] = STEPS | {"selection": "base_val", "validation_episodes": 6, "validate_every": 2}
PLAIN = SymNetMethod.losses
REMEMBERING = ("ntrenet", "hpa")  # methods with buffers


def without_dropout(patch: pytest.MonkeyPatch) -> None:
    for name in ("dropout", "dropout2d"):
        patch.setattr(torch.nn.functional, name, lambda x, *_, **__: x)


def short_of_memory(episodes: int, *args: Any) -> Any:
    """Losses of a method on a device that has room for so many episodes at a time."""
    found = PLAIN(*args)
    if len(args[2].query_mask) > episodes:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return found


def method_short_of_memory(patch: pytest.MonkeyPatch, episodes: int) -> None:
    patch.setattr(SymNetMethod, "losses", lambda *args: short_of_memory(episodes, *args))


def stops(patch: pytest.MonkeyPatch, asked: list[bool]) -> None:
    """A signal is there when it has been asked for it so often."""
    answers = iter(asked)
    patch.setattr(StopSignal, "requested", property(lambda _: next(answers, asked[-1])))


# --- two processes


def scenarios(bench: Bench, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """What each of two processes does, and what it saw."""
    told: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        without_dropout(patch)
        bench.train(folder / "two.safetensors", ranks=ranks, **STEPS)
        bench.train(folder / "judged.safetensors", ranks=ranks, **JUDGED)
        bench.train(folder / "images.safetensors", replace(bench.inputs, features=None), ranks=ranks, **(STEPS | {"steps": 2}))
        bench.train(folder / "two-by-two.safetensors", ranks=ranks, accumulate=2, **STEPS)
        for method in REMEMBERING:
            bench.train(folder / f"{method}.safetensors", method=method, ranks=ranks, **STEPS)
        bench.train(folder / "adam.safetensors", ranks=ranks, method="hsnet", **STEPS)
        with pytest.MonkeyPatch.context() as inner:
            if not ranks.first:
                method_short_of_memory(inner, 1)
            bench.train(folder / "short.safetensors", ranks=ranks, **STEPS)
        with pytest.MonkeyPatch.context() as inner:
            if not ranks.first:
                method_short_of_memory(inner, 0)
            with pytest.raises(UserError, match="with one episode at a time"):
                bench.train(folder / "none.safetensors", ranks=ranks, **STEPS)
        told["stopped alone"] = stopped(bench, folder / "then-one.safetensors", ranks)
    bench.train(folder / "whole.safetensors", ranks=ranks, **STEPS)
    told["stopped"] = stopped(bench, folder / "resumed.safetensors", ranks)
    bench.train(folder / "resumed.safetensors", ranks=ranks, **STEPS)
    bench.train(folder / "resumed.safetensors", ranks=ranks, **STEPS)  # is there already
    told["score"], told["alone"] = validated(bench, ranks), validated(bench, ALONE)
    return told


def stopped(bench: Bench, out: Path, ranks: Ranks) -> str:
    """What is told when the second process gets a signal after its second step."""
    with pytest.MonkeyPatch.context() as patch:
        stops(patch, [False] if ranks.first else [False, False, True])  # first asked when it waits for the lease
        try:
            bench.train(out, ranks=ranks, **STEPS)
        except train.Stopped as reason:
            return str(reason)
    return ""


def validated(bench: Bench, ranks: Ranks) -> float:
    """The score of untrained weights on five batches."""
    settings, base = bench.settings("train", "symnet"), load_base(bench.inputs.base).to(CPU)
    vectors = torch.from_numpy(read_embeddings(bench.inputs.embeddings)[1])
    drawn = TrainingEpisodes(read_fold_list(bench.list("test")), 1, 3, "image")
    source = CacheSource(bench.root / "features_test.json", CPU)
    torch.manual_seed(0)
    method = SymNetMethod(settings, base.backbone, 1, vectors.shape[1], source.side)
    return Validation([drawn[i] for i in range(10)], source, base, vectors, 2, ranks).score(method)


def process(rank: int, bench: Bench, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    (folder / f"told{rank}.json").write_text(json.dumps(scenarios(bench, folder, Ranks(rank, 2))))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did all of `scenarios`, once for all tests."""
    folder = tmp_path_factory.mktemp("two")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=process, args=(rank, bench, folder)) for rank in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0, 0]
    return folder


@pytest.fixture
def alone(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains in this process, without dropout."""
    without_dropout(monkeypatch)
    return lambda **changed: bench.train(tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors", **(STEPS | changed))


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_tensors(path, "train")[0]


def assert_close(path: Path, other: Path) -> None:
    """To 1e-6, which is the rounding of sums in another order."""
    found = weights(other)
    for name, value in weights(path).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.mark.whole
def test_two_processes_train_as_one(bench: Bench, two: Path, alone: Callable[..., Path]) -> None:
    whole = alone()
    assert_close(whole, two / "two.safetensors")
    start = weights(alone(steps=1, lr=1e-12))
    assert max(float((value - start[name]).abs().max()) for name, value in weights(whole).items()) > 1e-3  # they learned
    assert_close(whole, two / "two-by-two.safetensors")
    images = alone(inputs=replace(bench.inputs, features=None), steps=2)
    assert_close(images, two / "images.safetensors")


@pytest.mark.whole
@pytest.mark.parametrize("method", REMEMBERING)
def test_two_processes_remember_what_one_does(two: Path, alone: Callable[..., Path], method: str) -> None:
    assert_close(alone(method=method), two / f"{method}.safetensors")


@pytest.mark.whole
def test_two_processes_give_the_bits_of_two_parts(two: Path, alone: Callable[..., Path]) -> None:
    """Of the weights after the last step: a sum of two knows no order."""
    for parts, other in ((alone(accumulate=2), "two"), (alone(accumulate=2, method="hsnet"), "adam")):
        found = weights(two / f"{other}.safetensors")
        assert all(torch.equal(found[name], value) for name, value in weights(parts).items())


@pytest.mark.whole
def test_the_first_process_tells_of_the_whole_batch(two: Path, alone: Callable[..., Path]) -> None:
    paths = two / "judged.safetensors", alone(**JUDGED)
    run, other = (read_journal(path.with_suffix(".jsonl"))[-1] for path in paths)
    assert (run.tags["processes"], other.tags["processes"]) == ("2", "1")
    for name in ("loss", "loss.meta", "loss.triplet", "foreground.truth", "foreground.ensemble", "prior_entropy"):
        assert run.metrics[name][4][0] == pytest.approx(other.metrics[name][4][0], rel=1e-5), name
    assert list(run.metrics["base_val.miou"]) == [2, 4]
    assert_close(*paths)


@pytest.mark.whole
def test_validation_is_shared_and_scores_the_same(two: Path) -> None:
    told = [json.loads((two / f"told{rank}.json").read_text()) for rank in range(2)]
    assert told[0]["score"] == told[1]["score"] == told[0]["alone"] == told[1]["alone"]
    assert told[0]["score"] > 0


@pytest.mark.whole
def test_a_signal_to_one_stops_all_at_one_step(bench: Bench, two: Path, alone: Callable[..., Path]) -> None:
    first, second = (json.loads((two / f"told{rank}.json").read_text()) for rank in range(2))
    assert first["stopped"].startswith("a signal to another process at step 2 of 4; its state is saved")
    assert second["stopped"].endswith("at step 2 of 4; its state is saved, run the same command again")
    (run,) = read_journal(two / "resumed.jsonl")
    assert (run.status, run.resumed, run.tags["resumed_at"]) == ("FINISHED", 1, "2")
    assert file_digest(two / "resumed.safetensors") == file_digest(two / "whole.safetensors")  # dropout included

    assert first["stopped alone"]
    with pytest.MonkeyPatch.context() as patch:
        without_dropout(patch)
        one = bench.train(two / "then-one.safetensors", **STEPS)
    assert_close(alone(), one)


@pytest.mark.whole
def test_one_process_short_of_memory_has_all_begin_the_step_again(two: Path) -> None:
    assert file_digest(two / "short.safetensors") == file_digest(two / "two-by-two.safetensors")
    (run,) = read_journal(two / "short.jsonl")
    assert {step: value for step, (value, _) in run.metrics["parts"].items()} == {1: 2.0}
    (failed,) = read_journal(two / "none.jsonl")
    assert failed.status == "FAILED"
    assert "out of memory at step 1 with one episode at a time" in failed.reason


# --- short of memory


@pytest.mark.parametrize("dropout", [False, True], ids=["exact", "dropout"])
def test_short_of_memory_a_step_is_begun_again_in_parts(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dropout: bool
) -> None:
    if not dropout:
        without_dropout(monkeypatch)
    expected = bench.train(tmp_path / "parts.safetensors", accumulate=4, **STEPS)
    method_short_of_memory(monkeypatch, 1)
    found = bench.train(tmp_path / "short.safetensors", **STEPS)
    assert all(torch.equal(weights(found)[name], value) for name, value in weights(expected).items())
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert [re.findall(r"step (\d+): out of memory; .* in (\d) parts", line) for line in lines] == [[("1", "2")], [("1", "4")]]
    (run,) = read_journal(tmp_path / "short.jsonl")
    assert {name: {step: value for step, (value, _) in run.metrics[name].items()} for name in ("parts", "warning.memory")} == {
        "parts": {1: 4.0},
        "warning.memory": {1: 1.0},
    }


def test_memory_that_runs_short_later_loses_no_step_and_is_remembered(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor adds a part twice, where it runs short between two; and a resumed run goes on as it was."""
    calls = iter(range(1000))

    def losses(*args: Any) -> Any:
        call = next(calls)
        return short_of_memory(4 if call < 2 else 2 if call < 4 else 1, *args)

    without_dropout(monkeypatch)
    whole = bench.train(tmp_path / "whole.safetensors", **STEPS)
    monkeypatch.setattr(SymNetMethod, "losses", losses)
    with monkeypatch.context() as patch:
        stops(patch, [False, False, True])
        with pytest.raises(train.Stopped, match="at step 3 of 4"):
            bench.train(tmp_path / "late.safetensors", **STEPS)
    assert next(calls) == 2 + 1 + 2 + 4  # two whole steps; one that was too much whole, then at its second half; its quarters
    late = bench.train(tmp_path / "late.safetensors", **STEPS)
    assert next(calls) == 10 + 4
    assert_close(whole, late)
    (run,) = read_journal(tmp_path / "late.jsonl")
    assert {step: value for step, (value, _) in run.metrics["parts"].items()} == {3: 4.0}


def test_nothing_left_to_divide_is_told(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method_short_of_memory(monkeypatch, 0)
    with pytest.raises(UserError, match=r"out of memory at step 1 with one episode at a time; lower pixels\.size"):
        bench.train(tmp_path / "none.safetensors", **STEPS)
    assert not (tmp_path / "none.safetensors").exists()


def test_a_method_that_needs_its_batch_whole_is_not_divided(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SymNetMethod, "whole_batch", True)
    method_short_of_memory(monkeypatch, 1)
    with pytest.raises(UserError, match=r"with a batch that .* needs whole; lower train\.batch_size or pixels\.size"):
        bench.train(tmp_path / "none.safetensors", **STEPS)


def test_methods_whose_batch_norm_learns_need_their_batch_whole(bench: Bench) -> None:
    """What parts of a batch would change is a batch norm in training mode: of all methods, fecanet's alone."""
    backbone = load_base(bench.root / "base.safetensors").backbone
    found = {}
    for name in (name for name, entry in METHODS.items() if entry.trained):
        method = method_class(name)(bench.settings("train", name), backbone, 1, 300, backbone.side(65)).train()
        found[name] = any(isinstance(module, nn.BatchNorm2d) and module.training for module in method.modules())
        assert method.whole_batch == found[name], name
    assert [name for name in found if found[name]] == ["fecanet"]


# --- who may share


def test_a_batch_that_cannot_be_shared_is_told() -> None:
    check_shares(TrainSettings(batch_size=8, accumulate=2), 4)
    with pytest.raises(UserError, match=r"train\.batch_size \(8\) must be divisible by train\.accumulate \(2\) times .* \(3\)"):
        check_shares(TrainSettings(batch_size=8, accumulate=2), 3)
    check_shares(TrainSettings(batch_size=8), 1, whole_batch=True)
    for accumulate, processes in ((2, 1), (1, 2)):
        with pytest.raises(UserError, match=rf"train\.accumulate {accumulate}, processes {processes}: .* both must be 1"):
            check_shares(TrainSettings(batch_size=8, accumulate=accumulate), processes, whole_batch=True)


def test_processes_get_a_gpu_each_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(batch_size=8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launch.can_launch(settings, "auto", 2)
    assert launch.can_launch(settings, "cpu", 4)
    assert not launch.can_launch(settings, "auto", 1)
    with pytest.raises(UserError, match="found 4, but 2 GPUs are visible"):
        launch.can_launch(settings, "auto", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.can_launch(settings, "auto", 4)
    with pytest.raises(UserError, match="found 2, but 0 GPUs are visible"):
        launch.can_launch(settings, "cuda", 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one of them")
    assert not launch.can_launch(settings, "auto", 4)


@pytest.mark.parametrize(("names", "own"), [(None, "1"), ("5,GPU-7", "GPU-7")])
@pytest.mark.parametrize("nvml", [True, False])
def test_a_process_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch, names: str | None, own: str, nvml: bool) -> None:
    """Without NVML, counting binds a process to what it saw: then it chooses among that."""
    environment = {"TORCHELASTIC_RUN_ID": "r", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    monkeypatch.setattr(os, "environ", environment | ({"CUDA_VISIBLE_DEVICES": names} if names else {}) | {launch.MEETING: "file:///m"})
    before = dict(os.environ)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1 if nvml and os.environ != before else 2)
    met: list[Any] = []
    monkeypatch.setattr(torch.cuda, "set_device", met.append)
    monkeypatch.setattr(launch.dist, "init_process_group", lambda *args, **words: met.append((*args, *words.values())))
    monkeypatch.setattr(launch.dist, "destroy_process_group", lambda: met.append("left"))
    with launch.join("auto") as ranks:
        assert ranks == Ranks(1, 2)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == own
    assert met == [*([] if nvml else [1]), ("cpu:gloo,cuda:nccl", "file:///m", 1, 2), "left"]


def test_alone_there_is_nothing_to_agree_on() -> None:
    with launch.join("cpu") as ranks:
        assert ranks == ALONE
    value = torch.ones(2)
    ALONE.sum([value])
    assert value.tolist() == [1, 1]
    assert [ALONE.any(flag) for flag in (True, False)] == [True, False]


# --- the command, under torchrun


@pytest.fixture
def command(bench: Bench, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `symnet train` on 400 steps in some processes."""
    values = slice_settings(bench.experiment.settings("shapes", 0), "train", "symnet")
    values["train"] |= {"steps": 400, "batch_size": 2, "validate_every": 400}
    (tmp_path / "train.json").write_text(json.dumps(values))
    inputs = {"list": "train_list", "base": "base", "embeddings": "embeddings", "features": "features"}
    options = {"config": tmp_path / "train.json", "dataset": "shapes", "backbone": "efficientnet_lite0", "fold": 0, "shot": 1}
    options |= {name: getattr(bench.inputs, of) for name, of in inputs.items()}
    options |= {"results": tmp_path / "results", "out": tmp_path / "model.safetensors", "device": "cpu", "checkpoint-seconds": 1}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    started = []

    def start(processes: int) -> subprocess.Popen:
        line = [sys.executable, "-m", "symnet", "train", *words, "--processes", str(processes)]
        started.append(subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.whole
def test_the_command_survives_the_death_of_a_process_and_a_signal(command: Callable[..., subprocess.Popen], tmp_path: Path) -> None:
    def checkpoints() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("step-*.safetensors"))

    run = command(2)
    wait_for(checkpoints)
    workers = children(run.pid)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGKILL
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)

    before = checkpoints()
    run = command(2)
    wait_for(lambda: checkpoints() != before)
    workers = children(run.pid)
    run.send_signal(signal.SIGUSR1)
    told, _ = run.communicate(timeout=120)
    assert run.returncode == EXIT_AGAIN, told
    assert "stopped by SIGUSR1 at step" in told
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)

    run = command(1)
    told, _ = run.communicate(timeout=240)
    assert run.returncode == 0, told
    (journal,) = (read_journal(path)[-1] for path in (tmp_path / "results" / "journals").rglob("*.jsonl"))
    assert (journal.status, journal.resumed, journal.tags["processes"]) == ("FINISHED", 2, "1")
    assert load_tensors(tmp_path / "model.safetensors", "train")[1]["steps"] == 400
