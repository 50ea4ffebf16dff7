"""Scenes of textured shapes, drawn from a seed: pictures with exact masks.

Shape decides the class, and colour hints at it: each class has hues of its own, so
that a detector learns in minutes on a laptop. Texture, size and angle are drawn
independently. Everything is computed with elementwise numpy operations, so a
scene depends on its seed and on nothing else, such as the number of threads; and
only Python floats meet the float32 arrays, as numpy 1 and 2 disagree on the type
that a numpy float gives.

Arrays are (H, W) or (H, W, 3) with x to the right and y down; the centre of the
first pixel is at (0.5, 0.5).
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray
from numpy.random import Generator

# Smallest and largest side in pixels, and share of the shapes. The gaps lie around
# COCO's limits (areas of 32 x 32 and 96 x 96), which no shape fills entirely.
SIZE_BANDS = {
    'small': (18, 32, 0.3),
    'medium': (40, 96, 0.5),
    'large': (120, 160, 0.2),
}
# The largest shape takes no more than this part of the picture's side.
MAX_SIDE = 0.7
# Shapes are stretched by up to so much, and reach at most so many radii from their
# centre: the square's corners are the farthest.
STRETCH = 1.1
REACH = STRETCH * 0.85 * math.sqrt(2)
# A shape of which less is visible, as a part of itself or in pixels, isn't annotated.
MIN_VISIBLE_PART = 0.2
MIN_VISIBLE_PIXELS = 48
# Colour of the border that each shape has, like a sticker.
PAPER = np.full((3, 1, 1), 245, dtype=np.float32)
# Placing a shape is tried so often before it may hide more of another one than
# this leaves visible.
PLACING_TRIES = 12
KEPT_VISIBLE_PART = 0.6


@dataclass(frozen=True)
class Instance:
    """One annotated shape of a scene.

    Attributes:
        label: Index into `CLASSES`.
        texture: Index into `TEXTURES`.
        mask: What is visible of it, bool (H, W).
        visible: Visible pixels over those it would have with nothing in front of it
            and no picture border, above 0 and at most 1.
    """

    label: int
    texture: int
    mask: ndarray
    visible: float


@dataclass(frozen=True)
class Scene:
    """One picture and what is known about it.

    Attributes:
        image: RGB picture, uint8 (H, W, 3).
        instances: The annotated shapes, the hindmost first.
        leftovers: Pixels of shapes too hidden to be annotated, bool (H, W).
    """

    image: ndarray
    instances: tuple[Instance, ...]
    leftovers: ndarray


@dataclass(frozen=True)
class _Shape:
    """Where a shape is and how it is drawn; lengths in pixels, angle in radians."""

    label: int
    x: float
    y: float
    radius: float
    aspect: float
    angle: float
    texture: int
    period: float
    colours: ndarray  # (2, 3)


def draw_scene(seed: int, split: int, index: int, size: int = 256) -> Scene:
    """Draw one scene.

    The shape in front has the class `index % len(CLASSES)`, lies wholly inside and
    is not a small one, so that any `len(CLASSES)` neighbouring scenes show every
    class clearly.

    Args:
        seed: Seed of the whole data set, from 0.
        split: Number of the split, from 0.
        index: Number of the scene in its split, from 0.
        size: Side of the picture in pixels.

    Returns:
        The same scene for the same arguments, whatever else is drawn.
    """
    rng = np.random.default_rng([seed, split, index])
    canvas = _background(rng, size)
    shapes, masks = _arrange(rng, size, index % len(CLASSES))
    for shape in shapes:
        _paint(canvas, shape, rng)
    image = _expose(canvas, rng)
    return Scene(image, *_annotate(shapes, masks))


# Shapes: signed distances (negative inside) in a frame where a shape has radius 1.


def _circle(u: ndarray, v: ndarray) -> ndarray:
    return np.sqrt(u * u + v * v) - 1


def _ring(u: ndarray, v: ndarray) -> ndarray:
    return np.abs(np.sqrt(u * u + v * v) - 0.75) - 0.25


def _square(u: ndarray, v: ndarray) -> ndarray:
    return np.maximum(np.abs(u), np.abs(v)) - 0.85


def _triangle(u: ndarray, v: ndarray) -> ndarray:
    slant = math.sqrt(0.75) * np.abs(u) - 0.5 * v
    return np.maximum(slant, v) - 0.5


def _cross(u: ndarray, v: ndarray) -> ndarray:
    u, v = np.abs(u), np.abs(v)
    across = np.maximum(u - 1, v - 0.32)
    return np.minimum(across, np.maximum(u - 0.32, v - 1))


def _star(u: ndarray, v: ndarray) -> ndarray:
    # Ten mirror images of one edge, from the tip (1, 0) to the notch at 36 degrees.
    wedge = math.pi / 5
    turn = np.abs((np.arctan2(v, u) + wedge) % (2 * wedge) - wedge)
    r = np.sqrt(u * u + v * v)
    along, up = r * np.cos(turn), r * np.sin(turn)
    notch_x, notch_y = 0.45 * math.cos(wedge), 0.45 * math.sin(wedge)
    edge = math.sqrt((1 - notch_x) ** 2 + notch_y**2)
    return ((along - 1) * notch_y + up * (1 - notch_x)) / edge


_DISTANCES: dict[str, Callable[[ndarray, ndarray], ndarray]] = {
    'circle': _circle,
    'square': _square,
    'triangle': _triangle,
    'star': _star,
    'cross': _cross,
    'ring': _ring,
}
CLASSES = tuple(_DISTANCES)


# Textures: how much of the second colour there is, 0 to 1, at points in periods.


def _stripes(u: ndarray, v: ndarray, rng: Generator) -> ndarray:
    return _soft_step(np.sin(2 * math.pi * u))


def _dots(u: ndarray, v: ndarray, rng: Generator) -> ndarray:
    return _soft_step(0.3 - np.sqrt((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2), 8)


def _checker(u: ndarray, v: ndarray, rng: Generator) -> ndarray:
    return _soft_step(np.sin(math.pi * u) * np.sin(math.pi * v))


def _noise(u: ndarray, v: ndarray, rng: Generator) -> ndarray:
    return rng.random(u.shape, dtype=np.float32)


def _gradient(u: ndarray, v: ndarray, rng: Generator) -> ndarray:
    span = max(float(u.max() - u.min()), 1e-6)
    return (u - u.min()) / span


_TEXTURES: dict[str, Callable[[ndarray, ndarray, Generator], ndarray]] = {
    'stripes': _stripes,
    'dots': _dots,
    'checker': _checker,
    'noise': _noise,
    'gradient': _gradient,
}
TEXTURES = tuple(_TEXTURES)


def _soft_step(x: ndarray, steepness: float = 3) -> ndarray:
    return np.clip(0.5 + steepness * x, 0, 1)


# Background


def _background(rng: Generator, size: int) -> ndarray:
    """Return a cluttered canvas in muted colours, float32 (3, size, size)."""
    ground = _muted_colour(rng)
    tint = rng.uniform(-25, 25, 3)
    y, x = _pixel_centres(0, size, 0, size)
    slope = _direction(rng, x, y) / size  # -0.7 to 1.4 over the picture
    hills = _smooth_noise(rng, size, 3, 6) - 0.5
    canvas = _planes(ground) + (slope + hills) * _planes(tint)  # (3, H, W)
    for _ in range(rng.integers(1, 4)):
        _add_patch(canvas, rng)
    for _ in range(rng.integers(1, 5)):
        _add_glow(canvas, rng)
    for _ in range(rng.integers(2, 8)):
        _add_line(canvas, rng)
    return canvas


def _add_patch(canvas: ndarray, rng: Generator) -> None:
    """Add a textured patch without an outline that any class could have."""
    size = canvas.shape[1]
    y, x = _pixel_centres(0, size, 0, size)
    period, angle = rng.uniform(5, 24), rng.uniform(0, math.pi)
    u, v = _turn(x / period, y / period, angle)
    weave = _TEXTURES[TEXTURES[rng.integers(len(TEXTURES))]](u, v, rng)
    where = _soft_step(_smooth_noise(rng, size, 4, 7) - 0.65, 6)
    alpha = rng.uniform(0.2, 0.7) * where * weave
    _blend(canvas, alpha, _planes(_muted_colour(rng)))


def _add_glow(canvas: ndarray, rng: Generator) -> None:
    """Add a spot that fades out, so that it has no edge."""
    size = canvas.shape[1]
    y, x = _pixel_centres(0, size, 0, size)
    centre_x, centre_y = rng.uniform(0, size, 2).tolist()
    width = size * rng.uniform(0.04, 0.2)
    # e to a sum is a product: two exponentials of a row and a column
    bell = np.exp(-(((x - centre_x) / width) ** 2))
    bell = bell * np.exp(-(((y - centre_y) / width) ** 2))
    _blend(canvas, rng.uniform(0.2, 0.6) * bell, _planes(_muted_colour(rng)))


def _add_line(canvas: ndarray, rng: Generator) -> None:
    """Add a thin straight stroke."""
    size = canvas.shape[1]
    centre_x, centre_y = rng.uniform(0, size, 2).tolist()
    angle, half_width = rng.uniform(0, math.pi), rng.uniform(0.5, 1.5)
    half_length = size * rng.uniform(0.05, 0.5)
    rows, cols = window = _window(centre_x, centre_y, half_length + 3, size)
    y, x = _pixel_centres(rows.start, rows.stop, cols.start, cols.stop)
    u, v = _turn(x - centre_x, y - centre_y, angle)
    inside = np.minimum(half_length - np.abs(u), half_width - np.abs(v))
    alpha = 0.8 * np.clip(inside + 0.5, 0, 1)
    _blend(canvas[(slice(None), *window)], alpha, _planes(_muted_colour(rng)))


# Foreground


def _arrange(
    rng: Generator, size: int, front_label: int
) -> tuple[list[_Shape], list[ndarray]]:
    """Choose the shapes and where they lie; the last one is in front.

    Returns:
        The shapes and the mask of each, as if alone, bool (size, size).
    """
    labels = [*rng.integers(len(CLASSES), size=rng.integers(5, 12)), front_label]
    shapes: list[_Shape] = []
    masks: list[ndarray] = []
    for place, label in enumerate(labels):
        is_front = place == len(labels) - 1
        shape = _random_shape(rng, int(label), size, is_front)
        shape, mask = _place(rng, shape, size, masks, inside=is_front)
        shapes.append(shape)
        masks.append(mask)
    return shapes, masks


def _random_shape(rng: Generator, label: int, size: int, is_front: bool) -> _Shape:
    """Choose everything about a shape but its place."""
    side = _random_side(rng, size, allow_small=not is_front)
    return _Shape(
        label=label,
        x=0.0,
        y=0.0,
        radius=side / 2,
        aspect=rng.uniform(1 / STRETCH, STRETCH),
        angle=rng.uniform(0, 2 * math.pi),
        texture=int(rng.integers(len(TEXTURES))),
        period=max(4.0, side * rng.uniform(0.15, 0.4)),
        colours=_class_colours(rng, label),
    )


def _random_side(rng: Generator, size: int, allow_small: bool) -> float:
    """Choose a side in pixels: first one of the bands, then a side in it."""
    bands = [band for band in SIZE_BANDS.values() if band[0] <= MAX_SIDE * size]
    if not allow_small and len(bands) > 1:
        bands = bands[1:]
    shares = np.array([share for _, _, share in bands])
    low, high, _ = bands[rng.choice(len(bands), p=shares / shares.sum())]
    return rng.uniform(low, min(high, MAX_SIDE * size))


def _place(
    rng: Generator, shape: _Shape, size: int, behind: list[ndarray], inside: bool
) -> tuple[_Shape, ndarray]:
    """Give a shape a place that leaves enough visible of those behind it, if any.

    Returns:
        The shape in its place and its mask, bool (size, size).
    """
    margin = REACH * shape.radius + 1 if inside else 0.6 * shape.radius
    for _ in range(PLACING_TRIES):
        x, y = rng.uniform(margin, size - margin, 2).tolist()
        placed = replace(shape, x=x, y=y)
        mask = _mask(placed, size)
        if _all_visible([*behind, mask]):
            break
    return placed, mask


def _all_visible(masks: list[ndarray]) -> bool:
    """Say whether enough of each mask is not hidden by the later ones."""
    covered = np.zeros_like(masks[-1])
    for mask in reversed(masks):
        if (mask & ~covered).sum() < KEPT_VISIBLE_PART * mask.sum():
            return False
        covered |= mask
    return True


def _mask(shape: _Shape, size: int) -> ndarray:
    """Return the pixels whose centre is inside the shape, bool (size, size)."""
    mask = np.zeros((size, size), dtype=bool)
    window = _shape_window(shape, size)
    mask[window] = _distance(shape, window) < 0
    return mask


def _distance(shape: _Shape, window: tuple[slice, slice]) -> ndarray:
    """Return the signed distance to the shape's edge, in pixels, over a window."""
    u, v = _local(shape, window)
    distance = _DISTANCES[CLASSES[shape.label]]
    return shape.radius * distance(u / shape.radius, v / shape.radius)


