"""Published weights by name, and everything else that a source can be."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mmpoolformer.checkpoints.download import fetch
from mmpoolformer.checkpoints.errors import DownloadError

RELEASE = 'https://github.com/sail-sg/poolformer/releases/download/v1.0'


@dataclass(frozen=True)
class ZooEntry:
    """One published file and what its authors report.

    Attributes:
        url: Where it is.
        timm_name: The same weights as `timm://NAME`.
        top1: Published top-1 accuracy on ImageNet-1k, in percent.
        params: Parameters, with 1000 classes.
        macs: Multiply-accumulates for one image of `input_size`.
        crop_pct: Share of the resized image that evaluation crops.
        sha256: Hash of the file, where its authors or hosts publish one. Where it is
            None, the hash of the first download is kept beside the file and later
            ones must agree with it.
        input_size: Channels, height and width of the image.
        mean: Mean of the training pictures' channels, scaled to 0..1.
        std: Their standard deviation.
    """

    url: str
    timm_name: str
    top1: float
    params: int
    macs: int
    crop_pct: float
    sha256: str | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def _poolformer(
    arch: str, top1: float, params: int, macs: int, crop_pct: float
) -> ZooEntry:
    name = f'poolformer_{arch}'
    url = f'{RELEASE}/{name}.pth.tar'
    return ZooEntry(url, f'{name}.sail_in1k', top1, params, macs, crop_pct)


# arXiv 2111.11418, table 1; MACs as fvcore counts them. No hashes are published.
ZOO = {
    'poolformer_s12': _poolformer('s12', 77.2, 11_915_176, 1_822_580_736, 0.9),
    'poolformer_s24': _poolformer('s24', 80.3, 21_388_968, 3_412_808_704, 0.9),
    'poolformer_s36': _poolformer('s36', 81.4, 30_862_760, 5_003_036_672, 0.9),
    'poolformer_m36': _poolformer('m36', 82.1, 56_172_520, 8_801_730_048, 0.95),
    'poolformer_m48': _poolformer('m48', 82.5, 73_473_448, 11_590_562_304, 0.95),
}


def resolve_source(source: str | os.PathLike) -> Path:
    """Turn what a config may name as weights into a file on this machine.

    Args:
        source: A path, `file://...`, `http://...` or `https://...` (a hash may follow
            as `#sha256=...`), `zoo://NAME` with a name of `ZOO`, or `timm://NAME` with
            a name of timm's, such as `timm://poolformer_s12.sail_in1k`. Downloads are
            cached.

    Returns:
        The file's path.

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
    raise ValueError(
        f'source {source!r}: no scheme {scheme!r}; give a path, file://, http://, '
        'https://, zoo://NAME or timm://NAME'
    )


def _entry(name: str) -> ZooEntry:
    if name not in ZOO:
        close = difflib.get_close_matches(name, ZOO) or list(ZOO)
        raise ValueError(
            f'zoo://{name}: no such name; did you mean {", ".join(close)}?'
        )
    return ZOO[name]


def _from_timm(name: str) -> Path:
    # Imported here: only this scheme needs them.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import HfHubHTTPError

    repository = _timm_repository(name)
    try:
        return Path(hf_hub_download(repository, 'model.safetensors'))
    except (OSError, HfHubHTTPError) as error:
        raise DownloadError(
            f'timm://{name}: cannot download {repository} from the Hugging Face hub '
            f'({str(error).splitlines()[0]})'
        ) from error


def _timm_repository(name: str) -> str:
    """Return where on the Hugging Face hub timm keeps weights."""
    from timm.models import get_pretrained_cfg, is_model, list_pretrained

    tagged = list_pretrained()
    if name in tagged or ('.' not in name and is_model(name)):
        config = get_pretrained_cfg(name)
        if config and config.hf_hub_id:
            return config.hf_hub_id
    close = difflib.get_close_matches(name, tagged)
    hint = f'; did you mean {", ".join(close)}?' if close else ''
    raise ValueError(f'timm://{name}: timm has no weights of this name{hint}')
