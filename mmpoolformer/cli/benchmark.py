"""Time models beside their peers."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product

from mmpoolformer.cli.options import (
    add_device_option,
    add_dtype_option,
    add_size_option,
    add_traceback_option,
    check_model,
    image_size,
    tool_parser,
)
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.paths import is_config
from mmpoolformer.utils.progress import progress_bar

FOR_INFERENCE = ('folded', 'compiled', 'onnx', 'openvino')
PEERS = ('timm', 'timm-channels-last', 'timm-compiled', 'transformers', 'mmpretrain')

DESCRIPTION = """Time models beside their peers and the machine's limits.

The implementations of a model run in turns; a row gives the median, half the distance
of the quartiles in percent (+-%), and how many times as fast as the first
implementation it is (x). `products` is the part of the time that the matrix products
and convolutions alone take: at 100 % nothing is left to gain. MB is the peak above
what the process had before, again with its ratio. No weights are loaded: they change
no time. Leave the machine alone meanwhile."""

EXAMPLES = """examples:
  inference beside timm, all four maps:
    mmpoolformer benchmark poolformer_s12 --size 512 512
  a training step:
    mmpoolformer benchmark poolformer_s12 --task training --batch 2 --size 384
  a whole detector, module by module, fused and folded:
    mmpoolformer benchmark \\
        configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py \\
        --how plain fused folded --size 800 1344
  the same in both types, against the plain one in float32:
    mmpoolformer benchmark \\
        configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py \\
        --how plain folded --dtype fp32 bf16
  exported files beside it:
    mmpoolformer benchmark poolformer_s12 --how timm folded onnx openvino
  accuracy beside speed, of tests of checkpoints and exported files:
    mmpoolformer benchmark --tests work_dirs/NAME/results_*.json --plot out.png
  how time grows with the image:
    mmpoolformer benchmark poolformer_s12 --sizes 224 448 896 1344 --plot out.png
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If an option is out of its range.
    """
    parser = tool_parser('benchmark', DESCRIPTION, EXAMPLES)
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL_OR_CONFIG',
        help='a name of mmpoolformer.list_models() (not PiT), or a config file',
    )
    parser.add_argument(
        '--how',
        nargs='+',
        default=['timm', 'plain', 'fused', 'folded'],
        choices=('fused', 'plain', *FOR_INFERENCE, *PEERS),
        metavar='HOW',
        help="fused: this package's default; plain: module by module; for inference "
        'only: folded, compiled, and onnx and openvino, which run an exported file '
        '(a detector to its boxes); the peers, if installed: timm, '
        'timm-channels-last, timm-compiled, transformers, mmpretrain (default: timm '
        'plain fused folded)',
    )
    parser.add_argument(
        '--task', default='inference', choices=('inference', 'training')
    )
    parser.add_argument('--classifier', action='store_true', help='logits, not maps')
    parser.add_argument(
        '--batch',
        '--batch-size',
        nargs='+',
        type=int,
        default=[1],
        metavar='N',
        help='pictures at a time, one number or several (default: 1)',
    )
    add_size_option(parser, '(default: 512)', default=[512])
    parser.add_argument('--sizes', nargs='+', type=int, help='several square sizes')
    add_dtype_option(
        parser, ('fp32', 'bf16'), 'type that is computed in, one or both', several=True
    )
    parser.add_argument('--threads', type=int, help="default: torch's own choice")
    parser.add_argument('--rounds', type=int, default=9, metavar='N')
    add_device_option(parser)
    parser.add_argument('--no-memory', action='store_true', help='leave out the peak')
    parser.add_argument('--json', metavar='FILE', help='write the exact numbers there')
    parser.add_argument('--plot', metavar='FILE.png', help='draw them there')
    parser.add_argument(
        '--tests',
        nargs='+',
        metavar='FILE',
        help='compare accuracy and time of tests, which wrote these results_....json',
    )
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    if bool(args.models) == bool(args.tests):
        raise UsageError('give models to time, or --tests')
    if min(*args.batch, *(args.sizes or []), args.rounds) < 1:
        raise UsageError('--batch, --sizes, --rounds: give numbers from 1')
    args.size = image_size(args.size)
    for model in args.models:
        check_model(model)
    return args


def main(argv: Sequence[str]) -> None:
    """Time what the command line says, print the table, write the files."""
    args = parse(argv)
    if args.tests:
        compare_results(args)
        return
    from mmpoolformer.analysis import benchmark  # torch: not for --help
    from mmpoolformer.utils.devices import choose_device
    from mmpoolformer.utils.files import write_json

    args.device = str(choose_device(args.device))
    with as_user_error('', (ValueError, ImportError)), benchmark.threads(args.threads):
        timings = time_all(args)
    print(f'{machine(args)}\n\n{benchmark.table(timings)}')
    if args.json:
        rows = [asdict(timing) for timing in timings]
        with as_user_error('', (OSError,)):
            write_json(args.json, {'machine': machine(args), 'timings': rows})
    if args.plot:
        with as_user_error('', (OSError, ValueError)):
            benchmark.plot(timings, args.plot)


def compare_results(args: argparse.Namespace) -> None:
    """Print and draw accuracy beside speed of tests."""
    from mmpoolformer.analysis import tradeoff  # matplotlib: not for --help

    rows = tradeoff.read_results(args.tests)
    print(tradeoff.table(rows))
    if args.plot:
        with as_user_error('', (OSError, ValueError)):
            tradeoff.plot(rows, args.plot)


def time_all(args: argparse.Namespace) -> list:
    """Return the timings, those of one model, batch and size measured in turns."""
    from mmpoolformer.analysis.benchmark import Case, measure
    from mmpoolformer.models import VARIANTS

    for model in args.models:
        if not is_config(model) and model not in VARIANTS:
            raise UsageError(f'{model}: no such model of mmpoolformer to time')
    sizes = [(n, n) for n in args.sizes or ()] or [args.size]
    groups = [
        [
            Case(model, how, args.task, batch, size, dtype, args.classifier)
            for dtype, how in product(args.dtype, args.how)
            if _is_there(model, how, args.task, dtype)
        ]
        for model, batch, size in product(args.models, args.batch, sizes)
    ]
    timings = []
    with progress_bar(sum(map(len, groups)) * (args.rounds + 1), 'timing') as bar:
        for cases in groups:
            timings += measure(
                cases, args.rounds, args.device, not args.no_memory, bar.update
            )
    return timings


def _is_there(model: str, how: str, task: str, dtype: str) -> bool:
    """Tell whether there is such a case; peers have no whole models."""
    return not (
        (how in FOR_INFERENCE and task == 'training')
        or (how in PEERS and is_config(model))
        or (how == 'onnx' and dtype == 'bf16')  # ONNX Runtime has none for CPUs
    )


def machine(args: argparse.Namespace) -> str:
    """Describe where the figures come from."""
    import torch

    what = torch.backends.cpu.get_cpu_capability()
    if args.device != 'cpu':
        what = torch.cuda.get_device_name(args.device)
    count = args.threads or torch.get_num_threads()
    return f'torch {torch.__version__}, {what}, {count} threads, {args.rounds} rounds'
