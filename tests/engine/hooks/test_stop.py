"""Stops that several processes agree on, and processes that read on through them."""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import Value
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from tiny_data import write_classification_config
from tiny_training import STEPS, settings, train
from torch.testing import assert_close
from two_processes import in_two_processes

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.data.checks import part as part_checks
from mmpoolformer.engine import launch
from mmpoolformer.engine.hooks.stop import PatientWorker, StopOnSignal
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.signals import (
    JOB_VARIABLE,
    LAUNCHED_VARIABLE,
    LAUNCHER,
    STOP,
    STOPPED,
    STOPPED_CODE,
    OnSignal,
    StopRequest,
    locked,
    run_stoppable,
)
from mmpoolformer.utils.errors import UserError

pytestmark = pytest.mark.slow


class SignalIn(Hook):
    """Send this process a signal in an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: ToolRunner, **_: object) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGUSR1)


def _stops(folder: Path, rank: int) -> int:
    """Only the second process gets the signal, in iteration 3."""
    request = StopRequest()
    hooks = [SignalIn(3)] if rank else []
    try:
        with request.listening():
            train(settings(folder, 20), StopOnSignal(request, interval=5), *hooks)
    except SystemExit as end:
        return end.code
    return 1


def test_processes_stop_together_whoever_was_told(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    codes = in_two_processes(partial(_stops, folder), tmp_path / 'meet')
    assert codes == [STOPPED_CODE, 0]
    assert read_checkpoint(folder / 'iter_5.pth')['meta']['iter'] == 5
    assert (folder / 'last_checkpoint').read_text() == str(folder / 'iter_5.pth')


@pytest.mark.parametrize('asks', ['launcher', 'other process'])
def test_a_launcher_asks_and_is_told_by_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """Whatever asks: the main thread of a process is interrupted where it is."""
    monkeypatch.setenv(JOB_VARIABLE, str(tmp_path))
    monkeypatch.setenv(LAUNCHED_VARIABLE, 'x')
    with locked(tmp_path / LAUNCHER):
        number = _fork_tool(_waits)
        if asks == 'launcher':
            (tmp_path / STOP).touch()
        else:
            assert StopRequest().exit_code() == 0
        assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == 0
    assert (tmp_path / STOPPED).exists()


@pytest.mark.parametrize('was_killed', [True, False])
def test_a_process_does_not_begin_without_its_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_killed: bool
) -> None:
    monkeypatch.setenv(JOB_VARIABLE, str(tmp_path))
    monkeypatch.setenv(LAUNCHED_VARIABLE, 'x')
    with locked(tmp_path / LAUNCHER):
        pass
    if not was_killed:
        (tmp_path / LAUNCHER).unlink()
    number = _fork_tool(_waits)
    status = os.waitpid(number, 0)[1]
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def _fork_tool(main: Callable[[list[str], StopRequest], None]) -> int:
    """Run a tool's main function in a fork; return the process's number."""
    number = os.fork()
    if not number:
        code = 99
        try:
            code = run_stoppable(main, [])
        finally:
            os._exit(code)
    return number


def _waits(argv: list[str], stop: StopRequest) -> None:
    time.sleep(30)
    raise AssertionError


@pytest.mark.parametrize('failure', [ValueError('x'), UserError('x'), KeyError('x')])
@pytest.mark.parametrize('swallowed', [False, True])
def test_what_a_stop_leads_to_is_a_stop(failure: Exception, swallowed: bool) -> None:
    """Libraries make other errors of SystemExit, and ignore it in callbacks."""

    def main(argv: list[str], stop: StopRequest) -> None:
        stop.on_signal = OnSignal.UNWIND
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except SystemExit:
            if not swallowed:
                raise failure from None

    status = os.waitpid(_fork_tool(main), 0)[1]
    assert os.waitstatus_to_exitcode(status) == STOPPED_CODE


class SignalInValidation(Hook):
    """Send this process a signal in the second batch of a validation."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_val_iter(self, runner: ToolRunner, batch_idx: int, **_: object) -> None:
        assert not (runner.iter == self.iteration and batch_idx > 1), 'goes on'
        if runner.iter == self.iteration and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize('iteration', [6, 15, STEPS])
