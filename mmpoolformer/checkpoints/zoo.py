"""Published weights by name, and everything else that a source can be."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mmpoolformer.checkpoints.download import (
    fetch,
    fetch_from_hub,
    fetch_repository,
)
from mmpoolformer.checkpoints.errors import DownloadError
from mmpoolformer.utils.text import did_you_mean, nearest

RELEASE = 'https://github.com/sail-sg/poolformer/releases/download/v1.0'
HUB = 'https://huggingface.co/sail/dl/resolve/main'
# The files of PiT's authors, who have them on a drive without plain addresses.
PIT_RELEASE = (
    'https://github.com/rwightman/pytorch-image-models/releases/download/'
    'v0.1-pit-weights'
)
IN21K_CLASSES = 21_841


@dataclass(frozen=True)
class ZooEntry:
    """One published file and what its authors report.

    Attributes:
        url: Where it is.
        timm_name: The same weights as `timm://NAME`, if timm has them.
        top1: Published top-1 accuracy on ImageNet-1k, in percent; `None` where the
            classes are others.
        params: Parameters, with `num_classes` classes.
        macs: Multiply-accumulates for one image of `input_size`, as fvcore counts.
        crop_pct: Share of the resized image that evaluation crops.
        sha256: Hash of the file, where its authors or hosts publish one. Where it is
            None, the hash of the first download is kept beside the file and later
            ones must agree with it.
        input_size: Channels, height and width of the image.
        mean: Mean of the training pictures' channels, scaled to 0..1.
        std: Their standard deviation.
        interpolation: How the image is resized.
        num_classes: Classes: of ImageNet-1k, or of ImageNet-21k.
    """

    url: str
    timm_name: str | None
    top1: float | None
    params: int
    macs: int
    crop_pct: float
    sha256: str | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = 'bicubic'
    num_classes: int = 1000


def _release(
    name: str, top1: float, params: int, macs: int, crop_pct: float
) -> ZooEntry:
    timm_name = f'{name}.sail_in1k' if name.startswith('poolformer_') else None
    url = f'{RELEASE}/{name}.pth.tar'
    return ZooEntry(url, timm_name, top1, params, macs, crop_pct)


# arXiv 2111.11418 and its ablations: top-1, parameters, MACs, crop. No hashes are
# published.
_RELEASES = {
    'poolformer_s12': (77.2, 11_915_176, 1_822_580_736, 0.9),
    'poolformer_s24': (80.3, 21_388_968, 3_412_808_704, 0.9),
    'poolformer_s36': (81.4, 30_862_760, 5_003_036_672, 0.9),
    'poolformer_m36': (82.1, 56_172_520, 8_801_730_048, 0.95),
    'poolformer_m48': (82.5, 73_473_448, 11_590_562_304, 0.95),
    'metaformer_id_s12': (74.3, 11_915_176, 1_822_678_528, 0.9),
    'metaformer_pppa_s12_224': (78.3, 14_038_440, 1_930_356_224, 0.95),
    'metaformer_ppaa_s12_224': (81.0, 16_535_592, 2_559_563_264, 0.95),
    'metaformer_pppf_s12_224': (77.5, 11_919_978, 1_825_137_152, 0.9),
    'metaformer_ppff_s12_224': (77.9, 12_150_474, 1_898_895_872, 0.9),
}


def _baseline(
    name: str,
    training: str,
    top1: float | None,
    params: int,
    macs: int,
    num_classes: int = 1000,
) -> ZooEntry:
    family = name.split('_')[0]
    side = 384 if '384' in training else 224
    in_timm = family not in ('identityformer', 'randformer')
    return ZooEntry(
        url=f'{HUB}/{family}/{name}{training}.pth',
        timm_name=f'{name}.{_TIMM_TAGS[training]}' if in_timm else None,
        top1=top1,
        params=params,
        macs=macs,
        crop_pct=1.0,
        input_size=(3, side, side),
        num_classes=num_classes,
    )


_TIMM_TAGS = {
    '': 'sail_in1k',
    '_384': 'sail_in1k_384',
    '_in21ft1k': 'sail_in22k_ft_in1k',
    '_384_in21ft1k': 'sail_in22k_ft_in1k_384',
    '_in21k': 'sail_in22k',
}

# arXiv 2210.13452, basic token mixers: top-1, parameters, MACs.
_BASIC = {
    'identityformer_s12': (74.6, 11_891_712, 1_825_378_048),
    'identityformer_s24': (78.2, 21_341_464, 3_415_606_016),
    'identityformer_s36': (79.3, 30_791_216, 5_005_833_984),
    'identityformer_m36': (80.0, 56_077_168, 8_805_831_936),
    'identityformer_m48': (80.4, 73_346_056, 11_594_664_192),
    'randformer_s12': (76.6, 12_127_010, 1_901_595_392),
    'randformer_s24': (78.2, 21_812_060, 3_568_040_704),
    'randformer_s36': (79.5, 31_497_110, 5_234_486_016),
    'randformer_m36': (81.2, 56_783_062, 9_082_427_136),
    'randformer_m48': (81.4, 74_287_248, 11_963_457_792),
    'poolformerv2_s12': (78.0, 11_891_712, 1_825_378_048),
    'poolformerv2_s24': (80.7, 21_341_464, 3_415_606_016),
    'poolformerv2_s36': (81.6, 30_791_216, 5_005_833_984),
    'poolformerv2_m36': (82.2, 56_077_168, 8_805_831_936),
    'poolformerv2_m48': (82.6, 73_346_056, 11_594_664_192),
}

# arXiv 2210.13452, common token mixers: top-1 at 224 pixels, at 384, and both after
# ImageNet-21k.
_COMMON_TOP1 = {
    'convformer_s18': (83.0, 84.4, 83.7, 85.0),
    'convformer_s36': (84.1, 85.4, 85.4, 86.4),
    'convformer_m36': (84.5, 85.6, 86.1, 86.9),
    'convformer_b36': (84.8, 85.7, 87.0, 87.6),
    'caformer_s18': (83.6, 85.0, 84.1, 85.4),
    'caformer_s36': (84.5, 85.7, 85.8, 86.9),
    'caformer_m36': (85.2, 86.2, 86.6, 87.5),
    'caformer_b36': (85.5, 86.4, 87.4, 88.1),
}
# Their parameters, MACs at 224 and at 384 pixels, and inputs of the last layer.
_COMMON_SIZES = {
    'convformer_s18': (26_774_448, 3_959_248_640, 11_629_314_560, 2048),
    'convformer_s36': (40_012_152, 7_672_623_872, 22_542_090_752, 2048),
    'convformer_m36': (57_051_640, 12_887_976_768, 37_867_802_688, 2304),
    'convformer_b36': (99_882_616, 22_690_270_976, 66_671_045_376, 3072),
    'caformer_s18': (26_341_656, 4_125_205_760, 13_419_799_040, 2048),
    'caformer_s36': (39_297_102, 8_004_538_112, 26_081_034_752, 2048),
    'caformer_m36': (56_204_878, 13_286_273_856, 42_111_383_616, 2304),
    'caformer_b36': (98_753_614, 23_221_333_760, 72_329_153_280, 3072),
}


def _common_entries(name: str) -> dict[str, ZooEntry]:
    """Return the entries of all trainings of one architecture."""
    params, macs, macs_384, inputs = _COMMON_SIZES[name]
    entries = {}
    for training, top1 in zip(_TIMM_TAGS, _COMMON_TOP1[name], strict=False):
        used = macs_384 if '384' in training else macs
        entries[name + training] = _baseline(name, training, top1, params, used)
    more = IN21K_CLASSES - 1000  # outputs of the last layer, each with a bias
    entries[f'{name}_in21k'] = _baseline(
        name,
        '_in21k',
        None,
        params + more * (inputs + 1),
        macs + more * inputs,
        IN21K_CLASSES,
    )
    return entries


# arXiv 2103.16302, table 3, and naver-ai/pit: top-1, parameters, MACs.
_PIT = {
    'pit_ti': (73.0, 4_847_272, 702_020_096),
    'pit_ti_distilled': (74.6, 5_104_336, 707_948_800),
    'pit_xs': (78.1, 10_618_888, 1_399_140_096),
    'pit_xs_distilled': (79.1, 11_003_984, 1_411_381_632),
    'pit_s': (80.9, 23_461_912, 2_877_457_536),
    'pit_s_distilled': (81.9, 24_039_056, 2_903_353_920),
    'pit_b': (82.0, 73_764_840, 12_419_867_648),
    'pit_b_distilled': (84.0, 74_790_096, 12_500_390_912),
}


def _pit(name: str, top1: float, params: int, macs: int) -> ZooEntry:
    # The files carry their accuracy in their names: pit_ti_distill_746.pth.
    stem = f'{name.replace("distilled", "distill")}_{round(10 * top1)}'
    url = f'{PIT_RELEASE}/{stem}.pth'
    return ZooEntry(url, f'{name}_224.in1k', top1, params, macs, crop_pct=0.9)


ZOO = {
    **{name: _release(name, *row) for name, row in _RELEASES.items()},
    **{name: _baseline(name, '', *row) for name, row in _BASIC.items()},
    **{k: entry for name in _COMMON_TOP1 for k, entry in _common_entries(name).items()},
    **{name: _pit(name, *row) for name, row in _PIT.items()},
}


def resolve_source(source: str | os.PathLike) -> Path:
    """Turn what a config may name as weights into a file on this machine.

    Args:
        source: A path, `file://...`, `http://...` or `https://...` (a hash may follow
            as `#sha256=...`), `zoo://NAME` with a name of `ZOO`, `timm://NAME` with a
            name of timm's, such as `timm://poolformer_s12.sail_in1k`, or
            `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`, a model's repository of the
            Hugging Face hub. Downloads are cached.

    Returns:
        The file's path; of a repository the folder's.

    Raises:
        ValueError: If the scheme or the name is unknown.
        DownloadError: If a download fails.
    """
    if isinstance(source, os.PathLike) or '://' not in source:
        return Path(source).expanduser()
    scheme, _, rest = source.partition('://')
    if scheme in ('http', 'https'):
        return fetch(source)
    if scheme == 'file':
        return Path(url2pathname(urlsplit(source).path))
    if scheme == 'zoo':
        entry = _entry(rest)
        return fetch(entry.url, entry.sha256)
    if scheme == 'timm':
        return _from_timm(rest)
    if scheme == 'hf':
        return fetch_repository(*_hub_place(source))
    raise ValueError(
        f'source {source!r}: no scheme {scheme!r}; give a path, file://, http://, '
        'https://, zoo://NAME, timm://NAME or hf://OWNER/NAME'
    )


def _entry(name: str) -> ZooEntry:
    if name not in ZOO:
        raise ValueError(
            f'zoo://{name}: no such name; did you mean {nearest(name, ZOO)}?'
        )
    return ZOO[name]


def _hub_place(source: str) -> tuple[str, str]:
    """Return the repository and the revision that `hf://OWNER/NAME@REVISION` names."""
    place = re.fullmatch(r'hf://([\w.-]+/[\w.-]+)(?:@([^#?]+))?', source)
    if not place:
        raise ValueError(f'{source}: give hf://OWNER/NAME or hf://OWNER/NAME@REVISION')
    return place[1], place[2] or 'main'


def _from_timm(name: str) -> Path:
    try:
        return fetch_from_hub(_timm_repository(name), 'model.safetensors')
    except DownloadError as error:
        raise DownloadError(f'timm://{name}: {error}') from error


def _timm_repository(name: str) -> str:
    """Return where on the Hugging Face hub timm keeps weights."""
    from timm.models import get_pretrained_cfg, is_model, list_pretrained

    tagged = list_pretrained()
    if name in tagged or ('.' not in name and is_model(name)):
        config = get_pretrained_cfg(name)
        if config and config.hf_hub_id:
            return config.hf_hub_id
    hint = did_you_mean(name, tagged)
    raise ValueError(f'timm://{name}: timm has no weights of this name{hint}')
