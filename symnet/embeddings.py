"""Class names to vectors: which words stand for a class, read from word2vec files or learned from the embedded corpus.

The one module that uses gensim, and only to make vectors: what the other stages read is a small table.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symnet.artifacts import Provenance, file_digest, read_table, write_table
from symnet.config import Settings
from symnet.config_data import TextSettings
from symnet.data.classes import class_names
from symnet.data.corpus import corpus
from symnet.errors import UserError, one_line

Vectors = NDArray[np.float32]
# Classes whose name is not what the vectors call them; any other name stands for its own words (docs/protocol.md).
WORDS = {
    "aeroplane": "airplane",
    "diningtable": "table",
    "tvmonitor": "tv",
    "pottedplant": "potted_plant",
    "fire hydrant": "fire_hydrant",
    "tennis racket": "tennis_racket",
    "potted plant": "potted_plant",
    "teddy bear": "teddy_bear",
    "cell phone": "cellphone",
    "refrigerator": "fridge",
}
FORMATS = (".bin", ".bin.gz", ".txt", ".vec", ".kv")
# Rows read at first, then more, then all: the files are sorted by frequency, and all of GoogleNews takes 4 GB.
_ROWS = (200_000, 1_000_000, None)
_SEED = 1


def class_vectors(names: Sequence[str], text: TextSettings, data_root: Path) -> Vectors:
    """Vectors of classes, float32 [len(names), text.dim], rows of unit length.

    A class of one word (or phrase token) takes that row. A class of several takes the mean of its words' rows, each brought to unit
    length before; where a word is missing, the joined token (`wine_glass`); where that is missing too, a `UserError` that names words,
    class and file. The result is brought to unit length.

    `text.source` is a file of word2vec's formats (.bin, .bin.gz, .txt, .vec) or of gensim's (.kv, memory-mapped; a pickle, so open only
    what you trust), relative to `data_root`, or `shapes`: vectors learned from the embedded corpus. Raises `UserError` for a file that
    is missing, damaged or of another width than `text.dim`.
    """
    if text.source == "shapes":
        where, rows, width = "text.source: shapes", _learn(text.dim), text.dim
    else:
        where = str(data_root / text.source)
        rows, width = _read(data_root / text.source, names)
    if width != text.dim:
        raise UserError(f"{where}: holds vectors of width {width}, text.dim is {text.dim}; set text.dim to {width} or give another file")
    return np.stack([_class_vector(name, rows, where) for name in names]).astype(np.float32)


def words_of(name: str) -> tuple[str, ...]:
    """The words whose vectors stand for a class: `aeroplane` -> (airplane,), `wine glass` -> (wine, glass)."""
    return tuple(WORDS.get(name, name).split())


def _class_vector(name: str, rows: dict[str, Vectors], where: str) -> NDArray[np.float64]:
    words = words_of(name)
    found = [rows[word] for word in words if word in rows]
    joined = "_".join(words)
    if len(found) < len(words) and joined in rows:
        found = [rows[joined]]
    elif len(found) < len(words):
        missing = ", ".join(word for word in words if word not in rows)
        also = f", nor {joined}" if len(words) > 1 else ""
        raise UserError(f"{where}: no vector for {missing}{also} (class '{name}'); give vectors that hold it, or rename the class")
    return _unit(np.mean([_unit(row, name, where) for row in found], axis=0), name, where)


def _unit(vector: NDArray, name: str, where: str) -> NDArray[np.float64]:
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < length < np.inf:
        raise UserError(f"{where}: the vector of class '{name}' has length {length}; expected finite numbers that are not all zero")
    return vector.astype(np.float64) / length


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, Vectors], int]:
    """The rows of a file that the classes need, and no others; and the width of its vectors."""
    if not path.name.endswith(FORMATS):
        raise UserError(f"{path}: text.source: found a file of another format; allowed: {', '.join(FORMATS)}, or `shapes`")
    if not path.is_file():
        raise UserError(f"{path}: text.source: file not found; word vectors are looked for under data_root")
    preferred = {word for name in names for word in words_of(name)}
    wanted = preferred | {"_".join(words_of(name)) for name in names}
    for limit in (None,) if path.suffix == ".kv" else _ROWS:
        print(f"embeddings: reading {path}, {'all' if limit is None else f'the first {limit}'} vectors", file=sys.stderr, flush=True)
        try:
            vectors = _open(path, limit)
        except Exception as error:  # gensim raises many kinds on damaged files
            raise UserError(f"{path}: not whole, readable word vectors ({one_line(error)}); get the file again") from None
        rows = {token: np.array(vectors[token], np.float32) for token in sorted(wanted) if token in vectors}
        if preferred <= set(rows) or limit is None or len(vectors) < limit:
            break
    return rows, vectors.vector_size


def _open(path: Path, limit: int | None) -> Any:
    """gensim's KeyedVectors, of the first `limit` rows where the format is read from its start."""
    from gensim.models import KeyedVectors

    if path.suffix == ".kv":
        return KeyedVectors.load(str(path), mmap="r")
    return KeyedVectors.load_word2vec_format(str(path), binary=path.name.endswith((".bin", ".bin.gz")), limit=limit)


def _learn(dim: int) -> dict[str, Vectors]:
    """Skip-gram vectors of the embedded corpus, the same in every process."""
    from gensim.models import Word2Vec

    vectors = Word2Vec(corpus(), vector_size=dim, window=6, min_count=1, sg=1, negative=5, epochs=10, sample=1e-2, workers=1, seed=_SEED).wv
    return {word: np.array(vectors[word], np.float32) for word in vectors.index_to_key}


def make_embeddings(settings: Settings, data_root: Path, out: Path, provenance: Provenance | None = None) -> None:
    """Write the class vectors as a table artifact: column `class`, then 0..dim-1. Raises `UserError` as `class_vectors` does."""
    names = class_names(settings.data.classes)
    vectors = class_vectors(names, settings.text, data_root)
    made_by = provenance or Provenance(stage="embeddings")
    if settings.text.source != "shapes":
        made_by = made_by.model_copy(update={"inputs": {**made_by.inputs, "vectors": file_digest(data_root / settings.text.source)}})
    # numpy's text of a float32 is the shortest that reads back as the same number
    rows = [[name, *(str(value) for value in row)] for name, row in zip(names, vectors, strict=True)]
    write_table(out, ["class", *map(str, range(vectors.shape[1]))], rows, made_by)


def read_embeddings(path: Path) -> tuple[list[str], Vectors]:
    """Class names and their vectors, float32 [classes, dim], as written by `make_embeddings`. Raises `UserError`."""
    rows, _ = read_table(path, "embeddings")
    names = [row.pop("class") for row in rows]
    return names, np.array([list(row.values()) for row in rows], dtype=np.float32)
