"""The rank of a process, as launchers tell it."""

import os

RANK_VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


def launched_rank() -> int:
    """Return this process's number in its job, before it is connected, too."""
    variables = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return next((int(os.environ[v]) for v in variables if os.environ.get(v)), 0)
