"""Data of other formats is named, and the printed conversion makes COCO's of it."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from tool_process import write_stand_ins

from mmpoolformer.data import foreign
from mmpoolformer.data.class_names import coco_classes

CONFIG = (
    Path(__file__).parents[2]
    / 'configs/detection/retinanet_poolformer_s12_fpn_coco_folder.py'
)
WIDTH, HEIGHT = 80, 64
# Left, top, right and bottom of the one box in each picture, and its class.
BOXES = {f'{i}': (4 * i, 2 * i, 4 * i + 40, 2 * i + 32) for i in range(5)}
CLASSES = ('ant', 'bee')
Writer = Callable[[Path], None]


def label(name: str) -> int:
    return int(name) % 2


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (WIDTH, HEIGHT), (int(path.stem) * 40, 90, 30)).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def yolo_line(name: str) -> str:
    left, top, right, bottom = BOXES[name]
    middle = (left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT
    size = (right - left) / WIDTH, (bottom - top) / HEIGHT
    return ' '.join(map(str, (label(name), *middle, *size))) + '\n'


def yolo(pattern: str) -> Writer:
    """Write YOLO's files, with the split's and the kind's folder as in a pattern."""

    def write(root: Path) -> None:
        for name in BOXES:
            split = 'valid' if name in '34' and 'train/' in pattern else 'train'
            place = pattern.replace('train', split)
            picture(root / place.format('images') / f'{name}.jpg')
            text(root / place.format('labels') / f'{name}.txt', yolo_line(name))
        text(root / 'data.yaml', f'names: {list(CLASSES)}\n')

    return write


def voc(root: Path) -> None:
    for name, box in BOXES.items():
        picture(root / 'JPEGImages' / f'{name}.jpg')
        sides = zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
        bounds = ''.join(f'<{side}>{value}</{side}>' for side, value in sides)
        text(
            root / 'Annotations' / f'{name}.xml',
            f'<annotation><filename>{name}.jpg</filename><size><width>{WIDTH}</width>'
            f'<height>{HEIGHT}</height><depth>3</depth></size><object>'
            f'<name>{CLASSES[label(name)]}</name><bndbox>{bounds}</bndbox></object>'
            '</annotation>',
        )


def voc_in_parts(root: Path) -> None:
    """Write Pascal VOC's files in folders for training and validation."""
    voc(root)
    for file in sorted(root.glob('*/*')):
        part = root / ('valid' if file.stem in '34' else 'train')
        part.mkdir(exist_ok=True)
        file.rename(part / file.name)


def corners(first: list, last: list) -> list[list]:
    return [first, [last[0], first[1]], last, [first[0], last[1]]]


def labelme(root: Path) -> None:
    for name, (left, top, right, bottom) in BOXES.items():
        picture(root / f'{name}.jpg')
        shape = dict(label=CLASSES[label(name)], group_id=1)  # one object in two parts
        ends = ([[left, top], [left + 9, bottom]], [[right - 9, top], [right, bottom]])
        content = dict(
            version='5.0.0',
            imagePath=f'{name}.jpg',
            imageHeight=HEIGHT,
            imageWidth=WIDTH,
            shapes=[
                {**shape, 'shape_type': 'polygon', 'points': corners(*two)}
                for two in ends
            ],
        )
        text(root / f'{name}.json', json.dumps(content))


def refusal(root: Path) -> str:
    with pytest.raises(ValueError) as caught:
        coco_classes(root / 'annotations' / 'train.json')
    return str(caught.value)


