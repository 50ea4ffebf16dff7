import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest


class FileServer(ThreadingHTTPServer):
    """Serves one file, as well or as badly as its attributes say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.content = bytes(range(256)) * 4000
        self.etag = '"one"'
        self.ranges = True
        self.content_type = 'application/octet-stream'
        self.failures = []  # answers to give first, such as 503
        self.retry_after = None
        self.cuts = []  # number of bytes after which the first answers break off
        self.delay = 0.0  # seconds before the body
        self.location = None  # where to redirect to
        self.requests = []  # Range header of each request

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/some/weights.pth'

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get('Range')
        server.requests.append(asked)
        if server.location:
            self.send_response(302)
            self.send_header('Location', server.location)
            self.end_headers()
            return
        if server.failures:
            self.send_response(server.failures.pop(0))
            if server.retry_after:
                self.send_header('Retry-After', server.retry_after)
            self.end_headers()
            return
        start = self._start(asked)
        if start > len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header('Content-Type', server.content_type)
        self.send_header('Content-Length', str(len(body)))
        if server.etag:
            self.send_header('ETag', server.etag)
        if start:
            size = len(server.content)
            self.send_header('Content-Range', f'bytes {start}-{size - 1}/{size}')
        self.end_headers()
        time.sleep(server.delay)
        with contextlib.suppress(ConnectionError):  # the client may have given up
            self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def _start(self, asked: str | None) -> int:
        same = self.headers.get('If-Range') == self.server.etag
        if not (asked and self.server.ranges and same):
            return 0
        return int(asked.removeprefix('bytes=').removesuffix('-'))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """Record how long downloads wait between tries, without waiting."""
    waits = []
    clock = SimpleNamespace(sleep=waits.append)
    monkeypatch.setattr('mmpoolformer.checkpoints.download.time', clock)
    return waits
