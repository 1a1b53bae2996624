"""One picture of the embedded data set: a cluttered background, textured objects over it, and their index mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from symnet.data.images import IGNORE, Pixels
from symnet.data.shapes_paint import TEXTURES, Field, background, colours, texture, xy
from symnet.data.shapes_parts import BODY, ROLES, SILHOUETTES, Part, Points, Rng

FINE = 3  # silhouettes are drawn this many times larger, then averaged
TRIES = 40  # placements drawn until every object is visible enough
SHOWN = 0.023  # share of side^2 that an object must show inside its border: 477 pixels at side 144
UNHIDDEN = 0.65  # share of its own pixels inside the picture that an object must show
OWN_LOOK = 0.8  # probability that an object's body has a texture typical of its class; the same for each part's hue
_NAMES = tuple(SILHOUETTES)
_AREA_SCALE = 30.0  # pixels a unit at which an area is measured


class Figure(NamedTuple):
    """An instance of a class at unit scale, and its area in square units."""

    class_index: int
    parts: list[Part]
    area: float


@dataclass(frozen=True)
class Placed:
    """An object's silhouette in a picture. Arrays are [H, W]."""

    class_index: int
    centre: tuple[float, float]
    scale: float  # pixels a unit
    turn: float  # radians
    cover: dict[int, Field]  # share of each pixel under each role, 0..1
    whole: Field  # their sum

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Pixels that are the object's."""
        return self.whole > 0.5


def draw_scene(rng: Rng, classes: Sequence[int], width: int, height: int) -> tuple[Pixels, Pixels]:
    """Draw objects of `classes` (indices from 1, later ones in front). Returns RGB [H, W, 3] and mask [H, W] with borders of 255."""
    canvas = background(rng, width, height)
    objects, mask = _arrange(rng, classes, width, height)
    for placed in objects:
        _paint(rng, canvas, placed)
    canvas += rng.normal(0, rng.uniform(2, 7), canvas.shape).astype(np.float32)
    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.6)))
    return np.array(image), mask


def _arrange(rng: Rng, classes: Sequence[int], width: int, height: int) -> tuple[list[Placed], Pixels]:
    """Place the objects so that each stays visible; the best of `TRIES` where none does."""
    need = SHOWN * max(width, height) ** 2
    figures = [_figure(rng, class_index) for class_index in classes]
    largest = 0.45 if len(classes) == 1 else 0.28
    best: tuple[float, list[Placed], Pixels] | None = None
    for _ in range(TRIES):
        shares = np.exp(rng.uniform(np.log(0.12), np.log(largest), len(figures)))
        objects = [_place(rng, figure, float(share), width, height) for figure, share in zip(figures, shares, strict=True)]
        mask, shown = _label(objects, width, height)
        worst = min(min(pixels / need, share / UNHIDDEN) for pixels, share in shown)
        if best is None or worst > best[0]:
            best = worst, objects, mask
        if worst >= 1:
            break
    assert best is not None
    return best[1], best[2]


def _figure(rng: Rng, class_index: int) -> Figure:
    """An instance of the class at unit scale: own proportions, a slight bend, either way round."""
    parts = SILHOUETTES[_NAMES[class_index - 1]](rng)
    aspect, flip = rng.uniform(0.8, 1.25) ** 0.5, rng.choice([-1, 1])
    bend, phase, shear = rng.uniform(0, 0.1), rng.uniform(0, 2 * np.pi, 2), rng.uniform(-0.2, 0.2)

    def deform(points: Points) -> Points:
        ends = np.concatenate([points, points[:1]])
        step = np.linspace(0, 1, 6, endpoint=False)[:, None, None]
        dense = (ends[:-1] + step * (ends[1:] - ends[:-1])).transpose(1, 0, 2).reshape(-1, 2)
        x, y = dense.T
        x, y = x + bend * np.sin(2.2 * y + phase[0]), y + bend * np.sin(2.2 * x + phase[1])
        return np.stack([flip * (x + shear * y) * aspect, y / aspect], 1)

    parts = [Part(role, deform(points)) for role, points in parts]
    return Figure(class_index, parts, _area(parts))


def _area(parts: list[Part]) -> float:
    """What the parts cover, holes left out, in square units."""
    span = 1.6  # no part of a figure lies further out
    side = round(2 * span * _AREA_SCALE)
    cover = _raster(parts, (side / 2, side / 2), _AREA_SCALE, side, side)
    return sum(float(field.sum()) for field in cover.values()) / _AREA_SCALE**2


