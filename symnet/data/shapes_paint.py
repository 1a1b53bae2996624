"""Colours, textures and backgrounds of the embedded data set."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from symnet.data.shapes_parts import Points, Rng

Field = NDArray[np.float32]
TEXTURES = ("plain", "stripes", "checks", "dots", "waves", "mottled", "rings", "bricks")
MUTED = 0.65  # how far the two colours of a background's patch are drawn to their mean


def colours(rng: Rng, unlike: Field | None = None, hue: float | None = None) -> tuple[Field, Field]:
    """A colour, of that hue if one is given, and a relative of it, RGB 0..255; the first well apart from `unlike`."""
    best, far = np.zeros(3, np.float32), -1.0
    for _ in range(8):
        hsv = rng.random() if hue is None else hue, rng.uniform(0.3, 0.95), rng.uniform(0.3, 1)
        rgb = np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255
        distance = 255.0 if unlike is None else float(np.linalg.norm(rgb - unlike))
        if distance > far:
            best, far = rgb, distance
        if far > 140:
            break
    other = best * rng.uniform(0.5, 0.85) if best.mean() > 90 else best + rng.uniform(40, 90)
    return best, (other + rng.normal(0, 20, 3)).clip(0, 255).astype(np.float32)


def texture(rng: Rng, kind: str, u: Field, v: Field, rate: float, first: Field, second: Field) -> Field:
    """[H, W, 3] of two colours over coordinates u, v [H, W]; `rate` in periods a unit."""
    a, b = 2 * np.pi * rate * u, 2 * np.pi * rate * v
    waves = {
        "plain": lambda: np.zeros_like(u),
        "stripes": lambda: np.sin(a * 0.5),
        "checks": lambda: np.sin(a * 0.5) * np.sin(b * 0.5) * 3,
        "dots": lambda: (np.cos(a) + np.cos(b) - 0.9) * 2,
        "waves": lambda: np.sin(b + 1.5 * np.sin(a * 0.5)),
        "rings": lambda: np.sin(np.hypot(a, b)),
        "bricks": lambda: 8 * np.maximum(np.cos(b), np.cos(a * 0.5 + np.pi * (np.floor(b / (2 * np.pi)) % 2))) - 6.5,
        "mottled": lambda: 2.5 * noise(rng, u.shape, 14),
    }
    mix = (waves[kind]() * 2.5 + 0.5).clip(0, 1)[..., None]
    grain = 1 + 0.08 * noise(rng, u.shape, 24)[..., None]
    return (first + mix * (second - first)) * grain


def noise(rng: Rng, shape: tuple[int, ...], cells: int) -> Field:
    """Smooth noise of unit deviation, [H, W], `cells` to the longer side."""
    grid = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    side = max(shape)
    return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC))[: shape[0], : shape[1]]


def background(rng: Rng, width: int, height: int) -> Field:
    """Patches of texture, blobs, strokes and scribbles; nothing that is an object."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / (max(width, height) / 2) - 1
    canvas = _patch(rng, x, y)
    for _ in range(int(rng.integers(1, 4))):
        edge = (noise(rng, x.shape, int(rng.integers(3, 6))) + rng.normal(0, 1.5) * x + rng.normal(0, 1.5) * y - rng.uniform(0, 0.8)) * 6
        canvas += edge.clip(0, 1)[..., None] * (_patch(rng, x, y) - canvas)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        _strokes(rng, draw, width, height)
    for _ in range(int(rng.integers(1, 4))):
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        lobes = 1 + sum(rng.uniform(0, 0.25) * np.cos(k * angle + rng.uniform(0, 6)) for k in (1, 2, 3))
        radius = rng.uniform(0.03, 0.11) * width * lobes
        blob = np.stack([radius * np.cos(angle), radius * rng.uniform(0.5, 1) * np.sin(angle)], 1)
        draw.polygon(xy(blob + rng.uniform(0, 1, 2) * (width, height)), fill=_rgb(rng))
    for _ in range(int(rng.integers(1, 4))):
        walk = rng.uniform(0, 1, 2) * (width, height) + np.cumsum(rng.normal(0, 0.09 * width, (int(rng.integers(3, 9)), 2)), 0)
        draw.line(xy(walk), fill=_rgb(rng), width=max(1, int(rng.uniform(1, 4.5) * width / 144)), joint="curve")
    return np.array(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.0))), np.float32)


def _patch(rng: Rng, x: Field, y: Field) -> Field:
    """A texture at its own angle, with a gradient and noise over it."""
    turn = rng.uniform(0, np.pi)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    first, second = colours(rng)
    grey = (first + second).mean() / 2
    first, second = (MUTED * grey + (1 - MUTED) * colour for colour in (first, second))
    paint = texture(rng, str(rng.choice(TEXTURES)), u, v, rng.uniform(2, 7), first, second)
    return paint * (1 + rng.uniform(-0.3, 0.3) * u + 0.12 * noise(rng, x.shape, int(rng.integers(4, 20))))[..., None]


def _strokes(rng: Rng, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    """Grass: short, nearly parallel strokes of like colours."""
    first, second = colours(rng)
    lean, top = rng.uniform(-0.6, 0.6), rng.uniform(0, 0.7) * height
    for _ in range(int(rng.integers(120, 320))):
        x, y, length = rng.uniform(0, width), rng.uniform(top, height), rng.uniform(0.04, 0.11) * height
        colour = first + rng.random() * (second - first)
        tip = x + (lean + rng.normal(0, 0.2)) * length, y - length
        draw.line([(x, y), tip], fill=tuple(int(c) for c in colour), width=max(1, width // 144))


def _rgb(rng: Rng) -> tuple[int, ...]:
    return tuple(int(c) for c in colours(rng)[0])


def xy(points: Points) -> list[tuple[float, float]]:
    """As Pillow takes points."""
    return [(x, y) for x, y in points.tolist()]
