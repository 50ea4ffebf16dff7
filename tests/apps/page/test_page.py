"""The page of tools/demo.py, in a real browser where there is one."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import struct
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
import httpx
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from random_models import Models
from tool_process import ROOT

from mmpoolformer.apps.page.door import QUESTION, Rules, is_given
from mmpoolformer.apps.page.page import Limits, build_page, running_page, write_examples
from mmpoolformer.apps.page.results import LARGEST_SHOWN, SMALLEST_SHOWN, run_on_file
from mmpoolformer.inference.predictor import Predictor

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which('chromium')
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason='no chromium here')
ARGUMENTS = (
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
)
MOST_PIXELS = 70_000  # more than the examples have
WAIT = 30_000  # milliseconds


def write_bomb(path: Path, side: int = 60_000) -> None:
    """Write a PNG of some bytes that says it has billions of pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack('>I', zlib.crc32(name + data))
        return struct.pack('>I', len(data)) + name + data + check

    head = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    parts = (chunk(b'IHDR', head), chunk(b'IDAT', data), chunk(b'IEND', b''))
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(parts))


@dataclass
class Files:
    """What users may give."""

    folder: Path

    def __post_init__(self) -> None:
        (self.folder / 'text.jpg').write_text('no picture')
        write_bomb(self.folder / 'bomb.png')
        Image.new('RGB', (300, 300)).save(self.folder / 'large.png')
        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(self.folder / 'heavy.png')
        Image.new('RGB', (80, 60), (250, 160, 20)).save(self.folder / 'good.png')

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope='module')
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp('files'))


@pytest.fixture(scope='module')
def predictors(models: Models) -> dict[str, Predictor]:
    names = ('detection', 'segmentation', 'classification')
    return {name: models.predictor(name) for name in names}


@pytest.fixture(scope='module')
def address(predictors: dict[str, Predictor]) -> Iterator[str]:
    limits = Limits(megabytes=0.3, pixels=MOST_PIXELS)
    with running_page(predictors, limits=limits) as (_, address):
        yield address


@pytest.fixture(scope='module')
def browser() -> Iterator[object]:
    api = pytest.importorskip('playwright.sync_api')
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(ARGUMENTS)
        )
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: object, address: str) -> Iterator[object]:
    """A new visitor's page, with what it got from other machines."""
    context = browser.new_context(viewport={'width': 1200, 'height': 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.elsewhere = []
    # Gradio 5 asks for a script from elsewhere; the page's policy stops that.
    page.on('response', lambda r: _note_elsewhere(page.elsewhere, r.url, address))
    page.goto(address)
    page.wait_for_selector('text=Examples')
    yield page
    context.close()


def _note_elsewhere(found: list[str], url: str, address: str) -> None:
    if not url.startswith((address, 'data:', 'blob:')):
        found.append(url)


def give(tab: object, path: str) -> None:
    tab.set_input_files('input[type=file]', path)


def choose(tab: object, model: str) -> None:
    tab.get_by_label('Model').click()
    tab.get_by_role('option', name=model).click()


def told(tab: object, words: str) -> str:
    """Wait until the page says something and return all that it says."""
    tab.wait_for_selector(f'.told:has-text("{words}")')
    return tab.inner_text('.told')


@needs_browser
def test_boxes_are_shown_and_counted(tab: object, files: Files) -> None:
    give(tab, files['good.png'])
    text = told(tab, 'objects')
    assert 'of at least 0.40 in a picture of 80 x 60' in text
    tab.wait_for_selector('.places td')
    rows = tab.locator('.places tr').count()
    assert min(int(text.split()[0]), 13) <= rows - 1
    shown = tab.locator('img[src*="/file="]').evaluate_all(
        'all => all.map(one => [one.naturalWidth, one.naturalHeight])'
    )
    assert [SMALLEST_SHOWN, SMALLEST_SHOWN * 60 / 80] in shown  # the drawing


@needs_browser
@pytest.mark.parametrize('way', ['typed', 'keys'])
def test_another_threshold_takes_effect(tab: object, files: Files, way: str) -> None:
    give(tab, files['good.png'])
    told(tab, 'of at least 0.40')
    if way == 'typed':
        tab.locator('input[type=number]').fill('0.75')
        told(tab, 'of at least 0.75')
    else:
        tab.locator('input[type=range]').press('ArrowRight')
        told(tab, 'of at least 0.45')


def test_a_page_under_a_path_asks_there(predictors: dict[str, Predictor]) -> None:
    with running_page(predictors, root_path='/models') as (_, address):
        status, page = get(address)
    assert status == 200
    assert f'"root":"{address}models"'.encode() in page


@needs_browser
def test_classes_are_shown_with_evidence(tab: object, files: Files) -> None:
    give(tab, files['good.png'])
    told(tab, 'objects')
    choose(tab, 'classification')
    assert 'Grad-CAM' in told(tab, 'evidence')
    text = tab.get_by_test_id('label-output-value').inner_text()
    assert text in ('ant', 'bee', 'cat')
    tab.wait_for_selector('.places', state='hidden')
    tab.wait_for_selector('text=Score threshold', state='hidden')


@needs_browser
def test_examples_need_no_upload(tab: object) -> None:
    choose(tab, 'segmentation')
    tab.locator('.gallery-item').first.click()
    assert 'in a picture of' in told(tab, 'class')
    assert '%' in tab.inner_text('.places')


@needs_browser
@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('text.jpg', 'text.jpg: can not be read as a picture'),
        ('bomb.png', 'bomb.png: can not be read as a picture'),
        ('large.png', 'large.png: 300 x 300 pixels; at most 0.07 million'),
    ],
)
def test_what_can_not_be_taken_is_told_and_the_page_lives_on(
    tab: object, files: Files, name: str, words: str
) -> None:
    give(tab, files[name])
    text = told(tab, name)
    assert words in text
    assert '/tmp' not in text
    assert tab.locator('.told.problem').count() == 1
    tab.reload()
    give(tab, files['good.png'])
    told(tab, 'objects')


