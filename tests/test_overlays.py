"""Pictures of episodes: the same bytes each time, small, checked when read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from symnet.artifacts import file_digest
from symnet.data.episodes import Episode
from symnet.errors import UserError
from symnet.overlays import GAP, LABEL, PICTURES, PREDICTED, SIDE, SUPPORT, TRUTH, draw_overlays, picture, read_overlay

EPISODES = [Episode(f"q{i}", index, ("s1", "s2")) for i, index in enumerate((3, 3, 1, 2, 3, 5, 4))]
NAMES = ["cat", "tv/monitor", "potted plant", "dog", "car"]


class Images:
    """A reader of a grey image whose left half is of class 3, with a line of unknown pixels."""

    def load(self, split: str, image: str) -> tuple[np.ndarray, np.ndarray]:
        assert split == "test"
        mask = np.zeros((80, 320), np.uint8)
        mask[:, :160], mask[:20] = 3, 255
        return np.full((80, 320, 3), 100, np.uint8), mask


def predict(place: int, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    return {"meta": np.ones(shape, np.uint8), "ensemble": np.zeros(shape, np.uint8)}


def draw(folder: Path, metrics: Path) -> list[Path]:
    draw_overlays(folder, EPISODES, predict, Images(), NAMES, metrics)  # type: ignore[arg-type]
    return sorted(folder.iterdir())


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "seed7.json"
    path.write_text("{}")
    return path


def test_the_first_of_each_class_is_drawn(tmp_path: Path, metrics: Path) -> None:
    folder = tmp_path / "overlays"
    folder.mkdir()
    (folder / "00009-old.png").touch()
    files = draw(folder, metrics)
    assert [path.name for path in files] == ["00000-potted-plant.png", "00002-cat.png", "00003-tv-monitor.png", "00005-car.png"]
    assert len(files) == PICTURES
    before = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in draw(folder, metrics)] == before
    assert sum(map(len, before)) < 400_000
    assert read_overlay(files[0]).inputs == {"metrics": file_digest(metrics)}


def test_what_a_picture_shows(tmp_path: Path, metrics: Path) -> None:
    with Image.open(draw(tmp_path / "overlays", metrics)[0]) as image:
        assert image.size == (5 * (SIDE + GAP) - GAP, SIDE + LABEL)  # two supports, truth, ensemble, meta
        pixels = np.asarray(image).astype(int)
    mixed = {name: [(100 + c) // 2 for c in colour] for name, colour in (("s", SUPPORT), ("t", TRUTH), ("p", PREDICTED))}
    at = [pixels[LABEL + 25, i * (SIDE + GAP) + 40].tolist() for i in range(5)]
    assert at == [mixed["s"], mixed["s"], mixed["t"], [100] * 3, mixed["p"]]
    assert pixels[LABEL + 25, 120].tolist() == [100] * 3  # background
    assert pixels[LABEL + 5, 40].tolist() == [114] * 3  # unknown
    assert pixels[LABEL + 60, 40].tolist() == [255] * 3  # the image is 160 x 40


def test_another_cell_of_one_pixel_is_drawn() -> None:
    one = np.zeros((1, 1), np.uint8)
    assert picture([("truth", np.zeros((1, 1, 3), np.uint8), one, TRUTH)]).size == (SIDE, SIDE + LABEL)


def test_damage_is_found(tmp_path: Path, metrics: Path) -> None:
    path = draw(tmp_path / "overlays", metrics)[0]
    whole = path.read_bytes()
    for i in range(0, len(whole), max(1, len(whole) // 200)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
        with pytest.raises(UserError, match=f"^{path}: "):
            read_overlay(path)
        path.write_bytes(whole[:i])
        with pytest.raises(UserError, match=f"^{path}: "):
            read_overlay(path)
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(UserError, match="not a whole picture of symnet"):
        read_overlay(path)
