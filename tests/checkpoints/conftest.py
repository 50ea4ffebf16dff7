import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class FileServer(ThreadingHTTPServer):
    """Serves one file, as well or as badly as its attributes say."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.content = bytes(range(256)) * 4000
        self.files = {}  # contents by path, in place of that for every path
        self.etag = '"one"'
        self.content_type = 'application/octet-stream'
        self.failures = []  # answers to give first, such as 503
        self.cuts = []  # number of bytes after which the first answers break off
        self.delay = 0.0  # seconds before the body
        self.location = None  # where to redirect to
        self.length = True  # whether to announce it
        self.length_said = None  # another one than the right one
        self.endless = False  # whether to send the content for ever
        self.sent = 0  # bytes of endless content
        self.requests = []  # method and path of each request

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}/some/weights.pth'

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(f'{self.command} {self.path}')
        if server.location:
            self.send_response(302)
            self.send_header('Location', server.location)
            self.end_headers()
            return
        if server.failures:
            self.send_response(server.failures.pop(0))
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        body = server.files.get(self.path, None if server.files else server.content)
        if body is None:
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header('Content-Type', server.content_type)
        if server.length:
            self.send_header('Content-Length', str(server.length_said or len(body)))
        etag = hashlib.sha256(body).hexdigest() if server.files else server.etag
        self.send_header('ETag', etag)
        self.send_header('X-Repo-Commit', 'c' * 40)  # as the hub does
        self.end_headers()
        if self.command == 'HEAD':
            return
        time.sleep(server.delay)
        with contextlib.suppress(ConnectionError):  # the client may have given up
            self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)
            while server.endless:
                server.sent += self.wfile.write(body)

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
def hub(server, monkeypatch):
    """The server as a mirror of the hub."""
    endpoint = f'http://127.0.0.1:{server.server_port}'
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', endpoint)
    template = endpoint + '/{repo_id}/resolve/{revision}/{filename}'
    monkeypatch.setattr(
        'huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE', template
    )
    monkeypatch.setattr(
        'huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE',
        template,
        raising=False,
    )
    server.etag = f'"{server.sha256}"'
    return server
