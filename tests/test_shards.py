"""The shards of feature caches and records: killed writers, damage, shards of others, full disks, many readers."""

import errno
import multiprocessing
import os
import random
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from symnet.errors import UserError
from symnet.shards import Shards, remove_others, write_shards
from tests.killing import KILLED, killed_at, lines_of

BATCHES = [[2 * i, 2 * i + 1] for i in range(9)]  # in shards of 4, 4 and 1
ROWS = [row for batch in BATCHES for row in batch]


def columns(rows: Sequence[int]) -> dict[str, np.ndarray]:
    return {"wide": np.outer(rows, np.arange(500, dtype=np.float32)), "narrow": np.array(rows, np.int32)}


def make(folder: Path, key: str = "abc", made: Callable[[Sequence[int]], dict] = columns) -> list[dict[str, Any]]:
    shards = write_shards(folder / "cache.json", key, BATCHES, list, lambda rows, _: made(rows), 4, "shards")
    remove_others(folder / "cache.json", key)
    return shards


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.h5")}


def check(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Every row is what was written."""
    opened = Shards(folder / "cache.json", shards)
    assert torch.equal(opened.read(ROWS[::-1], "wide"), torch.from_numpy(columns(ROWS[::-1])["wide"]))
    assert opened.read(ROWS, "narrow").tolist() == ROWS
    opened.close()


def test_rows_come_back_and_the_same_work_gives_the_same_bytes(tmp_path: Path) -> None:
    check(tmp_path / "a", make(tmp_path / "a"))
    assert [shard["rows"] for shard in make(tmp_path / "a")] == [8, 8, 2]
    make(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 6  # shards and their seals


def in_pieces(folder: Path) -> None:
    """Make them, each written in many pieces."""
    kept = Path.write_bytes

    def write(path: Path, data: memoryview) -> int:
        if not path.name.endswith(".partial"):
            return kept(path, data)
        with open(path, "wb", buffering=0) as file:
            for start in range(0, len(data), 1000):
                file.write(data[start : start + 1000])
        return len(data)

    Path.write_bytes = write  # of this process alone
    make(folder)


@pytest.mark.whole
def test_killed_at_fifty_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "whole")
    whole = files(tmp_path / "whole")
    folder, rng = tmp_path / "own", random.Random(5)

    lines = lines_of(in_pieces, folder)
    assert files(folder) == whole
    shutil.rmtree(folder)
    killed = halves = 0
    while killed < 50:
        killed += killed_at(rng.randint(1, lines), in_pieces, folder) == KILLED
        left = {name: content for name, content in files(folder).items() if not name.endswith(".partial")} if folder.exists() else {}
        assert left.items() <= whole.items()
        halves += bool(list(folder.glob("*/.*.partial")))
        kept = {path: time for path, time in times(folder).items() if path.with_suffix(".seal").exists()}
        if len(left) >= 4:
            make(folder)
            assert files(folder) == whole
            assert kept.items() <= times(folder).items()  # finished shards are not made again
            shutil.rmtree(folder)
    assert halves > 5  # the others fell between two, or before the first


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def of_this_run(path: Path) -> None:
    """The shard before it, with its seal."""
    for suffix in (".h5", ".seal"):
        shutil.copy(path.with_name(f"00000{suffix}"), path.with_suffix(suffix))


def of_another_run(path: Path) -> None:
    """A whole one of the same number, with its seal."""
    make(path.parent.parent / "other", "def", lambda rows: columns([row + 1 for row in rows]))
    for suffix in (".h5", ".seal"):
        shutil.copy(path.parent.parent / "other" / "cache-def" / f"00001{suffix}", path.with_suffix(suffix))


@pytest.mark.parametrize("damage", [flip, cut, empty, of_this_run, of_another_run])
def test_damage_and_shards_of_others_are_found_and_they_alone_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shards = make(tmp_path)
    whole, before = files(tmp_path), times(tmp_path)
    harmed = tmp_path / "cache-abc" / "00001.h5"
    damage(harmed)
    for seen in (1, 2):
        if seen == 1:  # it may be met by a job that goes on, before anybody opens it
            make(tmp_path)
            assert {name: content for name, content in files(tmp_path).items() if "other" not in name} == whole
            damage(harmed)
        told = "shard does not match its sha256: damaged, now removed" if seen == 1 else "shard of .* not found"
        with pytest.raises(UserError, match=told):
            Shards(tmp_path / "cache.json", shards)
    assert make(tmp_path) == shards
    check(tmp_path, shards)
    after = times(tmp_path)
    assert [path.name for path, time in before.items() if after[path] != time] == ["00001.h5"]


def test_shards_of_runs_before_are_removed_and_not_read(tmp_path: Path) -> None:
    make(tmp_path, "old", lambda rows: columns([row + 1 for row in rows]))
    check(tmp_path, make(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["cache-abc"]


def test_a_full_disk_is_told_and_leaves_no_half_shard(tmp_path: Path) -> None:
    whole = files(tmp_path) if make(tmp_path) else {}
    shutil.rmtree(tmp_path / "cache-abc")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # writes fail in the middle of a shard, as on a full disk
    try:
        with pytest.raises(UserError, match=r"cache-abc: shards cannot be written \(File too large\); mend that and run again") as caught:
            make(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {}
    make(tmp_path)
    assert files(tmp_path) == whole


def test_no_space_left_keeps_the_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC itself, from the second shard on."""
    kept = Path.write_bytes

    def full(path: Path, data: memoryview) -> int:
        if list(path.parent.glob("*.h5")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return kept(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match=r"shards cannot be written \(No space left on device\)"):
            make(tmp_path)
    assert sorted(path.name for path in (tmp_path / "cache-abc").iterdir()) == ["00000.h5", "00000.seal"]
    before = times(tmp_path)
    check(tmp_path, make(tmp_path))
    assert before.items() <= times(tmp_path).items()


def test_a_folder_that_cannot_be_written_is_told_and_one_that_is_only_read_will_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"shards cannot be written \(Not a directory\)"):
        make(tmp_path / "file")
    shards = make(tmp_path / "own")
    folder = tmp_path / "own" / "cache-abc"
    before = files(folder)
    folder.chmod(0o500)
    try:
        check(tmp_path / "own", shards)
        if os.geteuid():  # the superuser may write anywhere
            (folder / "00001.h5").unlink()
            with pytest.raises(UserError, match=r"shards cannot be written \(Permission denied\)"):
                make(tmp_path / "own")
    finally:
        folder.chmod(0o700)
    assert files(folder).items() <= before.items()


def _sum_of_all(folder: Path, shards: list[dict[str, Any]], turn: int) -> float:
    opened = Shards(folder / "cache.json", shards)
    return float(opened.read(ROWS[turn:] + ROWS[:turn], "wide").double().sum())


@pytest.mark.whole
@pytest.mark.parametrize(("method", "count"), [("fork", 8), ("spawn", 2)])  # those of spawn import torch: eight read in test_store.py
def test_processes_read_at_once(tmp_path: Path, method: str, count: int) -> None:
    shards = make(tmp_path)
    expected = float(columns(ROWS)["wide"].astype(np.float64).sum())
    with multiprocessing.get_context(method).Pool(count) as pool:
        assert pool.starmap(_sum_of_all, [(tmp_path, shards, 2 * turn) for turn in range(count)]) == [expected] * count
