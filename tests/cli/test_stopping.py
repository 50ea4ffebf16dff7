"""Trainings that are interrupted, stopped, or lose a process."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_data import write_classification_config
from tool_process import environment, free_port, run_here, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path('/proc/self/environ').exists(), reason='looks for processes in /proc'
    ),
]
STEPS = 8


def train(
    tool: str,
    work: Path,
    config: Path,
    *words: object,
    steps: int = STEPS,
    **variables: str,
) -> subprocess.Popen:
    """Start a training."""
    return start(tool, *command(work, config, *words, steps=steps), **variables)


def command(
    work: Path, config: Path, *words: object, steps: int = STEPS
) -> tuple[object, ...]:
    """Return options with two processes that read, and short ways to the end."""
    options = (
        "train_cfg={'_delete_':True,'by_epoch':False,"
        f"'max_iters':{steps},'val_interval':{steps}}}",
        'param_scheduler=None',
        'default_hooks.checkpoint.by_epoch=False',
        f'default_hooks.checkpoint.interval={steps // STEPS}',
        'train_dataloader.num_workers=2',
    )
    places = '--no-check', '--work-dir', work
    return (config, *words, *places, '--cfg-options', *options)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A folder with a config for two classes of noise."""
    folder = tmp_path_factory.mktemp('stopping')
    write_classification_config(folder / 'config.py', folder / 'images')
    return SimpleNamespace(folder=folder, config=folder / 'config.py')


def steps_done(work: Path) -> list[int]:
    log = work / 'train_log.jsonl'
    text = log.read_text() if log.is_file() else ''
    return [json.loads(line)['iter'] for line in text.splitlines() if line[-1] == '}']


