"""Draws backgrounds with the marks of a setting, and textured objects with outlines.

Images under construction are float32 ``(H, W, 3)`` RGB arrays with values 0 to 255. Outlines are
polygons in the unit disc, ``(N, 2)`` as ``(x, y)``, y pointing down.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from regionspot.toy.names import COLOURS, SETTINGS, Look

Image = NDArray[np.float32]
Points = NDArray[np.float64]

_ANCHOR_RGB = {
    "red": (205, 45, 45),
    "yellow": (230, 215, 60),
    "green": (60, 160, 70),
    "blue": (55, 90, 205),
    "purple": (140, 65, 175),
    "white": (235, 235, 235),
}
_SETTING_HUE = dict(zip(SETTINGS, (105, 18, 55, 135), strict=True))
"""Centre of the background's hue, on OpenCV's circle of 180."""
_MARK_STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "sea": [[(-1.2, 0.3), (-0.6, -0.3), (0, 0.3), (0.6, -0.3), (1.2, 0.3)]],
    "desert": [[(-1, 0.7), (0, -0.7), (1, 0.7)]],
    "forest": [[(-0.8, -0.9), (-0.4, 0.9)], [(0, -1), (0, 0.9)], [(0.8, -0.9), (0.4, 0.9)]],
    "night": [[(-0.8, 0), (0.8, 0)], [(0, -0.8), (0, 0.8)]],
}
_SUBPIXEL_BITS = 4
_SUBPIXELS = 1 << _SUBPIXEL_BITS


def _circle(num_points: int, start: float = 0.0, stop: float = 2 * math.pi) -> Points:
    angles = np.linspace(start, stop, num_points, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Points:
    radius = np.where(np.arange(10) % 2 == 0, 1.05, 0.45)
    return radius[:, None] * _circle(10, -math.pi / 2, 1.5 * math.pi)


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 36, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], axis=1) / 17


def _cross() -> Points:
    k = 0.33
    corner = [(-k, -1.0), (k, -1.0), (k, -k)]
    turns = [corner]
    for _ in range(3):
        turns.append([(-y, x) for x, y in turns[-1]])
    return np.array([point for turn in turns for point in turn])


def _egg() -> Points:
    x, y = _circle(32).T
    return np.stack([0.72 * x * (1 + 0.18 * y), y], axis=1)


def _shell() -> Points:
    fan = _circle(18, math.pi, 2 * math.pi) * (1.0, 1.1) + (0.0, 0.3)
    return np.concatenate([fan, [(0.3, 0.8), (-0.3, 0.8)]])


_LAMP_SIDE = [(0.35, -1.0), (0.9, 0.1), (0.2, 0.1), (0.2, 0.7), (0.6, 1.0)]
_OUTLINES: dict[str, Points] = {
    "circle": _circle(32),
    "square": np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
    "triangle": np.array([(0, -1), (0.95, 0.8), (-0.95, 0.8)]),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
    "ring": _circle(32),
    "arrow": np.array(
        [(-1, -0.35), (0.1, -0.35), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.35), (-1, 0.35)]
    ),
    "egg": _egg(),
    "gem": np.array([(-0.6, -0.8), (0.6, -0.8), (1, -0.2), (0, 1), (-1, -0.2)]),
    "shell": _shell(),
    "flag": np.array(
        [(-0.8, -1), (0.9, -0.7), (0.3, -0.3), (0.9, 0.1), (-0.55, 0.1), (-0.55, 1), (-0.8, 1)]
    ),
    "lamp": np.array(_LAMP_SIDE + [(-x, y) for x, y in reversed(_LAMP_SIDE)]),
}
_HOLE = {"ring": 0.5 * _circle(32)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Position and size of an object."""

    centre_xy: tuple[float, float]
    """Centre in pixels of the image."""
    radius: float
    """Radius of the disc that the outline fills, in pixels."""


def draw_background(rng: np.random.Generator, size_hw: tuple[int, int], setting: str) -> Image:
    """Return an image, (H, W, 3), of clouds and the marks of a setting, which is in `SETTINGS`.

    The hue follows the setting in only three of five images, so that the marks are the sure sign.
    """
    height, width = size_hw
    hue = _SETTING_HUE[setting] + rng.normal(0, 8)
    if rng.random() >= 0.6:
        hue = rng.uniform(0, 180)
    clouds = np.empty((4, 5, 3), np.float32)
    clouds[..., 0] = (hue + rng.normal(0, 10, (4, 5))) % 180
    clouds[..., 1] = np.clip(rng.uniform(15, 70) + rng.normal(0, 15, (4, 5)), 0, 255)
    clouds[..., 2] = np.clip(rng.uniform(70, 190) + rng.normal(0, 25, (4, 5)), 20, 240)
    rgb = cv2.cvtColor(clouds.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32)
    smooth = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.clip(smooth, 0, 255).astype(np.uint8)
    for _ in range(int(height * width / 1024 * rng.uniform(0.7, 1.3))):
        _draw_mark(rng, image, setting)
    return image.astype(np.float32)


