"""The models to show and the running page, for the command `demo`."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from mmpoolformer.apps.guided import DETECTOR
from mmpoolformer.apps.page import LOOPBACK
from mmpoolformer.apps.pretrain_demo import CLASSIFIER, PretrainDemo
from mmpoolformer.apps.quickstart import Quickstart
from mmpoolformer.engine.resuming import last_named
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.inference.weights import report_random
from mmpoolformer.utils.devices import choose_device
from mmpoolformer.utils.errors import UserError, as_user_error
from mmpoolformer.utils.text import distinct

ENDINGS = ('SIGINT', 'SIGTERM', 'SIGHUP')


@dataclass(frozen=True)
class Address:
    """Where the page is.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; None is the first free one from 7860.
        names: Names of this machine that users may write in place of its address.
        root_path: Where a proxy shows the page, such as `'/models'`.
    """

    host: str = LOOPBACK[0]
    port: int | None = None
    names: Sequence[str] = ()
    root_path: str = ''


def serve(
    models: Sequence[tuple[str, str | None]],
    address: Address,
    device: str | None = None,
    trust: bool = False,
    max_megabytes: float = 20,
    max_megapixels: float = 25,
) -> None:
    """Serve the page until interrupted.

    Args:
        models: Names or configs with their checkpoints, see `Predictor`; without any,
            what the demonstrations have trained here.
        address: Where.
        device: See `choose_device`.
        trust: Whether checkpoints may hold more than data.
        max_megabytes: Larger files are refused.
        max_megapixels: Larger pictures are refused.

    Raises:
        UserError: If a model can't be used, the port is taken, or Gradio is missing.
    """
    page = _import_page()
    models = models or trained_models()
    device = choose_device(device)
    predictors = {}
    for model, checkpoint in models:
        with as_user_error('', (OSError, ValueError)):
            one = Predictor(model, checkpoint, device, trust)
        report_random(one.title, one.unfilled)
        title = distinct(one.title, {name.casefold() for name in predictors})
        predictors[title] = one
    limits = page.Limits(max_megabytes, round(max_megapixels * 1e6))
    host, port = address.host, address.port
    where = host if port is None else f'{host}:{port}'
    running = page.running_page(
        predictors, host, port, limits, address.names, address.root_path
    )
    with ended_by_signals(), as_user_error(where, (OSError,)), running as (_, url):
        print(f'{url}  (Ctrl-C ends it)', flush=True)
        if host not in LOOPBACK:
            print('note: whoever reaches this machine can use it', file=sys.stderr)
        Event().wait()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Leave the block at Ctrl-C, SIGTERM or SIGHUP, the usual ends of a server.

    What is opened in the block is closed. Further signals don't disturb that.
    """

    def end(number: int, frame: object) -> None:
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    # What is ignored (nohup) stays ignored; Windows has no SIGHUP.
    names = [getattr(signal, name, None) for name in ENDINGS]
    before = {
        name: signal.getsignal(name)
        for name in names
        if name is not None and signal.getsignal(name) != signal.SIG_IGN
    }
    for name in before:
        signal.signal(name, end)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def trained_models() -> list[tuple[str, str]]:
    """Return configs and checkpoints of what the demonstrations have trained here.

    Raises:
        UserError: If there is nothing.
    """
    folders = {
        Quickstart().work_dir: DETECTOR,
        PretrainDemo().work_dir / 'classifier': CLASSIFIER,
    }
    found = []
    for folder, name in folders.items():
        # mmengine writes the whole config of a training beside its checkpoints.
        config = folder / f'{Path(name).name}.py'
        checkpoint = last_named(folder)
        if config.is_file() and checkpoint is not None and checkpoint.is_file():
            found.append((str(config), str(checkpoint)))
    if not found:
        raise UserError(
            'no model was given, and none was trained here: run `make quickstart` '
            '(some minutes), or give MODEL_OR_CONFIG:CKPT'
        )
    return found


def _import_page() -> object:
    try:
        from mmpoolformer.apps.page import page
    except ModuleNotFoundError as error:
        if error.name != 'gradio':
            raise
        raise UserError(
            "the page needs Gradio: python -m pip install 'mmpoolformer[demo]'"
        ) from error
    return page