def wait_for(what: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + 200
    while not what():
        assert process.poll() is None, process.stdout.read()[-4000:]
        assert time.monotonic() < end
        time.sleep(0.02)


def of_run(work: Path) -> dict[int, dict[str, str]]:
    """Return processes whose command line names a work dir, with their variables."""
    found = {}
    for place in Path('/proc').glob('[0-9]*'):
        try:
            words = (place / 'cmdline').read_bytes().split(b'\0')
            pairs = (place / 'environ').read_bytes().decode().split('\0')
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if str(work).encode() in words:
            variables = dict(pair.partition('=')[::2] for pair in pairs)
            found[int(place.name)] = variables
    return found


def check_gone(work: Path) -> None:
    end = time.monotonic() + 15
    while of_run(work) and time.monotonic() < end:
        time.sleep(0.05)
    assert not of_run(work)


@pytest.mark.parametrize('whom', [pytest.param('first', marks=pytest.mark.long), 'all'])
def test_ctrl_c_leaves_no_process(tiny: SimpleNamespace, whom: str) -> None:
    """A terminal signals all processes; `kill -INT` the first alone."""
    work = tiny.folder / f'interrupted_{whom}'
    process = train('tools/train.py', work, tiny.config)
    wait_for(lambda: len(steps_done(work)) > 2, process)
    assert len(of_run(work)) >= 3  # two read pictures
    for number in of_run(work) if whom == 'all' else [process.pid]:
        os.kill(number, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    starts = 'error:', 'Traceback'
    told = [line for line in output.splitlines() if line.startswith(starts)]
    assert process.returncode == 130, told
    assert told == ['error: interrupted']
    check_gone(work)


@pytest.mark.parametrize('count', [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_lost_process_restarts_all_from_the_last_checkpoint(
    tiny: SimpleNamespace, count: int
) -> None:
    work = tiny.folder / f'lost_of_{count}'
    process = train(
        *('tools/dist_train.sh', work, tiny.config, count),
        **dict(PORT=free_port(), MAX_RESTARTS='1'),
    )
    wait_for(lambda: len(steps_done(work)) > 2, process)
    lost = [
        n
        for n, variables in of_run(work).items()
        if variables.get('RANK') == str(count - 1)
    ]
    os.kill(min(lost), signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-5000:]
    (resumed,) = re.findall(r'resumed epoch: 0, iter: (\d+)', output)
    assert int(resumed) >= 2
    assert steps_done(work) == list(range(1, STEPS + 1))
    check_gone(work)


@pytest.mark.long
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1'])
def test_processes_that_are_stopped_save_at_the_same_iteration(
    tiny: SimpleNamespace, name: str
) -> None:
    work = tiny.folder / f'stopped_by_{name}'
    process = train(
        *('tools/dist_train.sh', work, tiny.config, 2),
        **dict(steps=4000, PORT=free_port()),
    )
    wait_for(lambda: len(steps_done(work)) > 2, process)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output[-5000:]
    (step,) = re.findall(r'after iteration (\d+), and saved', output)
    assert int(step) == steps_done(work)[-1]
    assert (work / 'last_checkpoint').read_text().endswith(f'iter_{step}.pth')
    assert 'Traceback' not in output
    check_gone(work)


@pytest.mark.parametrize(
    'moment', [pytest.param('start', marks=pytest.mark.long), 'training']
)
def test_processes_end_with_their_launcher(tiny: SimpleNamespace, moment: str) -> None:
    work = tiny.folder / f'orphans_{moment}'
    process = train(
        *('tools/dist_train.sh', work, tiny.config, 2),
        **dict(steps=4000, PORT=free_port()),
    )
    begun = {
        'start': lambda: len(of_run(work)) >= 3,  # the launcher names it, too
        'training': lambda: len(steps_done(work)) > 2,
    }
    wait_for(begun[moment], process)
    process.kill()
    process.wait()
    check_gone(work)


CHECK = """
import os, time
os.fork()  # one that reads
time.sleep(600)
"""


def test_a_signal_ends_the_check_before_a_training_and_its_readers(
    tmp_path: Path,
) -> None:
    (tmp_path / 'train.py').write_text(CHECK)
    module = '-m', 'mmpoolformer.engine.torchrun', '--check-first'
    words = [*module, tmp_path / 'train.py', '--work-dir', tmp_path]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: len(of_run(tmp_path)) == 3, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert output.startswith('Stopped by SIGTERM, with nothing to save yet')
    assert output.count('\n') == 1
    check_gone(tmp_path)


def takes_signals(process: subprocess.Popen) -> bool:
    status = Path(f'/proc/{process.pid}/status').read_text()
    caught = int(re.search(r'SigCgt:\s*(\w+)', status)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


# From the first moment at which the tool answers to the end; in --long with the group.
MOMENTS = {
    'import': lambda process, work: takes_signals(process),
    'preparation': lambda process, work: work.is_dir(),
    'readers': lambda process, work: len(of_run(work)) > 1,
    'last iteration': lambda process, work: len(steps_done(work)) == STEPS,
    'results': lambda process, work: (work / 'val_results.json').exists(),
    'curves': lambda process, work: (work / 'curves.png').exists(),
}


@pytest.mark.parametrize('whole_group', [False, True])
@pytest.mark.parametrize('moment', MOMENTS)
def test_a_signal_at_any_moment_ends_in_order(
    tiny: SimpleNamespace, moment: str, whole_group: bool, long_mode: bool
) -> None:
    is_short = (moment, whole_group) in [('import', False), ('readers', True)]
    if not (is_short or long_mode):
        pytest.skip('only with --long')
    work = tiny.folder / f'{moment} {whole_group}'
    process = train('tools/train.py', work, tiny.config)
    wait_for(lambda: MOMENTS[moment](process, work), process)
    numbers = of_run(work) if whole_group else [process.pid]
    for number in sorted(numbers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    is_over = moment in ('last iteration', 'results', 'curves')
    assert process.returncode in ((0, 75) if is_over else (75,)), output[-4000:]
    assert 'Traceback' not in output
    assert not list(work.rglob('*.part'))
    check_gone(work)
    words = command(work, tiny.config, '--resume', 'auto')
    again = run_here(['tools/train.py', *words], tiny.folder)
    assert again['code'] == 0, again['err'][-4000:]
    assert steps_done(work) == list(range(1, STEPS + 1))
    results = json.loads((work / 'val_results.json').read_text())
    assert [entry['iter'] for entry in results] == [STEPS]
