"""Show models in a web page."""

import argparse
from collections.abc import Sequence
from functools import partial

from mmpoolformer.cli.options import (
    MODEL,
    add_checkpoint_option,
    add_device_option,
    add_traceback_option,
    add_trust_option,
    add_with_default,
    check_model,
    tool_parser,
    weights_of_each,
    with_entry,
)
from mmpoolformer.utils.errors import UsageError

DESCRIPTION = """Show what models see in a web page: boxes, masks and regions, or the
likeliest classes with Grad-CAM. Examples are drawn, nothing is downloaded for them.

Without a model it shows what `make quickstart` and `make pretrain-demo` trained."""

EXAMPLES = """examples:
  what the quickstart has trained, at http://127.0.0.1:7860:
    mmpoolformer demo
  a detector and a segmentor of your own, and a classifier:
    mmpoolformer demo CONFIG:work_dirs/NAME/epoch_12.pth \\
        configs/segmentation/NAME.py:segmentor.pth poolformer_s12:poolformer_s12.pth.tar
  a classifier with its published weights, which are downloaded:
    mmpoolformer demo poolformer_s12
  a file of mmpoolformer export in place of the checkpoint:
    mmpoolformer demo CONFIG:model.onnx
  for others in the network, who then can use the models too:
    mmpoolformer demo --host 0.0.0.0 --port 8000 --allow-host NAME.example.org

The page listens on this machine alone unless --host says otherwise. It answers only if
asked for by localhost, by --host, by a name of --allow-host or, where others can reach
it, by an address in numbers. What users give is kept for about an hour, and deleted
when the page is ended by Ctrl-C or SIGTERM."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If a number is out of its range.
    """
    parser = tool_parser('demo', DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add(
        'models',
        nargs='*',
        metavar='MODEL_OR_CONFIG[:CKPT]',
        help=f'{MODEL}; its weights may follow a colon, in place of --checkpoint',
    )
    add(
        '--host',
        default='127.0.0.1',
        metavar='ADDRESS',
        help='address to listen on (default: %(default)s, this machine alone)',
    )
    add(
        '--allow-host',
        action='append',
        default=[],
        metavar='NAME',
        help='name of this machine that users may write in place of its address; '
        'may be given several times',
    )
    add(
        '--port',
        type=int,
        metavar='N',
        help='port to listen on (default: the first free one from 7860)',
    )
    add(
        '--root-path',
        default='',
        metavar='PATH',
        help='path under which a proxy shows the page, such as /models; the proxy '
        'takes it off',
    )
    add_device_option(parser)
    add_limit = partial(add_with_default, parser, type=float, metavar='N')
    add_limit('--max-megabytes', 20, 'largest file that is taken')
    add_limit('--max-megapixels', 25, 'largest picture that is taken')
    add_checkpoint_option(parser, nargs='+')
    add_trust_option(parser)
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    if args.max_megabytes <= 0 or args.max_megapixels <= 0:
        raise UsageError('--max-megabytes and --max-megapixels: must be above 0')
    if args.port is not None and not 0 < args.port < 65536:
        raise UsageError(f'--port {args.port}: must be from 1 to 65535')
    args.models = pairs(args.models, args.checkpoint, args.entry)
    return args


def pairs(
    models: Sequence[str], checkpoints: Sequence[str] | None, entry: str | None
) -> list[tuple[str, str | None]]:
    """Return models with their checkpoints, `None` where none is given.

    Args:
        models: `MODEL_OR_CONFIG` or `MODEL_OR_CONFIG:CKPT`.
        checkpoints: What `--checkpoint` gives, for all of them.
        entry: What `--entry` gives, for all of them.

    Raises:
        UsageError: If a model is missing, or its config or checkpoint is not there.
    """
    parts = [text.partition(':') for text in models]
    if checkpoints:
        if any(checkpoint for _, _, checkpoint in parts):
            raise UsageError('--checkpoint: give it or MODEL_OR_CONFIG:CKPT, not both')
        given = weights_of_each(models, checkpoints, entry)
    else:
        given = with_entry([weights or None for _, _, weights in parts], entry)
    found = list(zip((model for model, _, _ in parts), given, strict=True))
    for (model, checkpoint), text in zip(found, models, strict=True):
        if not model:
            raise UsageError(f'{text!r}: write MODEL_OR_CONFIG:CKPT')
        check_model(model, checkpoint)
    return found


def main(argv: Sequence[str]) -> None:
    """Serve the page until it is interrupted."""
    args = parse(argv)
    from mmpoolformer.apps.page.serve import Address, serve  # torch: not for --help

    serve(
        args.models,
        Address(args.host, args.port, args.allow_host, args.root_path),
        args.device,
        args.trust,
        args.max_megabytes,
        args.max_megapixels,
    )
