"""Files appear whole or not at all, and damage is found when they are read."""

import csv
import hashlib
import json
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symnet.artifacts import (
    SCHEMA,
    Provenance,
    canonical,
    digest,
    file_digest,
    read_json,
    read_table,
    replacing,
    sealed,
    write_json,
    write_table,
    write_text,
    write_text_if_changed,
)
from symnet.errors import UserError

MADE_BY = Provenance(stage="folds", settings="a" * 8, code="b" * 8, inputs={"list": "c" * 8})
PAYLOAD = {"rows": [["a1", 3], ["b2", -1]], "half": 0.5, "none": None, "on": True, "text": 'a "b" \n é'}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_gives_the_final_name_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as partial:
        partial.write_text("whole")
        assert partial.parent == path.parent
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_an_exception_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [str(i) * 20_000 for i in range(8)]
    seen: set[str] = set()

    def write(text: str) -> None:
        for _ in range(10):
            write_text(path, text)
            seen.add(path.read_text())

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= set(texts)
    assert names(tmp_path) == ["a.txt"]


def write_for_ever(path: Path) -> None:
    number = 0
    while True:
        number += 1
        with replacing(path) as partial, open(partial, "wb") as file:
            for _ in range(50):
                file.write(number.to_bytes(4, "big") * 250)
                file.flush()


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_kills_while_writing(tmp_path: Path) -> None:
    """SIGKILL at 50 random moments: under the final name there is always one whole content."""
    path, rng = tmp_path / "a.bin", random.Random(0)
    context = multiprocessing.get_context("fork")
    for _ in range(50):
        process = context.Process(target=write_for_ever, args=(path,))
        process.start()
        time.sleep(rng.uniform(0.005, 0.04))
        process.kill()
        process.join()
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 50_000
            assert content == content[:4] * 12_500
    assert path.exists()
    assert len(names(tmp_path)) > 1  # what was under way at some kill, and never got the name


def test_unchanged_text_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    assert write_text_if_changed(path, "a\r\nb\n")
    os.utime(path, ns=(10**18, 10**18))
    assert not write_text_if_changed(path, "a\r\nb\n")
    assert path.stat().st_mtime_ns == 10**18
    assert write_text_if_changed(path, "a\nb\n")
    assert path.read_bytes() == b"a\nb\n"
    assert path.stat().st_mtime_ns != 10**18


def test_a_damaged_file_is_a_changed_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff")
    assert write_text_if_changed(path, "a")
    assert path.read_text() == "a"


def test_canonical_and_digest() -> None:
    assert canonical({"b": [1, 2.5], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    assert digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match=r"none: cannot be read \(No such file or directory\)$"):
        file_digest(tmp_path / "none")


def test_the_seal_is_over_everything() -> None:
    body = digest(PAYLOAD)
    own = {"schema_version": 2, "stage": "folds", "settings": "a" * 8, "protocol": {}, "code": "b" * 8, "inputs": {"list": "c" * 8}}
    assert sealed(MADE_BY, body).content == digest([own, body])
    assert sealed(sealed(MADE_BY, body), body) == sealed(MADE_BY, body)
    others: list[dict[str, Any]] = [
        {"stage": "x"},
        {"settings": "x"},
        {"protocol": {"crowd": "drop"}},
        {"code": "x"},
        {"inputs": {}},
        {"schema_version": 3},
    ]
    sums = {sealed(MADE_BY.model_copy(update=other), body).content for other in [*others, {}]} | {sealed(MADE_BY, "x").content}
    assert len(sums) == 8


def test_json_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, PAYLOAD, MADE_BY)
    assert read_json(path, "folds") == (PAYLOAD, sealed(MADE_BY, digest(PAYLOAD)))
    first = path.read_bytes()
    write_json(path, PAYLOAD, MADE_BY)
    assert path.read_bytes() == first
    assert list(json.loads(first)) == ["provenance", "payload"]


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")}, MADE_BY)
    assert names(tmp_path) == []


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@given(st.lists(st.lists(cells, min_size=2, max_size=2), max_size=4))
def test_table_there_and_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    write_table(path, ["name", "value"], rows, MADE_BY)
    found, provenance = read_table(path, "folds")
    assert found == [{"name": a, "value": b} for a, b in rows]
    assert provenance.model_copy(update={"content": ""}) == MADE_BY