def _shape_window(shape: _Shape, size: int) -> tuple[slice, slice]:
    """Return the rows and columns that a shape, its soft edge included, can touch."""
    return _window(shape.x, shape.y, REACH * shape.radius + 2, size)


def _window(x: float, y: float, reach: float, size: int) -> tuple[slice, slice]:
    """Return the rows and columns of the picture within `reach` of a point."""
    bounds = []
    for centre in (y, x):
        low, high = int(centre - reach), int(centre + reach) + 2
        bounds.append(slice(max(low, 0), max(min(high, size), 0)))
    return bounds[0], bounds[1]


def _local(shape: _Shape, window: tuple[slice, slice]) -> tuple[ndarray, ndarray]:
    """Return the window's pixel centres in the shape's own frame, in pixels."""
    rows, cols = window
    y, x = _pixel_centres(rows.start, rows.stop, cols.start, cols.stop)
    u, v = _turn(x - shape.x, y - shape.y, shape.angle)
    return u / shape.aspect, v * shape.aspect


def _paint(canvas: ndarray, shape: _Shape, rng: Generator) -> None:
    """Draw a shape with soft edges on the canvas."""
    window = _shape_window(shape, canvas.shape[1])
    u, v = _local(shape, window)
    texture = _TEXTURES[TEXTURES[shape.texture]]
    share = texture(u / shape.period, v / shape.period, rng)
    first, second = (_planes(colour) for colour in shape.colours)
    surface = first + share * (second - first)
    distance = _distance(shape, window)
    border = 1.5 + 0.05 * shape.radius
    _blend(surface, np.clip(0.5 + border + distance, 0, 1), PAPER)
    _blend(canvas[(slice(None), *window)], np.clip(0.5 - distance, 0, 1), surface)


