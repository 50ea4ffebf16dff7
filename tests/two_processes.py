"""Two connected processes, forked, without the price of importing twice."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch


def in_two_processes(work: Callable[[int], int], meet: Path) -> list[int]:
    """Run a function of the rank in two processes joined by gloo.

    Returns:
        What it returns in each, as exit codes; 99 where it raises.
    """
    children = []
    for rank in range(2):
        number = os.fork()
        if not number:
            os._exit(_run(work, meet, rank))
        children.append(number)
    return [os.waitstatus_to_exitcode(os.waitpid(n, 0)[1]) for n in children]


def _run(work: Callable[[int], int], meet: Path, rank: int) -> int:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{meet}', rank=rank, world_size=2
    )
    try:
        return work(rank)
    except BaseException:
        traceback.print_exc()
        return 99
