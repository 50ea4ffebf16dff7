"""Count parameters and MACs."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from mmpoolformer.cli.options import (
    MODEL,
    add_config_options,
    add_size_option,
    add_traceback_option,
    check_model,
    image_size,
    tool_parser,
)
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.paths import is_config
from mmpoolformer.utils.progress import progress_bar

DESCRIPTION = """Count parameters and multiply-accumulates (MACs), stage by stage.

Counted are convolutions, matrix products, attention, norms and interpolation, for
one image; a multiplication with its addition is one MAC. What is not counted is
listed. A detector with an RPN is counted with as many proposals as its config lets
pass, mostly 1000. No weights are loaded: they change no count. Of backbones of this
package the channels and strides of their maps are shown, too."""

EXAMPLES = """examples:
  a model by name:
    mmpoolformer complexity poolformer_s12
  beside one of timm's, for images 384 pixels high and wide:
    mmpoolformer complexity poolformer_s12 timm/resnet50 --size 384
  a whole detector, images 800 pixels high and 1333 wide:
    mmpoolformer complexity \\
        configs/detection/retinanet_poolformer_s12_fpn_1x_coco.py --size 800 1333
  all models of the package in one table, and exact numbers in a file:
    mmpoolformer complexity all --json complexity.json
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If no model is given or a size is not one.
    """
    parser = tool_parser('complexity', DESCRIPTION, EXAMPLES)
    parser.add_argument(
        'models',
        nargs='*',
        metavar='MODEL_OR_CONFIG',
        help=f'{MODEL}; or all',
    )
    parser.add_argument(
        '--all',
        action='store_true',
        help='all of mmpoolformer.list_models(), once where names stand for other '
        'weights of one architecture',
    )
    add_size_option(
        parser,
        "(default: the model's own; 800 1333 for detectors' configs, 512 for "
        "segmentors')",
    )
    parser.add_argument('--json', metavar='FILE', help='write the exact numbers there')
    add_config_options(
        parser, 'change settings of the configs, such as model.backbone.arch=s24'
    )
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    args.all = args.all or 'all' in args.models
    args.models = [name for name in args.models if name != 'all']
    if not args.models and not args.all:
        raise UsageError('no model given: name one, a config file, or all')
    for model in args.models:
        check_model(model)
    args.size = image_size(args.size)
    return args


def main(argv: Sequence[str]) -> None:
    """Count what the command line says, print tables, write the file."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.analysis import complexity
    from mmpoolformer.models.from_config import list_architectures
    from mmpoolformer.utils.files import write_json

    every = list_architectures() if args.all else []
    names = list(dict.fromkeys([*args.models, *every]))
    results = count_all(names, args)
    if len(names) > 1:
        print(complexity.summary_table(results))
    for name, result in results.items() if len(names) <= 3 else ():
        print(f'\n{name}, input {" x ".join(map(str, result.shape))}\n')
        print(complexity.stage_table(result))
        if result.out_channels:
            print(f'\n{complexity.maps_line(result)}')
    print(f'\nnot counted: {not_counted(results)}')
    if args.json:
        with as_user_error('', (OSError,)):
            write_json(args.json, {k: asdict(v) for k, v in results.items()})


def count_all(names: Sequence[str], args: argparse.Namespace) -> dict:
    """Return a `Complexity` for each name."""
    results = {}
    with progress_bar(len(names), 'counting', shown=len(names) > 1) as bar:
        for name in names:
            results[name] = count_one(name, args.size, args.cfg_options)
            bar.update()
    return results


def count_one(
    name: str, size: Sequence[int] | None, options: Sequence[str]
) -> 'Complexity':  # noqa: F821 (imported late)
    """Count a model by name or config file.

    Raises:
        UserError: If there is no such model or file, or its config is wrong.
    """
    from mmpoolformer.analysis import complexity
    from mmpoolformer.engine.config import load_config

    if not is_config(name):
        with as_user_error('', (ValueError,)):
            return complexity.count_named(name, size)
    config = load_config(name, ('model',), overrides=options)
    with as_user_error(name):
        return complexity.count_config(config, size)


def not_counted(results: Mapping) -> str:
    """List the operators that are not counted, most frequent first."""
    times = Counter()
    for result in results.values():
        times.update(result.uncounted)
    most = times.most_common()
    if len(results) > 1:
        return ', '.join(operator for operator, _ in most)
    return ', '.join(f'{operator} x{number}' for operator, number in most)
