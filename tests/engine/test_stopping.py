"""Stops that several processes agree on, and processes that read on through them."""

import os
import signal
from functools import partial
from multiprocessing import Value
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from tiny_data import write_classification_config
from tiny_training import settings, train
from two_processes import in_two_processes

from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine import launch, picture_files
from mmpoolformer.engine.arguments import parse_train
from mmpoolformer.engine.runner import ToolRunner
from mmpoolformer.engine.signals import (
    JOB_VARIABLE,
    STOP,
    STOPPED,
    STOPPED_CODE,
    StopRequest,
)
from mmpoolformer.engine.stopping import PatientWorker, StopOnSignal


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


def test_a_launcher_asks_and_is_told_by_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / 'job'
    job.mkdir()
    (job / STOP).touch()
    monkeypatch.setenv(JOB_VARIABLE, str(job))
    with pytest.raises(SystemExit) as caught:
        train(settings(tmp_path / 'run', 20), StopOnSignal(StopRequest()))
    assert caught.value.code == 0
    assert (job / STOPPED).exists()
    assert (tmp_path / 'run' / 'iter_1.pth').is_file()


@pytest.mark.parametrize(('running', 'code'), [(1, 0), (0, -signal.SIGTERM)])
def test_reading_processes_outlive_a_signal_while_there_is_a_run(
    running: int, code: int
) -> None:
    number = os.fork()
    if not number:
        begun = []
        PatientWorker(begun.append, Value('b', running))(7)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0 if begun == [7] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == code


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
    look = picture_files._looked

    def signalled(path: str, decode: bool, counted: bool) -> picture_files.Look:
        os.kill(os.getpid(), signal.SIGTERM)
        return look(path, decode, counted)

    write_classification_config(tmp_path / 'config.py', tmp_path / 'images')
    monkeypatch.setattr(picture_files, '_looked', signalled)
    monkeypatch.setenv('LOCAL_RANK', '0')
    work = tmp_path / 'work'
    args = parse_train([str(tmp_path / 'config.py'), '--work-dir', str(work)])
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        launch.train(args)
    # Torch's own handler takes readers that the interpreter ends at exit for an error.
    assert signal.signal(signal.SIGCHLD, before) is signal.SIG_DFL
    assert caught.value.code == STOPPED_CODE
    assert 'Stopped by SIGTERM, with nothing to save yet' in capfd.readouterr().err
    assert not work.exists()
