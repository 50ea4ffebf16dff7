"""Convert a checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmpoolformer.cli.options import (
    MODEL,
    WEIGHTS,
    add_entry_option,
    add_traceback_option,
    add_trust_option,
    tool_parser,
    with_entry,
)
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.paths import RANDOM

# Not imported from the package: --help should not wait for torch.
FORMATS = ('native', 'timm', 'sail', 'mmpretrain', 'huggingface', 'pit', 'paddle')

DESCRIPTION = """Give the weights in a checkpoint the names of another codebase, or
make a folder for the Hugging Face hub of it (--model).

No value changes, and converting back gives the same weights. Whole detectors and
segmentors keep their other parts as they are."""

EXAMPLES = """names:
  native       this package: timm's, and norm0..norm3 of a dense backbone
  timm         timm's metaformer and pit models
  sail         the authors' repositories (PoolFormer and the MetaFormer baselines)
  mmpretrain   mmpretrain's classifiers
  huggingface  transformers' PoolFormerForImageClassification, PoolFormerModel
  pit          the authors' repository of PiT
  paddle       copies of sail and pit in PaddlePaddle, with transposed linear weights

examples:
  an ImageNet file of the authors for timm:
    mmpoolformer convert poolformer_s12.pth.tar s12_timm.pth --to timm
  the same, downloaded from the zoo, as safetensors:
    mmpoolformer convert zoo://poolformer_s12 s12.safetensors --to timm
  a detector trained with this package for the authors' code:
    mmpoolformer convert work_dirs/x/epoch_12.pth sail.pth --to sail
  one of the models in a file, whatever it is:
    mmpoolformer convert dino.pth teacher.pth --entry teacher
  a PiT trained in PaddlePaddle for timm, and one of timm's for PaddlePaddle:
    mmpoolformer convert Best_PiT.pdparams pit_ti.pth --to timm
    mmpoolformer convert timm://pit_ti_224 pit_ti.pdparams --to paddle
  a trained model as a folder for the hub: configuration, weights and model card:
    mmpoolformer convert CHECKPOINT my_detector --model CONFIG --license apache-2.0
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If nothing says what to change.
    """
    parser = tool_parser('convert', DESCRIPTION, EXAMPLES)
    parser.add_argument('source', help=WEIGHTS.removesuffix(f' or {RANDOM}'))
    parser.add_argument(
        'destination',
        help='file to make: .safetensors, .pdparams or any other; a folder (--model)',
    )
    parser.add_argument(
        '--to',
        choices=FORMATS,
        help='names to give; may be left out beside --entry, then names stay',
    )
    parser.add_argument(
        '--from', dest='source_format', choices=FORMATS, help='detected automatically'
    )
    parser.add_argument(
        '--prefix',
        help='prefix of the names, such as backbone; detected automatically',
    )
    add_entry_option(parser)
    card = parser.add_argument_group('folder for the Hugging Face hub')
    card.add_argument('--model', help=f'whose weights they are: {MODEL}')
    card.add_argument(
        '--data',
        metavar='TEXT',
        help='what it was trained on (default: from the config)',
    )
    card.add_argument(
        '--results', metavar='FILE', help='results_....json of mmpoolformer test'
    )
    card.add_argument(
        '--license', metavar='NAME', help='of the weights, such as apache-2.0'
    )
    parser.add_argument(
        '--force', action='store_true', help='replace an existing destination'
    )
    add_trust_option(parser)
    add_traceback_option(parser)
    args = parser.parse_args(argv)
    if args.model:
        if args.to or args.source_format or args.prefix:
            raise UsageError('--model: leave out --to, --from and --prefix')
        return args
    if args.data or args.results or args.license:
        raise UsageError('--data, --results, --license: only with --model')
    if args.to is None and (args.entry is None or args.source_format or args.prefix):
        raise UsageError('--to: give the names to make; only --entry does without')
    return args


def main(argv: Sequence[str]) -> None:
    """Convert what the command line says."""
    args = parse(argv)
    if args.model:
        _save_folder(args)
        return
    from mmpoolformer.checkpoints import convert_file  # torch: not for --help

    with as_user_error('', (OSError, ValueError)):
        report = convert_file(
            args.source,
            args.destination,
            args.to,
            source_format=args.source_format,
            prefix=args.prefix,
            entry=args.entry,
            trust=args.trust,
            force=args.force,
        )
    print(f'{args.destination}: {report}')


def _save_folder(args: argparse.Namespace) -> None:
    from mmpoolformer.apps.saving import save_folder  # torch: not for --help

    with as_user_error('', (OSError, ValueError)):
        save_folder(
            args.model,
            with_entry([args.source], args.entry)[0],
            args.destination,
            trust=args.trust,
            data=args.data,
            results=args.results,
            license=args.license,
            force=args.force,
        )
    folder = Path(args.destination).expanduser()
    names = sorted(file.name for file in folder.iterdir())
    print(f'{args.destination}: {", ".join(names)}')