def test_a_table_is_a_csv_with_a_comment(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_table(path, ["image", "pixels"], [["a1", 3], ["b,2", -1]], MADE_BY)
    head, *rows = path.read_text().splitlines()
    assert json.loads(head.removeprefix("# symnet "))["stage"] == "folds"
    assert list(csv.reader(rows)) == [["image", "pixels"], ["a1", "3"], ["b,2", "-1"]]


def test_a_table_is_rewritten_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    results = [write_table(path, ["a"], [[value]], MADE_BY, if_changed=True) for value in (1, 1, 2)]
    assert results == [True, False, True]
    assert write_table(path, ["a"], [[2]], MADE_BY)


def refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: "):
        (read_json if path.suffix == ".json" else read_table)(path, "folds")


def write_both(folder: Path) -> list[Path]:
    write_json(folder / "a.json", PAYLOAD, MADE_BY)
    write_table(folder / "a.csv", ["image", "pixels"], [["a1", 3], ["b2", -1]], MADE_BY)
    return [folder / "a.json", folder / "a.csv"]


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    """In the provenance too: a changed settings hash would else pass for another run's work."""
    for path in write_both(tmp_path):
        whole = path.read_bytes()
        for i in range(len(whole)):
            for mask in (1 << i % 8, 0xFF):
                refused(path, whole[:i] + bytes([whole[i] ^ mask]) + whole[i + 1 :])


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    for path in write_both(tmp_path):
        whole = path.read_bytes()
        for length in range(len(whole.rstrip())):
            refused(path, whole[:length])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": SCHEMA + 1}, f"schema version {SCHEMA + 1}, this symnet reads {SCHEMA}; delete it and run again"),
        ({"stage": "index"}, "made by stage 'index', expected 'folds'"),
    ],
)
def test_another_version_and_another_stage(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    other = MADE_BY.model_copy(update=change)
    write_json(tmp_path / "a.json", PAYLOAD, other)
    write_table(tmp_path / "a.csv", ["a"], [], other)
    for path, read in ((tmp_path / "a.json", read_json), (tmp_path / "a.csv", read_table)):
        with pytest.raises(UserError) as caught:
            read(path, "folds")
        assert str(caught.value) == f"{path}: {expected}"


def test_edited_content_is_refused(tmp_path: Path) -> None:
    table = write_both(tmp_path)[1]
    refused(tmp_path / "a.json", (tmp_path / "a.json").read_bytes().replace(b"a1", b"a2"))
    refused(table, table.read_bytes() + b"c3,5\n")
    refused(table, table.read_bytes().replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a whole JSON file"),
        (b"[1]", "not an artifact of symnet (no provenance)"),
        (b'{"payload": 1}', "not an artifact of symnet (no provenance)"),
        (b'{"provenance": 3, "payload": 1}', "provenance is not readable"),
        (b'{"provenance": {"stage": "folds"}, "payload": NaN}', "not a whole JSON file"),
        (b'{"provenance": {"stage": "folds"}, "payload": 1e999}', "not a whole JSON file"),
        (b'{"provenance": {"stage": "folds"}, "payload": 1}', "content does not match its sha256"),
    ],
)
def test_foreign_json(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert len(str(caught.value).splitlines()) == 1


def test_absent_and_unreadable(tmp_path: Path) -> None:
    for read in (read_json, read_table):
        with pytest.raises(UserError, match=r"none: not found$"):
            read(tmp_path / "none")
        with pytest.raises(UserError, match=r": cannot be read \(Is a directory\)$"):
            read(tmp_path)
