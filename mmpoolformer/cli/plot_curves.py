"""Compare the curves of runs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.cli.options import add_traceback_option, tool_parser
from mmpoolformer.utils.errors import UsageError, UserError, as_user_error

DESCRIPTION = """Draw loss, learning rate or metrics of training runs into one picture.

(mmpoolformer train draws each run's own curves by itself, into curves.png of the work
dir.)"""

EXAMPLES = """examples:
  two runs, their loss and first metric:
    mmpoolformer plot-curves work_dirs/a work_dirs/b
  chosen curves, and names for the runs:
    mmpoolformer plot-curves work_dirs/a work_dirs/b --keys loss_bbox bbox_mAP lr \\
        --names 'from scratch' pretrained --out curves.png
  what there is to draw:
    mmpoolformer plot-curves work_dirs/a --list

A RUN is a work dir of mmpoolformer train or any other program on mmengine, or one of
its logs, train_log.jsonl or scalars.json. bbox_mAP stands for coco/bbox_mAP, and so
on."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If names are missing or the picture is no PNG file.
    """
    parser = tool_parser('plot-curves', DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add('runs', nargs='+', metavar='RUN', help='work dirs or logs')
    add('--keys', nargs='+', metavar='KEY', help='curves, a panel for each')
    add('--names', nargs='+', metavar='NAME', help='names of the runs in the legend')
    add('--title', default='', help='printed above')
    add(
        '--raw',
        action='store_true',
        help='losses as they were logged (default: running means of a twentieth of '
        'the run)',
    )
    add('--list', action='store_true', help='print the keys, draw nothing')
    add('--out', default='curves.png', metavar='PNG', help='default: %(default)s')
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    if args.names and len(args.names) != len(args.runs):
        raise UsageError(
            f'--names: {len(args.names)} names for {len(args.runs)} runs; give one each'
        )
    if Path(args.out).suffix.lower() != '.png':
        raise UsageError(f'--out {args.out}: must end in .png')
    return args


def main(argv: Sequence[str]) -> None:
    """Draw what the command line says."""
    args = parse(argv)
    from mmpoolformer.visual import curves as library  # matplotlib: not for --help

    with as_user_error('', (OSError, ValueError)):
        runs = [library.read_run(run) for run in args.runs]
    if args.list:
        for name in sorted({name for run in runs for name in run}):
            print(name)
        return
    names = args.names or run_names(args.runs)
    with as_user_error('', (OSError, ValueError)):
        panels = choose_panels(dict(zip(names, runs, strict=True)), args)
        figure = library.draw_comparison(panels, args.title)
        print(library.save_figure(figure, args.out))


def choose_panels(runs: dict[str, dict], args: argparse.Namespace) -> dict[str, list]:
    """Return, for each key, the runs that have it with their curves.

    Raises:
        UserError: If no run has a key.
    """
    from mmpoolformer.visual import curves as library

    first = next(iter(runs.values()))
    main_ones = [*library.loss_names(first)[:1], *library.metric_names(first)[:1]]
    panels = {}
    for key in args.keys or main_ones:
        found = {name: library.find_curve(run, key) for name, run in runs.items()}
        panels[key] = [(name, curve) for name, curve in found.items() if curve]
        if not panels[key]:
            known = sorted({name for run in runs.values() for name in run})
            raise UserError(f'no run has {key}: choose from {", ".join(known)}')
        for name in (name for name, curve in found.items() if not curve):
            print(f'note: {name} has no {key}', file=sys.stderr)
        if 'loss' in key and not args.raw:
            panels[key] = [(n, library.running_mean(c)) for n, c in panels[key]]
    return panels


def run_names(runs: Sequence[str]) -> list[str]:
    """Return short names for runs: of their folders, longer where these are equal."""
    paths = [Path(run).resolve() for run in runs]
    depth = 1
    while True:
        names = ['/'.join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)) or depth > 20:
            return names
        depth += 1
