"""Evaluate a checkpoint on a config's test data."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mmpoolformer.cli.options import (
    add_dtype_option,
    add_entry_option,
    add_verbose_option,
    add_with_default,
    check_checkpoint,
    config_parser,
    job_settings,
    parse_config_command,
    with_entry,
)
from mmpoolformer.engine.signals import StopRequest
from mmpoolformer.utils.errors import UsageError, as_user_error
from mmpoolformer.utils.paths import is_exported

TEST_EXAMPLES = """examples:
  measure a checkpoint on the config's test data:
    mmpoolformer test CONFIG work_dirs/NAME/epoch_12.pth
  keep the predictions, and pictures of them beside the truth:
    mmpoolformer test CONFIG CHECKPOINT --out predictions.pkl --show-dir pictures
  explain the result in a page with figures; compare it with an earlier one:
    mmpoolformer test CONFIG CHECKPOINT --report report
    mmpoolformer test CONFIG CHECKPOINT --report after --against before/report.json
  with test-time augmentation:
    mmpoolformer test CONFIG CHECKPOINT --tta
  faster, where the CPU or GPU computes bfloat16:
    mmpoolformer test CONFIG CHECKPOINT --optimize --dtype bf16
  an exported file, by ONNX Runtime (AP may differ by 0.001 from the checkpoint's
  where pictures are padded):
    mmpoolformer test CONFIG model.onnx
  predictions that are there already, as mmpoolformer infer writes them (detections
  with --ids; of segmentors the folder found/masks):
    mmpoolformer test CONFIG found/predictions.json --report report
  on 8 GPUs (or 2 processes on the CPU):
    tools/dist_test.sh CONFIG CHECKPOINT 8
"""


def main(argv: Sequence[str], stop: StopRequest | None = None) -> None:
    """Test as the command line says, until the end or a request to stop."""
    args = parse(argv)
    # torch: not for --help
    from mmpoolformer.classification.class_labels import check_class_order
    from mmpoolformer.engine.launch import Testing, test
    from mmpoolformer.inference.engines import load_engine
    from mmpoolformer.inference.exported import run_exported
    from mmpoolformer.inference.saved import run_saved

    install = None
    if is_exported(args.checkpoint):
        engine = load_engine(args.checkpoint, args.dtype)

        def install(model: object, dataset: object) -> None:
            run_exported(model, engine)
            check_class_order(engine.info.get('classes') or (), dataset, engine.path)

    elif _is_saved(args.checkpoint):
        install = partial(run_saved, source=args.checkpoint)

    job = Testing(
        **job_settings(args),
        verbose=args.verbose,
        checkpoint=args.checkpoint,
        install=install,
        out=args.out,
        show_dir=args.show_dir,
        show=args.show,
        wait_time=args.wait_time,
        tta=args.tta,
        optimize=args.optimize,
        dtype=args.dtype,
        outcomes=args.report is not None,
        check=args.check,
    )
    rows = None
    if args.report:
        # matplotlib: not for --help
        from mmpoolformer.analysis.report import read_rows, write_report

        with as_user_error('', (OSError,)):
            Path(args.report).mkdir(parents=True, exist_ok=True)
        rows = read_rows(args.against) if args.against else None
    tested = test(job, stop)
    if args.report and tested:
        facts = {'config': args.config, 'checkpoint': args.checkpoint}
        print(f'report: {write_report(tested, facts, args.report, rows)}')


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UsageError: If the config or the checkpoint is not there.
    """
    parser = config_parser(
        'test', 'Evaluate a checkpoint on the test data of a config.', TEST_EXAMPLES
    )
    parser.add_argument(
        'checkpoint',
        help='path, URL or zoo://NAME of the weights of the whole model, or a file of '
        'mmpoolformer export, .onnx or .xml (OpenVINO), which runs on the CPU; or '
        "predictions, with which no model runs: COCO's list of results (.json), "
        'or of a segmentor a folder of label maps (.png) named like the pictures',
    )
    add_entry_option(parser)
    parser.add_argument(
        '--out', metavar='FILE.pkl', help='write the predictions to a pickle file'
    )
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='draw truth beside prediction of every image into this folder',
    )
    parser.add_argument(
        '--show', action='store_true', help='show the drawings in a window'
    )
    text = 'how long --show shows each'
    add_with_default(parser, '--wait-time', 2, text, type=float, metavar='SECONDS')
    parser.add_argument(
        '--report',
        metavar='DIR',
        help='explain the metrics in DIR/report.html: figures of each class, '
        'confusions, kinds of errors, calibration, the worst pictures',
    )
    parser.add_argument(
        '--against',
        metavar='report.json',
        help='compare the figures of each class with those of another report',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation, the config's tta_model and tta_pipeline or "
        'else horizontal flips',
    )
    parser.add_argument(
        '--optimize',
        action='store_true',
        help='fuse BatchNorm and scales into the weights first: faster, results '
        'equal up to rounding',
    )
    add_dtype_option(
        parser,
        ('fp32', 'bf16'),
        'type that the model computes in with --optimize; heads for which bfloat16 is '
        'not known to be safe keep fp32. Files for OpenVINO (.xml) need no --optimize',
    )
    parser.add_argument(
        '--no-check',
        dest='check',
        action='store_false',
        help='do not look at the test data first (see mmpoolformer check-data)',
    )
    add_verbose_option(parser)
    args = parse_config_command(parser, argv)
    exported = is_exported(args.checkpoint)
    saved = _is_saved(args.checkpoint)
    if args.dtype != 'fp32' and not (args.optimize or exported):
        raise UsageError(f'--dtype {args.dtype}: goes with --optimize')
    if args.optimize and exported:
        raise UsageError(f'--optimize: for checkpoints, {args.checkpoint} is exported')
    if saved and (args.optimize or args.tta):
        raise UsageError(f'--optimize, --tta: {args.checkpoint} is no model')
    if args.against and not args.report:
        raise UsageError('--against: goes with --report')
    [args.checkpoint] = with_entry([args.checkpoint], args.entry)
    check_checkpoint(args.checkpoint)
    return args


def _is_saved(source: str) -> bool:
    """Tell whether predictions are named: a .json, or a folder of label maps.

    The folder of a checkpoint may have pictures, too.
    """
    if not Path(source).is_dir():
        return source.endswith('.json')
    from mmpoolformer.checkpoints.folders import ENDINGS  # torch: not for --help

    endings = {file.suffix for file in Path(source).iterdir()}
    return '.png' in endings and endings.isdisjoint(ENDINGS)
