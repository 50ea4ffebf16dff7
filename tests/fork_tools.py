"""Trainings in processes that are forked from one, because importing takes long.

`python fork_tools.py < jobs.json`: a list of `{'argv': [...]}`, the command lines of
tools/train.py, each with any of `signal` and `at` (the process sends itself that signal
in that iteration) and `watch` (count the files opened with this in their name). The
result on stdout has `code`, `out` and `opened` of each.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from tool_process import environment

THIS = Path(__file__).resolve()


def fork_trainings(jobs: list[dict], cwd: Path) -> list[dict]:
    """Run trainings one after another; see above."""
    done = subprocess.run(
        [sys.executable, THIS],
        input=json.dumps(jobs, default=str),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def _prepare(job: dict, opened: list[str]) -> None:
    from mmengine.hooks import Hook

    from mmpoolformer.engine.runner import ToolRunner

    class SignalInIteration(Hook):
        def before_train_iter(self, runner: ToolRunner, **_: object) -> None:
            if runner.iter + 1 == job['at']:
                os.kill(os.getpid(), getattr(signal, job['signal']))

    class Runner(ToolRunner):
        def prepare_training(self) -> None:
            super().prepare_training()
            if 'signal' in job:
                self.register_hook(SignalInIteration())

    def watch(event: str, arguments: tuple) -> None:
        if event == 'open' and job['watch'] in str(arguments[0]):
            opened.append(str(arguments[0]))

    from mmpoolformer.engine import launch

    launch.ToolRunner = Runner
    if 'watch' in job:
        sys.addaudithook(watch)


def _work(job: dict, output: int, report: int) -> None:
    from mmpoolformer.cli.train import parse as parse_train
    from mmpoolformer.engine.launch import train
    from mmpoolformer.utils.errors import run_tool

    os.dup2(output, 1), os.dup2(output, 2)
    opened: list[str] = []
    _prepare(job, opened)
    try:
        code = run_tool(lambda argv: train(parse_train(argv)), job['argv'])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 99
    os.write(report, str(len(opened)).encode())
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def _forked(job: dict) -> dict:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as report:
        number = os.fork()
        if not number:
            _work(job, output.fileno(), report.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        output.seek(0), report.seek(0)
        opened = report.read()
        out = output.read().decode()
    return {'code': code, 'out': out, 'opened': int(opened or -1)}


if __name__ == '__main__':
    import torch
    from mmdet.utils import register_all_modules as register_detection
    from mmengine.config import Config
    from mmengine.runner import runner as mmengine_runner
    from mmseg.utils import register_all_modules as register_segmentation

    import mmpoolformer.engine.launch  # noqa: F401

    torch.set_num_threads(1)
    mmengine_runner.collect_env = dict  # it asks compilers, for seconds
    # At every save they start git, and format the config for seconds.
    mmengine_runner.get_git_hash = str
    Config.pretty_text = property(str)
    register_detection(False), register_segmentation(False)
    print(json.dumps([_forked(job) for job in json.load(sys.stdin)]))
