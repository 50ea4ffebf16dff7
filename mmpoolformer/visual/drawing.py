"""Pictures of predictions and truth, drawn on numpy arrays.

Images are RGB, uint8 (H, W, 3). Boxes are (left, top, right, bottom) in pixels of
the image they belong to; the right and bottom edges lie outside, as in COCO.
"""

import colorsys
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import matplotlib
import numpy as np
from numpy import ndarray
from PIL import Image, ImageDraw

from mmpoolformer.utils.results import Detections
from mmpoolformer.visual.fonts import font_for

# Colours that people with any colour vision can tell (Okabe and Ito, 2008), the
# pale and dark ones last.
FIRST_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
IGNORED = 255
INK, PAPER = (25, 25, 25), (255, 255, 255)
GAP = 10
# Captions grow with the picture: they are made for this many pixels.
MADE_FOR = 900
MOST_OF_8_BITS = 300  # some more than 255, as resizing and normalising may overshoot
HEAT = matplotlib.colormaps['turbo']


def class_colours(count: int) -> ndarray:
    """Return a colour for each class, uint8 (count, 3), the same for every call."""
    more = (
        colorsys.hsv_to_rgb(i * 0.618 % 1, 0.55 + 0.4 * (i % 2), 0.95 - 0.3 * (i % 3))
        for i in range(len(FIRST_COLOURS), count)
    )
    colours = [*FIRST_COLOURS, *([round(255 * c) for c in colour] for colour in more)]
    return np.array(colours[:count], dtype=np.uint8).reshape(-1, 3)


def region_colours(meta: Mapping, count: int) -> ndarray:
    """Return the palette of a data set, or `class_colours` where it has none that fits.

    Args:
        meta: What is known of the data set, of mmseg's names.
        count: Number of classes.

    Returns:
        A colour for each class, uint8 (count, 3).
    """
    palette = meta.get('palette') or ()
    fits = len(palette) == count
    return np.array(palette, dtype=np.uint8) if fits else class_colours(count)


def shown_bands(values: ndarray) -> ndarray:
    """Make RGB of 8 bits of a picture with any number of bands and any values.

    Args:
        values: Not normalised, (H, W, C) or (H, W). Of more than three bands the first
            three are shown, of fewer than three the first as grey; values beyond 8
            bits are scaled to fit.

    Returns:
        RGB, uint8 (H, W, 3).
    """
    if values.ndim == 2:
        values = values[..., None]
    values = values[..., :3] if values.shape[2] >= 3 else values[..., :1]
    values = values.astype(np.float32)
    if values.max() > MOST_OF_8_BITS:
        values = values * (255 / values.max())
    pixels = values.round().clip(0, 255).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def draw_detections(
    image: ndarray,
    found: Detections,
    classes: Sequence[str],
    scale: int = 1,
) -> ndarray:
    """Draw boxes with class and score, and masks if there are any.

    Lines and letters grow with the picture. No text covers another where there is room
    beside or within its box; the surest ones choose first.

    Args:
        image: Picture to draw on; it is left as it is.
        found: What to draw; the last ones lie on top.
        classes: Name of each class.
        scale: Times that the picture is enlarged, for text that can be read.

    Returns:
        The drawing, uint8 (H * scale, W * scale, 3).

    Raises:
        ValueError: If a label is not the number of a class.
    """
    _check_labels(found.labels, len(classes))
    colours = class_colours(len(classes))
    drawing = enlarge(image, scale)
    for mask, label in zip(
        found.masks if found.masks is not None else (), found.labels, strict=False
    ):
        tint(drawing, enlarge(mask, scale), colours[label], 0.45)
    canvas = Image.fromarray(drawing)
    pen = ImageDraw.Draw(canvas)
    boxes = [_integer_box(box, scale) for box in found.boxes]
    for box, label in zip(boxes, found.labels, strict=True):
        _draw_box(pen, box, tuple(colours[label].tolist()), canvas.size)
    texts, surest = [classes[label] for label in found.labels], np.arange(len(boxes))
    if found.scores is not None:
        pairs = zip(texts, found.scores, strict=True)
        texts = [f'{text} {score:.2f}' for text, score in pairs]
        surest = np.argsort(found.scores, kind='stable')
    surest = surest[::-1].tolist()
    _draw_tags(
        pen,
        [boxes[i] for i in surest],
        [texts[i] for i in surest],
        [tuple(colours[found.labels[i]].tolist()) for i in surest],
        canvas.size,
    )
    return np.array(canvas)


