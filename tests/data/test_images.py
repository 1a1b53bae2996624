"""Images and masks are read exactly, and what is damaged is refused by name."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from symnet.data.images import BadFile, check_image, read_image, read_mask

COLOURS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
MASK = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60) % 21


def save_palette(path: Path, mask: np.ndarray) -> None:
    image = Image.fromarray(mask)
    image.putpalette([value for i in range(256) for value in (255 - i, 7 * i % 256, 3)])
    image.save(path)


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.dtype == np.uint8
    assert np.array_equal(read, COLOURS)
    assert check_image(tmp_path / "a.png") == (60, 40)


@pytest.mark.parametrize(("mode", "suffix"), [("L", ".png"), ("L", ".jpg"), ("CMYK", ".jpg"), ("RGBA", ".png"), ("P", ".png")])
def test_other_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    grey = Image.fromarray(np.full((8, 16, 3), 200, np.uint8))
    (grey.quantize() if mode == "P" else grey.convert(mode)).save(path)
    assert np.abs(read_image(path).astype(int) - 200).max() <= 1
    assert check_image(path) == (16, 8)


@pytest.mark.parametrize("palette", [True, False])
def test_a_mask_is_its_indices(tmp_path: Path, palette: bool) -> None:
    mask = MASK.copy()
    mask[0, :5] = 255
    save_palette(tmp_path / "m.png", mask) if palette else Image.fromarray(mask).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", 20), mask)


def test_a_small_palette_is_packed_bits_and_still_indices(tmp_path: Path) -> None:
    image = Image.fromarray(MASK % 3)
    image.putpalette([0, 0, 0, 9, 9, 9, 200, 0, 0])
    image.save(tmp_path / "m.png", bits=2)
    assert np.array_equal(read_mask(tmp_path / "m.png", 2), MASK % 3)


def test_a_value_that_is_no_class_is_refused(tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "m.png")
    with pytest.raises(BadFile, match=r"m\.png: found mask value 18; allowed: 0 to 17, and 255 for 'ignore'"):
        read_mask(tmp_path / "m.png", 17)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", ".png"), ("1", ".png"), ("L", ".jpg")])
def test_what_is_no_index_mask_is_refused(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    Image.fromarray(COLOURS).convert(mode).save(path)
    with pytest.raises(BadFile, match=rf"m\{suffix}: found a (PNG|JPEG) of mode {mode}; a mask is a PNG of mode P"):
        read_mask(path, 20)


@pytest.mark.parametrize("read", [read_image, check_image, lambda path: read_mask(path, 20)], ids=["image", "check", "mask"])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damage_is_named(tmp_path: Path, read, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(BadFile, match=rf"a\{suffix}: not found"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(BadFile, match="zero bytes"):
        read(path)
    path.write_bytes(b"no image at all")
    with pytest.raises(BadFile, match="not a whole, readable image"):
        read(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncation_is_found(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOURS.repeat(8, 0).repeat(8, 1)).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for read in (read_image, check_image):
        with pytest.raises(BadFile, match=r"not a whole, readable image"):
            read(path)


@pytest.mark.parametrize("side", [9000, 12000, 40000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    for read in (read_image, check_image, lambda p: read_mask(p, 20)):
        with pytest.raises(BadFile, match=r"bomb\.png: found .*allowed.*67108864"):
            read(path)
