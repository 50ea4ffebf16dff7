"""Downloads from a server on this machine that is slow, broken, or changed."""

import resource
import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from tool_process import free_port

from mmpoolformer.checkpoints import DownloadError, fetch

WRONG = '0' * 64
HUB_URL = 'https://huggingface.co/sail/dl/resolve/main/x/a.pth'


def names(folder: Path) -> set[str]:
    """Endings of the files that lie in a cache folder, without locks."""
    files = (file.name for file in folder.iterdir() if file.suffix != '.lock')
    return {file.partition('weights.pth')[2] for file in files}


def test_file_is_fetched_once(server, tmp_path) -> None:
    file = fetch(server.url, server.sha256, tmp_path)
    assert file.read_bytes() == server.content
    assert fetch(server.url, server.sha256, tmp_path) == file
    assert server.requests == ['GET /some/weights.pth']
    assert names(tmp_path) == {'', '.sha256'}


def test_equal_names_at_two_places_do_not_clash(server, tmp_path) -> None:
    first = fetch(server.url, cache_dir=tmp_path)
    server.content = b'other'
    other = fetch(server.url.replace('some', 'other'), cache_dir=tmp_path)
    assert first != other
    assert other.read_bytes() == b'other'


def test_cache_is_where_the_variable_says(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('MMPOOLFORMER_CACHE', str(tmp_path / 'deep' / 'cache'))
    assert fetch(server.url).parent == tmp_path / 'deep' / 'cache'


def test_cache_is_with_torch_hub_by_default(server, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv('MMPOOLFORMER_CACHE', raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    assert fetch(server.url).parent == tmp_path / 'hub' / 'mmpoolformer'


def test_wrong_hash_leaves_nothing(server, tmp_path) -> None:
    with pytest.raises(DownloadError, match=WRONG):
        fetch(server.url, WRONG, tmp_path)
    assert names(tmp_path) == set()


def test_hash_may_follow_the_url(server, tmp_path) -> None:
    file = fetch(f'{server.url}#sha256={server.sha256}', cache_dir=tmp_path)
    assert file.read_bytes() == server.content
    with pytest.raises(DownloadError, match=WRONG):
        fetch(f'{server.url}#sha256={WRONG}', cache_dir=tmp_path)


def test_cached_file_with_another_hash_is_fetched_anew(server, tmp_path) -> None:
    file = fetch(server.url, cache_dir=tmp_path)
    server.content = b'a newer release'
    assert fetch(server.url, server.sha256, tmp_path).read_bytes() == server.content
    assert fetch(server.url, cache_dir=tmp_path) == file


def test_first_hash_is_remembered(server, tmp_path) -> None:
    file = fetch(server.url, cache_dir=tmp_path)
    file.write_bytes(b'tampered with')
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == server.content
    file.unlink()
    server.content = b'replaced on the server'
    with pytest.raises(DownloadError, match='to accept a new file, delete'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == {'.sha256'}


def test_truncated_download_leaves_nothing(server, tmp_path) -> None:
    server.cuts = [300_000]
    with pytest.raises(DownloadError, match=r'IncompleteRead.*try again'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == server.content


def test_without_a_connection_the_cure_is_told(tmp_path: Path) -> None:
    url = f'http://127.0.0.1:{free_port()}/weights.pth'
    with pytest.raises(DownloadError) as refusal:
        fetch(url, cache_dir=tmp_path)
    message = str(refusal.value)
    assert 'Connection refused' in message and 'Max retries' not in message
    assert message.count(url) == 1 and 'init_cfg.checkpoint' in message


def test_passing_failures_are_retried(server, tmp_path) -> None:
    server.failures = [503, 429]
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == server.content


@pytest.mark.parametrize(('code', 'tries'), [(404, 1), (401, 1), (503, 3)])
def test_answers_that_are_errors(server, tmp_path, code, tries) -> None:
    server.failures = [code] * 9
    with pytest.raises(DownloadError, match=f'weights.pth: {code} .*give its path'):
        fetch(server.url, cache_dir=tmp_path)
    assert len(server.requests) == tries
    assert names(tmp_path) == set()


def test_no_network(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{free.getsockname()[1]}/weights.pth'
        with pytest.raises(DownloadError, match=r'refused') as caught:
            fetch(url, cache_dir=tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert names(tmp_path) == set()


def test_silent_server(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('mmpoolformer.checkpoints.download.TIMEOUT', 0.2)
    server.delay = 1.0
    with pytest.raises(DownloadError, match=r'timed out'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()


def test_announced_size_over_the_limit(server, tmp_path) -> None:
    server.length_said = 10 * 10**9 + 1
    with pytest.raises(DownloadError, match=r'more than 10 GB'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()


def test_endless_download_is_stopped(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('mmpoolformer.checkpoints.download.MAX_SIZE', 5_000_000)
    server.length, server.endless = False, True
    with pytest.raises(DownloadError, match=r'weights.pth: more than 0\.005 GB'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()
    assert server.sent < 50_000_000  # buffers included


def test_web_page_in_place_of_a_file(server, tmp_path) -> None:
    server.content_type = 'text/html; charset=utf-8'
    with pytest.raises(DownloadError, match='sends a web page'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()


def test_full_disk(server, tmp_path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(DownloadError, match=r'cannot write to .*free some space'):
            fetch(server.url, cache_dir=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert names(tmp_path) == set()


def test_cache_that_cannot_be_made(server, tmp_path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(DownloadError, match='cannot make the cache folder'):
        fetch(server.url, cache_dir=tmp_path / 'file' / 'cache')


@pytest.mark.parametrize('url', ['ftp://host/x.pth', 'file:///etc/passwd', 'http:///x'])
def test_other_urls_are_refused(url, tmp_path) -> None:
    with pytest.raises(ValueError, match='give http://HOST'):
        fetch(url, cache_dir=tmp_path)


@pytest.mark.parametrize('target', ['ftp://host/x.pth', 'file:///etc/passwd'])
def test_redirection_to_another_kind_of_place(server, tmp_path, target) -> None:
    server.location = target
    with pytest.raises(DownloadError, match='No connection adapters'):
        fetch(server.url, cache_dir=tmp_path)


def test_hash_that_is_none(server, tmp_path) -> None:
    with pytest.raises(ValueError, match="sha256='abc': give 64 hexadecimal digits"):
        fetch(server.url, 'abc', tmp_path)


def test_plain_http_elsewhere_needs_a_hash(tmp_path) -> None:
    url = 'http://weights.invalid/x.pth'
    with pytest.raises(DownloadError, match='is not encrypted and could be changed'):
        fetch(url, cache_dir=tmp_path)
    assert not names(tmp_path)
    with pytest.raises(DownloadError, match=r'weights\.invalid'):
        fetch(f'{url}#sha256={"0" * 64}', cache_dir=tmp_path)


def test_two_processes_fetch_once(server, tmp_path) -> None:
    server.delay = 0.5
    with ProcessPoolExecutor(2, get_context('fork')) as processes:
        fetched = [
            processes.submit(fetch, server.url, cache_dir=tmp_path) for _ in range(2)
        ]
        first, second = (one.result(timeout=60) for one in fetched)
    assert first == second
    assert first.read_bytes() == server.content
    assert server.requests == ['GET /some/weights.pth']


# -- the Hugging Face hub -------------------------------------------------------


def test_hub_file_is_fetched_once_from_the_mirror(hub, tmp_path) -> None:
    file = fetch(HUB_URL, cache_dir=tmp_path)
    assert file.read_bytes() == hub.content
    assert tmp_path in file.parents
    asked = list(hub.requests)
    assert asked.count('GET /sail/dl/resolve/main/x/a.pth') == 1
    assert fetch(HUB_URL, cache_dir=tmp_path) == file
    assert hub.requests == asked


@pytest.mark.parametrize('given', [None, WRONG])
def test_hub_file_with_a_wrong_hash(hub, tmp_path, given) -> None:
    hub.etag = f'"{WRONG}"'
    with pytest.raises(DownloadError, match=f'has the sha256 {hub.sha256}.*{WRONG}'):
        fetch(HUB_URL, given, tmp_path)
    assert not list(tmp_path.rglob('a.pth'))
    assert not list(tmp_path.rglob(WRONG))


@pytest.mark.parametrize(('code', 'said'), [(404, '404'), (401, '401'), (503, '503')])
def test_hub_that_answers_with_errors(hub, tmp_path, code, said) -> None:
    hub.failures = [code] * 9
    with pytest.raises(DownloadError, match=f'a.pth .*{said}.*HF_ENDPOINT') as caught:
        fetch(HUB_URL, cache_dir=tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_hub_file_over_the_limit(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('mmpoolformer.checkpoints.download.MAX_SIZE', 1000)
    with pytest.raises(DownloadError, match='more than 1e-06 GB'):
        fetch(HUB_URL, cache_dir=tmp_path)
    assert not any('GET' in request for request in hub.requests)


def test_endless_download_from_the_hub(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('mmpoolformer.checkpoints.download.MAX_SIZE', 5_000_000)
    hub.length, hub.endless = False, True
    with pytest.raises(DownloadError, match=r'hub: more than 0\.005 GB'):
        fetch(HUB_URL, cache_dir=tmp_path)
    assert not list(tmp_path.rglob('*.incomplete'))


def test_hub_offline(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(DownloadError, match='offline mode is enabled'):
        fetch(HUB_URL, cache_dir=tmp_path)
    assert hub.requests == []
