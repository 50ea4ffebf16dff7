import json
import os
import subprocess
from pathlib import Path

import pytest
from tool_process import ROOT, environment, write_stand_ins


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with an `srun` and a `python` that print how they were called."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    write_stand_ins(folder, 'srun', 'sbatch', 'stand_in_python')
    return folder


def call(folder: Path, script: str, *words: str, **variables: str) -> dict:
    """Call a script of tools/ with the stand-ins; return what they were given."""
    done = subprocess.run(
        [ROOT / 'tools' / script, *words],
        env=shell_environment(folder, variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shell_environment(folder: Path, variables: dict) -> dict:
    kept = {k: v for k, v in environment().items() if 'NUM_THREADS' not in k}
    path = f'{folder}{os.pathsep}{os.environ["PATH"]}'
    return {**kept, 'PATH': path, 'PYTHON': 'stand_in_python', **variables}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / 'a config.py'  # the blank must survive
    path.write_text('')
    return str(path)


def test_dist_train_passes_everything_on(stand_in: Path, config: str) -> None:
    given = call(
        *(stand_in, 'dist_train.sh', config, '8', '--cfg-options', 'a="b c"'),
        **dict(NNODES='2', NODE_RANK='1', PORT='1234', MASTER_ADDR='10.0.0.1'),
    )
    assert given['argv'] == [
        *('-m', 'mmpoolformer.engine.torchrun', '--check-first'),
        *('--nnodes=2', '--node_rank=1', '--master_addr=10.0.0.1'),
        *('--master_port=1234', '--nproc_per_node=8'),
        *(str(ROOT / 'tools/train.py'), config, '--launcher', 'pytorch'),
        *('--cfg-options', 'a="b c"', '--no-check'),
    ]
    assert given['env']['PYTHONPATH'].startswith(str(ROOT / 'tools' / '..'))


def test_dist_train_restarts_lost_processes_when_asked(
    stand_in: Path, config: str
) -> None:
    given = call(
        *(stand_in, 'dist_train.sh', config, '2'),
        **dict(MAX_RESTARTS='3', PORT='1234'),
    )
    assert given['argv'][3:-5] == [
        *('--nnodes=1', '--node_rank=0', '--master_addr=127.0.0.1'),
        *('--master_port=1234', '--max_restarts=3', '--rdzv_backend=c10d'),
        *('--rdzv_endpoint=127.0.0.1:1234', '--rdzv_id=mmpoolformer'),
        *('--rdzv_conf=is_host=1', '--local_addr=127.0.0.1', '--nproc_per_node=2'),
    ]


@pytest.mark.parametrize(
    ('gpus', 'words', 'checks'),
    [('8', [], True), ('1', [], False), ('8', ['--no-check'], False)],
)
def test_the_data_is_checked_before_several_processes_start(
    stand_in: Path, config: str, gpus: str, words: list[str], checks: bool
) -> None:
    given = call(stand_in, 'dist_train.sh', config, gpus, *words)['argv']
    assert given[:2] == ['-m', 'mmpoolformer.engine.torchrun']
    assert (given[2] == '--check-first') == checks
    assert given.count('--no-check') == (gpus != '1')


@pytest.mark.parametrize('gpus', [1, 2, 10_000])
def test_processes_share_the_cores(stand_in: Path, config: str, gpus: int) -> None:
    given = call(stand_in, 'dist_train.sh', config, str(gpus))
    cores = len(os.sched_getaffinity(0))
    assert given['env']['OMP_NUM_THREADS'] == str(max(1, cores // gpus))


def test_dist_test_passes_the_checkpoint_on(stand_in: Path, config: str) -> None:
    given = call(stand_in, 'dist_test.sh', config, 'zoo://x', '2', '--out', 'a b.pkl')
    assert given['argv'][-6:] == [
        *(config, 'zoo://x', '--launcher', 'pytorch', '--out', 'a b.pkl')
    ]
    assert '--nnodes=1' in given['argv']
    assert '--master_port=29500' in given['argv']


def test_slurm_train(stand_in: Path, config: str) -> None:
    given = call(
        *(stand_in, 'slurm_train.sh', 'gpu', 'my job', config, 'a dir', '--amp'),
        **dict(GPUS='4', SRUN_ARGS='--mem=9G --time=1'),
    )
    assert given['argv'] == [
        *('--partition=gpu', '--job-name=my job', '--gres=gpu:4', '--ntasks=4'),
        *('--ntasks-per-node=4', '--cpus-per-task=5', '--kill-on-bad-exit=1'),
        *('--mem=9G', '--time=1', 'stand_in_python', '-u'),
        *(str(ROOT / 'tools/train.py'), config, '--work-dir', 'a dir'),
        *('--launcher', 'slurm', '--amp'),
    ]


def test_slurm_train_is_handed_to_sbatch(stand_in: Path, config: str) -> None:
    given = call(
        *(stand_in, 'slurm_train.sh', 'gpu', 'my job', config, 'a dir', '--amp'),
        **dict(GPUS='4', REQUEUE='1', GRACE='60', SBATCH_ARGS='--time=9 --mem=1G'),
    )
    assert given['argv'] == [
        *('--partition=gpu', '--job-name=my job', '--gres=gpu:4', '--ntasks=4'),
        *('--ntasks-per-node=4', '--cpus-per-task=5', '--requeue'),
        *('--open-mode=append', '--signal=USR1@60', '--time=9', '--mem=1G'),
        str(ROOT / 'tools/slurm_train.sh'),
        *('gpu', 'my job', config, 'a dir', '--amp'),
    ]


@pytest.mark.parametrize(('code', 'requeued'), [(75, 1), (1, 0), (0, 0)])
def test_a_slurm_job_that_was_stopped_is_queued_again(
    stand_in: Path, config: str, code: int, requeued: int
) -> None:
    scontrol = stand_in / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho scontrol "$@"\n')
    scontrol.chmod(0o755)
    # As slurm does it: a copy of the script, somewhere else.
    copy = stand_in.parent / 'slurm_script'
    copy.write_text((ROOT / 'tools/slurm_train.sh').read_text())
    variables = dict(
        REQUEUE='1',
        SLURM_JOB_ID='42',
        STAND_IN_CODE=str(code),
        MMPOOLFORMER_TOOLS=str(ROOT / 'tools'),
    )
    done = subprocess.run(
        ['bash', copy, 'gpu', 'job', config, 'a dir', '--amp'],
        env=shell_environment(stand_in, variables),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stdout.count('scontrol requeue 42\n') == requeued
    argv = json.loads(done.stdout.splitlines()[0])['argv']
    assert argv[-9:] == [
        *(str(ROOT / 'tools/train.py'), config, '--work-dir', 'a dir'),
        *('--launcher', 'slurm', '--resume', 'auto', '--amp'),
    ]


def test_slurm_test(stand_in: Path, config: str) -> None:
    given = call(
        *(stand_in, 'slurm_test.sh', 'gpu', 'job', config, config, '--tta'),
        **dict(GPUS='16'),
    )
    assert '--ntasks=16' in given['argv']
    assert '--ntasks-per-node=8' in given['argv']
    assert given['argv'][-6:] == [
        *(str(ROOT / 'tools/test.py'), config, config, '--launcher', 'slurm', '--tta')
    ]


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['dist_train.sh', 'CONFIG'], 'usage: tools/dist_train.sh'),
        (['dist_test.sh', 'CONFIG', 'x.pth'], 'usage: tools/dist_test.sh'),
        (['slurm_train.sh', 'p', 'j', 'CONFIG'], 'usage: tools/slurm_train.sh'),
        (['slurm_test.sh', 'p', 'j', 'CONFIG'], 'usage: tools/slurm_test.sh'),
        (['dist_train.sh', 'no.py', '2'], 'error: no.py: no such config file'),
        (['dist_train.sh', 'CONFIG', 'two'], "error: GPUS is 'two'"),
        (
            ['dist_test.sh', 'CONFIG', 'no.pth', '2'],
            'error: no.pth: no such checkpoint',
        ),
        (['slurm_test.sh', 'p', 'j', 'no.py', 'no.pth'], 'error: no.py'),
    ],
)
def test_wrong_calls_start_nothing(
    stand_in: Path, config: str, words: list[str], message: str
) -> None:
    script, *rest = [config if word == 'CONFIG' else word for word in words]
    done = subprocess.run(
        [ROOT / 'tools' / script, *rest],
        env=shell_environment(stand_in, {}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert not done.stdout
