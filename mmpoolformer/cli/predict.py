"""Classify pictures."""

import argparse
from collections.abc import Sequence

from mmpoolformer.cli.options import (
    MODEL,
    add_inference_options,
    add_topk_option,
    check_model,
    inference_settings,
    tool_parser,
    with_entry,
)

DESCRIPTION = """Print the likeliest classes of pictures, with their probabilities.

Classes have the names in the checkpoint, if it was made by mmpoolformer train, or else
those of ImageNet. Pictures are prepared as in the training, or as the config says."""

EXAMPLES = """examples:
  with published weights, downloaded:
    mmpoolformer predict cat.jpg --model poolformer_s12
  with a checkpoint of one's own, for a folder and all below it, to a table:
    mmpoolformer predict photos --model poolformer_s12 \\
        --checkpoint work_dirs/NAME/epoch_300.pth --csv photos.csv
  files and patterns (quoted, where the shell would find too many), the best class only:
    mmpoolformer predict cat.jpg 'photos/**/*.png' --model caformer_s18 --topk 1
  with a model of timm:
    mmpoolformer predict cat.jpg --model timm/resnet50 --checkpoint resnet50.pth
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If config or checkpoint are not there.
    """
    parser = tool_parser('predict', DESCRIPTION, EXAMPLES)
    parser.add_argument(
        'pictures', nargs='+', metavar='IMAGE', help='files, folders and patterns'
    )
    parser.add_argument('--model', required=True, metavar='MODEL_OR_CONFIG', help=MODEL)
    add_topk_option(parser)
    parser.add_argument('--csv', metavar='FILE', help='write a table too')
    parser.add_argument('--json', metavar='FILE', help='write JSON too')
    add_inference_options(parser, batch_size=16)
    args = parser.parse_args(argv)
    [args.checkpoint] = with_entry([args.checkpoint], args.entry)
    check_model(args.model, args.checkpoint)
    return args


def main(argv: Sequence[str]) -> None:
    """Classify what the command line says."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.apps.known_models import Settings, predict

    settings = Settings(**inference_settings(args))
    predict(args.model, args.pictures, settings, args.topk, args.csv, args.json)
