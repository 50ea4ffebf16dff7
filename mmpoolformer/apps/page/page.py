"""The web page of tools/demo.py, made with Gradio, 5 or 6.

Nothing is asked of other machines: no telemetry, no fonts or scripts from elsewhere.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from mmpoolformer.apps.page.door import Guard, Rules, is_given
from mmpoolformer.apps.page.results import PageResult, Place, run_on_file
from mmpoolformer.data.demo.scenes import crop_shape, is_clear
from mmpoolformer.data.demo.shapes import draw_scene
from mmpoolformer.inference.predictor import Predictor
from mmpoolformer.utils.results import CLASSIFICATION, SEGMENTATION

TITLE = 'mmpoolformer: what does the model see?'
INTRODUCTION = """# What does the model see?
Give a picture or choose an example. Nothing leaves the machine that runs this page."""
START = PageResult('No picture yet.')
NOT_GIVEN = 'Picture: upload a file or choose an example.'
# Most rows of the list of objects.
MOST_ROWS = 12
# Questions that may wait for an answer.
WAITING = 64
# How often and after how long pictures of users are deleted, in seconds.
CLEANING = (600, 3600)
# Examples: scenes of the demonstration data that are not trained on, and of which a
# shape is cut out too, for classifiers.
SEED, SPLIT = 0, 1
SCENES, CROPPED = (4, 14, 21, 29), (1, 9, 22)

CSS = """
.flush, .flush > div { padding: 0 !important; }
.flush .told { padding: 10px 14px !important; }
.told { border-radius: 8px; overflow-wrap: anywhere;
        background: #e8f1fb; color: #12304f; }
.told.problem { background: #fdecea; color: #7a1a12; font-weight: 600; }
.places { width: 100%; border-collapse: collapse; border: none !important; }
.places tr { border: none !important; }
.places td, .places th { padding: 4px 8px !important; text-align: left !important;
    border: none !important; border-bottom: 1px solid #8883 !important; }
.places td:last-child, .places th:last-child { text-align: right !important; }
.colour { display: inline-block; width: 0.9em; height: 0.9em; border-radius: 3px;
          margin-right: 0.6em; vertical-align: -0.1em; border: 1px solid #0004; }
button[aria-label^="Share"], button[title^="Share"] { display: none !important; }
footer { display: none !important; }
/* On a phone the drawing is as wide as the screen, and as high as that makes it. */
@media (max-width: 640px) { .drawing { height: auto !important; min-height: 120px; } }
"""
FONTS = {
    'font': ('system-ui', 'sans-serif'),
    'font_mono': ('ui-monospace', 'monospace'),
}


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Attributes:
        megabytes: Of a file.
        pixels: Of a picture.
    """

    megabytes: float = 20
    pixels: int = 25_000_000


def build_page(
    predictors: Mapping[str, Predictor],
    examples: Sequence[str | os.PathLike],
    limits: Limits,
) -> gr.Blocks:
    """Build the page.

    Args:
        predictors: Models by the names that are shown, at least one.
        examples: Picture files.
        limits: What is taken.
    """
    look = {} if _moved_to_launch() else _look_options()
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=CLEANING, **look
    ) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                inputs = _build_inputs(predictors, examples)
            with gr.Column(scale=3, min_width=360):
                outputs = _build_outputs()
        picture, model, threshold = inputs
        serve = partial(_serve, predictors, limits)
        gr.on(
            [picture.change, model.change, threshold.input],
            serve,
            inputs,
            outputs,
            # One after another, so that the last answer is that to the last question;
            # those that another has followed before their turn are left out.
            concurrency_limit=1,
            trigger_mode='always_last',
            api_name='predict',
        )
        model.change(partial(_update_threshold, predictors), model, threshold)
    return page.queue(max_size=WAITING)


def _build_inputs(
    predictors: Mapping[str, Predictor], examples: Sequence[str | os.PathLike]
) -> list[gr.components.Component]:
    names = list(predictors)
    picture = gr.Image(
        label='Picture', sources=['upload', 'clipboard'], type='filepath', height=320
    )
    # Gradio's own would decode the picture, before its size was looked at.
    picture.preprocess = partial(_path_of, Path(picture.GRADIO_CACHE))
    model = gr.Dropdown(names, value=names[0], label='Model', interactive=True)
    threshold = gr.Slider(
        *(0.05, 0.95, 0.4),
        step=0.05,
        label='Score threshold',
        visible=_has_threshold(predictors[names[0]]),
    )
    gr.Examples(
        [[str(path)] for path in examples],
        picture,
        label='Examples',
        cache_examples=False,
    )
    return [picture, model, threshold]


def _build_outputs() -> list[gr.components.Component]:
    return [
        gr.HTML(_message_html(START), padding=False, elem_classes='flush'),
        gr.Image(
            label='Drawing',
            show_label=False,  # it would hide a corner of the drawing
            interactive=False,
            format='png',
            height=520,
            elem_classes='drawing',
        ),
        gr.Label(label='Likeliest classes', visible=False),
        gr.HTML(visible=False, padding=False, elem_classes='flush'),
    ]


def _serve(
    predictors: Mapping[str, Predictor],
    limits: Limits,
    path: str | None,
    model: str,
    threshold: float,
) -> list:
    """Return new values of the page's outputs."""
    predictor = predictors[model]  # Gradio has checked that it is a choice
    said = START
    if path is not None:
        said = run_on_file(predictor, path, threshold, limits.pixels)
    return [
        _message_html(said),
        said.drawing,
        gr.update(value=said.shares, visible=said.shares is not None),
        gr.update(value=_listed(said.places, predictor), visible=bool(said.places)),
    ]


def _update_threshold(predictors: Mapping[str, Predictor], model: str) -> dict:
    return gr.update(visible=_has_threshold(predictors[model]))


def _has_threshold(predictor: Predictor) -> bool:
    return predictor.task not in (CLASSIFICATION, SEGMENTATION)


def _path_of(folder: Path, payload: gr.FileData | None) -> str | None:
    """Return the path of an uploaded file.

    Gradio looks where a file lies only if the request calls it one.

    Raises:
        gradio.Error: If it is not a file in the folder of uploads.
    """
    if payload is None:
        return None
    if not is_given(payload.path, folder):
        raise gr.Error(NOT_GIVEN, print_exception=False)
    return payload.path


def _message_html(said: PageResult) -> str:
    kind = 'told problem' if said.is_problem else 'told'
    role = 'alert' if said.is_problem else 'status'
    return f'<div class="{kind}" role="{role}">{_plain(said.message)}</div>'


def _listed(places: Sequence[Place], predictor: Predictor) -> str:
    """Return a table of the first places."""
    unit = 'share' if predictor.task == SEGMENTATION else 'confidence'
    rows = [f'<tr><th>class</th><th>{unit}</th></tr>']
    for place in places[:MOST_ROWS]:
        swatch = f'<span class="colour" style="background: rgb{place.colour}"></span>'
        share = f'{place.share:.1%}' if unit == 'share' else f'{place.share:.2f}'
        rows.append(f'<tr><td>{swatch}{_plain(place.name)}</td><td>{share}</td></tr>')
    if len(places) > MOST_ROWS:
        rows.append(f'<tr><td>and {len(places) - MOST_ROWS} more</td><td></td></tr>')
    return f'<table class="places">{"".join(rows)}</table>'


def _plain(text: str) -> str:
    """Escape text for HTML in Gradio, which reads templates in it."""
    return escape(text).replace('{', '&#123;').replace('$', '&#36;')


def write_examples(folder: Path) -> list[Path]:
    """Draw the example pictures into a folder and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in SCENES:
        paths.append(folder / f'scene_{index}.png')
        Image.fromarray(draw_scene(SEED, SPLIT, index).image).save(paths[-1])
    for index in CROPPED:
        scene = draw_scene(SEED, SPLIT, index)
        shape = next(shape for shape in scene.instances[::-1] if is_clear(shape))
        paths.append(folder / f'shape_{index}.png')
        Image.fromarray(crop_shape(scene.image, shape.mask)).save(paths[-1])
    return paths


@contextmanager
def running_page(
    predictors: Mapping[str, Predictor],
    host: str = '127.0.0.1',
    port: int | None = None,
    limits: Limits | None = None,
    names: Sequence[str] = (),
    root_path: str = '',
) -> Iterator[tuple[gr.Blocks, str]]:
    """Serve the page as long as the block runs.

    What users give lies in a folder that is deleted with the end.

    Args:
        predictors: Models by the names that are shown.
        host: Address to listen on. `'127.0.0.1'` is for this machine alone.
        port: Port to listen on; `None` is the first free one from 7860.
        limits: What is taken; `None` is `Limits()`.
        names: Names of this machine by which users may ask for the page, beside
            `localhost`, `host` and, unless `host` is this machine's alone, addresses
            in numbers.
        root_path: Where a proxy shows the page, such as `'/models'`.

    Yields:
        The page and its address, such as `'http://127.0.0.1:7860/'`.

    Raises:
        OSError: If the port is taken.
    """
    limits = limits or Limits()
    with (
        TemporaryDirectory(prefix='mmpoolformer-demo-') as folder,
        _variables(
            # What users give.
            GRADIO_TEMP_DIR=str(Path(folder) / 'given'),
            no_proxy=_without_proxy(host),
        ),
    ):
        page = build_page(predictors, write_examples(Path(folder) / 'examples'), limits)
        look = _look_options() if _moved_to_launch() else {}
        given = Path(folder) / 'given'
        rules = Rules(host, names, round(limits.megabytes * 2**20), given)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                root_path=root_path or None,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=False,
                allowed_paths=[],
                max_file_size=rules.file_bytes,
                app_kwargs={'middleware': [Middleware(Guard, page=page, rules=rules)]},
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                **look,
            )
            yield page, address
        finally:
            page.close(verbose=False)


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Set variables of the environment, since Gradio can be told by these alone."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _without_proxy(host: str) -> str:
    """Add a host to those that no proxy is asked for: Gradio asks its own page.

    Where it listens on all addresses, it asks at `localhost`.
    """
    others = os.environ.get('no_proxy') or os.environ.get('NO_PROXY') or ''
    return f'{others},{host},localhost'.lstrip(',')


def _moved_to_launch() -> bool:
    """Tell whether `launch` takes the page's look, as since Gradio 6."""
    return int(gr.__version__.split('.')[0]) >= 6


def _look_options() -> dict:
    return {'css': CSS, 'theme': gr.themes.Default(primary_hue='blue', **FONTS)}