def draw_segmentation(
    image: ndarray, labels: ndarray, colours: ndarray, opacity: float = 0.6
) -> ndarray:
    """Lay the colours of classes over a picture.

    Args:
        image: Picture to draw on; it is left as it is.
        labels: Class of each pixel, (H, W); 255 is left uncoloured.
        colours: Colour of each class, uint8 (K, 3), as from `class_colours`.
        opacity: 0 shows the picture alone, 1 the colours alone.

    Returns:
        The drawing, uint8 (H, W, 3).

    Raises:
        ValueError: If sizes differ or a label is not the number of a class.
    """
    if labels.shape != image.shape[:2]:
        raise ValueError(f'labels {labels.shape} for an image {image.shape[:2]}')
    known = labels != IGNORED
    _check_labels(labels[known], len(colours))
    drawing = image.copy()
    overlay = np.zeros_like(image)
    overlay[known] = colours[labels[known]]
    tint(drawing, known, overlay, opacity)
    return drawing


def tint(drawing: ndarray, where: ndarray, colour: ndarray, opacity: float) -> None:
    """Mix a colour (3,), or one for each pixel (H, W, 3), into part of a picture.

    Args:
        drawing: uint8 (H, W, 3), changed in place.
        where: bool (H, W).
        colour: uint8.
        opacity: Share of the colour, 0 to 1.
    """
    colour = np.broadcast_to(colour, drawing.shape)[where].astype(float)
    mixed = (1 - opacity) * drawing[where] + opacity * colour
    drawing[where] = np.rint(mixed).astype(np.uint8)


def enlarge(array: ndarray, scale: int) -> ndarray:
    """Return a copy of (H, W) or (H, W, 3), every pixel `scale` by `scale` times."""
    return array.repeat(scale, axis=0).repeat(scale, axis=1)


def fitted_map(values: ndarray, shape: Sequence[int]) -> ndarray:
    """Bring labels or a mask (H, W) to the height and width of a picture."""
    rows, columns = (
        (np.arange(new) * old) // new
        for new, old in zip(shape[:2], values.shape, strict=True)
    )
    return values[rows][:, columns]


def arrange(
    rows: Sequence[Sequence[ndarray]],
    headings: Sequence[str] | None,
    title: str,
    legend: Mapping[str, Sequence[int]] | None = None,
) -> ndarray:
    """Put pictures side by side on a page.

    Args:
        rows: Rows of pictures; all of one column have one width.
        headings: Printed above each column; `None` for none.
        title: Printed above all.
        legend: Colours by name, explained below the title.

    Returns:
        The page, uint8 (H, W, 3).

    Raises:
        ValueError: If there is no picture, or the rows and headings differ in number.
    """
    columns = len(rows[0]) if rows and headings is None else len(headings or ())
    if not (rows and columns) or any(len(row) != columns for row in rows):
        raise ValueError(
            f'rows of {[len(row) for row in rows]} pictures under {columns} '
            'headings: give as many in each row'
        )
    widths = [picture.shape[1] for picture in rows[0]]
    page_width = sum(widths) + GAP * (len(widths) + 1)
    parts = [_title_line(title, page_width)]
    if legend:
        parts.append(draw_legend(legend, page_width))
    if headings is not None:
        parts.append(_heading_line(headings, widths, page_width))
    parts.extend(_picture_row(row, page_width) for row in rows)
    return np.concatenate(parts)


def caption(picture: ndarray, text: str) -> ndarray:
    """Return a picture with a line of text below, cut where it is too long.

    The line grows with the width of the picture.

    Args:
        picture: uint8 (H, W, 3).
        text: One line.

    Returns:
        uint8 (H + 22 or more, W, 3).
    """
    width = picture.shape[1]
    weight = max(1, round(width / MADE_FOR))
    font = font_for(13 * weight, text)
    if font.getlength(text) > width:
        while text and font.getlength(f'{text}...') > width:
            text = text[:-1]
        text = f'{text}...'
    canvas = Image.new('RGB', (width, 22 * weight), PAPER)
    ImageDraw.Draw(canvas).text((0, 3 * weight), text, font=font, fill=INK)
    return np.concatenate([picture, np.array(canvas)])


