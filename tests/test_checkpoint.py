"""Tensors on disk: what is written comes back, damage is found, and a killed writer leaves a whole state."""

import hashlib
import random
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from symnet.artifacts import Provenance, canonical
from symnet.checkpoint import load_latest, load_tensors, save_state, save_tensors, tensors_digest
from symnet.errors import UserError
from tests.killing import KILLED, killed_at, lines_of

RUN = Provenance(stage="train", settings="5" * 64, code="c" * 64, inputs={"list": "1" * 64})
META = {"best": None, "score": 0.25, "classes": [3, 4]}


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "transposed": torch.randn(4, 3, generator=generator).T,
        "half": torch.randn(5, generator=generator).half(),
        "bfloat": torch.randn(2, 2, 2, generator=generator).bfloat16(),
        "double": torch.tensor([1e300, -0.0], dtype=torch.float64),
        "steps": torch.tensor(7),
        "scalar": torch.tensor(0.5),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "special": torch.tensor([float("nan"), float("inf"), -float("inf")]),
    }


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))


def test_there_and_back(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.safetensors", some_tensors()
    stamped = save_tensors(path, tensors, META, RUN)
    found, meta, provenance = load_tensors(path, "train")
    assert set(found) == set(tensors)
    assert all(same(found[name], tensors[name]) for name in tensors)
    assert torch.signbit(found["double"]).tolist() == [False, True]
    assert meta == META
    assert provenance == stamped
    assert provenance.model_copy(update={"content": ""}) == RUN
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = some_tensors()
    save_tensors(tmp_path / "a", tensors, META, RUN)
    for _ in range(8):
        save_tensors(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(META.items())), RUN)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_byte_by_byte() -> None:
    tensors = {"b": torch.tensor([[1, 2]], dtype=torch.int16), "a": torch.tensor(3, dtype=torch.uint8)}
    expected = canonical({"n": 1}).encode() + b"a torch.uint8 ()\x03" + b"b torch.int16 (1, 2)\x01\x00\x02\x00"
    assert tensors_digest(tensors, {"n": 1}) == hashlib.sha256(expected).hexdigest()


def test_the_digest_sees_every_change() -> None:
    tensors, meta = {"a": torch.zeros(4), "b": torch.ones(2)}, {"step": 1}
    others: list[tuple[dict[str, Tensor], dict[str, int]]] = [
        (tensors, meta),
        (tensors, {"step": 2}),
        (tensors | {"a": torch.zeros(2, 2)}, meta),
        (tensors | {"a": torch.zeros(4, dtype=torch.int32)}, meta),
        (tensors | {"a": torch.tensor([0.0, 0.0, 0.0, -0.0])}, meta),
        (tensors | {"c": torch.zeros(0)}, meta),
        ({"a": torch.ones(2), "b": torch.zeros(4)}, meta),
    ]
    assert len({tensors_digest(*other) for other in others}) == len(others)


def state(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((6, 3), float(step)), "momentum": torch.full((9,), step, dtype=torch.int64)}


def save(folder: Path, step: int, provenance: Provenance = RUN) -> Path:
    save_state(folder, step, state(step), {"best": None}, provenance)
    return folder / f"step-{step:08d}.safetensors"


def latest(folder: Path) -> int | None:
    """The step of the newest whole state, which must be equal to what was saved at that step."""
    found = load_latest(folder, RUN.stage, RUN.settings)
    if found is None:
        return None
    tensors, meta = found
    step = meta["step"]
    assert meta == {"best": None, "step": step}
    expected = state(step)
    assert set(tensors) == set(expected)
    assert all(same(tensors[name], expected[name]) for name in expected)
    return int(step)


def test_two_are_kept(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    for step in (1, 5, 10, 100):
        save(tmp_path, step)
        assert latest(tmp_path) == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010.safetensors", "step-00000100.safetensors"]


def test_any_flipped_bit_is_refused(tmp_path: Path) -> None:
    """Header, provenance and tensors: the file is named, and the state before it is taken."""
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        with pytest.raises(UserError, match=f"^{path}: "):
            load_tensors(path, "train")
        with pytest.warns(UserWarning, match="falling back to the checkpoint before$"):
            assert latest(tmp_path) == 1


def test_any_truncated_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    whole = path.read_bytes()
    for length in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=f"^{path}: not a whole file of symnet "):
            load_tensors(path)
        with pytest.warns(UserWarning, match="falling back to the checkpoint before$"):
            assert latest(tmp_path) == 1


def test_nothing_whole_is_a_fresh_start(tmp_path: Path) -> None:
    """And what is then saved stays, though the damaged files have later steps."""
    for step in (300, 400):
        save(tmp_path, step).write_bytes(b"")
    with pytest.warns(UserWarning, match="falling back") as told:
        assert latest(tmp_path) is None
    assert len(told) == 2
    for step in (100, 200):
        path = save(tmp_path, step)
        assert path.is_file()
        assert latest(tmp_path) == step
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000100.safetensors", "step-00000200.safetensors"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    with pytest.raises(UserError) as caught:
        load_latest(tmp_path, "train", "6" * 64)
    expected = f"{path}: made by settings 555555555555, this run has 666666666666; delete {tmp_path} to start anew"
    assert str(caught.value) == expected
    assert path.is_file()


def test_another_stage_and_no_file(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    with pytest.raises(UserError, match=r"made by stage 'train', expected 'base'$"):
        load_tensors(path, "base")
    with pytest.raises(UserError, match=r"none: not found$"):
        load_tensors(tmp_path / "none")


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file(state(1), path)
    with pytest.raises(UserError, match="not a whole file of symnet "):
        load_tensors(path)
    for content in ("", "[]", "{}", '"meta"'):
        save_file(state(1), path, {"symnet": content})
        with pytest.raises(UserError, match="not a whole file of symnet "):
            load_tensors(path)
    save_file(state(1), path, {"symnet": '{"meta": {}, "provenance": []}'})
    with pytest.raises(UserError, match="provenance is not readable "):
        load_tensors(path)


def save_for_ever(folder: Path, step: int) -> None:
    while True:
        step += 1
        save(folder, step)


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kills_while_saving(tmp_path: Path) -> None:
    """SIGKILL at 50 random moments: there is always a whole state, never older than one seen before, and the next save leaves two."""
    rng, lines = random.Random(0), 4 * lines_of(save, tmp_path / "one", 1)
    shutil.rmtree(tmp_path / "one")
    step, cut = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no state may even look damaged
        for _ in range(50):
            assert killed_at(rng.randint(1, lines), save_for_ever, tmp_path, step) == KILLED
            found = latest(tmp_path) or 0
            assert found >= step
            step = found
            partials = list(tmp_path.glob(".*.partial"))
            cut += len(partials)
            for partial in partials:
                partial.unlink()
    save(tmp_path, step + 1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step-{n:08d}.safetensors" for n in (step, step + 1)]
    assert step > 25
    assert cut > 0