def _expose(canvas: ndarray, rng: Generator) -> ndarray:
    """Change brightness, contrast and light over the canvas, add pixel noise."""
    size = canvas.shape[1]
    y, x = _pixel_centres(0, size, 0, size)
    light = 1 + rng.uniform(0, 0.3) * (_direction(rng, x, y) / size - 0.5)
    contrast, brightness = rng.uniform(0.7, 1.2), rng.uniform(-30, 30)
    picture = (canvas - 128) * (contrast * light) + (128 + brightness)
    picture += rng.uniform(1, 7) * rng.standard_normal(canvas.shape, dtype=np.float32)
    picture = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 0))  # (3, H, W) -> (H, W, 3)


def _annotate(
    shapes: list[_Shape], masks: list[ndarray]
) -> tuple[tuple[Instance, ...], ndarray]:
    """Return the annotated shapes, hindmost first, and what is left of the others."""
    covered = np.zeros_like(masks[0])
    leftovers = np.zeros_like(masks[0])
    instances = []
    for shape, mask in zip(reversed(shapes), reversed(masks), strict=True):
        seen = mask & ~covered
        covered |= mask
        part = float(seen.sum() / _full_area(shape))
        if part < MIN_VISIBLE_PART or seen.sum() < MIN_VISIBLE_PIXELS:
            leftovers |= seen
        else:
            instances.append(Instance(shape.label, shape.texture, seen, min(part, 1.0)))
    return tuple(reversed(instances)), leftovers