def test_a_run_stopped_in_a_validation_equals_one_that_was_not(
    tmp_path: Path, iteration: int
) -> None:
    """With averaged weights, which a validation puts in the model's place."""

    def config(name: str) -> Config:
        config = settings(tmp_path / name)
        config.train_cfg.val_interval = 3  # also where no checkpoint is due
        return config

    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    train(config('whole'))
    request = StopRequest()
    hooks = StopOnSignal(request), SignalInValidation(iteration)
    with request.listening(), pytest.raises(SystemExit) as caught:
        train(config('stopped'), *hooks)
    assert caught.value.code == STOPPED_CODE
    results = json.loads((stopped / 'val_results.json').read_text())
    assert results[-1]['iter'] == iteration - 3 if iteration > 3 else not results
    assert (stopped / f'iter_{iteration}.pth').is_file()
    train(config('stopped'))
    for name in ('val_results.json', 'train_log.jsonl'):
        assert (stopped / name).read_text() == (whole / name).read_text()
    names = [sorted(p.name for p in f.glob('*.pth')) for f in (whole, stopped)]
    assert names[0] == names[1]
    for name in names[0]:
        one, other = (read_checkpoint(folder / name) for folder in (whole, stopped))
        for part in ('state_dict', 'ema_state_dict'):
            assert_close(one[part], other[part], rtol=0, atol=0)


@pytest.mark.parametrize(('running', 'code'), [(1, 0), (0, -signal.SIGTERM)])
def test_reading_processes_outlive_a_signal_while_there_is_a_run(
    running: int, code: int
) -> None:
    begun = []
    worker = PatientWorker(begun.append, Value('b', running))
    number = os.fork()
    if not number:
        worker(7)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0 if begun == [7] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == code


def test_ctrl_c_at_a_fork_is_not_lost() -> None:
    """Python ignores exceptions there; any thread may be the one that is signalled."""
    end = Event()
    other = Thread(target=end.wait, daemon=True)
    other.start()

    def readers() -> Iterator:
        with suppress(KeyboardInterrupt):
            signal.pthread_kill(other.ident, signal.SIGINT)
            time.sleep(0.1)
        return iter([1])

    loader = SimpleNamespace(worker_init_fn=None, _get_iterator=readers)
    runner = SimpleNamespace(train_dataloader=loader, val_loop=None)
    StopOnSignal(StopRequest()).before_run(runner)
    with pytest.raises(KeyboardInterrupt):
        loader._get_iterator()
    end.set()


def test_a_reading_process_ends_though_its_parent_went_before_it_began() -> None:
    still_there, end = os.pipe()
    parent = os.fork()
    if not parent:
        worker, parent = PatientWorker(None, Value('b', 1)), os.getpid()
        if not os.fork():
            while os.getppid() == parent:
                time.sleep(0.001)
            worker(0)
            time.sleep(60)
        os._exit(0)
    os.close(end)
    os.waitpid(parent, 0)
    assert select.select([still_there], [], [], 20)[0]
    assert os.read(still_there, 1) == b''  # the last that could write has ended
    os.close(still_there)


def test_handlers_are_as_before_after_a_run() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    stop = StopOnSignal(request)
    with pytest.raises(ZeroDivisionError), request.listening(), stop.patient_readers():
        assert signal.getsignal(signal.SIGTERM) != before
        assert stop.running.value == 1
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before
    assert stop.running.value == 0


def test_a_signal_while_data_is_checked_ends_with_the_same_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """It comes several times, as from a scheduler that does not want to wait."""
    look = part_checks.inspect_image

    def signalled(path: str, decode: bool, reader: str) -> part_checks.ImageInfo:
        os.kill(os.getpid(), signal.SIGTERM)
        return look(path, decode, reader)

    write_classification_config(tmp_path / 'config.py', tmp_path / 'images')
    monkeypatch.setattr(part_checks, 'inspect_image', signalled)
    monkeypatch.setenv('LOCAL_RANK', '0')
    work = tmp_path / 'work'
    job = launch.Training(config=tmp_path / 'config.py', work_dir=work)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        launch.train(job)
    # Torch's own handler takes readers that the interpreter ends at exit for an error.
    assert signal.signal(signal.SIGCHLD, before) is signal.SIG_DFL
    assert caught.value.code == STOPPED_CODE
    assert 'Stopped by SIGTERM, with nothing to save yet' in capfd.readouterr().err
    assert not work.exists()
