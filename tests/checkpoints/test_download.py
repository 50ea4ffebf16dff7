"""Downloads from a server on this machine that is slow, broken, or changed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmpoolformer.checkpoints import DownloadError, fetch

WRONG = '0' * 64


def names(folder: Path) -> set[str]:
    """Endings of the files that lie in a cache folder, without locks."""
    files = (file.name for file in folder.iterdir() if file.suffix != '.lock')
    return {file.partition('weights.pth')[2] for file in files}


def test_file_is_fetched_once(server, tmp_path) -> None:
    file = fetch(server.url, server.sha256, tmp_path)
    assert file.read_bytes() == server.content
    assert fetch(server.url, server.sha256, tmp_path) == file
    assert server.requests == [None]
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
    with pytest.raises(DownloadError, match=f'has the sha256 {server.sha256}.*{WRONG}'):
        fetch(server.url, WRONG, tmp_path)
    assert names(tmp_path) == set()


def test_hash_may_follow_the_url(server, tmp_path) -> None:
    file = fetch(f'{server.url}#sha256={server.sha256}', cache_dir=tmp_path)
    assert file.read_bytes() == server.content
    with pytest.raises(DownloadError, match='has the sha256'):
        fetch(f'{server.url}#sha256={WRONG}', cache_dir=tmp_path)


def test_cached_file_with_another_hash_is_fetched_anew(server, tmp_path) -> None:
    file = fetch(server.url, cache_dir=tmp_path)
    server.content = b'a newer release'
    assert fetch(server.url, server.sha256, tmp_path).read_bytes() == server.content
    assert fetch(server.url, cache_dir=tmp_path) == file


def test_first_hash_is_remembered(server, tmp_path) -> None:
    file = fetch(server.url, cache_dir=tmp_path)
    file.write_bytes(b'tampered with')
    with pytest.raises(DownloadError, match='has changed since it was downloaded'):
        fetch(server.url, cache_dir=tmp_path)
    file.unlink()
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == server.content
    file.unlink()
    server.content = b'replaced on the server'
    with pytest.raises(DownloadError, match='to accept the new file'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == {'.sha256'}


def test_broken_download_is_resumed(server, tmp_path, waits) -> None:
    server.cuts = [300_000, 100_000]
    file = fetch(server.url, server.sha256, tmp_path)
    assert file.read_bytes() == server.content
    assert server.requests == [None, 'bytes=300000-', 'bytes=400000-']
    assert waits == [1, 2]
    assert names(tmp_path) == {'', '.sha256'}


def test_next_call_resumes_what_a_call_left(server, tmp_path) -> None:
    server.cuts = [300_000]
    with pytest.raises(DownloadError, match='ended after 300000 of 1024000 bytes'):
        fetch(server.url, cache_dir=tmp_path, retries=0)
    assert names(tmp_path) == {'.part', '.part.validator'}
    file = fetch(server.url, cache_dir=tmp_path)
    assert file.read_bytes() == server.content
    assert server.requests == [None, 'bytes=300000-']


def test_file_that_changed_meanwhile_is_not_mixed(server, tmp_path, waits) -> None:
    server.cuts = [300_000]
    with pytest.raises(DownloadError):
        fetch(server.url, cache_dir=tmp_path, retries=0)
    server.content, server.etag = b'x' * 500_000, '"two"'
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == server.content


def test_file_that_shrank_meanwhile_starts_anew(server, tmp_path, waits) -> None:
    server.cuts = [300_000]
    with pytest.raises(DownloadError):
        fetch(server.url, cache_dir=tmp_path, retries=0)
    server.content = b'short'  # under the same tag: the server answers 416
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == b'short'


@pytest.mark.parametrize('lacking', ['ranges', 'etag'])
def test_server_that_cannot_resume(server, tmp_path, waits, lacking) -> None:
    setattr(server, lacking, None)
    server.cuts = [300_000]
    file = fetch(server.url, cache_dir=tmp_path)
    assert file.read_bytes() == server.content


def test_truncation_leaves_nothing_if_it_cannot_be_resumed(server, tmp_path) -> None:
    server.cuts, server.etag = [300_000], None
    with pytest.raises(DownloadError, match='ended after 300000 of 1024000 bytes'):
        fetch(server.url, cache_dir=tmp_path, retries=0)
    assert names(tmp_path) == set()


def test_passing_failures_are_retried_politely(server, tmp_path, waits) -> None:
    server.failures, server.retry_after = [503, 429], '7'
    assert fetch(server.url, cache_dir=tmp_path).read_bytes() == server.content
    assert waits == [7, 7]


def test_tries_end(server, tmp_path, waits) -> None:
    server.failures = [503] * 9
    with pytest.raises(DownloadError, match=r'answers 503 .* \(tried 4 times\)'):
        fetch(server.url, cache_dir=tmp_path)
    assert waits == [1, 2, 4]
    assert names(tmp_path) == set()


def test_missing_file_is_not_retried(server, tmp_path, waits) -> None:
    server.failures = [404]
    with pytest.raises(DownloadError, match=r'weights.pth: the server answers 404'):
        fetch(server.url, cache_dir=tmp_path)
    assert waits == []
    assert names(tmp_path) == set()


def test_no_network(tmp_path, waits) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{free.getsockname()[1]}/weights.pth'
        with pytest.raises(DownloadError, match=r'no connection \(.*refused'):
            fetch(url, cache_dir=tmp_path)
    assert names(tmp_path) == set()


def test_silent_server(server, tmp_path, waits, monkeypatch) -> None:
    monkeypatch.setattr('mmpoolformer.checkpoints.download._TIMEOUT', 0.2)
    server.delay = 1.0
    with pytest.raises(DownloadError, match=r'the connection broke .*timed out'):
        fetch(server.url, cache_dir=tmp_path, retries=1)
    assert len(server.requests) == 2


def test_web_page_in_place_of_a_file(server, tmp_path) -> None:
    server.content_type = 'text/html; charset=utf-8'
    with pytest.raises(DownloadError, match='sends a web page'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()


def test_full_disk_before(server, tmp_path, monkeypatch) -> None:
    server.content = b'x' * 100
    usage = type('Usage', (), {'free': 99})
    monkeypatch.setattr('shutil.disk_usage', lambda _: usage)
    with pytest.raises(DownloadError, match=r'no space in .*100 bytes needed, 99 free'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == set()


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_full_disk_during(server, tmp_path) -> None:
    file = fetch(server.url, cache_dir=tmp_path)
    file.unlink()
    Path(f'{file}.part').symlink_to('/dev/full')
    with pytest.raises(DownloadError, match=r'no space in .*MMPOOLFORMER_CACHE'):
        fetch(server.url, cache_dir=tmp_path)
    assert names(tmp_path) == {'.sha256'}


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
    with pytest.raises(DownloadError, match=r'leads to|answers 302'):
        fetch(server.url, cache_dir=tmp_path)


def test_hash_that_is_none(server, tmp_path) -> None:
    with pytest.raises(ValueError, match="sha256='abc': give 64 hexadecimal digits"):
        fetch(server.url, 'abc', tmp_path)


def test_plain_http_elsewhere_needs_a_hash(tmp_path, waits) -> None:
    url = 'http://weights.invalid/x.pth'
    with pytest.raises(DownloadError, match='is not encrypted and could be changed'):
        fetch(url, cache_dir=tmp_path, retries=0)
    assert not names(tmp_path)
    with pytest.raises(DownloadError, match='no connection'):
        fetch(f'{url}#sha256={"0" * 64}', cache_dir=tmp_path, retries=0)


def test_redirection_from_here_to_plain_http_elsewhere(server, tmp_path) -> None:
    server.location = 'http://weights.invalid/x.pth'
    with pytest.raises(DownloadError, match=r'leads to http://weights\.invalid/x\.pth'):
        fetch(server.url, cache_dir=tmp_path, retries=0)


def test_two_processes_fetch_once(server, tmp_path) -> None:
    server.delay = 0.5
    code = (
        'import sys; from mmpoolformer.checkpoints import fetch;'
        'print(fetch(sys.argv[1], cache_dir=sys.argv[2]))'
    )
    command = [sys.executable, '-c', code, server.url, str(tmp_path)]
    options = dict(stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    processes = [subprocess.Popen(command, **options) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert Path(outputs[0].strip()).read_bytes() == server.content
    assert server.requests == [None]
