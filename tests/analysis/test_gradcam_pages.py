from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from random_models import Models
from tiny_data import write_detection_config, write_segmentation_config
from tool_process import ROOT, run_many
from torch import Tensor, nn

from mmpoolformer import create_model
from mmpoolformer.analysis.gradcam import METHODS
from mmpoolformer.analysis.gradcam_pages import (
    CLASSIFIED_WIDTH,
    WHOLE_WIDTH,
    Picture,
    Settings,
    _class_number,
    classification_page,
    config_page,
    read_picture,
)
from mmpoolformer.cli import main
from mmpoolformer.inference.adapters import load_adapter
from mmpoolformer.inference.classifiers import KnownClassifier
from mmpoolformer.inference.openmmlab import load_openmmlab
from mmpoolformer.models.from_config import build_from_config
from mmpoolformer.visual.drawing import GAP

pytestmark = pytest.mark.slow

TOOL = 'tools/gradcam.py'
# Title, legend and headings above the first row.
TOP = 34 + 24 + 24


class Colours(nn.Module):
    """Logits that are the average of red and of blue."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.stem.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.stem(x).mean((2, 3))[:, [0, 2]]


@pytest.fixture
def halves() -> Picture:
    """A picture whose left half is red and whose right half is blue."""
    pixels = np.zeros((128, 256, 3), dtype=np.uint8)
    pixels[:, :100, 0] = pixels[:, 156:, 2] = 250
    return Picture('halves.png', pixels, pixels)


@pytest.fixture
def classifier() -> KnownClassifier:
    settings = dict(input_size=(3, 128, 256), crop_pct=1.0)
    settings |= dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return KnownClassifier(
        'colours', 'random', Colours().eval(), settings, ('red', 'blue')
    )


def panel(page: np.ndarray, column: int) -> np.ndarray:
    left = GAP + column * (CLASSIFIED_WIDTH + GAP)
    return page[TOP : TOP + 128, left : left + CLASSIFIED_WIDTH].astype(int)


@pytest.mark.parametrize(('category', 'side'), [(0, 'left'), ('blue', 'right')])
def test_panel_is_hot_where_the_class_is(
    halves: Picture, classifier: KnownClassifier, category: int | str, side: str
) -> None:
    settings = Settings(category=category, layer='stem')
    page = classification_page([halves], [classifier, classifier], settings)
    assert page.shape[1] == 3 * (CLASSIFIED_WIDTH + GAP) + GAP
    assert np.abs(panel(page, 0) - halves.pixels).max() < 30  # the picture itself
    assert np.array_equal(panel(page, 1), panel(page, 2))
    # Half the picture, half the map: dark red is hot, dark blue is cold.
    middle = panel(page, 1)[64]
    hot, cold = (middle[50], middle[200])[:: 1 if side == 'left' else -1]
    red, blue = halves.pixels[64, 50], halves.pixels[64, 200]
    under_hot, under_cold = (red, blue)[:: 1 if side == 'left' else -1]
    assert (2 * hot - under_hot)[0] > 100 and (2 * hot - under_hot)[2] < 20
    assert (2 * cold - under_cold)[0] < 60


def test_every_picture_is_a_row(halves: Picture, classifier: KnownClassifier) -> None:
    done = []
    settings = Settings(layer='stem')
    one = classification_page([halves], [classifier], settings)
    three = classification_page(
        [halves] * 3, [classifier], settings, lambda: done.append(1)
    )
    assert len(done) == 3
    assert three.shape[0] - one.shape[0] == 2 * (128 + 22 + GAP)


@pytest.mark.parametrize(
    ('category', 'message'),
    [
        ('bleu', "'bleu': give a name or a number from 0 to 1; did you mean blue"),
        ('2', 'class 2: give a name or a number from 0 to 1'),
    ],
)
def test_unknown_class(
    halves: Picture, classifier: KnownClassifier, category: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        classification_page(
            [halves], [classifier], Settings(category=category, layer='stem')
        )


def test_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    upright = np.zeros((20, 40, 3), dtype=np.uint8)
    upright[:10, :20, 0] = 255
    turned = Image.fromarray(upright).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned.save(tmp_path / 'turned.png', exif=exif)
    assert np.array_equal(
        read_picture(tmp_path / 'turned.png', KnownClassifier).pixels, upright
    )


def test_classifier_sees_what_it_was_made_for(halves: Picture) -> None:
    ready = load_adapter('timm/resnet18', 'random')
    seen = ready.prepare(np.full((300, 400, 3), (124, 116, 104), np.uint8))
    assert seen.shape == (3, 224, 224)
    assert seen.abs().max() < 0.01  # ImageNet's mean colour becomes 0
    # Among ImageNet's synonyms, the first alone will do.
    for category in ('tabby', 'tabby, tabby cat', 281):
        assert _class_number(category, ready.classes) == 281
    small = load_adapter('poolformer_s12', 'random', size=(64, 96), num_classes=3)
    assert small.prepare(halves.pixels).shape == (3, 64, 96)
    assert list(small.classes) == ['0', '1', '2']


CONFIG = """test_dataloader = dict(
    dataset=dict(transform=dict(input_size=(3, 64, 64), mean=(0.5, 0.25, 0.5),
                                std=(0.5, 0.5, 0.5), crop_pct=1.0)))"""


def save_classifier(path: Path, classes: tuple[str, ...]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    weights = create_model('poolformer_s12', num_classes=len(classes)).state_dict()
    meta = {'dataset_meta': {'classes': classes}, 'cfg': CONFIG}
    torch.save({'state_dict': weights, 'meta': meta}, path)
    return weights


@pytest.mark.parametrize('classes', [('apple', 'cherry'), ('a', 'b', 'c')])
def test_classifier_is_prepared_as_its_checkpoint_says(
    classes: tuple[str, ...], tmp_path: Path
) -> None:
    weights = save_classifier(tmp_path / 'a.pth', classes)
    ready = load_adapter('poolformer_s12', str(tmp_path / 'a.pth'))
    assert (ready.title, tuple(ready.classes)) == ('poolformer_s12', classes)
    assert torch.equal(
        ready.network.state_dict()['head.fc.bias'], weights['head.fc.bias']
    )
    seen = ready.prepare(np.full((90, 90, 3), (255, 0, 51), np.uint8))
    assert seen.shape == (3, 64, 64)
    expected = torch.tensor([1.0, -0.5, -0.6]).view(3, 1, 1).expand_as(seen)
    torch.testing.assert_close(seen, expected, atol=1e-6, rtol=0)
    other = load_adapter('poolformer_s12', str(tmp_path / 'a.pth'), size=(32, 96))
    assert other.prepare(np.zeros((90, 90, 3), np.uint8)).shape == (3, 32, 96)


def test_number_of_classes_must_be_that_of_the_checkpoint(tmp_path: Path) -> None:
    save_classifier(tmp_path / 'a.pth', ('apple', 'cherry'))
    weights = str(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'num_classes=5, but .* is for 2 classes'):
        load_adapter('poolformer_s12', weights, num_classes=5)
    ready = load_adapter('poolformer_s12', weights, num_classes=2)
    assert tuple(ready.classes) == ('apple', 'cherry')


# ------------------------------------------------------------- whole models


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Config]:
    def read(kind: str) -> Config:
        path = tmp_path / f'{kind}.py'
        if kind == 'segmentation':
            write_segmentation_config(path, tmp_path)
        else:
            write_detection_config(path, tmp_path)
        return Config.fromfile(path)

    return read


def test_detector_draws_a_map_for_each_box(
    load: Callable[[str], Config], halves: Picture
) -> None:
    config = load('detection')
    config.model.test_cfg.score_thr = 0.0
    torch.manual_seed(0)
    whole = load_openmmlab(config, 'random')
    assert whole.classes == ('square', 'disc')
    assert (whole.title, whole.unfilled) == ('detection', 'all weights')
    page = config_page([(halves, whole)], Settings(score_thr=0.0, top=2))
    assert page.shape[1] == 3 * (WHOLE_WIDTH + GAP) + GAP
    nothing = config_page([(halves, whole)], Settings(score_thr=1.1))
    assert nothing.shape[1] == WHOLE_WIDTH + 2 * GAP


def test_segmentor_draws_a_map_for_each_region(
    load: Callable[[str], Config], halves: Picture
) -> None:
    torch.manual_seed(0)
    whole = load_openmmlab(load('segmentation'), 'random')
    assert whole.classes == ('square', 'disc', 'background')
    page = config_page([(halves, whole)], Settings(category='disc'))
    assert page.shape[1] == 2 * (WHOLE_WIDTH + GAP) + GAP
    height = round(128 * WHOLE_WIDTH / 256)
    assert page.shape[0] == TOP + height + 22 + GAP
    whole.colours[:] = 0, 200, 0  # as a data set may have them
    page = config_page([(halves, whole)], Settings(top=1))
    found = page[TOP + 20 : TOP + height - 20, GAP + 20 : GAP + WHOLE_WIDTH - 20]
    assert np.abs(found[..., 1].astype(int) - 0.6 * 200).max() < 3


def test_weights_of_the_whole_model_are_loaded(
    load: Callable[[str], Config], tmp_path: Path
) -> None:
    config = load('detection')
    model = build_from_config(config)
    classes = ('one', 'two')
    saved = dict(state_dict=model.state_dict(), meta=dict(dataset_meta={}))
    saved['meta']['dataset_meta']['classes'] = classes
    torch.save(saved, tmp_path / 'w.pth')
    whole = load_openmmlab(config, str(tmp_path / 'w.pth'))
    assert (whole.classes, whole.unfilled) == (classes, '')
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


# ----------------------------------------------------------------- the tool


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp('tool')
    write_detection_config(folder / 'detection.py', folder)
    for name in ('a.png', 'b.png'):
        Image.new('RGB', (90, 60), (200, 30, 30)).save(folder / name)
    (folder / 'text.png').write_text('no picture')
    model = ['--model', 'poolformer_s12', '--checkpoint', 'random']
    quick = [*model, '--num-classes', 2, '--size', 64]
    detector = ['--config', 'detection.py', '--checkpoint', 'random']
    (folder / 'names.txt').write_text('ant\nbee\ncat\n')
    commands = {
        'two': [
            *('a.png', 'b.png', '--model', 'poolformer_s12', 'timm/resnet18'),
            *('--checkpoint', 'random', 'random', '--classes', 'names.txt'),
            *('--num-classes', 3, '--size', 64, '--method', 'gradcam++'),
            *('--class', 'bee', '--out', 'x/two.png'),
        ],
        'detector': [
            *('a.png', '--config', 'detection.py', '--score-thr', 0),
            *('--out', 'detector.png'),
        ],
        'mixed': [
            *('a.png', '--model', 'poolformer_s12', 'detection.py'),
            *('--checkpoint', 'random', 'random'),
        ],
        'size': ['a.png', *detector, '--size', 64],
        'classes': ['a.png', *model, '--classes', 'names.txt'],
        'count': ['a.png', *model[:2], '--num-classes', 2],
        'no file': ['nothere.png', *model],
        'no config': ['a.png', '--config', 'nothere.py'],
        'no picture': ['text.png', *quick],
        'name': ['a.png', '--model', 'poolfromer_s12'],
        'method': ['a.png', *quick, '--method', 'GardCAM'],
        'class': ['a.png', *quick, '--class', 2],
        'layer': ['a.png', *quick, '--layer', 'stage.1'],
        'weights': ['a.png', *quick, '--checkpoint', 'x.pth', 'y.pth'],
        'no weights': ['a.png', *model, '--checkpoint', 'x.pth'],
        'out': ['a.png', *quick, '--out', 'x.gif'],
        'threshold': ['a.png', '--config', 'detection.py', '--score-thr', 2],
    }
    done = run_many([[TOOL, *words] for words in commands.values()], folder)
    return {**dict(zip(commands, done, strict=True)), 'folder': folder}


def test_tool_writes_the_page(outcomes: dict) -> None:
    assert outcomes['two']['code'] == 0
    assert 'poolformer_s12: all weights are random' in outcomes['two']['err']
    with Image.open(outcomes['folder'] / 'x/two.png') as page:
        assert page.width == 3 * (CLASSIFIED_WIDTH + GAP) + GAP
    # The config names no weights, which is said.
    assert 'detection: all weights are random' in outcomes['detector']['err']
    assert outcomes['detector']['code'] == 0
    with Image.open(outcomes['folder'] / 'detector.png') as page:
        assert page.width >= WHOLE_WIDTH + 2 * GAP


@pytest.mark.parametrize(
    ('mistake', 'code', 'message'),
    [
        ('mixed', 1, 'do not share a page'),
        ('size', 1, 'is for classifiers'),
        ('classes', 1, '3 class names, but poolformer_s12 (random) has 1000 classes'),
        ('count', 2, '--num-classes 2: for named models with --checkpoint random'),
        ('no file', 2, 'nothere.png: no such file'),
        ('no config', 2, 'nothere.py: no such config file'),
        ('no picture', 1, 'text.png: can not be read as a picture'),
        ('name', 1, 'did you mean poolformer_s'),
        ('method', 1, "no method 'GardCAM': choose from GradCAM"),
        ('class', 1, 'give a name or a number from 0 to 1'),
        ('layer', 1, "no layer 'stage.1' in the model, which has stem, stages"),
        ('weights', 2, '2 weights for 1 models'),
        ('no weights', 2, 'x.pth: no such checkpoint'),
        ('out', 2, 'must end in .png'),
        ('threshold', 2, 'must be from 0 to 1'),
    ],
)
def test_a_mistake_is_one_line(
    outcomes: dict, mistake: str, code: int, message: str
) -> None:
    outcome = outcomes[mistake]
    assert outcome['code'] == code
    lines = [line for line in outcome['err'].splitlines() if line]
    assert lines[-1].startswith('error: ') and message in lines[-1]
    assert 'Traceback' not in outcome['err']
    assert not list(outcomes['folder'].glob('cam.png*'))


def test_the_classifier_of_a_config_has_its_names_and_preprocessing(
    models: Models, tmp_path: Path
) -> None:
    """The config says 48 x 48, the checkpoint ant, bee and cat."""
    words = ['--model', models.config('classification'), '--out', tmp_path / 'a.png']
    words += ['--checkpoint', models.checkpoint('classification'), '--class', 'bee']
    assert main(['gradcam', models.pictures[0], *map(str, words)]) == 0
    engine = load_adapter(words[1], words[5])
    pixels = read_picture(models.pictures[0], engine)
    page = classification_page([pixels], [engine], Settings(category=1))
    with Image.open(tmp_path / 'a.png') as written:
        assert np.array_equal(np.array(written), page)
    assert engine.prepare(pixels.pixels).shape == (3, 48, 48)


def test_help_names_the_methods() -> None:
    text = (ROOT / 'mmpoolformer/cli/gradcam.py').read_text()
    listed = text[text.index('METHODS = (') :].split(')')[0]
    assert [word for word in METHODS if f"'{word}'" in listed] == list(METHODS)