def draw_legend(legend: Mapping[str, Sequence[int]], width: int) -> ndarray:
    """Draw a swatch and a name for each entry, in as many lines as they need.

    Args:
        legend: Colours by name.
        width: Of the picture that is made, in pixels.

    Returns:
        uint8 (H, width, 3), H by the number of lines.
    """
    font = font_for(13, ''.join(legend))
    places, x, y = [], GAP, 0
    for name in legend:
        needed = 18 + round(font.getlength(name)) + 16
        if x > GAP and x + needed > width:
            x, y = GAP, y + 22
        places.append((x, y))
        x += needed
    canvas = Image.new('RGB', (width, y + 24), PAPER)
    pen = ImageDraw.Draw(canvas)
    for (name, colour), (x, y) in zip(legend.items(), places, strict=True):
        colour = tuple(int(c) for c in colour)
        pen.rectangle((x, y + 3, x + 12, y + 15), fill=colour, outline=INK)
        pen.text((x + 18, y + 1), name, font=font, fill=INK)
    return np.array(canvas)


def overlay_heat(picture: ndarray, heat: ndarray, opacity: float = 0.5) -> ndarray:
    """Lay a heat map over a picture, blue for 0 to red for 1.

    Args:
        picture: uint8 (H, W, 3); it is left as it is.
        heat: (H, W) from 0 to 1.
        opacity: 0 shows the picture alone, 1 the map alone.

    Returns:
        The drawing, uint8 (H, W, 3).

    Raises:
        ValueError: If the sizes differ.
    """
    if heat.shape != picture.shape[:2]:
        raise ValueError(f'heat {heat.shape} for a picture {picture.shape[:2]}')
    colours = 255 * HEAT(np.clip(heat, 0, 1))[..., :3]
    return np.rint((1 - opacity) * picture + opacity * colours).astype(np.uint8)


def heat_legend(low: str, high: str) -> dict[str, tuple[int, ...]]:
    """Return the colours of the ends of a heat map by name, for `arrange`."""
    ends = {low: HEAT(0.05), high: HEAT(0.95)}
    return {name: tuple(round(255 * c) for c in ends[name][:3]) for name in ends}


