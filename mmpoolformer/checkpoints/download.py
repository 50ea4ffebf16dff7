"""Downloads that are whole or not there.

A file is fetched under a temporary name beside its final one, checked, and renamed.
What was cut off is resumed if the server can tell that its file is still the same.
Processes that want the same file wait for one another.
"""

import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import torch
from filelock import FileLock
from tqdm import tqdm

from mmpoolformer.checkpoints.errors import DownloadError
from mmpoolformer.version import __version__

CACHE_VARIABLE = 'MMPOOLFORMER_CACHE'
LOCAL = ('localhost', '127.0.0.1', '::1')

_TIMEOUT = 30.0  # seconds without a byte
_LONGEST_WAIT = 30.0  # seconds between two tries
_CHUNK = 1 << 20
_PASSING_CODES = (408, 416, 425, 429, 500, 502, 503, 504)


class _Passing(Exception):
    """A failure after which it is worth trying again."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but never away from https or from this machine."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: BinaryIO,
        code: int,
        msg: str,
        headers: Mapping[str, str],
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request to make instead, as urllib asks for it."""
        target = urlsplit(newurl)
        allowed = ('https',) if req.type == 'https' else ('http', 'https')
        # What is fetched over http from elsewhere has a hash; from here it need not.
        leaves = _host(req.full_url) in LOCAL and target.hostname not in LOCAL
        is_safe = target.scheme == 'https' or not leaves
        if target.scheme not in allowed or not is_safe:
            raise DownloadError(f'{req.full_url} leads to {newurl}, which is not safe')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _host(url: str) -> str | None:
    return urlsplit(url).hostname


def fetch(
    url: str,
    sha256: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    retries: int = 3,
    progress: bool = True,
) -> Path:
    """Download a file, or find it in the cache.

    Args:
        url: Where it is: `https://`, or `http://` on this machine or with a hash. A
            hash may follow: `#sha256=...`.
        sha256: Its hash, in hexadecimal digits. Without one, the hash of the first
            download is kept beside the file (`.sha256`), and from then on the file,
            also one downloaded anew, must agree with it.
        cache_dir: The folder to keep it in; by default `$MMPOOLFORMER_CACHE`, or
            `mmpoolformer` in the folder of torch.hub.
        retries: How often to try again after a passing failure.
        progress: Whether to show a progress bar (on a terminal).

    Returns:
        The file's path.

    Raises:
        DownloadError: If the file can't be had whole and right.
        ValueError: If the URL or the hash is not one.
    """
    url, _, fragment = url.partition('#')
    sha256 = _checked_hash(sha256 or _hash_in(fragment))
    _check_url(url, sha256)
    file = _cache_folder(cache_dir) / _file_name(url)
    if file.is_file() and _is_right(file, sha256):
        return file
    try:
        with FileLock(f'{file}.lock'):
            # Another process may have fetched it while this one waited.
            if not (file.is_file() and _is_right(file, sha256)):
                _fetch_into(file, url, sha256, retries, progress)
    except OSError as error:
        raise DownloadError(f'cannot write to {file.parent}: {error}') from error
    return file


def _checked_hash(sha256: str | None) -> str | None:
    if sha256 is None or re.fullmatch('[0-9a-fA-F]{64}', sha256):
        return sha256 and sha256.lower()
    raise ValueError(f'sha256={sha256!r}: give 64 hexadecimal digits')


def _hash_in(fragment: str) -> str | None:
    key, _, value = fragment.partition('=')
    return value if key == 'sha256' else None


def _check_url(url: str, sha256: str | None) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError(f'url={url!r}: give http://HOST/... or https://HOST/...')
    if parts.scheme == 'http' and parts.hostname not in LOCAL and sha256 is None:
        raise DownloadError(
            f'{url} is not encrypted and could be changed on its way: give its https '
            'address, or its hash (#sha256=...)'
        )


def _cache_folder(cache_dir: str | os.PathLike | None) -> Path:
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    folder = Path(chosen) if chosen else Path(torch.hub.get_dir(), 'mmpoolformer')
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f'cannot make the cache folder {folder} ({error}): set {CACHE_VARIABLE} to '
            'another place'
        ) from error
    return folder


def _file_name(url: str) -> str:
    """Name a file after its address, so that equal names elsewhere don't clash."""
    name = re.sub(r'[^\w.-]', '_', urlsplit(url).path.rsplit('/', 1)[-1]) or 'file'
    return f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}'


def _is_right(file: Path, sha256: str | None) -> bool:
    """Tell whether a cached file is the one wanted."""
    digest = _digest(file)
    if sha256:
        return digest == sha256
    remembered = _remembered(file)
    if remembered not in (None, digest):
        raise DownloadError(
            f'{file} has changed since it was downloaded: delete it to fetch it again'
        )
    return True


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_file(file: Path) -> Path:
    return Path(f'{file}.sha256')


def _remembered(file: Path) -> str | None:
    record = _hash_file(file)
    return record.read_text().strip() if record.is_file() else None


