"""Downloads that are complete or not there: by huggingface-hub, and by pooch."""

import contextlib
import os
import re
from functools import partial
from hashlib import sha256 as hash_of
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pooch
import requests
import torch
from filelock import FileLock
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from urllib3.util import Retry

from mmpoolformer.checkpoints.errors import (
    DownloadError,
    MissingFileError,
    cause_of,
)
from mmpoolformer.checkpoints.folders import CONFIG, FILES, PROCESSOR

CACHE_VARIABLE = 'MMPOOLFORMER_CACHE'
LOCAL = ('localhost', '127.0.0.1', '::1')
MAX_SIZE = 10 * 10**9  # bytes; the largest published file has 0.7e9
TIMEOUT = 30.0  # seconds without a byte

_CHUNK = 1 << 20
_CURE = (
    'or download it by other means and give its path (in a config '
    'model.backbone.init_cfg.checkpoint)'
)
_HUB_URL = re.compile(r'https://huggingface\.co/([^/]+/[^/]+)/resolve/([^/]+)/([^?#]+)')
_RETRY = Retry(
    2,
    backoff_factor=0.5,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,  # it may ask for hours
)


class _LimitedBar(tqdm):
    """A progress bar that stops a download at `MAX_SIZE` bytes."""

    received = 0
    source = 'the file from the Hugging Face hub'

    def update(self, n: float = 1) -> bool | None:
        """Count bytes, also where nothing is drawn."""
        self.received += n
        _check_size(self.source, max(self.received, self.total or 0))
        return super().update(n)


