import json
import socket
from pathlib import Path
from types import SimpleNamespace

from tool_process import finish, free_port, run, run_many, start


def read(path: Path) -> dict | list:
    return json.loads(path.read_text())


def test_two_processes_train_and_measure_as_one(tiny: SimpleNamespace) -> None:
    work = tiny.folder / 'two'
    output = run(
        'tools/dist_train.sh',
        tiny.segmentation,
        2,
        '--work-dir',
        work,
        PORT=free_port(),
    )
    assert "dist_cfg: {'backend': 'nccl'}" in output  # the config stays as it is
    assert 'Distributed training: True' in output
    assert 'GPU number: 2' in output
    assert output.count('SyncBN needs GPUs') == 1
    (one,) = run_many(
        [
            ['tools/test.py', tiny.segmentation, work / 'iter_4.pth'],
        ],
        tiny.folder,
    )
    assert one['code'] == 0, one['err']
    single = read(tiny.folder / 'work_dirs' / 'segmentation' / 'results_iter_4.json')
    assert single['metrics'] == read(work / 'val_results.json')[-1]['metrics']


def test_a_mistake_of_all_processes_is_told_once(tiny: SimpleNamespace) -> None:
    process = start(
        'tools/dist_train.sh',
        tiny.detection,
        2,
        '--cfg-options',
        'a.b=1',
        PORT=free_port(),
    )
    output, _ = process.communicate(timeout=300)
    assert output == "error: --cfg-options a.b: the config has no 'a'\n"
    assert process.returncode == 2


def test_a_taken_port_is_told(tiny: SimpleNamespace) -> None:
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        server.listen()
        port = str(server.getsockname()[1])
        process = start('tools/dist_train.sh', tiny.detection, 1, PORT=port)
        output, _ = process.communicate(timeout=300)
    # Above it torch 2.1 has lines of its own, written by its C++ part.
    line = f'error: port {port} is in use: set PORT to another one'
    assert output.splitlines()[-1] == line
    assert 'Traceback' not in output
    assert process.returncode == 1


def test_two_processes_test_as_one(
    tiny: SimpleNamespace, trained: SimpleNamespace, tested: SimpleNamespace
) -> None:
    work = tiny.folder / 'two_tested'
    process = start(
        'tools/dist_test.sh',
        tiny.detection,
        trained.det_checkpoint,
        2,
        *('--work-dir', work, '--out', work / 'out.pkl'),
        PORT=free_port(),
    )
    output = finish(process)
    assert output.count('results: ') == 1
    single = read(tested.out / 'work_det' / 'results_epoch_10.json')
    assert read(work / 'results_epoch_10.json')['metrics'] == single['metrics']
    assert single['metrics']['coco/bbox_mAP'] > 0.1