def _place(rng: Rng, figure: Figure, share: float, width: int, height: int) -> Placed:
    """Draw turn and position of a figure that covers `share` of the picture where it fits, and rasterise."""
    class_index, parts, area = figure
    turn = float(rng.normal(0, 0.45))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned = [Part(role, points @ rotation) for role, points in parts]
    every = np.concatenate([points for _, points in turned])
    low, high = every.min(0), every.max(0)
    room = np.array([width, height])
    scale = float(min(np.sqrt(share * width * height / area), (0.98 * room / (high - low)).min()))
    overhang = rng.uniform(0, 0.12) * scale * (high - low)
    free = room - scale * (high - low)
    corner = rng.uniform(-overhang, np.maximum(free + overhang, -overhang))
    centre = (float(corner[0] - scale * low[0]), float(corner[1] - scale * low[1]))
    cover = _raster(turned, centre, scale, width, height)
    whole = np.minimum(sum(cover.values(), np.zeros((height, width), np.float32)), 1)
    return Placed(class_index, centre, scale, turn, cover, whole)


def _raster(parts: list[Part], centre: tuple[float, float], scale: float, width: int, height: int) -> dict[int, Field]:
    """The share of each pixel under each role, [height, width] in 0..1."""
    fine = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(fine)
    for role, points in parts:
        draw.polygon(xy(FINE * (points * scale + centre)), fill=role)
    tables = {role: [255 * (value == role) for value in range(256)] for role in ROLES}
    return {role: (np.asarray(fine.point(table).reduce(FINE)) / 255).astype(np.float32) for role, table in tables.items()}


def _label(objects: list[Placed], width: int, height: int) -> tuple[Pixels, list[tuple[int, float]]]:
    """The mask, and of each object the pixels it shows and their share of its own, borders left out."""
    owner = np.zeros((height, width), np.uint8)
    reach = 2 * max(1, round(max(width, height) / 144)) + 1
    own = []
    for number, placed in enumerate(objects, 1):
        solid = Image.fromarray(placed.inside.astype(np.uint8))
        owner[np.asarray(solid.filter(ImageFilter.MaxFilter(reach))) > 0] = IGNORE
        shrunk = np.asarray(solid.filter(ImageFilter.MinFilter(reach))) > 0
        owner[shrunk] = number
        own.append(max(int(shrunk.sum()), 1))
    seen = np.bincount(owner.ravel(), minlength=256)[1 : len(objects) + 1].tolist()
    table = np.array([0, *(placed.class_index for placed in objects), *[IGNORE] * (255 - len(objects))], np.uint8)
    return table[owner], [(pixels, pixels / whole) for pixels, whole in zip(seen, own, strict=True)]


def _paint(rng: Rng, canvas: Field, placed: Placed) -> None:
    """Paint shadow, parts and rim of an object over the canvas."""
    height, width = placed.whole.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dx, dy = (x - placed.centre[0]) / placed.scale, (y - placed.centre[1]) / placed.scale
    u, v = dx * np.cos(placed.turn) + dy * np.sin(placed.turn), dy * np.cos(placed.turn) - dx * np.sin(placed.turn)
    shape = Image.fromarray((placed.whole * 255).astype(np.uint8))
    shadow = np.asarray(shape.filter(ImageFilter.GaussianBlur(0.02 * width)), np.float32) / 255
    canvas *= 1 - rng.uniform(0.2, 0.5) * np.roll(shadow, tuple(rng.integers(-2, 4, 2)), (0, 1))[..., None]
    around = canvas[placed.inside].mean(0) if placed.inside.any() else canvas.mean((0, 1))
    light = rng.normal(0, 1, 2)
    light *= rng.uniform(0.1, 0.3) / np.linalg.norm(light)
    shade = (1 + light[0] * dx + light[1] * dy).clip(0.55, 1.35)[..., None]
    for role, cover in placed.cover.items():
        kind = _class_texture(rng, placed.class_index) if role == BODY else str(rng.choice(TEXTURES[:3]))
        hue = _class_hue(rng, placed.class_index, role)
        pair = colours(rng, around, hue)
        paint = texture(rng, kind, u, v, rng.uniform(2, 5), *pair)
        canvas += cover[..., None] * (paint * shade - canvas)
    eroded = np.asarray(shape.filter(ImageFilter.MinFilter(3)), np.float32) / 255
    canvas *= 1 - rng.uniform(0.1, 0.6) * (placed.whole - eroded).clip(0, 1)[..., None]


def _class_texture(rng: Rng, class_index: int) -> str:
    if rng.random() < OWN_LOOK:
        return TEXTURES[(3 * class_index + int(rng.integers(2))) % len(TEXTURES)]
    return str(rng.choice(TEXTURES))


def _class_hue(rng: Rng, class_index: int, role: int) -> float | None:
    """A hue near the one of this part of the class, 0..1, or None: any."""
    own = 0.38 * class_index + 0.29 * role
    return float((own + rng.normal(0, 0.05)) % 1) if rng.random() < OWN_LOOK else None
