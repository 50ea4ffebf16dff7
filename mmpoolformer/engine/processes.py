"""torchrun whose own traceback does not bury what the processes have said.

`python -m mmpoolformer.engine.processes` takes torchrun's command line.
"""

import logging
import sys
from collections.abc import Sequence

from mmpoolformer.engine.errors import UserError, run_tool

BY_SIGNAL = (
    128  # a shell's exit code for a process that a signal ended, plus its number
)

# What torch says, now and in 2.1.
PORT_TAKEN = ('EADDRINUSE', 'Address already in use')


def main(argv: Sequence[str]) -> None:
    """Start the processes and wait for them.

    Args:
        argv: torchrun's command line.

    Raises:
        SystemExit: With the code of the first process that failed; it has said why.
        UserError: If a process was ended by a signal, or the port is taken.
    """
    # Here, so that a missing torch is told like any other mistake.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    args = parse_args(argv)
    logging.disable(logging.ERROR)  # torchrun's; the processes have said why
    try:
        run(args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(
                f'process {rank} was ended by signal {-failure.exitcode}; 9 mostly '
                'means that memory ran out'
            ) from error
        raise SystemExit(failure.exitcode) from error
    except SignalException as error:
        raise SystemExit(BY_SIGNAL + error.sigval) from error
    except RuntimeError as error:
        if not any(words in str(error) for words in PORT_TAKEN):
            raise
        raise UserError(
            f'port {args.master_port} is in use: set PORT to another one'
        ) from error


if __name__ == '__main__':
    sys.exit(run_tool(main, sys.argv[1:]))