@needs_browser
def test_heavy_files_are_refused(tab: object, files: Files) -> None:
    give(tab, files['heavy.png'])
    tab.wait_for_selector('text=/exceeds|too large|maximum/i')
    tab.reload()
    give(tab, files['good.png'])
    told(tab, 'objects')


@needs_browser
def test_nothing_comes_from_other_machines(tab: object, files: Files) -> None:
    give(tab, files['good.png'])
    told(tab, 'objects')
    assert tab.elsewhere == []
    fetched = tab.evaluate(
        "fetch('https://example.com/').then(() => 'open').catch(() => 'closed')"
    )
    assert fetched == 'closed'


def get(address: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=20) as run_on_file:
            return run_on_file.status, run_on_file.read()
    except urllib.error.HTTPError as error:
        return error.code, b''


@pytest.mark.parametrize(
    'path',
    [
        '/etc/passwd',
        '../../../../etc/passwd',
        '..%2f..%2f..%2fetc%2fpasswd',
        f'{ROOT}/README.md',
        'README.md',
        'setup.py',
        'http://127.0.0.1:1/',
        'https://example.com/',
    ],
)
def test_paths_of_the_server_are_refused(address: str, path: str) -> None:
    for way in ('gradio_api/file=', 'file=', 'gradio_api/proxy='):
        assert get(f'{address}{way}{path}')[0] in (400, 403, 404)
    status, page = get(address)
    assert status == 200
    assert b'<html' in page