def fetch(
    url: str,
    sha256: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Download a file of at most 10 GB, or find it in the cache.

    Args:
        url: Where it is: `https://`, or `http://` on this machine or with a hash. A
            hash may follow: `#sha256=...`. Files of the Hugging Face hub
            (`https://huggingface.co/OWNER/NAME/resolve/REVISION/FILE`) are fetched by
            huggingface-hub, so `HF_ENDPOINT` and `HF_HUB_OFFLINE` hold for them.
        sha256: Its hash, in hexadecimal digits. Without one, the hub's own hash is
            used, and elsewhere the hash of the first download, which is kept beside
            the file (`.sha256`).
        cache_dir: The folder to keep it in; by default `$MMPOOLFORMER_CACHE`, or
            `mmpoolformer` in the folder of torch.hub.

    Returns:
        The file's path.

    Raises:
        DownloadError: If the file can't be had whole and right.
        ValueError: If the URL or the hash is not one.
    """
    url, _, fragment = url.partition('#')
    if not sha256 and fragment.startswith('sha256='):
        sha256 = fragment.removeprefix('sha256=')
    if sha256 and not re.fullmatch('[0-9a-fA-F]{64}', sha256):
        raise ValueError(f'sha256={sha256!r}: give 64 hexadecimal digits')
    sha256 = sha256 and sha256.lower()
    _check_url(url, sha256)
    folder = _cache_folder(cache_dir)
    if place := _HUB_URL.fullmatch(url.partition('?')[0]):
        repository, revision, file = map(unquote, place.groups())
        return fetch_from_hub(
            repository, file, revision, sha256, folder / 'huggingface'
        )
    return _fetch_by_pooch(url, sha256, folder)


def fetch_from_hub(
    repository: str,
    file: str,
    revision: str = 'main',
    sha256: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """Download a file of the Hugging Face hub, or find it in the cache.

    Args:
        repository: `OWNER/NAME`.
        file: Path in the repository.
        revision: Branch, tag or commit.
        sha256: Hash of the file; by default the hub's own.
        cache_dir: Folder of the cache, by default huggingface-hub's.

    Returns:
        The file's path.

    Raises:
        MissingFileError: If there is no such file, or not in the cache when
            huggingface-hub is offline.
        DownloadError: If the file can't be had whole and right.
    """
    # Imported here: slow.
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import (
        HTTPError,  # base of its HTTP library's errors
        OfflineModeIsEnabled,
    )

    where = dict(filename=file, revision=revision)
    url = hf_hub_url(repository, **where)
    path = try_to_load_from_cache(repository, cache_dir=cache_dir, **where)
    try:
        if not isinstance(path, str):
            # Asked first: hf_hub_download tries for minutes where nothing answers.
            known = get_hf_file_metadata(url)
            _check_size(url, known.size or 0)
            # The tag of a large file is its sha256.
            is_hash = re.fullmatch('[0-9a-f]{64}', known.etag or '')
            sha256 = sha256 or (known.etag if is_hash else None)
            path = hf_hub_download(
                repository, cache_dir=cache_dir, tqdm_class=_LimitedBar, **where
            )
    except (OSError, HTTPError) as error:
        code = getattr(getattr(error, 'response', None), 'status_code', None)
        is_offline = isinstance(error, OfflineModeIsEnabled)
        kind = MissingFileError if code == 404 or is_offline else DownloadError
        raise kind(
            f'cannot download {url} from the Hugging Face hub ({cause_of(error)}): set '
            f'HF_ENDPOINT to a mirror, {_CURE}'
        ) from error
    if sha256 and (digest := pooch.file_hash(path)) != sha256:
        os.unlink(os.path.realpath(path))
        Path(path).unlink(missing_ok=True)
        raise DownloadError(f'{url} has the sha256 {digest}, expected was {sha256}')
    return Path(path)


def fetch_repository(repository: str, revision: str = 'main') -> Path:
    """Download a model's repository of the Hugging Face hub, or find it in the cache.

    Only what is data is asked for: `model.safetensors`, `config.json` and
    `preprocessor_config.json`, of which only the first must be there.

    Args:
        repository: `OWNER/NAME`.
        revision: Branch, tag or commit.

    Returns:
        The folder of the files.

    Raises:
        DownloadError: If the weights can't be had whole and right.
    """
    # Imported here: slow.
    from huggingface_hub import try_to_load_from_cache

    where = dict(revision=revision)
    cached = (
        try_to_load_from_cache(repository, f, **where) for f in (FILES[0], CONFIG)
    )
    if not all(isinstance(path, str) for path in cached):
        for file in (CONFIG, PROCESSOR):
            with contextlib.suppress(MissingFileError):
                fetch_from_hub(repository, file, revision)
    return fetch_from_hub(repository, FILES[0], revision).parent


def _fetch_by_pooch(url: str, sha256: str | None, folder: Path) -> Path:
    file = folder / _file_name(url)
    record = Path(f'{file}.sha256')
    pooch.get_logger().setLevel('WARNING')  # the bar says enough
    try:
        with FileLock(f'{file}.lock'):
            first = record.read_text().strip() if record.is_file() else None
            transfer = partial(_transfer, sha256=sha256)
            pooch.retrieve(url, sha256 or first, file.name, folder, downloader=transfer)
            if sha256 or not first:
                record.write_text(f'{pooch.file_hash(str(file))}\n')
    except requests.RequestException as error:
        # Without a connection urllib3 tells of its pool, too, and of the URL again.
        reason = getattr(error.args[0] if error.args else None, 'reason', error)
        raise DownloadError(f'{url}: {cause_of(reason)}: try again, {_CURE}') from error
    except DownloadError:
        raise
    except ValueError as error:  # pooch's, of a hash
        cure = '' if sha256 else f'; to accept a new file, delete {record}'
        raise DownloadError(f'{url}: {cause_of(error)}{cure}') from error
    except OSError as error:
        raise DownloadError(
            f'cannot write to {folder} ({error}): free some space, or set '
            f'{CACHE_VARIABLE} to another folder'
        ) from error
    return file


def _transfer(url: str, output_file: str, _: None, sha256: str | None) -> None:
    """Write what `url` sends, as pooch asks its downloaders to."""
    with requests.Session() as session:
        for scheme in ('http://', 'https://'):
            session.mount(scheme, HTTPAdapter(max_retries=_RETRY))
        headers = {'Accept-Encoding': 'identity'}
        response = session.get(url, stream=True, timeout=TIMEOUT, headers=headers)
        with response, open(output_file, 'wb') as file:
            size = _checked_size(url, response, sha256)
            name = urlsplit(url).path.rsplit('/', 1)[-1]
            style = dict(unit='B', unit_scale=True, desc=name)
            with _LimitedBar(total=size, disable=None, **style) as bar:  # on a terminal
                bar.source = url
                for chunk in response.iter_content(_CHUNK):
                    bar.update(len(chunk))
                    file.write(chunk)


def _checked_size(
    url: str, response: requests.Response, sha256: str | None
) -> int | None:
    """Return the announced size of an answer that is worth reading."""
    response.raise_for_status()
    is_local = urlsplit(url).hostname in LOCAL
    for hop in (*response.history, response):
        _check_url(hop.url, sha256, is_local)
    if 'text/html' in response.headers.get('Content-Type', ''):
        raise DownloadError(f'{url}: the server sends a web page, not a file')
    length = response.headers.get('Content-Length', '')
    size = int(length) if length.isdigit() else None
    _check_size(url, size or 0)
    return size


def _check_size(name: str, size: float) -> None:
    if size > MAX_SIZE:
        raise DownloadError(
            f'{name}: more than {MAX_SIZE / 1e9:g} GB, which no checkpoint should '
            'have; if it is right, download it by other means and give its path'
        )


def _check_url(url: str, sha256: str | None, may_be_local: bool = True) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError(f'url={url!r}: give http://HOST/... or https://HOST/...')
    is_here = may_be_local and parts.hostname in LOCAL
    if parts.scheme == 'http' and not is_here and sha256 is None:
        raise DownloadError(
            f'{url} is not encrypted and could be changed on its way: give its https '
            'address, or its hash (#sha256=...)'
        )


def _cache_folder(cache_dir: str | os.PathLike | None) -> Path:
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen or Path(torch.hub.get_dir(), 'mmpoolformer')).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f'cannot make the cache folder {folder} ({error}): set {CACHE_VARIABLE} to '
            'another folder'
        ) from error
    return folder


def _file_name(url: str) -> str:
    """Name a file after its address, so that equal names elsewhere don't clash."""
    name = re.sub(r'[^\w.-]', '_', urlsplit(url).path.rsplit('/', 1)[-1]) or 'file'
    return f'{hash_of(url.encode()).hexdigest()[:8]}-{name}'