def run_in_shell(line: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Run `python -c` as a shell splits the line; Python itself is this process."""
    programs = folder / 'bin'
    write_stand_ins(programs, 'python')
    path = f'{programs}{os.pathsep}{os.environ["PATH"]}'
    called = subprocess.run(
        ['bash', '-c', line],
        env={**os.environ, 'PATH': path},
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    )
    option, code, *arguments = json.loads(called.stdout)['argv']
    assert option == '-c'
    patch.chdir(folder)
    patch.setattr('sys.argv', ['-c', *arguments])
    exec(code, {'__name__': '__main__'})


@pytest.mark.slow
@pytest.mark.parametrize(
    ('write', 'kind'),
    [
        (yolo('train/{}'), "YOLO's"),
        pytest.param(yolo('{}/train/'), "YOLO's", marks=pytest.mark.long),
        pytest.param(yolo('{}'), "YOLO's", marks=pytest.mark.long),
        (voc, "Pascal VOC's"),
        (voc_in_parts, "Pascal VOC's"),
        (labelme, "labelme's"),
    ],
)
def test_printed_conversion_gives_the_same_boxes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Writer, kind: str
) -> None:
    pytest.importorskip('supervision')
    root = tmp_path / 'mine $(touch made)'
    write(root)
    message = refusal(root)
    assert f'it looks like {kind}; convert it (pip install supervision): ' in message
    run_in_shell(re.search('python -c .*', message)[0], tmp_path, monkeypatch)
    assert not (tmp_path / 'made').exists()
    monkeypatch.setenv('DATA_ROOT', str(root))
    config = Config.fromfile(CONFIG)
    found = {}
    for part in ('train_dataloader', 'val_dataloader'):
        with DefaultScope.overwrite_default_scope('mmdet'):
            dataset = DATASETS.build(config[part].dataset)
        for i in range(len(dataset)):
            info = dataset.get_data_info(i)
            assert Path(info['img_path']).is_file()
            (box,) = info['instances']
            assert not box['ignore_flag']
            name = dataset.metainfo['classes'][box['bbox_label']]
            found[Path(info['img_path']).stem] = (name, box['bbox'])
    assert found.keys() == BOXES.keys()
    for name, (kept, box) in found.items():
        assert kept == CLASSES[label(name)]
        # Pascal VOC counts pixels from 1.
        np.testing.assert_allclose(box, BOXES[name], atol=1.01)


def test_yolo_without_names_is_told_to_write_them(tmp_path: Path) -> None:
    yolo('{}')(tmp_path)
    (tmp_path / 'data.yaml').unlink()
    assert f'write {tmp_path}/data.yaml (names: [CLASS, ...])' in refusal(tmp_path)


@pytest.mark.parametrize('place', ['mine', 'test/mine', 'train/mine'])
@pytest.mark.parametrize('pattern', ['{split}/{kind}', '{kind}/{split}'])
def test_val_is_of_the_folder_for_it(tmp_path: Path, place: str, pattern: str) -> None:
    for split in ('test', 'train', 'valid'):
        for kind, name in (('images', '0.jpg'), ('labels', '0.txt')):
            file = tmp_path / place / pattern.format(split=split, kind=kind) / name
            text(file, yolo_line('0'))
    message = refusal(tmp_path / place)
    found = re.findall(r'"([^"]*labels[^"]*)"', message)
    wanted = [pattern.format(split=x, kind='labels') for x in ('train', 'valid')]
    assert [str(Path(one).relative_to(tmp_path / place)) for one in found] == wanted


def test_all_folders_count_however_many_files_one_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(foreign, 'MOST_FILES', 3)
    for split, count in (('test', 1), ('train', 10), ('valid', 1)):
        for i in range(count):
            text(tmp_path / split / f'images/{i}.jpg', '')
            text(tmp_path / split / f'labels/{i}.txt', yolo_line('0'))
    message = refusal(tmp_path)
    assert f'"{tmp_path}/valid/labels"' in message
    assert '/test/' not in message


@pytest.mark.parametrize('places', [('a', 'b'), ('train/a', 'train/b', 'val/a')])
def test_several_folders_are_not_converted_in_part(
    tmp_path: Path, places: tuple[str, ...]
) -> None:
    for place in places:
        text(tmp_path / place / '0.txt', yolo_line('0'))
    message = refusal(tmp_path)
    named = ', '.join(str(tmp_path / place) for place in places)
    assert f"YOLO's, in several folders ({named}): put it into one" in message
    assert 'python -c' not in message


@pytest.mark.parametrize(
    ('file', 'content', 'kind'),
    [
        ('annotations.xml', '<?xml version="1.0"?>\n<annotations><image/>', "CVAT's"),
        ('tasks.json', '[{"annotations": [], "data": {}}]', "Label Studio's"),
    ],
)
def test_what_exports_coco_itself_is_named(
    tmp_path: Path, file: str, content: str, kind: str
) -> None:
    text(tmp_path / file, content)
    assert f'it looks like {kind}: export it again as COCO' in refusal(tmp_path)


def test_other_files_are_no_format(tmp_path: Path) -> None:
    text(tmp_path / 'README.txt', 'Pictures of 2024.\n')
    text(tmp_path / 'notes.json', '{"shapes": 3}')
    text(tmp_path / 'feed.xml', '<rss></rss>')
    assert refusal(tmp_path).endswith('train.json: no such file')


def test_a_labelme_file_in_place_of_cocos_is_named(tmp_path: Path) -> None:
    labelme(tmp_path)
    with pytest.raises(ValueError, match=r'not COCO.*it looks like labelme'):
        coco_classes(tmp_path / '0.json')
