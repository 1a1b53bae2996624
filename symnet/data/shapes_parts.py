"""The silhouettes of the 20 classes of the embedded data set: polygons with a role, varied from instance to instance.

Coordinates lie in about [-1, 1], x to the right and y down. Parts are painted in order; a hole takes away what lies beneath it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # [n, 2], (x, y)
HOLE, BODY, SECOND, DETAIL = 0, 1, 2, 3  # roles: a part of one role has one colour and texture
ROLES = (BODY, SECOND, DETAIL)


class Part(NamedTuple):
    """A filled polygon [n, 2] and its role."""

    role: int
    points: Points


Rng = np.random.Generator
Silhouette = Callable[[Rng], list[Part]]


def _poly(*xy: float) -> Points:
    return np.array(xy, dtype=float).reshape(-1, 2)


def _mirror(*xy: float) -> Points:
    """The right half of a figure from top to bottom, and its mirror image."""
    right = _poly(*xy)
    return np.concatenate([right, (right * (-1, 1))[::-1]])


def _oval(x: float, y: float, rx: float, ry: float | None = None, start: float = 0.0, end: float = 2 * np.pi) -> Points:
    """An ellipse round (x, y), or its arc between two angles (clockwise from the right, since y points down)."""
    angle = np.linspace(start, end, 48)
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], 1)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return _poly(left, top, right, top, right, bottom, left, bottom)


def _polar(radius: Points, turn: float = 0.0) -> Points:
    """A closed curve round the origin from its radii, the first upwards."""
    angle = np.arange(len(radius)) * 2 * np.pi / len(radius) - np.pi / 2 + turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)


def _star(rng: Rng) -> list[Part]:
    tips, depth = int(rng.integers(5, 8)), rng.uniform(0.4, 0.55)
    outer = _polar(np.tile([1.0, depth], tips))
    return [Part(BODY, outer), Part(SECOND, outer * rng.uniform(0.3, 0.5))]


def _fish(rng: Rng) -> list[Part]:
    height, tail = rng.uniform(0.36, 0.55), rng.uniform(0.3, 0.55)
    return [
        Part(SECOND, _poly(0.4, 0, 1.0, -tail, 0.85, 0, 1.0, tail)),
        Part(SECOND, _poly(-0.3, -height * 0.8, 0.15, -height - 0.3, 0.3, -height * 0.5)),
        Part(BODY, _oval(-0.2, 0, 0.78, height)),
        Part(DETAIL, _oval(-0.62, -0.1, 0.1)),
        Part(SECOND, _poly(-0.2, 0.05, 0.15, 0.0, 0.1, 0.25)),
    ]


def _house(rng: Rng) -> list[Part]:
    eaves, width = rng.uniform(-0.25, 0.05), rng.uniform(0.62, 0.85)
    parts = [
        Part(BODY, _box(-width, eaves, width, 0.9)),
        Part(SECOND, _poly(-width - 0.15, eaves + 0.04, 0, -0.95, width + 0.15, eaves + 0.04)),
        Part(DETAIL, _box(-0.16, 0.35, 0.16, 0.9)),
    ]
    if rng.random() < 0.6:
        parts.insert(0, Part(BODY, _box(0.3, -0.9, 0.55, 0.0)))
    if rng.random() < 0.7:
        parts += [Part(DETAIL, _box(s - 0.14, 0.1, s + 0.14, 0.34)) for s in (-0.45, 0.45)]
    return parts


def _key(rng: Rng) -> list[Part]:
    bow, hole = rng.uniform(0.4, 0.48), rng.uniform(0.15, 0.22)
    parts = [Part(BODY, _oval(-0.55, 0, bow)), Part(BODY, _box(-0.3, -0.13, 0.95, 0.13))]
    parts += [Part(SECOND, _box(x, 0.1, x + 0.17, rng.uniform(0.38, 0.55))) for x in (0.38, 0.78)]
    return [*parts, Part(HOLE, _oval(-0.6, 0, hole))]


def _umbrella(rng: Rng) -> list[Part]:
    height = rng.uniform(0.7, 0.95)
    scallops = [Part(HOLE, _oval(x, 0.12, 0.2, 0.16)) for x in (-0.75, -0.25, 0.25, 0.75)]
    shaft = [Part(DETAIL, _box(-0.08, -0.05, 0.08, 0.75)), Part(DETAIL, _oval(0.18, 0.72, 0.27, 0.27, 0, np.pi))]
    canopy = [Part(BODY, _oval(0, 0.12, 1.0, height, np.pi, 2 * np.pi)), Part(SECOND, _oval(0, 0.12, 0.42, height, np.pi, 2 * np.pi))]
    return [*canopy, *scallops, *shaft, Part(HOLE, _oval(0.18, 0.7, 0.11, 0.13, 0, np.pi))]


def _heart(rng: Rng) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 72)
    point = rng.uniform(0.8, 1.05)
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    outer = np.stack([np.sin(t) ** 3, np.where(y > 0, y * point, y)], 1)
    return [Part(BODY, outer), Part(SECOND, outer * 0.35 + (-0.35, -0.25))]


def _tree(rng: Rng) -> list[Part]:
    trunk = Part(SECOND, _mirror(0.13, 0.1, 0.16, 0.95))
    if rng.random() < 0.5:  # a conifer, else a round crown
        tiers = [(-1.0, -0.3, 0.45), (-0.6, 0.15, 0.6), (-0.2, 0.6, 0.75)]
        return [trunk, *(Part(BODY, _poly(0, top, width, bottom, -width, bottom)) for top, bottom, width in tiers)]
    crown = [(-0.38, -0.15), (0.38, -0.15), (0, -0.5), (0, 0.02)]
    return [trunk, *(Part(BODY, _oval(x, y, rng.uniform(0.38, 0.48))) for x, y in crown), Part(DETAIL, _oval(0.2, -0.3, 0.12))]


def _ladder(rng: Rng) -> list[Part]:
    width, rungs = rng.uniform(0.36, 0.5), int(rng.integers(3, 5))
    rails = [Part(BODY, _box(s * width - 0.12, -1, s * width + 0.12, 1)) for s in (-1, 1)]
    return [*(Part(SECOND, _box(-width, y - 0.1, width, y + 0.1)) for y in np.linspace(-0.72, 0.72, rungs)), *rails]


def _mushroom(rng: Rng) -> list[Part]:
    stem, brim = rng.uniform(0.22, 0.36), rng.uniform(0.05, 0.2)
    cap = np.concatenate([_oval(0, brim, 0.95, brim + 0.9, np.pi, 2 * np.pi), _oval(0, brim, 0.95, 0.16, 0, np.pi)])
    spots = [Part(DETAIL, _oval(x, y, rng.uniform(0.09, 0.17))) for x, y in ((-0.5, -0.15), (0.05, -0.5), (0.5, -0.1))]
    return [Part(SECOND, _mirror(stem, 0.0, stem * 0.85, 0.6, stem * 1.3, 0.95)), Part(BODY, cap), *spots]


def _arrow(rng: Rng) -> list[Part]:
    shaft, neck = rng.uniform(0.16, 0.26), rng.uniform(0.05, 0.3)
    head = _poly(1, 0, neck, -0.68, neck, 0.68)
    feathers = [Part(DETAIL, _poly(-1, 0, -0.75, s * 0.45, -0.35, s * 0.45, -0.55, 0)) for s in (-1, 1)]
    return [*feathers, Part(BODY, _box(-0.9, -shaft, neck + 0.05, shaft)), Part(SECOND, head)]


def _flower(rng: Rng) -> list[Part]:
    petals, depth = int(rng.integers(5, 9)), rng.uniform(0.2, 0.32)
    angle = np.linspace(0, 2 * np.pi, 144, endpoint=False)
    corolla = _polar(1 - depth + depth * np.cos(petals * angle))
    stem = [Part(DETAIL, _box(-0.08, 0, 0.08, 1.35)), Part(DETAIL, _oval(0.27, 1.1, 0.26, 0.11))] if rng.random() < 0.5 else []
    return [*stem, Part(BODY, corolla * 0.85), Part(SECOND, _oval(0, 0, rng.uniform(0.25, 0.36)))]


def _bottle(rng: Rng) -> list[Part]:
    neck, width, shoulder = rng.uniform(0.13, 0.2), rng.uniform(0.36, 0.5), rng.uniform(-0.4, -0.1)
    glass = _mirror(neck, -0.85, neck, shoulder - 0.2, width, shoulder + 0.1, width, 0.92, width - 0.06, 1.0)
    top = rng.uniform(0.1, 0.3)
    label, cork = _box(-width, top, width, top + 0.4), _box(-neck - 0.05, -1, neck + 0.05, -0.8)
    return [Part(BODY, glass), Part(SECOND, label), Part(DETAIL, cork)]


def _ring(rng: Rng) -> list[Part]:
    inner = rng.uniform(0.5, 0.64)
    parts = [Part(BODY, _oval(0, 0.1, 0.88)), Part(HOLE, _oval(0, 0.1, inner))]
    gem = _poly(0, -0.55, -0.32, -0.85, -0.18, -1.1, 0.18, -1.1, 0.32, -0.85)
    return [*parts, Part(SECOND, gem)]


def _butterfly(rng: Rng) -> list[Part]:
    upper, lower, lift = rng.uniform(0.42, 0.52), rng.uniform(0.3, 0.4), rng.uniform(0.25, 0.45)
    parts = [Part(SECOND, _oval(s * 0.4, 0.42, lower, lower * 1.1)) for s in (-1, 1)]
    parts += [Part(BODY, _oval(s * 0.5, -lift, upper, upper * 0.95)) for s in (-1, 1)]
    parts += [Part(SECOND, _oval(s * 0.55, -lift, 0.18)) for s in (-1, 1)]
    return [*parts, Part(DETAIL, _oval(0, 0.05, 0.13, 0.75))]


def _hammer(rng: Rng) -> list[Part]:
    handle, head = rng.uniform(0.12, 0.17), rng.uniform(0.22, 0.3)
    claw = _poly(-0.2, -0.8 - head / 2, -0.85, -0.5, -0.75, -0.3, -0.2, -0.8 + head)
    return [Part(BODY, _box(-handle, -0.8, handle, 1)), Part(SECOND, claw), Part(SECOND, _box(-0.25, -1, 0.7, -1 + 2 * head))]


def _moon(rng: Rng) -> list[Part]:
    shift, inner = rng.uniform(0.38, 0.52), rng.uniform(0.72, 0.82)
    craters = [Part(DETAIL, _oval(-0.7, y, rng.uniform(0.06, 0.1))) for y in (-0.25, 0.2)]
    return [Part(BODY, _oval(0, 0, 0.95)), *craters, Part(HOLE, _oval(shift, 0, inner, inner))]


def _leaf(rng: Rng) -> list[Part]:
    width = rng.uniform(0.4, 0.6)
    t = np.linspace(0, np.pi, 36)
    half = np.stack([width * np.sin(t) ** rng.uniform(0.8, 1.2), -np.cos(t) * 0.85 - 0.15], 1)
    blade = np.concatenate([half, (half * (-1, 1))[::-1]])
    vein = _poly(0, 0, width * 0.75, -0.32, width * 0.75, -0.22, 0, 0.12)
    veins = [Part(SECOND, vein * (s, 1) + (0, y)) for y in (-0.3, 0.1) for s in (-1, 1)]
    return [Part(SECOND, _box(-0.09, 0.5, 0.09, 1.05)), Part(BODY, blade), *veins, Part(SECOND, _mirror(0.02, -0.9, 0.08, 0.7))]


def _gear(rng: Rng) -> list[Part]:
    teeth, depth = int(rng.integers(7, 11)), rng.uniform(0.7, 0.8)
    rim = _polar(np.tile([1, 1, 1, depth, depth, depth], teeth))
    hole = rng.uniform(0.22, 0.34)
    return [Part(BODY, rim), Part(SECOND, _oval(0, 0, hole + 0.2)), Part(HOLE, _oval(0, 0, hole))]


def _anchor(rng: Rng) -> list[Part]:
    fluke, stock = rng.uniform(0.8, 0.95), rng.uniform(0.4, 0.55)
    arms = [Part(BODY, _oval(0, 0.1, fluke, 0.9, 0, np.pi)), Part(HOLE, _oval(0, 0.05, fluke - 0.3, 0.6, 0, np.pi))]
    tips = [Part(SECOND, _poly(s * fluke, -0.2, s * (fluke + 0.15), 0.3, s * (fluke - 0.42), 0.3)) for s in (-1, 1)]
    shank = [Part(BODY, _box(-0.13, -0.6, 0.13, 0.95)), Part(SECOND, _box(-stock, -0.5, stock, -0.27))]
    return [*arms, *tips, *shank, Part(BODY, _oval(0, -0.75, 0.27)), Part(HOLE, _oval(0, -0.77, 0.12))]


def _boat(rng: Rng) -> list[Part]:
    bow, sail = rng.uniform(0.85, 1.0), rng.uniform(-0.15, 0.05)
    hull = Part(BODY, _poly(-0.9, 0.35, bow, 0.35, bow - 0.35, 0.9, -0.6, 0.9))
    sails = [Part(SECOND, _poly(0.1, -0.95, 0.75, 0.2, 0.1, 0.2)), Part(SECOND, _poly(-0.08, -0.75, -0.08, 0.2, -0.65 - sail, 0.2))]
    return [*sails, Part(DETAIL, _box(-0.09, -1, 0.11, 0.4)), hull]


# In order of their index, from 1. Each serial fold of five holds compact shapes, jagged ones and a thin one.
SILHOUETTES: dict[str, Silhouette] = {
    "star": _star,
    "fish": _fish,
    "house": _house,
    "key": _key,
    "umbrella": _umbrella,
    "heart": _heart,
    "tree": _tree,
    "ladder": _ladder,
    "mushroom": _mushroom,
    "arrow": _arrow,
    "flower": _flower,
    "bottle": _bottle,
    "ring": _ring,
    "butterfly": _butterfly,
    "hammer": _hammer,
    "moon": _moon,
    "leaf": _leaf,
    "gear": _gear,
    "anchor": _anchor,
    "boat": _boat,
}
