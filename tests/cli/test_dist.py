import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from tool_process import finish, free_port, run_many, run_ranks, start
from torch.testing import assert_close

from mmpoolformer.checkpoints.reading import read_checkpoint

pytestmark = pytest.mark.slow


def read(path: Path) -> dict | list:
    return json.loads(path.read_text())


NORM = 'model.decode_head.norm_cfg'
# In place of SyncBN, which has statistics of each process's own images on CPUs.
GROUPED = ('--cfg-options', f'{NORM}.type=GN', f'{NORM}.num_groups=1')
HALF = (*GROUPED, 'train_dataloader.batch_size=2')


@pytest.fixture(scope='module')
def two(tiny: SimpleNamespace) -> SimpleNamespace:
    """A segmentor that two processes have trained, with half of each batch."""
    work = tiny.folder / 'two'
    command = ['tools/train.py', tiny.segmentation, '--work-dir', work, *HALF]
    output, other = run_ranks(command, tiny.folder)
    assert other == ''  # the first speaks alone
    return SimpleNamespace(work=work, output=output)


def test_two_processes_train_and_measure_as_one(
    tiny: SimpleNamespace, two: SimpleNamespace
) -> None:
    assert '4 = 2 processes x 2 images' in two.output
    (log,) = two.work.glob('*/*.log')
    told = log.read_text()
    assert "dist_cfg: {'backend': 'nccl'}" in told  # the config stays as it is
    assert 'Distributed training: True' in told
    assert 'GPU number: 2' in told
    single_work, whole = tiny.folder / 'one_tested', tiny.folder / 'one'
    measure = 'tools/test.py', tiny.segmentation, two.work / 'iter_4.pth'
    done = run_many(
        [
            [*measure, '--work-dir', single_work, *GROUPED],
            ['tools/train.py', tiny.segmentation, '--work-dir', whole, *GROUPED],
        ],
        tiny.folder,
    )
    assert [one['code'] for one in done] == [0, 0], done
    single = read(single_work / 'results_iter_4.json')
    metrics = read(two.work / 'val_results.json')[-1]['metrics']
    assert single['metrics'] == metrics
    weights, expected = (
        read_checkpoint(folder / 'iter_4.pth')['state_dict']
        for folder in (two.work, whole)
    )
    assert_close(weights, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_two_machines_train_as_one_with_two_processes(
    tiny: SimpleNamespace, two: SimpleNamespace
) -> None:
    """Each is a launch of its own, as the documentation says; both on this machine."""
    work, port = tiny.folder / 'nodes', free_port()
    words = 'tools/dist_train.sh', tiny.segmentation, 1, '--work-dir', work, *HALF
    nodes = [
        start(*words, NNODES='2', NODE_RANK=str(i), MASTER_ADDR='127.0.0.1', PORT=port)
        for i in range(2)
    ]
    outputs = [finish(node) for node in nodes]
    assert ['results: ' in output for output in outputs] == [True, False]
    log = 'train_log.jsonl'
    assert (work / log).read_text() == (two.work / log).read_text()
    results = 'val_results.json'
    assert [one['metrics'] for one in read(work / results)] == [
        one['metrics'] for one in read(two.work / results)
    ]


def test_a_sharded_detector_is_tested_by_one_process(tiny: SimpleNamespace) -> None:
    work = tiny.folder / 'fsdp'
    words = tiny.detection, '--strategy', 'fsdp', '--work-dir', work
    short = '--cfg-options', 'train_cfg.max_epochs=1'
    run_ranks(['tools/train.py', *words, *short], tiny.folder)
    command = ['tools/test.py', tiny.detection, work / 'epoch_1.pth']
    (one,) = run_many([[*command, '--work-dir', work]], tiny.folder)
    assert one['code'] == 0, one['err']
    single = read(work / 'results_epoch_1.json')
    assert single['metrics'] == read(work / 'val_results.json')[-1]['metrics']


@pytest.mark.long
def test_a_mistake_of_all_processes_is_told_once(tiny: SimpleNamespace) -> None:
    process = start(
        'tools/dist_train.sh',
        tiny.detection,
        2,
        '--no-check',
        '--cfg-options',
        'a.b=1',
        PORT=free_port(),
    )
    output, _ = process.communicate(timeout=300)
    assert output == "error: --cfg-options a.b: the config has no 'a'\n"
    assert process.returncode == 2


@pytest.mark.parametrize('restarts', ['0', '1'])
def test_a_taken_port_is_told(tiny: SimpleNamespace, restarts: str) -> None:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = str(server.getsockname()[1])
        variables = dict(PORT=port, MAX_RESTARTS=restarts)
        process = start('tools/dist_train.sh', tiny.detection, 1, **variables)
        output, _ = process.communicate(timeout=50)  # a wait for the port takes 60
    line = f'error: port {port} is in use: choose a free one by PORT=..., such as '
    line += f'PORT={int(port) + 1}'
    assert output.splitlines() == [line]
    assert 'Traceback' not in output
    assert process.returncode == 1


def test_two_processes_test_as_one(
    tiny: SimpleNamespace, trained: SimpleNamespace, tested: SimpleNamespace
) -> None:
    work = tiny.folder / 'two_tested'
    command = ['tools/test.py', tiny.detection, trained.det_checkpoint]
    places = '--work-dir', work, '--out', work / 'out.pkl'
    output, _ = run_ranks([*command, *places], tiny.folder)
    assert output.count('results: ') == 1
    single = read(tested.out / 'work_det' / 'results_epoch_10.json')
    assert read(work / 'results_epoch_10.json')['metrics'] == single['metrics']
    assert single['metrics']['coco/bbox_mAP'] > 0.1
