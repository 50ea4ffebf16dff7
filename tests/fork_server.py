"""A `python` that has imported everything already, for running many commands.

`python fork_server.py SOCKET` waits for the stand-ins for `python` that `serving`
writes. A stand-in sends its command line, folder, variables and standard streams; a
fork of the server becomes what was asked for, and the stand-in ends with its exit code.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tool_process import environment

STAND_IN = """#!{python} -IS
import json, os, signal, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
job = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(line, [job], [0, 1, 2])
line.shutdown(socket.SHUT_WR)
answer = line.makefile()
number = int(answer.readline())
for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(name, lambda name, _: os.kill(number, name))
sys.exit(int(answer.readline() or 99))
"""
# What the tools use; Gradio is not here, because it starts threads.
USED = (
    *('cv2', 'fvcore.nn', 'matplotlib.pyplot', 'mmpoolformer.apps.infer'),
    *('mmpoolformer.analysis.browsing', 'mmpoolformer.analysis.gradcam'),
    *('mmpoolformer.apps.known_models', 'mmpoolformer.apps.ablation'),
    *('mmpoolformer.engine.launch', 'mmpoolformer.apps.pretrain_demo'),
    *('onnx', 'onnxruntime', 'pytorch_grad_cam', 'timm', 'torch.distributed.run'),
    *('torch.utils.tensorboard', 'torchvision', 'pycocotools.cocoeval'),
)


@contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """Start the server; give the path of its `python`."""
    address, python = folder / 'socket', folder / 'python'
    server = subprocess.Popen(
        [sys.executable, __file__, address],
        env=environment(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + 240
    while not address.exists():
        assert server.poll() is None and time.monotonic() < end, 'no server'
        time.sleep(0.05)
    text = STAND_IN.format(python=sys.executable, address=str(address))
    python.write_text(text)
    python.chmod(0o755)
    try:
        yield python
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # with what it has left running
        server.wait()


def serve(address: str) -> None:
    """Fork for each call; return in the fork, as what it shall be."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those below
    door = socket.socket(socket.AF_UNIX)
    door.bind(address)
    door.listen(16)
    door.settimeout(2)
    parent = os.getppid()
    while True:
        try:
            line, _ = door.accept()
        except TimeoutError:
            if os.getppid() != parent:  # killed, so that it could not end this
                os.killpg(0, signal.SIGKILL)
            continue
        if not os.fork():
            door.close()
            if _attend(line):
                return
        line.close()


def _attend(line: socket.socket) -> bool:
    """Run what a stand-in asks for in a fork, where this returns, and answer."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, streams, *_ = socket.recv_fds(line, 1 << 20, 3)
    while part := line.recv(1 << 20):
        text += part
    number = os.fork()
    if number:
        line.sendall(f'{number}\n'.encode())
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        line.sendall(f'{code if code >= 0 else 128 - code}\n'.encode())
        os._exit(0)
    line.close()
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    words, folder, variables = json.loads(text)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    sys.argv = [word for word in words if word != '-u']
    return True


def become() -> None:
    """Run the command line in `sys.argv` as Python does, and end.

    Not by returning: libraries end threads then that stayed in the server.
    """
    code = 0
    try:
        _run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int | None) else 1
        if code is not end.code:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # tells pools of threads to end, and waits for all threads
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code or 0)


def _run() -> None:
    if sys.argv[0] == '-m':
        sys.argv.pop(0)
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name='__main__')


def _prepare() -> None:
    import torch
    from mmdet.utils import register_all_modules as register_detection
    from mmengine.runner import runner as mmengine_runner
    from mmseg.utils import register_all_modules as register_segmentation

    torch.set_num_threads(1)
    mmengine_runner.collect_env = dict  # it asks compilers, for seconds
    register_detection(False), register_segmentation(False)
    for name in USED:
        importlib.import_module(name)


if __name__ == '__main__':
    _prepare()
    serve(sys.argv[1])
    become()