def _draw_mark(rng: np.random.Generator, image: NDArray[np.uint8], setting: str) -> None:
    height, width = image.shape[:2]
    at_xy = (int(rng.integers(0, width)), int(rng.integers(0, height)))
    radius = rng.uniform(3, 5.5)
    brightness = 25 if rng.random() < 0.5 else 235
    rgb = np.clip(brightness + rng.normal(0, 20, 3), 0, 255).astype(int).tolist()
    for stroke in _MARK_STROKES[setting]:
        points = _to_fixed_point(np.array(stroke) * radius + at_xy)
        cv2.polylines(
            image,
            [points],
            isClosed=False,
            color=rgb,
            thickness=1,
            lineType=cv2.LINE_AA,
            shift=_SUBPIXEL_BITS,
        )


def draw_object(
    rng: np.random.Generator, image: Image, look: Look, placement: Placement
) -> NDArray[np.bool_]:
    """Draw one object over an image.

    Args:
        rng: Source of rotation, aspect, exact colours, phase of the texture, and light.
        image: The image to draw on, (H, W, 3); changed in place.
        look: What to draw. A context class gets a random colour.
        placement: Where to draw it; parts outside the image are cut off.

    Returns:
        The pixels that the object covers, (H, W).
    """
    height, width = image.shape[:2]
    corners, holes = _place_outline(rng, look.outline, placement)
    cover = np.zeros((height, width), np.uint8)
    cv2.fillPoly(cover, [_to_fixed_point(corners)], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    for hole in holes:
        cv2.fillPoly(cover, [_to_fixed_point(hole)], 0, cv2.LINE_AA, _SUBPIXEL_BITS)
    x0, y0 = (max(0, int(v) - 1) for v in corners.min(axis=0))
    x1 = min(width, int(corners[:, 0].max()) + 3)
    y1 = min(height, int(corners[:, 1].max()) + 3)
    if x1 > x0 and y1 > y0:
        y, x = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        cx, cy = placement.centre_xy
        u, v = (x - cx) / placement.radius, (y - cy) / placement.radius
        paint = _paint(rng, look, u, v)
        opacity = cover[y0:y1, x0:x1, None].astype(np.float32) / 255
        window = image[y0:y1, x0:x1]
        window[...] = window * (1 - opacity) + np.clip(paint, 0, 255) * opacity
    return cover > 127


def _place_outline(
    rng: np.random.Generator, outline: str, placement: Placement
) -> tuple[Points, list[Points]]:
    """Rotate, stretch, scale and shift an outline and its holes, to pixels of the image."""
    angle = math.radians(rng.uniform(-25, 25))
    stretch = math.sqrt(rng.uniform(0.75, 1.33))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = np.diag([stretch, 1 / stretch]) @ turn.T * placement.radius
    holes = [_HOLE[outline] @ linear + placement.centre_xy] if outline in _HOLE else []
    return _OUTLINES[outline] @ linear + placement.centre_xy, holes


def _paint(rng: np.random.Generator, look: Look, u: Image, v: Image) -> Image:
    """Colour each pixel of an object's window; ``u, v`` are coordinates in units of its radius."""
    theta = rng.uniform(0, math.pi)
    u, v = u * math.cos(theta) + v * math.sin(theta), v * math.cos(theta) - u * math.sin(theta)
    colour = look.colour if look.colour is not None else COLOURS[rng.integers(len(COLOURS))]
    main = np.clip(np.array(_ANCHOR_RGB[colour]) + rng.normal(0, 16, 3), 0, 255)
    second = _second_colour(rng, colour, main)
    frequency, phase = rng.uniform(1.3, 1.8), rng.uniform(0, 1, 2)
    match look.texture:
        case "striped":
            is_second = np.sin(2 * np.pi * (frequency * u + phase[0])) > 0
            paint = np.where(is_second[..., None], second, main)
        case "dotted":
            du = (frequency * 1.1 * u + phase[0]) % 1 - 0.5
            dv = (frequency * 1.1 * v + phase[1]) % 1 - 0.5
            paint = np.where((du**2 + dv**2 < 0.085)[..., None], second, main)
        case "plain":
            paint = np.broadcast_to(main, (*u.shape, 3))
        case _:
            gloss = 110 * np.exp(-((u + 0.3) ** 2 + (v + 0.3) ** 2) / 0.15)
            paint = main * 0.75 + gloss[..., None]
    shade = 1 + 0.12 * (u * math.cos(phase[0] * 6) + v * math.sin(phase[0] * 6))
    return (paint * shade[..., None] * rng.uniform(0.85, 1.1)).astype(np.float32)


def _second_colour(
    rng: np.random.Generator, colour: str, main: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pick the colour of stripes and dots: a darker or lighter tone, or grey on white."""
    is_dark, noise = rng.random() < 0.5, rng.normal(0, 12, 3)
    if colour == "white":
        return np.clip((20 if is_dark else 120) + noise, 0, 255)
    return main * 0.3 if is_dark else main * 0.35 + 255 * 0.65


def _to_fixed_point(points: Points) -> NDArray[np.int32]:
    return np.round(points * _SUBPIXELS).astype(np.int32).reshape(-1, 1, 2)
