import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from mmengine.runner import runner
from tool_process import own_handlers
from yapf.yapflib import yapf_api

if TYPE_CHECKING:
    from random_models import Models

if not torch.cuda.is_available():
    # Before anything imports Triton: its kernels then run on the CPU, line by line.
    os.environ['TRITON_INTERPRET'] = '1'


def pytest_configure() -> None:
    # Autograd counts devices at its first backward pass; after torch.compile it finds
    # more than the CPU, and then forks of this process can't train.
    torch.ones(1, requires_grad=True).backward()
    # In the background of a shell Ctrl-C is ignored, as it would be in all children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    gc.freeze()  # the libraries, which mmengine's collections would walk for seconds


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        '--long',
        action='store_true',
        help='repeat what a short run does a few times (kills, iterations) often, and '
        'run what it leaves out',
    )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    if config.getoption('--long'):
        return
    for item in items:
        if item.get_closest_marker('long'):
            item.add_marker(pytest.mark.skip(reason='only with --long'))


@pytest.fixture(scope='session')
def long_mode(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption('--long')


@pytest.fixture(autouse=True, scope='session')
def fast_starts() -> Iterator[None]:
    """Leave out what each run of mmengine does for seconds, for people only."""
    with pytest.MonkeyPatch.context() as patch:
        # The layout of a config's text, its versions of compilers, git at every save.
        patch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, True))
        patch.setattr(runner, 'collect_env', dict)
        patch.setattr(runner, 'get_git_hash', str)
        yield


@pytest.fixture(autouse=True, scope='module')
def own_process() -> Iterator[None]:
    """Undo what tools leave here: checkpoint loaders, scope, signal handlers."""
    with own_handlers():
        yield
    if 'openvino' in sys.modules:
        gc.collect()  # in a fork its models would wait for threads that are not there


@pytest.fixture(scope='session')
def models(tmp_path_factory: pytest.TempPathFactory) -> 'Models':
    from random_models import make_models  # timm, and with it Triton

    return make_models(tmp_path_factory.mktemp('models'))
