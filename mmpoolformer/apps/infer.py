"""Any model on files, folders and videos, for the command `infer`."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image
from tqdm import tqdm

from mmpoolformer.data.class_names import read_class_names
from mmpoolformer.data.coco_ids import CocoIds, read_coco_ids
from mmpoolformer.inference import videos
from mmpoolformer.inference.drawings import draw_result, region_legend
from mmpoolformer.inference.outputs import Sink, open_sink
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.inference.videos import Video, VideoError, written_video
from mmpoolformer.inference.weights import report_random
from mmpoolformer.utils.devices import inference_device
from mmpoolformer.utils.errors import UsageError, UserError, as_user_error
from mmpoolformer.utils.files import atomic_path
from mmpoolformer.utils.images import SUFFIXES, find_pictures
from mmpoolformer.utils.progress import progress_bar
from mmpoolformer.utils.results import DETECTION, INSTANCES, SEGMENTATION, Result
from mmpoolformer.utils.text import distinct

MISTAKES = (OSError, ValueError)


@dataclass(frozen=True)
class Inputs:
    """What to look at.

    Attributes:
        pictures: Names for their files of results, by path.
        videos: Likewise.
    """

    pictures: dict[str, str]
    videos: dict[str, str]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.pictures) + len(self.videos)


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What to run on what.

    Attributes:
        model: See `Predictor`, as the next four.
        checkpoint: The weights.
        trust: Whether they may hold more than data.
        classes: File of the names of the classes, see `read_class_names`.
        device: See `choose_device`.
        dtype: See `Predictor`.
        inputs: Pictures, videos, folders and patterns.
        out: Folder of the results.
        force: Whether it may hold files already.
        score_thr: Score threshold of boxes, from 0 to 1.
        topk: Classes for each picture.
        ids: Annotation file in COCO's format, whose ids the results get.
        batch_size: Pictures at a time.
    """

    model: str
    checkpoint: str | None = None
    trust: bool = False
    classes: str | None = None
    device: str | None = None
    dtype: str = 'fp32'
    inputs: Sequence[str]
    out: str
    force: bool = False
    score_thr: float = 0.3
    topk: int = 5
    ids: str | None = None
    batch_size: int = 1


def infer(job: Inference) -> None:
    """Run a model, draw and write what it finds.

    Raises:
        UserError: If the options, the model or all inputs are wrong; and at the end, if
            some of the inputs could not be read.
    """
    _check(job)
    out = Path(job.out)
    with as_user_error('', MISTAKES):
        inputs = find_inputs(job.inputs, out)
    device = inference_device(job.device)
    with as_user_error('', MISTAKES):
        classes = read_class_names(job.classes) if job.classes else ()
        predictor = Predictor(
            job.model, job.checkpoint, device, job.trust, classes, job.dtype
        )
        report_random(predictor.title, predictor.unfilled)
        if predictor.takes_bands and inputs.videos:
            raise UsageError(
                f'{next(iter(inputs.videos))}: videos are RGB of 8 bits, but the '
                f'config of {predictor.title} reads other pictures'
            )
        ids = _ids(job.ids, predictor, inputs) if job.ids else None
        unread = _Run(job, predictor, ids).run(inputs)
    if unread:
        raise UserError(
            f'{unread} of {len(inputs)} inputs could not be read, see above; results '
            f'of the others are in {out}'
        )
    print(f'{len(inputs)} inputs, {predictor.task}: {out}')


def find_inputs(places: Sequence[str], out: Path) -> Inputs:
    """Find pictures and videos.

    Args:
        places: Files, folders and patterns, see `find_pictures`.
        out: Folder of results; what lies there is left out.

    Raises:
        ValueError: If there is nothing at a place.
    """
    out = out.resolve()
    paths = [
        path
        for path in find_pictures(places, (*SUFFIXES, *videos.SUFFIXES))
        if not Path(path).resolve().is_relative_to(out)
    ]
    if not paths:
        raise ValueError(f'{", ".join(places)}: nothing there but results')
    names = distinct_names(paths)
    moving = {p for p in paths if Path(p).suffix.lower() in videos.SUFFIXES}
    return Inputs(
        {path: name for path, name in names.items() if path not in moving},
        {path: name for path, name in names.items() if path in moving},
    )


def distinct_names(paths: Sequence[str]) -> dict[str, str]:
    """Return a name for the results of each file: its own without ending.

    Equal names, also those that differ in capitals only, get a number: the first that
    makes it no other file's own name.
    """
    own = {Path(path).stem.casefold() for path in paths}
    names, taken = {}, set()
    for path in paths:
        stem = Path(path).stem
        is_first = stem.casefold() not in taken
        names[path] = stem if is_first else distinct(stem, taken | own, '{}_{}')
        taken.add(names[path].casefold())
    return names