def save_picture(picture: ndarray, path: str | PathLike) -> Path:
    """Write a picture (H, W, 3) as a PNG file, whose folder is made if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A third of the default's time for a quarter more bytes.
    Image.fromarray(picture).save(path, 'PNG', compress_level=1)
    return path


def detections_from_instances(instances: object) -> Detections:
    """Read mmdet's `gt_instances` or `pred_instances` of a data sample.

    Args:
        instances: Has `bboxes` and `labels`, perhaps `scores` and `masks`, as tensors
            or in mmdet's box and mask classes.
    """
    boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
    scores, masks = (getattr(instances, name, None) for name in ('scores', 'masks'))
    masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else masks
    return Detections(
        boxes=_array(boxes),
        labels=_array(instances.labels),
        scores=None if scores is None else _array(scores),
        masks=None if masks is None else _array(masks).astype(bool),
    )


def labels_from_sample(sample: object, name: str = 'pred_sem_seg') -> ndarray:
    """Return the label map (H, W) of mmseg's data sample.

    Args:
        sample: A `SegDataSample`.
        name: `'pred_sem_seg'` or `'gt_sem_seg'`.
    """
    return _array(getattr(sample, name).data)[0]  # (1, H, W) -> (H, W)


def _array(value: object) -> ndarray:
    return value if isinstance(value, ndarray) else value.detach().cpu().numpy()


def _check_labels(labels: ndarray, count: int) -> None:
    labels = np.asarray(labels)
    wrong = labels[(labels < 0) | (labels >= count)]
    if wrong.size:
        raise ValueError(
            f'label {wrong[0]}: there are {count} classes, 0 to {count - 1}'
        )


def _integer_box(box: ndarray, scale: int) -> tuple[int, int, int, int]:
    """Return the first and last pixel of a box on the enlarged picture."""
    left, top, right, bottom = np.rint(np.asarray(box) * scale).astype(int).tolist()
    return left, top, max(right - 1, left), max(bottom - 1, top)


def _draw_box(
    pen: ImageDraw.ImageDraw,
    box: tuple[int, ...],
    colour: tuple[int, ...],
    size: tuple[int, int],
) -> None:
    """Draw a frame, with a dark line inside that sets it off."""
    left, top, right, bottom = box
    thick = max(1, round(sum(size) / 600))
    if min(right - left, bottom - top) > 3 * thick:
        inner = (left + thick, top + thick, right - thick, bottom - thick)
        pen.rectangle(inner, outline=INK, width=max(1, thick // 2))
    width = min(thick, right - left + 1, bottom - top + 1)
    pen.rectangle(box, outline=colour, width=width)


def _draw_tags(
    pen: ImageDraw.ImageDraw,
    boxes: Sequence[tuple[int, ...]],
    texts: Sequence[str],
    colours: Sequence[tuple[int, ...]],
    size: tuple[int, int],
) -> None:
    """Write a text on a plate at each box, the first ones on top of the others."""
    letters = max(11, round(sum(size) / 130))
    margin = letters // 4
    fonts = [font_for(letters, text) for text in texts]
    plates = [
        (round(font.getlength(text)) + 2 * margin, sum(font.getmetrics()))
        for font, text in zip(fonts, texts, strict=True)
    ]
    places = place_tags(boxes, plates, size)
    drawn = list(zip(places, plates, fonts, texts, colours, strict=True))
    for (left, top), (width, height), font, text, colour in reversed(drawn):
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
        pen.text((left + margin, top), text, font=font, fill=_ink_on(colour))


def place_tags(
    boxes: Sequence[tuple[int, ...]],
    plates: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> list[tuple[int, int]]:
    """Choose a place for the text of each box, above it if that is free.

    Args:
        boxes: First and last pixels, (left, top, right, bottom). The first ones choose
            first.
        plates: Width and height of each text.
        size: Width and height of the picture, which no text leaves if it fits.

    Returns:
        The left upper corner of each text: of the places around and within its box the
        first one that covers no other text, or the one that covers the least.
    """
    taken, places = np.empty((0, 4)), []
    for box, plate in zip(boxes, plates, strict=True):
        room = np.maximum(np.subtract(size, plate), 0)
        starts = np.clip(_tag_places(box, plate), 0, room)[:, None]
        shared = np.minimum(starts + plate, taken[:, 2:])
        shared = np.maximum(shared - np.maximum(starts, taken[:, :2]), 0)
        best = starts[shared.prod(-1).sum(1).argmin(), 0]
        # A pixel between plates of one colour tells them apart.
        taken = np.vstack([taken, [*(best - 1), *(best + plate + 1)]])
        places.append(tuple(best.tolist()))
    return places


def _tag_places(
    box: tuple[int, ...], plate: tuple[int, int]
) -> list[tuple[float, float]]:
    """Return corners of a text along the edges of its box, the best ones first."""
    (left, top, right, bottom), (width, height) = box, plate
    end = right - width + 1
    columns = (left, end, (left + end) // 2)
    above, below, inside = top - height, bottom + 1, (top, bottom - height + 1)
    # Small boxes are not hidden below their texts, as long as there is room outside.
    rows = (above, inside[0], below, inside[1])
    if bottom - top < 3 * height:
        rows = (above, below, *inside)
    beside = (right + 1, left - width)
    return [(x, y) for y in rows for x in columns] + [
        (x, y) for x in beside for y in inside
    ]


def _ink_on(colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Return black or white, whichever can be read on the colour."""
    brightness = np.dot(colour, (0.299, 0.587, 0.114))
    return INK if brightness > 110 else PAPER


def _title_line(title: str, width: int) -> ndarray:
    canvas = Image.new('RGB', (width, 34), PAPER)
    ImageDraw.Draw(canvas).text((GAP, 8), title, font=font_for(17, title), fill=INK)
    return np.array(canvas)


def _heading_line(headings: Sequence[str], widths: list[int], width: int) -> ndarray:
    canvas = Image.new('RGB', (width, 24), PAPER)
    pen = ImageDraw.Draw(canvas)
    x = GAP
    for heading, column in zip(headings, widths, strict=True):
        pen.text((x, 2), heading, font=font_for(14, heading), fill=INK)
        x += column + GAP
    return np.array(canvas)


def _picture_row(row: Sequence[ndarray], width: int) -> ndarray:
    height = max(picture.shape[0] for picture in row)
    strip = np.full((height + GAP, width, 3), 255, dtype=np.uint8)
    x = GAP
    for picture in row:
        strip[: picture.shape[0], x : x + picture.shape[1]] = picture
        x += picture.shape[1] + GAP
    return strip