def post(address: str, way: str, question: object, **headers: str) -> tuple[int, str]:
    """Send a question as JSON and return status and body of the reply."""
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    headers = {'content-type': 'application/json', **headers}
    request = urllib.request.Request(f'{address}gradio_api/{way}', body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def upload(address: str, *paths: str) -> httpx.Response:
    files = [('files', (Path(path).name, Path(path).read_bytes())) for path in paths]
    return httpx.post(f'{address}gradio_api/upload', files=files, trust_env=False)


def ask(address: str, way: str, picture: object, model: object = 'detection') -> str:
    """Ask in one of Gradio's three ways and return all that is said."""
    data = [picture, model, 0.4]
    if way == 'run/predict':
        return post(address, way, {'data': data})[1]
    session = secrets.token_hex(5)
    question = {'data': data, 'fn_index': 1, 'session_hash': session}
    status, said = post(address, way, question)
    if status != 200:
        return said
    place = f'queue/data?session_hash={session}'
    if way == 'call/predict':
        place = f'call/predict/{json.loads(said)["event_id"]}'
    return get(f'{address}gradio_api/{place}')[1].decode()


WAYS = ('run/predict', 'call/predict', 'queue/join')


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('tagged', [False, True])
def test_only_uploads_are_pictures(
    address: str, models: Models, tmp_path: Path, way: str, tagged: bool
) -> None:
    given = upload(address, models.pictures[0]).json()[0]
    folder = Path(given).parent
    os.mkfifo(tmp_path / 'pipe.png')
    link = folder / f'link_{secrets.token_hex(4)}.png'
    link.symlink_to(models.pictures[0])
    stolen = (
        *(models.pictures[0], '/dev/ptmx', str(tmp_path / 'pipe.png'), str(link)),
        *(f'{folder}/../../../examples/scene_4.png', str(folder), 'a\0b', ''),
        *(f'{given}x', 'http://127.0.0.1:9/a.png', 'file:///etc/passwd', '~'),
    )
    meta = {'meta': {'_type': 'gradio.FileData'}} if tagged else {}
    for path in stolen:
        said = ask(address, way, {'path': path, **meta})
        assert 'objects' not in said
        assert '/file=' not in said
    assert 'objects' in ask(address, way, {'path': given, **meta})  # not blocked


@pytest.mark.parametrize('way', WAYS)
def test_odd_pictures_are_refused(address: str, models: Models, way: str) -> None:
    path = models.pictures[0]
    tag = {'_type': 'gradio.FileData'}
    odd = (
        *(path, 3, True, [], [path], {}, [{'path': path}], {'path': [path]}),
        *({'path': {'path': path}}, {'path': None}, {'url': f'file://{path}'}),
        *({'path': path, 'meta': tag, 'is_stream': True}, {'path': path, 'meta': []}),
        {'meta': tag, 'url': path},
    )
    for picture in odd:
        said = ask(address, way, picture)
        assert 'objects' not in said
        assert '/file=' not in said


def test_what_is_no_uploaded_file(tmp_path: Path) -> None:
    folder = tmp_path / 'given'
    folder.mkdir()
    (folder / 'good.png').write_bytes(b'x')
    (tmp_path / 'given_too.png').write_bytes(b'x')
    (folder / 'out.png').symlink_to(tmp_path / 'given_too.png')
    (folder / 'loop').symlink_to(folder / 'loop')
    os.mkfifo(folder / 'pipe')
    assert is_given(str(folder / 'good.png'), folder)
    for name in ('out.png', 'loop', 'pipe', '.', '../given_too.png', 'no', '\0'):
        assert not is_given(f'{folder}/{name}', folder)
    for value in (None, 3, [str(folder / 'good.png')], folder / 'good.png', 'x' * 9999):
        assert not is_given(value, folder)


def send(address: str, head: str, body: Iterable[bytes] = ()) -> tuple[int, str]:
    """Send a raw request and return the status and all of the reply."""
    where = urlsplit(address)
    with socket.create_connection((where.hostname, where.port), timeout=5) as line:
        line.sendall(head.replace('\n', '\r\n').encode() + b'\r\n\r\n')
        with contextlib.suppress(OSError):  # refused before all was sent
            for part in body:
                line.sendall(b'%x\r\n%b\r\n' % (len(part), part))
            if body:
                line.sendall(b'0\r\n\r\n')
        reply = b''
        with contextlib.suppress(OSError):
            while b'\r\n\r\n' not in reply and (more := line.recv(65536)):
                reply += more
    return int(reply.split()[1]), reply.decode(errors='replace')


@pytest.mark.parametrize(
    ('head', 'status'),
    [
        ('GET / HTTP/1.1\nHost: 127.0.0.1:7860', 200),
        ('GET / HTTP/1.1\nHost: localhost', 200),
        ('GET / HTTP/1.1\nHost: LOCALHOST:1', 200),
        ('GET / HTTP/1.1\nHost: [::1]:7860', 200),
        ('GET / HTTP/1.1\nHost: evil.example:7860', 403),
        ('GET / HTTP/1.1\nHost: localhost.evil.example', 403),
        ('GET / HTTP/1.1\nHost: localhost@evil.example', 403),
        ('GET / HTTP/1.1\nHost: 192.168.1.2', 403),
        ('GET / HTTP/1.1\nHost: ', 403),
        ('GET / HTTP/1.0', 403),
        ('GET /config HTTP/1.1\nHost: evil.example', 403),
        ('POST /gradio_api/cancel HTTP/1.1\nHost: evil.example', 403),
        ('POST /gradio_api/vibe-edit HTTP/1.1\nHost: localhost', 404),
        ('POST /gradio_api/component_server HTTP/1.1\nHost: localhost', 404),
        ('POST /gradio_api/call/v2/predict HTTP/1.1\nHost: localhost', 404),
        ('GET /gradio_api/deep_link?session_hash=a HTTP/1.1\nHost: localhost', 403),
        ('GET / HTTP/1.1\nHost: localhost\nOrigin: https://evil.example', 403),
        ('POST /gradio_api/reset HTTP/1.1\nHost: localhost\nOrigin: null', 403),
    ],
)
def test_requests_for_other_names_are_refused(
    address: str, head: str, status: int
) -> None:
    assert send(address, f'{head}\nConnection: close')[0] == status


def test_names_of_a_shared_page(tmp_path: Path) -> None:
    rules = Rules('0.0.0.0', ['Box.example.org'], 1, tmp_path)
    for host in ('box.example.org:80', '10.1.2.3', '[fe80::1]:7860', 'localhost'):
        assert rules.accept_host(host)
    for host in ('evil.example', 'x.box.example.org', '10.1.2.3.evil.example', ''):
        assert not rules.accept_host(host)
    assert Rules('box', (), 1, tmp_path).accept_host('box:8000')


@pytest.mark.parametrize('way', ['upload', 'queue/join', 'run/predict', 'cancel'])
def test_large_bodies_are_refused(address: str, way: str) -> None:
    most = (QUESTION if way != 'upload' else 0.3 * 2**20 + 2**16) + 2
    start = (
        f'POST /gradio_api/{way} HTTP/1.1\nHost: localhost\n'
        'Content-Type: multipart/form-data; boundary=b'
    )
    said = send(address, f'{start}\nContent-Length: {int(most)}')
    assert said[0] == 413
    assert send(address, f'{start}\nContent-Length: {10**12}')[0] == 413
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    chunks = [part, *[bytes(2**16)] * 8]
    assert send(address, f'{start}\nTransfer-Encoding: chunked', chunks)[0] == 413
    assert get(address)[0] == 200


def test_uploads_hold_one_file(
    address: str, files: Files, capfd: pytest.CaptureFixture
) -> None:
    given = upload(address, files['good.png'])
    assert given.status_code == 200
    folder = Path(given.json()[0]).parent.parent
    before = set(folder.iterdir())
    several = upload(address, *[files['good.png']] * 1000)
    assert (several.status_code, several.text) == (400, 'upload one file at a time')
    where = f'{address}gradio_api/upload'
    kind = {'content-type': 'multipart/form-data; boundary=b'}
    part = 'Content-Disposition: form-data; name="files"'
    for headers, body in (
        ({}, b'x'),
        ({'content-type': 'multipart/form-data'}, b'x'),
        (kind, b'no part'),
        (kind, b'--b\r\nno: part\r\n\r\nx\r\n--b--\r\n'),
        (kind, f'--b\r\n{part}\r\n\r\nx\r\n--b--\r\n'.encode()),
        (kind, f'--b\r\n{part}; filename=".."\r\n\r\nx\r\n--b--\r\n'.encode()),
    ):
        reply = httpx.post(where, content=body, headers=headers, trust_env=False)
        assert reply.status_code in (200, 400), body
        if reply.status_code == 200:
            assert all(Path(path).parent.parent == folder for path in reply.json())
    assert 'Traceback' not in capfd.readouterr().err
    # Of refused uploads nothing stays, but Gradio keeps what was called "..".
    assert len(set(folder.iterdir()) - before) <= 2


GOOD = [None, 'detection', 0.4]


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'question',
    [
        *(b'', b'{', b'[]', b'"a"', b'[' * 100_000, b'\xff', b'{"data": [NaN]}'),
        {},
        {'data': 3},
        *({'data': GOOD[:n]} for n in range(3)),
        {'data': [*GOOD, 4]},
        *({'data': [None, name, 0.4]} for name in ('no', None, [], ['detection'], {})),
        *(
            {'data': [None, 'detection', number]}
            for number in (float('nan'), 1e999, 10**400, -1, '0.4', None, True, [0.4])
        ),
        {
            'data': [
                {'path': 'http://127.0.0.1:9/a', 'meta': {'_type': 'gradio.FileData'}}
            ]
        },
        *({'data': GOOD, 'trigger_id': bad} for bad in (999, 'a', -1)),
    ],
)
def test_malformed_questions_are_refused(
    address: str, way: str, question: object, capfd: pytest.CaptureFixture
) -> None:
    if isinstance(question, dict):
        question = {'fn_index': 1, 'session_hash': 'odd', **question}
    status, said = post(address, way, question)
    assert status == 400, said
    assert 'Traceback' not in said + capfd.readouterr().err