def _full_area(shape: _Shape) -> int:
    """Return the pixels that a shape has when no border cuts it."""
    side = int(4 * shape.radius)
    return int(_mask(replace(shape, x=side / 2, y=side / 2), side).sum())


# Small helpers


def _pixel_centres(
    top: int, bottom: int, left: int, right: int
) -> tuple[ndarray, ndarray]:
    """Return y (H, 1) and x (1, W) of the pixel centres of a window."""
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
    x = np.arange(left, right, dtype=np.float32)[None] + 0.5
    return y, x


def _turn(x: ndarray, y: ndarray, angle: float) -> tuple[ndarray, ndarray]:
    """Return x and y in a frame turned by an angle in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return x * cos + y * sin, y * cos - x * sin


def _direction(rng: Generator, x: ndarray, y: ndarray) -> ndarray:
    """Return the distance in pixels along a random direction, (H, W)."""
    return _turn(x, y, rng.uniform(0, 2 * math.pi))[0]


def _smooth_noise(rng: Generator, size: int, fewest: int, most: int) -> ndarray:
    """Return noise in [0, 1], float32 (size, size), `fewest` to `most` bumps wide."""
    cells = int(rng.integers(fewest, most + 1))
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    at = (np.arange(size, dtype=np.float32) + 0.5) * (cells / size)
    part = at % 1
    low = at.astype(int)
    part = part * part * (3 - 2 * part)  # no kinks between the cells
    rows = grid[low] + (grid[low + 1] - grid[low]) * part[:, None]
    return rows[:, low] + (rows[:, low + 1] - rows[:, low]) * part


def _muted_colour(rng: Generator) -> ndarray:
    """Return a colour (3,) near a grey."""
    return rng.uniform(40, 170) + rng.uniform(-25, 25, 3)


def _class_colours(rng: Generator, label: int) -> ndarray:
    """Return a bright and a dark colour (2, 3) near the hue of a class."""
    hue = (label + rng.uniform(-0.3, 0.3)) / len(CLASSES) % 1
    saturation = rng.uniform(0.7, 1)
    values = rng.uniform(0.75, 1), rng.uniform(0.35, 0.7)
    rgb = [colorsys.hsv_to_rgb(hue, saturation, value) for value in values]
    return 255 * np.array(rgb)


def _planes(colour: ndarray) -> ndarray:
    """Return a colour (3,) as float32 (3, 1, 1)."""
    return colour.astype(np.float32)[:, None, None]


def _blend(canvas: ndarray, alpha: ndarray, colour: ndarray) -> None:
    """Mix colour (3, H, W) or (3, 1, 1) into the canvas (3, H, W); alpha is (H, W)."""
    change = colour - canvas
    change *= alpha
    canvas += change
