"""Processes of a distributed job, on machines without a GPU too."""

import datetime
import os
import time

import torch
import torch.distributed as dist
from mmengine.device import get_device
from mmengine.dist import all_reduce

from mmpoolformer.utils.distributed import RANK_VARIABLES, launched_rank
from mmpoolformer.utils.errors import UsageError

HOLD_BACK = 10.0  # seconds


def on_cpu() -> bool:
    """Tell whether models run on the CPU here."""
    return get_device() == 'cpu'


def connect_processes(launcher: str, dist_cfg: dict | None = None) -> None:
    """Connect the processes of a job by gloo where there is no GPU.

    With GPUs nothing happens here: mmengine connects them, by default with nccl,
    which it would also try, and fail, without.

    Args:
        launcher: `'none'`, `'pytorch'`, `'slurm'` or `'mpi'`.
        dist_cfg: `env_cfg.dist_cfg` of the config; its `timeout` is in seconds.

    Raises:
        UsageError: If what the launcher should have set is missing, or the launcher
            can't be used on the CPU.
    """
    if launcher == 'none':
        return
    missing = [name for name in RANK_VARIABLES if name not in os.environ]
    if launcher == 'pytorch' and missing:
        raise UsageError(
            f'--launcher pytorch: {", ".join(missing)} not set; start the processes '
            'by tools/dist_train.sh or tools/dist_test.sh'
        )
    if not on_cpu():
        return
    if launcher != 'pytorch':
        raise UsageError(
            f'--launcher {launcher}: there is no GPU here; on CPUs use '
            'tools/dist_train.sh or tools/dist_test.sh'
        )
    timeout = (dist_cfg or {}).get('timeout', 1800)
    dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=timeout))


def disconnect_processes() -> None:
    """End the connection, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def all_true(value: bool) -> bool:
    """Tell whether something holds in all processes of a job; all must ask."""
    return bool(least(int(value)))


def least(value: int) -> int:
    """Return the smallest number that a process of a job has; all must ask."""
    number = torch.tensor(value)
    all_reduce(number, op='min')
    return int(number)


def let_first_process_speak() -> None:
    """Hold back the other processes of a job when all of them meet the same mistake.

    The launcher ends them all as soon as the first has told the user and ended; if
    only this one has met it, it speaks after a while.
    """
    if launched_rank() != 0:
        time.sleep(HOLD_BACK)