def _ids(file: str, predictor: Predictor, inputs: Inputs) -> CocoIds:
    if predictor.task not in (DETECTION, INSTANCES):
        raise UsageError(f'--ids: for detectors, {predictor.title} is none')
    if inputs.videos:
        raise UsageError(f'--ids: for pictures, not {next(iter(inputs.videos))}')
    return read_coco_ids(file, list(inputs.pictures), predictor.classes)


def _check(job: Inference) -> None:
    if job.batch_size < 1:
        raise UsageError(f'--batch-size {job.batch_size}: give a number from 1')
    if job.topk < 1:
        raise UsageError(f'--topk {job.topk}: give a number from 1')
    if not 0 <= job.score_thr <= 1:
        raise UsageError(f'--score-thr {job.score_thr}: must be from 0 to 1')
    out = Path(job.out)
    if out.exists() and not out.is_dir():
        raise UsageError(f'--out {out}: is no folder')
    if out.exists() and any(out.iterdir()) and not job.force:
        raise UsageError(
            f'--out {out}: is not empty; choose another folder, or --force to replace '
            'results of the same names'
        )


class _Run:
    """One run of the tool.

    Args:
        job: What to do.
        predictor: The model.
        ids: See `open_sink`.
    """

    def __init__(
        self, job: Inference, predictor: Predictor, ids: CocoIds | None
    ) -> None:
        self.job = job
        self.predictor = predictor
        self.out = Path(job.out)
        self.ids = ids
        self.unread = 0

    def run(self, inputs: Inputs) -> int:
        """Look at all inputs, and return how many could not be read.

        Raises:
            ValueError: If none could be read; nothing is left then.
        """
        total = len(inputs.pictures) + sum(map(_announced, inputs.videos))
        is_new = not self.out.exists()
        with ExitStack() as stack:
            stack.callback(self._tidy, is_new)
            job = self.job
            sink = open_sink(
                self.predictor, self.out, job.score_thr, job.topk, self.ids
            )
            add = stack.enter_context(sink)
            bar = stack.enter_context(progress_bar(total, self.predictor.title))
            self._see_pictures(inputs.pictures, add, bar)
            for path, name in inputs.videos.items():
                self._see_video(path, name, add, bar)
            if self.unread == len(inputs):
                raise ValueError(f'none of the {self.unread} inputs can be read')
        return self.unread

    def _see_pictures(self, names: dict[str, str], add: Sink, bar: tqdm) -> None:
        results = self.predictor.stream(
            names, self.job.batch_size, skip_unreadable=True
        )
        for result in results:
            bar.update()
            if result.problem:
                self._report(result.problem, bar)
                continue
            name = names[result.name]
            add(result, result.name, name)
            drawing = self._draw(result)
            if self.predictor.task == SEGMENTATION:
                legend = region_legend(self.predictor, result)
                drawing = np.concatenate([drawing, legend])
            with atomic_path(self.out / 'pictures' / f'{name}.jpg') as part:
                picture = Image.fromarray(drawing)
                picture.save(part, 'JPEG', quality=95, subsampling=0)

    def _see_video(self, path: str, name: str, add: Sink, bar: tqdm) -> None:
        try:
            video = Video(path)
        except VideoError as error:
            self._report(str(error), bar)
            return
        results = self.predictor.stream(video, self.job.batch_size)
        with written_video(self.out / 'videos' / f'{name}.mp4', video.fps) as write:
            try:
                for number, result in enumerate(results):
                    add(result, f'{path}#{number:06d}', f'{name}/{number:06d}')
                    write(self._draw(result))
                    bar.update()
            except VideoError as error:  # cut short: what could be read is kept
                self._report(str(error), bar)

    def _draw(self, result: Result) -> ndarray:
        job = self.job
        return draw_result(self.predictor, result, job.score_thr, job.topk)

    def _report(self, problem: str, bar: tqdm) -> None:
        self.unread += 1
        bar.clear()
        print(problem, file=sys.stderr)

    def _tidy(self, is_new: bool) -> None:
        """Remove folders that nothing was written to."""
        folders = [*self.out.rglob('*/')][::-1] + [self.out] * is_new
        for folder in folders:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _announced(path: str) -> int:
    try:
        return Video(path).announced
    except VideoError:  # told when its turn comes
        return 0
