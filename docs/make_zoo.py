#!/usr/bin/env python
"""Write zoo.md, beside this file, from the tables of the package and of configs/."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import torch
import yaml

from mmpoolformer import create_model
from mmpoolformer.checkpoints import ZOO

PAGE = Path(__file__).with_name('zoo.md')
CONFIGS = PAGE.parents[1] / 'configs'
PAPERS = {
    'poolformer': ('PoolFormer', '2111.11418'),
    'metaformer': ("Hybrids and ablations of PoolFormer's paper", '2111.11418'),
    'identityformer': ('IdentityFormer', '2210.13452'),
    'randformer': ('RandFormer', '2210.13452'),
    'poolformerv2': ('PoolFormerV2', '2210.13452'),
    'convformer': ('ConvFormer', '2210.13452'),
    'caformer': ('CAFormer', '2210.13452'),
    'pit': ('PiT', '2103.16302'),
}
# The authors' detectors and segmentors: github.com/sail-sg/poolformer, in README.md of
# detection/ and segmentation/.
DRIVE = 'https://drive.google.com/file/d/'
RELEASED = {
    'retinanet_poolformer_s12_fpn_1x_coco': '1GKx4jbxdO4ClagPXXt7CoomrV4pOpqul',
    'retinanet_poolformer_s24_fpn_1x_coco': '1EjsWpdopem-xeLndPQnQcHp8aoEUHQXR',
    'retinanet_poolformer_s36_fpn_1x_coco': '1EgJDCg7LXXnHdGdJaHyEnoBPm-fNG2bt',
    'mask_rcnn_poolformer_s12_fpn_1x_coco': '1-GSkqaS3SovfCVDsH8CzS1DikPX3cFTY',
    'mask_rcnn_poolformer_s24_fpn_1x_coco': '10Br62EU-VErQq6rP67sf4qXJIBLOnmLT',
    'mask_rcnn_poolformer_s36_fpn_1x_coco': '1LyJxcO0fw2hwZg9Z--Zbjbw3W7U4JyqT',
    'fpn_poolformer_s12_ade20k_40k': '1BcqU1yU2IPkI7RtWEmIw-R8tqMGY_XBt',
    'fpn_poolformer_s24_ade20k_40k': '1DO329W8eDrfgycHi7YagFWz7IyAb07Wl',
    'fpn_poolformer_s36_ade20k_40k': '1Rd6XxBXLEYWH-70IMvF6UiVymaWA3gik',
    'fpn_poolformer_m36_ade20k_40k': '1Xgk7FI3FpOW2__UQhnGf7UGUHA3UzTRq',
    'fpn_poolformer_m48_ade20k_40k': '1KjeR_4Ue0QyslDimp3OYkRqeqNAwoAez',
}
HEAD = """# Model zoo

Made by `docs/make_zoo.py`. All figures but parameters and MACs are the authors'; none
was measured again here ([reproducing](reproducing.md)). Parameters and MACs are of the
classifier (MACs of one image of the size given, as fvcore counts), channels and strides
of the maps that the backbone gives out. `zoo://NAME` or
`create_model(NAME, pretrained=True)` downloads the weights; `_384`, `_in21k` and
`_in21ft1k` in a name stand for images of 384 x 384, ImageNet-21k, and ImageNet-21k
followed by ImageNet-1k.
"""
DETECTORS = """
## Released detectors and segmentors

The authors' own, trained with the recipes of our configs. The links lead to Google
Drive, which wants a browser; `python tools/test.py CONFIG CHECKPOINT` and all other
commands then read the file as it is.

"""


def page() -> str:
    """Return the text of the page."""
    tables = [
        f'\n## {PAPERS[family][0]}\n\n[arXiv {PAPERS[family][1]}]'
        f'(https://arxiv.org/abs/{PAPERS[family][1]})\n\n{table(classifiers(names))}'
        for family, names in groupby(ZOO, lambda name: name.split('_')[0])
    ]
    return HEAD + ''.join(tables) + DETECTORS + table(dense_models())


def table(rows: Iterable[dict[str, str]]) -> str:
    """Return rows as a table in Markdown."""
    rows = list(rows)
    lines = [list(rows[0]), ['---'] * len(rows[0]), *(row.values() for row in rows)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def classifiers(names: Iterable[str]) -> Iterator[dict[str, str]]:
    """Give the rows of published classifiers."""
    for name in names:
        entry = ZOO[name]
        with torch.device('meta'):
            backbone = create_model(name, features_only=True)
        yield {
            'name': f'`{name}`',
            'ImageNet-1k top-1': '' if entry.top1 is None else f'{entry.top1}',
            'parameters': f'{entry.params / 1e6:.1f} M',
            'MACs': f'{entry.macs / 1e9:.1f} G',
            'image': str(entry.input_size[1]),
            'channels': ' '.join(map(str, backbone.out_channels)),
            'strides': ' '.join(map(str, backbone.out_strides)),
            'weights': f'[file]({entry.url})',
        }


def dense_models() -> Iterator[dict[str, str]]:
    """Give the rows of released detectors and segmentors."""
    for file in (CONFIGS / task / 'metafile.yml' for task in TASKS):
        for model in yaml.safe_load(file.read_text())['Models']:
            if model['Name'] not in RELEASED:
                continue
            metrics = {k: v for r in model['Results'] for k, v in r['Metrics'].items()}
            yield {
                'config': f'[{model["Name"]}](../{model["Config"]})',
                'published': ', '.join(f'{k} {v}' for k, v in metrics.items()),
                'parameters': f'{model["Metadata"]["Parameters"] / 1e6:.1f} M',
                'weights': f'[file]({DRIVE}{RELEASED[model["Name"]]}/view)',
            }


TASKS = ('detection', 'segmentation')

if __name__ == '__main__':
    PAGE.write_text(page())