@pytest.mark.parametrize('way', ['queue/join', 'run/predict'])
@pytest.mark.parametrize('index', [99, -1, 'a', 1.5, True, [1], 0, 2])
def test_other_functions_check_their_inputs(
    address: str, way: str, index: object, capfd: pytest.CaptureFixture
) -> None:
    question = {'fn_index': index, 'session_hash': 'odd'}
    for data in (['no'], [99], [-1], [None], [[0]], GOOD, [{'path': '/etc/passwd'}]):
        status, said = post(address, way, {**question, 'data': data})
        assert status in (400, 404), said
    assert 'Traceback' not in capfd.readouterr().err


def test_examples_are_loaded_as_a_browser_does(address: str) -> None:
    question = {'fn_index': 0, 'data': [3], 'session_hash': 'b', 'event_data': None}
    status, said = post(address, 'run/predict', question)
    assert status == 200
    picture = json.loads(said)['data'][0]
    picture = picture.get('value', picture)
    for way in WAYS:
        assert 'objects' in ask(address, way, picture)


def test_several_users_at_once(
    address: str, predictors: dict[str, Predictor], models: Models
) -> None:
    library = pytest.importorskip('gradio_client')
    results = {}

    def use(place: int) -> None:
        client = library.Client(address, verbose=False)
        path = models.pictures[place]
        found = client.predict(
            library.handle_file(path), 'detection', 0.5, api_name='/predict'
        )
        results[place] = found[0]

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == [0, 1, 2, 3]
    for place, text in results.items():
        found = predictors['detection'](models.pictures[place]).found.above(0.5)
        assert f'{len(found.labels)} object' in re.sub('<.*?>', '', str(text))


