"""`--size` sets every size of a config; a crop that is padded is told of."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from tiny_data import write_classes, write_data, write_detection_config

from mmpoolformer.engine import picture_size
from mmpoolformer.engine.config import load_config
from mmpoolformer.engine.picture_size import use_size, warn_of_padding
from mmpoolformer.utils.errors import UsageError

CONFIGS = Path(__file__).parents[2] / 'configs'
ADE = CONFIGS / 'segmentation/fpn_poolformer_s12_ade20k_40k.py'
IMAGENET = CONFIGS / 'classification/poolformer_s12_8xb128_in1k.py'
COCO = 'retinanet_poolformer_s12_fpn_1x_coco'


def scales(config: Config, part: str) -> list:
    pipeline = config[f'{part}_dataloader'].dataset.pipeline
    return [tuple(step.scale) for step in pipeline if 'scale' in step]


def item(config: Config, part: str) -> dict:
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return DATASETS.build(config[f'{part}_dataloader'].dataset)[0]


@pytest.mark.parametrize('size', [(96, 128), (128, 128)])
def test_detection_resizes_to_the_size(tmp_path: Path, size: tuple[int, int]) -> None:
    write_data(tmp_path / 'data')
    write_detection_config(tmp_path / 'config.py', tmp_path / 'data')
    config = load_config(tmp_path / 'config.py', size=size)
    for part in ('train', 'val', 'test'):
        # Square pictures, the ratio kept: the smaller side bounds them.
        assert item(config, part)['inputs'].shape[-2:] == (min(size), min(size))


def test_published_scales_are_width_and_height() -> None:
    config = load_config(CONFIGS / f'detection/{COCO}.py', size=(256, 320))
    for part in ('train', 'val', 'test'):
        assert scales(config, part) == [(320, 256)]


def test_random_scales_stay_in_proportion() -> None:
    config = load_config(CONFIGS / f'detection/{COCO}.py')
    config.train_dataloader.dataset.pipeline[2] = dict(
        type='RandomChoiceResize',
        scales=[(1333, 640), (1333, 800)],
        keep_ratio=True,
    )
    use_size(config, (400, 667))
    resize = config.train_dataloader.dataset.pipeline[2]
    assert resize['scales'] == [(667, 320), (667, 400)]


def test_segmentation_crops_and_pads_to_the_size() -> None:
    config = load_config(ADE, size=(128, 192))
    resize, crop = config.train_dataloader.dataset.pipeline[2:4]
    # The shorter side is as long, in proportion, as it was beside crops of 512.
    assert resize.scale[1] == 128 and crop.crop_size == (128, 192)
    assert scales(config, 'val')[0][1] == scales(config, 'test')[0][1] == 128
    assert config.model.data_preprocessor.size == (128, 192)
    preprocessor = MODELS.build(dict(config.model.data_preprocessor, _scope_='mmseg'))
    assert preprocessor.size == (128, 192)


def test_sliding_windows_follow() -> None:
    config = load_config(ADE)
    config.model.test_cfg = dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    use_size(config, (256, 256))
    assert config.model.test_cfg.crop_size == (256, 256)
    assert config.model.test_cfg.stride == (170, 170)


def test_classification_feeds_the_size(tmp_path: Path) -> None:
    for part in ('train', 'val'):
        write_classes(tmp_path / part, ('a', 'b'), count=2)
    roots = [
        f'{part}_dataloader.dataset.root={tmp_path}'
        for part in ('train', 'val', 'test')
    ]
    config = load_config(IMAGENET, size=(64, 96), overrides=roots)
    for part in ('train', 'val', 'test'):
        assert item(config, part)['inputs'].shape == (3, 64, 96)


def test_settings_of_the_command_line_come_after_the_size() -> None:
    key = 'val_dataloader.dataset.pipeline.1.scale'
    config = load_config(
        CONFIGS / f'detection/{COCO}.py', size=(64, 64), overrides=[f'{key}=(99,88)']
    )
    assert scales(config, 'train') == [(64, 64)]
    assert scales(config, 'val') == [(99, 88)]


def test_a_config_without_a_size_is_refused() -> None:
    config = Config(dict(model=dict(type='A'), train_dataloader=dict(dataset=dict())))
    with pytest.raises(UsageError, match='--size: no step'):
        use_size(config, (64, 64))


def test_padding_of_a_crop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(picture_size, 'warn', told.append)
    config = load_config(ADE)
    warn_of_padding(config)
    assert not told
    config.train_dataloader.dataset.pipeline[3].crop_size = (256, 256)
    warn_of_padding(config)
    (message,) = told
    assert 'crops of 256x256 are padded to 512x512' in message
    assert '--size 256 256' in message
