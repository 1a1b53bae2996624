"""Class vectors: which words stand for a class, every file format, and the vectors learned from the embedded corpus."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

from symnet.config import Settings
from symnet.config_data import DataSettings, TextSettings
from symnet.data.classes import COCO, VOC
from symnet.data.corpus import corpus
from symnet.data.shapes import SHAPES
from symnet.embeddings import class_vectors, make_embeddings, read_embeddings, words_of
from symnet.errors import UserError

ROWS = {
    "airplane": (3, 4, 0),
    "table": (0, 2, 0),
    "tv": (1, 0, 0),
    "potted_plant": (0, 0, 5),
    "plant": (9, 9, 9),
    "fridge": (-1, 0, 0),
    "wine": (10, 0, 0),
    "glass": (0, 1, 0),
    "wine_glass": (0, 0, 1),
    "dining": (0, 0, 1),
    "hot_dog": (0, 3, 4),
    "dog": (1, 0, 0),
    "nothing": (0, 0, 0),
}
TEXT = TextSettings(source="vectors.txt", dim=3)
HALF = 0.5**0.5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    vectors = KeyedVectors(3)
    vectors.add_vectors(list(ROWS), np.array(list(ROWS.values()), np.float32))
    vectors.save_word2vec_format(str(tmp_path / "vectors.txt"))
    vectors.save_word2vec_format(str(tmp_path / "vectors.vec"))
    vectors.save_word2vec_format(str(tmp_path / "vectors.bin"), binary=True)
    vectors.save_word2vec_format(str(tmp_path / "vectors.bin.gz"), binary=True)
    vectors.save(str(tmp_path / "vectors.kv"), separately=["vectors"])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aeroplane", (0.6, 0.8, 0)),
        ("diningtable", (0, 1, 0)),
        ("tvmonitor", (1, 0, 0)),
        ("pottedplant", (0, 0, 1)),
        ("potted plant", (0, 0, 1)),
        ("refrigerator", (-1, 0, 0)),
        ("wine glass", (HALF, HALF, 0)),  # unit length first: the longer word weighs no more; the joined token is not asked
        ("dining table", (0, HALF, HALF)),
        ("hot dog", (0, 0.6, 0.8)),  # `hot` is missing: the joined token
        ("dog", (1, 0, 0)),
    ],
)
def test_rules(root: Path, name: str, expected: tuple[float, ...]) -> None:
    np.testing.assert_allclose(class_vectors([name], TEXT, root), [expected], atol=1e-7)


def test_words() -> None:
    assert words_of("cell phone") == ("cellphone",)
    assert words_of("fire hydrant") == ("fire_hydrant",)
    assert words_of("teddy bear") == ("teddy_bear",)
    assert words_of("tennis racket") == ("tennis_racket",)
    assert words_of("traffic light") == ("traffic", "light")
    assert words_of("motorbike") == ("motorbike",)


@pytest.mark.parametrize("file", ["vectors.vec", "vectors.bin", "vectors.bin.gz", "vectors.kv"])
def test_every_format_gives_the_same(root: Path, file: str) -> None:
    names = ["tvmonitor", "wine glass", "hot dog", "aeroplane"]
    found = class_vectors(names, TextSettings(source=file, dim=3), root)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, class_vectors(names, TEXT, root))


@pytest.mark.parametrize("rows", [(2, None), (2, 4, None), (13,)])
def test_reading_in_steps_changes_nothing(root: Path, rows: tuple[int | None, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["aeroplane", "hot dog", "dog"]
    expected = class_vectors(names, TEXT, root)
    monkeypatch.setattr("symnet.embeddings._ROWS", rows)
    np.testing.assert_array_equal(class_vectors(names, TEXT, root), expected)


@pytest.mark.parametrize(
    ("name", "source", "dim", "message"),
    [
        ("cat", "vectors.txt", 3, r"vectors\.txt: no vector for cat \(class 'cat'\)"),
        ("hot wine", "vectors.txt", 3, r"vectors\.txt: no vector for hot, nor hot_wine \(class 'hot wine'\)"),
        ("fire hydrant", "vectors.bin", 3, r"vectors\.bin: no vector for fire_hydrant \(class 'fire hydrant'\)"),
        ("dog", "vectors.txt", 300, r"width 3, text\.dim is 300"),
        ("nothing", "vectors.txt", 3, r"class 'nothing' has length 0"),
        ("dog", "absent.txt", 3, r"absent\.txt: text\.source: file not found"),
        ("dog", "vectors.npy", 3, r"allowed: \.bin, \.bin\.gz, \.txt, \.vec, \.kv"),
        ("dog", "shapes", 3, r"shapes: no vector for dog"),
    ],
)
def test_errors(root: Path, name: str, source: str, dim: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        class_vectors([name], TextSettings(source=source, dim=dim), root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["vectors.txt", "vectors.bin", "vectors.bin.gz", "vectors.kv"])
def test_a_damaged_file_is_refused(root: Path, file: str) -> None:
    path = root / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"not whole, readable word vectors"):
        class_vectors(["dog"], TextSettings(source=file, dim=3), root)


def test_table_round_trip(root: Path) -> None:
    settings = Settings(data=DataSettings(classes=("aeroplane", "wine glass", "tvmonitor")), text=TEXT)
    make_embeddings(settings, root, root / "out.csv")
    names, vectors = read_embeddings(root / "out.csv")
    assert names == ["aeroplane", "wine glass", "tvmonitor"]
    np.testing.assert_array_equal(vectors, class_vectors(names, TEXT, root))
    assert vectors.dtype == np.float32
    text = (root / "out.csv").read_text()
    assert hashlib.sha256((root / "vectors.txt").read_bytes()).hexdigest() in text
    (root / "out.csv").write_text(text.replace("0.6", "0.7"))
    with pytest.raises(UserError, match="does not match its sha256"):
        read_embeddings(root / "out.csv")


def test_float32_text_reads_back_the_same() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    values = bits[np.isfinite(bits)]
    np.testing.assert_array_equal(np.array([str(value) for value in values], dtype=np.float32), values)


def test_reading_needs_no_gensim() -> None:
    code = "import sys, symnet.embeddings; sys.exit('gensim' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("names", [VOC, COCO])
def test_real_tokens_cover_the_classes(shared: Path, names: tuple[str, ...]) -> None:
    vectors = class_vectors(names, TextSettings(source="word2vec_classes.txt"), shared / "data/embeddings")
    assert vectors.shape == (len(names), 300)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    similar = vectors @ vectors.T
    cat, dog, bottle = (names.index(name) for name in ("cat", "dog", "bottle"))
    assert similar[cat, dog] > 0.7 > 0.3 > similar[cat, bottle]


def test_corpus() -> None:
    sentences = corpus(400)
    assert sentences == corpus(400) != corpus(400, seed=1)
    assert len(sentences) == 400
    for number, noun in enumerate(SHAPES):
        assert noun in sentences[number]


LEARN = """
import hashlib, pathlib
from symnet.config_data import TextSettings
from symnet.data.shapes import SHAPES
from symnet.embeddings import class_vectors
print(hashlib.sha256(class_vectors(SHAPES, TextSettings(source="shapes", dim=32), pathlib.Path()).tobytes()).hexdigest())
"""


@pytest.mark.whole
def test_learned_vectors_are_the_same_in_every_process_and_related() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", LEARN], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    ]
    vectors = class_vectors(SHAPES, TextSettings(source="shapes", dim=32), Path())
    assert runs == [hashlib.sha256(vectors.tobytes()).hexdigest() + "\n"] * 2
    similar = vectors @ vectors.T
    of = {name: index for index, name in enumerate(SHAPES)}
    for noun, near, far in (("flower", "mushroom", "hammer"), ("star", "moon", "ladder"), ("gear", "hammer", "leaf")):
        assert similar[of[noun], of[near]] > similar[of[noun], of[far]] + 0.2
