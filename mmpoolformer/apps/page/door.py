"""What the web page of tools/demo.py lets in and out, before Gradio sees it."""

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from pydantic import ValidationError
from python_multipart.multipart import (
    MultipartParseError,
    MultipartParser,
    parse_options_header,
)
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse

from mmpoolformer.apps.page import LOOPBACK

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]

# Browsers are told to take nothing from other machines, whatever the page says.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'self'"
)
HOST = re.compile(r'(?:\[([0-9a-f:.]+)\]|([\w.-]+))(?::\d+)?', re.ASCII | re.IGNORECASE)
# Addresses by which Gradio would fetch what is on other machines.
ELSEWHERE = re.compile(r'/(file|proxy)=\s*[a-z+]+:', re.IGNORECASE)
# Questions, and what else the page and Gradio's client send.
ASKING = re.compile(r'(?:/gradio_api)?/(?:queue/join|(call|run|api)/(\w+))/?')
OTHERS = re.compile(r'(?:/gradio_api)?/(?:upload|cancel|reset)/?')
# Gradio would write a file for each.
UNWANTED = '/deep_link'
# Bytes of a question, and of an upload beside its file.
QUESTION, BESIDE = 2**18, 2**16
TAG = {'_type': 'gradio.FileData'}
TOO_LARGE = 'larger than the maximum allowed size of {} bytes'