def _fetch_into(
    file: Path, url: str, sha256: str | None, retries: int, progress: bool
) -> None:
    part = Path(f'{file}.part')
    _download(url, part, retries, progress)
    digest = _digest(part)
    expected = sha256 or _remembered(file) or digest
    if digest != expected:
        _discard(part)
        cure = '' if sha256 else f'; delete {_hash_file(file)} to accept the new file'
        raise DownloadError(
            f'{url} has the sha256 {digest}, expected was {expected}{cure}'
        )
    _hash_file(file).write_text(f'{digest}\n')
    os.replace(part, file)
    _discard(part)


def _download(url: str, part: Path, retries: int, progress: bool) -> None:
    """Fetch `url` into `part`, trying again after passing failures."""
    for attempt in range(retries + 1):
        try:
            _transfer(url, part, progress)
            return
        except _Passing as failure:
            problem = failure
        if attempt < retries:
            time.sleep(min(max(problem.wait, 2.0**attempt), _LONGEST_WAIT))
    if not _validator(part):
        _discard(part)
    raise DownloadError(f'{url}: {problem} (tried {retries + 1} times)')


def _transfer(url: str, part: Path, progress: bool) -> None:
    """Fetch `url` into `part` in one try, going on where an earlier one ended."""
    have = part.stat().st_size if part.is_file() and _validator(part) else 0
    with _opened(url, part, have) as response:
        if 'text/html' in response.headers.get('Content-Type', ''):
            raise DownloadError(f'{url}: the server sends a web page, not a file')
        start = _start(response, part, have)
        total = _total(response, start)
        if total is not None:
            _check_space(part.parent, total - start)
        _copy(response, part, start, total, progress)
    size = part.stat().st_size
    if total is not None and size != total:
        raise _Passing(f'the connection ended after {size} of {total} bytes')


def _opened(url: str, part: Path, have: int) -> http.client.HTTPResponse:
    headers = {
        'User-Agent': f'mmpoolformer/{__version__}',
        'Accept-Encoding': 'identity',
    }
    if have:
        headers |= {'Range': f'bytes={have}-', 'If-Range': _validator(part)}
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.build_opener(_SafeRedirects).open(
            request, timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        _judge_answer(url, part, error)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DownloadError(f'{url}: {error.reason}') from error
        raise _Passing(f'no connection ({error.reason})') from error
    except (OSError, http.client.HTTPException) as error:
        raise _Passing(f'no answer ({error})') from error


def _judge_answer(url: str, part: Path, error: urllib.error.HTTPError) -> None:
    """Raise what an answer other than success means."""
    problem = f'the server answers {error.code} {error.reason}'
    if error.code not in _PASSING_CODES:
        raise DownloadError(f'{url}: {problem}') from error
    if error.code == 416:  # what is here is not the start of what is there
        _discard(part)
    wait = error.headers.get('Retry-After', '')
    raise _Passing(problem, float(wait) if wait.isdigit() else 0.0) from error


def _start(response: http.client.HTTPResponse, part: Path, have: int) -> int:
    """Return the place in the file at which the answer starts."""
    if response.status != 206:
        return 0
    sent = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))
    if not sent or int(sent.group(1)) != have:
        _discard(part)
        raise _Passing('the server sends another part than asked for')
    return have


def _total(response: http.client.HTTPResponse, start: int) -> int | None:
    """Return the size of the whole file, if the server says it."""
    length = response.headers.get('Content-Length', '')
    return start + int(length) if length.isdigit() else None


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(_no_space(folder, f'{needed} bytes needed, {free} free'))


def _no_space(folder: Path, detail: str) -> str:
    return (
        f'no space in {folder} ({detail}): free some, or set {CACHE_VARIABLE} to '
        'another place'
    )


def _copy(
    response: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int | None,
    progress: bool,
) -> None:
    bar = tqdm(
        total=total,
        initial=start,
        unit='B',
        unit_scale=True,
        desc=part.name.removesuffix('.part'),
        disable=None if progress else True,  # None: only on a terminal
    )
    try:
        _validator_file(part).write_text(_offered_validator(response))
        with bar, part.open('ab' if start else 'wb') as file:
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # of the disk: those of the network are _Passing
        _discard(part)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(_no_space(part.parent, error.strerror)) from error
        raise


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        cause = str(error) or type(error).__name__
        raise _Passing(f'the connection broke ({cause})') from error


def _validator_file(part: Path) -> Path:
    return Path(f'{part}.validator')


def _offered_validator(response: http.client.HTTPResponse) -> str:
    """Return what the server would know this state of the file by; may be empty."""
    tag = response.headers.get('ETag', '')
    if tag.startswith('"'):  # others are weak: equal meaning, not equal bytes
        return tag
    return response.headers.get('Last-Modified', '')


def _validator(part: Path) -> str:
    file = _validator_file(part)
    return file.read_text() if file.is_file() else ''


def _discard(part: Path) -> None:
    """Remove a temporary file and what belongs to it."""
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)