def test_answers_explain_the_likeliest_class(
    predictors: dict[str, Predictor], models: Models
) -> None:
    predictor = predictors['classification']
    said = run_on_file(predictor, models.pictures[1], 0.4, 10**6)
    found = predictor(models.pictures[1]).found
    assert list(said.shares) == [predictor.classes[i] for i in found.labels]
    assert list(said.shares.values()) == pytest.approx(found.scores.tolist())
    assert said.drawing.shape == (SMALLEST_SHOWN, SMALLEST_SHOWN, 3)
    assert not said.is_problem


def test_classifiers_without_a_known_layer_answer_without_a_map(
    models: Models, tmp_path: Path
) -> None:
    torch.save(timm.create_model('test_mambaout').state_dict(), tmp_path / 'a.pth')
    predictor = Predictor('timm/test_mambaout', tmp_path / 'a.pth')
    said = run_on_file(predictor, models.pictures[1], 0.4, 10**6)
    found = predictor(models.pictures[1]).found
    assert next(iter(said.shares)) == predictor.classes[found.labels[0]]
    assert 'evidence' not in said.message and not said.is_problem
    assert said.drawing.shape == (SMALLEST_SHOWN, SMALLEST_SHOWN, 3)


def test_answers_count_regions(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    predictor = predictors['segmentation']
    picture = Image.new('RGB', (2 * LARGEST_SHOWN, 128), (9, 200, 90))
    picture.save(tmp_path / 'wide.png')
    said = run_on_file(predictor, tmp_path / 'wide.png', 0.4, 10**6)
    labels = predictor(picture.resize((LARGEST_SHOWN, 64))).found.labels
    shares = {predictor.classes[i]: (labels == i).mean() for i in np.unique(labels)}
    assert {p.name: p.share for p in said.places} == pytest.approx(shares)
    assert said.drawing.shape == (64, LARGEST_SHOWN, 3)
    assert f'{2 * LARGEST_SHOWN} x 128' in said.message


def test_answers_refuse_what_is_hardly_a_picture(
    predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    Image.new('RGB', (3000, 2)).save(tmp_path / 'line.png')
    for predictor in predictors.values():
        said = run_on_file(predictor, tmp_path / 'line.png', 0.4, 10**6)
        assert said.is_problem
        assert said.message == 'line.png: 3000 x 2 is too narrow'


def test_examples_are_drawn_alike(tmp_path: Path) -> None:
    first, second = (write_examples(tmp_path / name) for name in 'ab')
    assert len(first) >= 6
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert min(Image.open(one).size) >= 32


def test_the_page_listens_on_loopback_and_reports_nothing(
    predictors: dict[str, Predictor], address: str
) -> None:
    assert address.startswith('http://127.0.0.1:')
    page = build_page(predictors, [], Limits())
    assert isinstance(page, gr.Blocks)
    assert page.analytics_enabled is False
