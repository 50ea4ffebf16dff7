#!/usr/bin/env python
"""Run a file of tools/export.py on a picture, without torch.

Needs numpy, Pillow and onnxruntime only. A classifier prints the likeliest classes, a
detector its boxes, a segmentor the share of each class; `--out` draws them, and masks.

    python docs/examples/onnx_inference.py poolformer_s12.onnx cat.jpg
    python docs/examples/onnx_inference.py retinanet.onnx street.jpg --out boxes.png
"""

import argparse
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw

# Width and height that pictures are made to fit in, unless the file says a scale.
SCALES = {'detector': (1333, 800), 'segmentor': (2048, 512)}


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('model', help='an ONNX file of tools/export.py')
    parser.add_argument('picture')
    parser.add_argument('--out', metavar='PNG', help='draw boxes or regions there')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='least score of boxes to show'
    )
    parser.add_argument(
        '--short-side', type=int, help='pixels of the shorter side (default: as tested)'
    )
    return parser.parse_args()


def resized(picture: Image.Image, about: dict, short_side: int | None) -> Image.Image:
    """Bring a picture to the size that the network gets."""
    if about['size'] != 'any':
        height, width = about['size']
        return picture.resize((width, height), Image.Resampling.BICUBIC)
    kind = about['kind']
    if kind not in SCALES:
        return cropped(picture, about)
    shortest, longest = sorted(about.get('scale') or SCALES[kind])
    scale = min(shortest / min(picture.size), longest / max(picture.size))
    if short_side:
        scale = short_side / min(picture.size)
    size = [max(round(side * scale), 1) for side in picture.size]
    if kind == 'segmentor':  # a pyramid's levels fit each other at multiples of 32
        size = [-(-side // 32) * 32 for side in size]
    return picture.resize(size, Image.Resampling.BILINEAR)


def cropped(picture: Image.Image, about: dict) -> Image.Image:
    """Return the middle of a picture, reduced as for the evaluation of the model.

    Sides are rounded as timm and torchvision round them.
    """
    height, width = about.get('picture_size', (224, 224))
    how = Image.Resampling[about.get('interpolation', 'bicubic').upper()]
    share = about.get('crop_pct', 0.9)
    scale = max(
        int(height / share) / picture.height, int(width / share) / picture.width
    )
    size = [int(side * scale + 1e-6) for side in picture.size]
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    picture = picture.resize(size, how)
    return picture.crop((left, top, left + width, top + height))


def prepared(picture: Image.Image, about: dict) -> np.ndarray:
    """Return what the network gets: float32 (1, 3, H, W), normalised."""
    pixels = np.asarray(picture, np.float32)
    if about['channel_order'] == 'BGR':
        pixels = pixels[..., ::-1]
    pixels = (pixels - np.float32(about['mean'])) / np.float32(about['std'])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def class_name(about: dict, number: int) -> str:
    """Return the name of a class, or its number where the file knows no names."""
    names = about.get('classes') or []
    return names[number] if number < len(names) else f'class {number}'


def show_classes(logits: np.ndarray, about: dict) -> None:
    """Print the five likeliest classes of logits (K)."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    for number in np.argsort(-scores)[:5]:
        print(f'{scores[number]:.3f}  {class_name(about, number)}')


def show_boxes(
    found: list[np.ndarray], about: dict, scale: np.ndarray, threshold: float
) -> list[tuple[list[float], str]]:
    """Print boxes in pixels of the picture; return them with what they are."""
    shown = []
    for box, score, label in zip(*found, strict=True):
        if score < threshold:
            break  # they are sorted by score
        box = (box * scale).round(1).tolist()
        name = class_name(about, label)
        print(f'{score:.3f}  {name}  {box}')
        shown.append((box, f'{name} {score:.2f}'))
    print(f'{len(shown)} boxes with a score from {threshold}')
    return shown


def regions(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize logits (K, h, w), and return the class of each pixel, (H, W).

    Pillow's bilinear filter is that of align_corners=False where it enlarges.
    """
    labels = np.zeros(size[::-1], np.int64)
    best = np.full(labels.shape, -np.inf, np.float32)
    for number, one in enumerate(logits):
        large = np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BILINEAR))
        labels[large > best] = number
        best = np.maximum(large, best)
    return labels


def show_regions(labels: np.ndarray, about: dict) -> None:
    """Print the share of each class of a label map (H, W)."""
    numbers, counts = np.unique(labels, return_counts=True)
    for place in np.argsort(-counts):
        share = counts[place] / labels.size
        print(f'{share:7.2%}  {class_name(about, numbers[place])}')


def draw_boxes(picture: Image.Image, boxes: list[tuple[list[float], str]]) -> None:
    """Draw boxes on a picture."""
    pen = ImageDraw.Draw(picture)
    for box, text in boxes:
        pen.rectangle(box, outline=(230, 60, 0), width=2)
        pen.text((box[0] + 3, box[1] + 2), text, fill=(230, 60, 0))


def draw_masks(
    picture: Image.Image,
    boxes: list[tuple[list[float], str]],
    masks: np.ndarray,
    threshold: float,
) -> None:
    """Lay the masks (N, 28, 28) of boxes over a picture."""
    for (box, _), mask in zip(boxes, masks, strict=False):
        left, top, right, bottom = map(round, box)
        size = max(right - left, 1), max(bottom - top, 1)
        large = Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR)
        inside = np.uint8(128) * (np.asarray(large) >= threshold)
        picture.paste((230, 60, 0), (left, top), Image.fromarray(inside))


def tinted(picture: Image.Image, labels: np.ndarray) -> Image.Image:
    """Mix a colour for each class into a picture."""
    colours = np.random.default_rng(0).integers(40, 256, (labels.max() + 1, 3))
    overlay = Image.fromarray(colours[labels].astype(np.uint8))
    return Image.blend(picture, overlay, 0.5)


def main() -> None:
    """Run the file on the picture."""
    args = parse()
    session = onnxruntime.InferenceSession(
        args.model, providers=onnxruntime.get_available_providers()
    )
    about = json.loads(session.get_modelmeta().custom_metadata_map['mmpoolformer'])
    picture = Image.open(args.picture).convert('RGB')
    small = resized(picture, about, args.short_side)
    outputs = session.run(None, {'images': prepared(small, about)})
    if about['kind'] == 'classifier':
        show_classes(outputs[0][0], about)
    elif about['kind'] == 'segmentor':
        labels = regions(outputs[0][0], picture.size)
        show_regions(labels, about)
        picture = tinted(picture, labels)
    elif about['kind'] == 'detector':
        scale = np.tile(np.divide(picture.size, small.size), 2)
        boxes = show_boxes([x[0] for x in outputs[:3]], about, scale, args.score_thr)
        if 'masks' in about['outputs']:
            draw_masks(picture, boxes, outputs[3][0], about['boxes']['mask_threshold'])
        draw_boxes(picture, boxes)
    else:
        for name, value in zip(about['outputs'], outputs, strict=True):
            print(f'{name}  {value.shape}')
    if args.out:
        picture.save(args.out)


if __name__ == '__main__':
    sys.exit(main())