@dataclass(frozen=True)
class Rules:
    """What is let in.

    Attributes:
        host: Address that the page listens on.
        names: Further names of the machine that requests may be for.
        file_bytes: Of an uploaded file.
        folder: Where uploads and examples lie.
    """

    host: str
    names: Sequence[str]
    file_bytes: int
    folder: Path

    def accept_host(self, text: str) -> bool:
        """Tell whether a request is for this page, by its header Host.

        Other pages of a browser can give this machine's address a name of theirs, and
        then read what is here. They can't for addresses in numbers.
        """
        match = HOST.fullmatch(text)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        if name in (*LOOPBACK, self.host.lower(), *map(str.lower, self.names)):
            return True
        return self.host not in LOOPBACK and _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def is_given(path: object, folder: Path) -> bool:
    """Tell whether something from a request is the path of an uploaded file.

    Args:
        path: Anything.
        folder: Where uploads and examples lie.
    """
    if not isinstance(path, str):
        return False
    try:
        real = Path(path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # missing, with a zero byte, a loop
        return False
    # No device or pipe: reading could wait for ever.
    return real.is_file() and real.is_relative_to(folder.resolve())


class Guard:
    """Refuses what the page does not need (ASGI middleware).

    Args:
        app: What it stands before.
        page: The page.
        rules: What is let in.
    """

    def __init__(self, app: Callable, page: gr.Blocks, rules: Rules) -> None:
        self.app = app
        self.page = page
        self.rules = rules

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_policy(message: dict) -> None:
            if message['type'] == 'http.response.start':
                policy = (b'content-security-policy', POLICY.encode())
                message['headers'] = [*message.get('headers', ()), policy]
            await send(message)

        if scope['type'] == 'http':
            try:
                self._check_head(scope)
                receive = await self._check_body(scope, receive)
            except HTTPException as refusal:
                # Not all of the body may have been read.
                reply = JSONResponse(
                    {'detail': refusal.detail},
                    refusal.status_code,
                    headers={'connection': 'close'},
                )
                await reply(scope, receive, send)
                return
        await self.app(scope, receive, send_with_policy)

    def _check_head(self, scope: dict) -> None:
        headers, path = Headers(scope=scope), scope['path']
        hosts = headers.getlist('host')
        if len(hosts) != 1 or not self.rules.accept_host(hosts[0]):
            raise HTTPException(403, 'not a name of this page (see --allow-host)')
        origin = headers.get('origin')
        if origin is not None and not self.rules.accept_host(_netloc(origin)):
            raise HTTPException(403, 'asked by a page of another machine')
        if ELSEWHERE.search(path) or path.endswith(UNWANTED):
            raise HTTPException(403, 'not from here')
        reads = scope['method'] in ('GET', 'HEAD', 'OPTIONS')
        if not reads and not ASKING.fullmatch(path) and not OTHERS.fullmatch(path):
            raise HTTPException(404, 'not here')
        length = headers.get('content-length', '0')
        if not length.isdecimal() or int(length) > self._most_bytes(path):
            raise HTTPException(413, TOO_LARGE.format(self._most_bytes(path)))

    def _most_bytes(self, path: str) -> int:
        upload = path.rstrip('/').endswith('/upload')
        return self.rules.file_bytes + BESIDE if upload else QUESTION

    async def _check_body(self, scope: dict, receive: Receive) -> Receive:
        """Return what gives the body to the page."""
        path = scope['path']
        if scope['method'] != 'POST':
            return receive
        if path.rstrip('/').endswith('/upload'):
            return Upload(Headers(scope=scope), receive, self._most_bytes(path))
        body = await _read(receive, QUESTION)
        question = _parse(body)
        asking = ASKING.fullmatch(path)
        if asking:
            index = _find_function(self.page, asking[1], asking[2], question)
            check_question(self.page, self.rules.folder, index, question)
        sent = [{'type': 'http.request', 'body': body, 'more_body': False}]

        async def replay() -> dict:
            return sent.pop() if sent else await receive()

        return replay


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ''


async def _read(receive: Receive, most: int) -> bytes:
    body = b''
    while True:
        message = await receive()
        body += message.get('body', b'')
        if len(body) > most:
            raise HTTPException(413, TOO_LARGE.format(most))
        if not message.get('more_body', False):
            return body


def _parse(body: bytes) -> dict:
    try:
        question = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        question = None
    if not isinstance(question, dict):
        raise HTTPException(400, 'the body is not a JSON object')
    return question


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is not JSON')


def _find_function(
    page: gr.Blocks, way: str | None, name: str | None, question: dict
) -> object:
    """Return the number of the function that Gradio will run, not checked."""
    named = next((i for i, fn in page.fns.items() if fn.api_name == name), None)
    index = question.get('fn_index')
    # The browser sends a number also where the address has another function's name.
    return named if way == 'call' or (way and index is None) else index


def check_question(
    page: gr.Blocks, folder: Path, index: object, question: dict
) -> None:
    """Check a question to the page.

    Args:
        page: The page.
        folder: Where uploads and examples lie.
        index: Number of the function.
        question: The body.

    Raises:
        HTTPException: If there is no such function, or its inputs can't be such.
    """
    data = question.get('data')
    if type(index) is not int or index not in page.fns:
        raise HTTPException(404, 'no such function')
    trigger = question.get('trigger_id')
    if trigger is not None and (type(trigger) is not int or trigger not in page.blocks):
        raise HTTPException(400, 'no such trigger')
    inputs = page.fns[index].inputs
    if not isinstance(data, list) or len(data) != len(inputs):
        raise HTTPException(400, f'data: give a list of {len(inputs)}')
    for block, value in zip(inputs, data, strict=True):
        problem = _problem(block, value, folder)
        if problem:
            raise HTTPException(400, problem)


def _problem(block: gr.components.Component, value: object, folder: Path) -> str | None:
    """Return what is wrong with an input, if anything is."""
    if isinstance(block, gr.Image):
        fine, wanted = _is_picture(block, value, folder), 'an uploaded file'
    elif isinstance(block, gr.Dropdown):
        names = [choice[1] for choice in block.choices]
        fine, wanted = type(value) is str and value in names, f'one of {names}'
    elif isinstance(block, gr.Slider):
        least, most = block.minimum, block.maximum
        fine = type(value) in (int, float) and least <= value <= most
        wanted = f'from {least} to {most}'
    elif isinstance(block, gr.Dataset):
        count = len(block.samples)
        fine = type(value) is int and 0 <= value < count
        wanted = f'from 0 to {count - 1}'
    else:
        fine, wanted = False, 'nothing'
    return None if fine else f'{block.label or "Examples"}: must be {wanted}'


def _is_picture(block: gr.Image, value: object, folder: Path) -> bool:
    """Tell whether a value is no picture or an uploaded one.

    Nothing may be nested in it: Gradio fetches what looks like a file of the web.
    """
    if value is None:
        return True
    if not isinstance(value, dict) or value.get('meta', TAG) != TAG:
        return False
    if any(isinstance(value[key], (dict, list)) for key in value if key != 'meta'):
        return False
    try:
        block.data_model.model_validate(value)
    except ValidationError:
        return False
    return is_given(value.get('path'), folder)


class Upload:
    """Hands on the body of an upload as long as it is one file, not too large.

    The file is not held in memory.

    Args:
        headers: Of the request.
        receive: Gives the body.
        most: Bytes of the body.
    """

    def __init__(self, headers: Headers, receive: Receive, most: int) -> None:
        self.receive = receive
        self.most = most
        self.taken = 0
        self.parts = 0
        self.head = [b'', b'']
        self.disposition = b''
        kind, options = parse_options_header(headers.get('content-type', ''))
        boundary = options.get(b'boundary')
        if kind != b'multipart/form-data' or not boundary:
            raise HTTPException(400, 'upload a file as multipart/form-data')
        self.parser = MultipartParser(
            boundary,
            {
                'on_part_begin': self._begin,
                'on_header_field': lambda data, i, j: self._add(0, data[i:j]),
                'on_header_value': lambda data, i, j: self._add(1, data[i:j]),
                'on_header_end': self._end_header,
                'on_headers_finished': self._check_part,
            },
        )

    async def __call__(self) -> dict:
        """Return the next message.

        Raises:
            MultiPartException: If the upload is refused. Gradio then deletes the file.
        """
        message = await self.receive()
        body = message.get('body', b'')
        self.taken += len(body)
        if self.taken > self.most:
            raise MultiPartException(TOO_LARGE.format(self.most))
        try:
            self.parser.write(body)
        except MultipartParseError as error:
            raise MultiPartException(f'no multipart/form-data: {error}') from error
        return message

    def _begin(self) -> None:
        self.parts += 1
        self.disposition = b''
        if self.parts > 1:
            raise MultiPartException('upload one file at a time')

    def _add(self, place: int, data: bytes) -> None:
        self.head[place] += data

    def _end_header(self) -> None:
        name, value = self.head
        if name.lower() == b'content-disposition':
            self.disposition = value
        self.head = [b'', b'']

    def _check_part(self) -> None:
        _, options = parse_options_header(self.disposition)
        if options.get(b'name') != b'files' or b'filename' not in options:
            raise MultiPartException('upload a file by the name of files')
