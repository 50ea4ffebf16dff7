"""Class folders as people have them: right labels, or a line that names the layout."""

import itertools
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image
from timm.utils.misc import natural_key

from mmpoolformer.data import classification
from mmpoolformer.data.class_folders import ClassFolders, in_order
from mmpoolformer.data.classification import TimmDataset, folder_classes

CLOTHING = Path(__file__).parents[3] / 'shared' / 'data' / 'classification-clothing'


def write(root: Path, *names: str) -> None:
    """Write pictures; their folders are made."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(root / name, 'PNG')


def labels(root: Path, **options: object) -> dict[str, str]:
    """Return the class of each picture."""
    data = TimmDataset(str(root), options=options)
    names = {label: name for name, label in data.data.reader.class_to_idx.items()}
    return {
        os.path.relpath(path, root): names[label]
        for path, label in data.data.reader.samples
    }


@pytest.mark.parametrize(
    'hidden',
    [
        '.ipynb_checkpoints/0.png',
        'ant/.ipynb_checkpoints/0.png',
        '__MACOSX/ant/0.png',
        'ant/__MACOSX/0.png',
        '.thumbnails/deep/0.png',
        '@eaDir/0.png',
        'ant/._0.png',
        '._0.png',
    ],
)
def test_hidden_files_and_folders_are_left_out(tmp_path: Path, hidden: str) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.png', hidden)
    assert labels(tmp_path) == {'ant/0.png': 'ant', 'bee/0.png': 'bee'}


def test_the_root_itself_may_be_hidden(tmp_path: Path) -> None:
    root = tmp_path / '.cache' / 'data'
    write(root, 'ant/0.png', 'bee/0.png')
    assert folder_classes(root, '') == ('ant', 'bee')


@pytest.mark.parametrize(
    'deep',
    [
        ('n01/images/0.png', 'n02/images/0.png'),
        ('n01/2020/0.png', 'n01/2021/0.png', 'n02/2020/0.png'),
        ('n01/0.png', 'n01/n02/0.png', 'n02/0.png'),
        ('n01/a/b/c/0.png', 'n02/a.png/0.png'),
    ],
)
def test_deep_pictures_belong_to_the_first_folder(
    tmp_path: Path, deep: tuple[str, ...]
) -> None:
    write(tmp_path, *deep)
    assert labels(tmp_path) == {name: name.split('/')[0] for name in deep}


def test_links_are_followed(tmp_path: Path) -> None:
    write(tmp_path / 'elsewhere', '0.png', 'deep/1.png')
    write(tmp_path / 'data', 'bee/0.png')
    (tmp_path / 'data' / 'ant').symlink_to(tmp_path / 'elsewhere')
    found = labels(tmp_path / 'data')
    assert found == {'ant/0.png': 'ant', 'ant/deep/1.png': 'ant', 'bee/0.png': 'bee'}


@pytest.mark.parametrize('target', ['.', '..', '../..'])
def test_a_link_that_leads_back_is_not_followed(tmp_path: Path, target: str) -> None:
    write(tmp_path, 'data/ant/deep/0.png', 'data/bee/0.png')
    (tmp_path / 'data' / 'ant' / 'deep' / 'loop').symlink_to(target)
    (tmp_path / 'data' / 'cow').symlink_to('.')
    found = labels(tmp_path / 'data')
    assert found == {'ant/deep/0.png': 'ant', 'bee/0.png': 'bee'}


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ((), r'no picture in class folders .*no folders; set root and split'),
        (('ant/notes.txt',), r'no picture in class folders .*it has ant; set root'),
        (('0.png', '1.png'), r'2 pictures \(such as 0\.png\), but no class folders'),
        (('0.png', '.git/1.png'), r'1 pictures .*no class folders.*set root and split'),
        (('ant/0.png', '1.JPG'), r'1\.JPG lies outside of the class folders'),
        (('ant/0.png', 'bee/x.txt'), r'no picture in bee; fill or remove'),
    ],
)
def test_layouts_without_classes_are_named(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=rf'^{tmp_path}: {message}'):
        TimmDataset(str(tmp_path))


@pytest.mark.long
def test_ties_are_broken_by_the_plain_name_in_every_process(tmp_path: Path) -> None:
    names = ('A', 'a', 'B', 'b', '1', '01', '001')
    write(tmp_path, *(f'{name}/0.png' for name in names))
    script = (
        'import sys; from mmpoolformer.data.class_folders import ClassFolders; '
        'print(*ClassFolders(sys.argv[1]).class_to_idx)'
    )
    expected = sorted(sorted(names), key=natural_key)
    assert list(ClassFolders(str(tmp_path)).class_to_idx) == expected
    done = subprocess.run(
        [sys.executable, '-c', script, str(tmp_path)],
        env={**os.environ, 'PYTHONHASHSEED': '1'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    'names', [('ab1', 'AB1', 'aB01', 'Ab1'), ('x-2', 'X-2', 'x-02', 'x-10')]
)
def test_ties_do_not_depend_on_the_order_found(names: tuple[str, ...]) -> None:
    expected = tuple(sorted(sorted(names), key=natural_key))
    for order in itertools.permutations(names):
        assert in_order(order) == expected


def test_order_is_timms() -> None:
    names = ['class_10', 'Class_9', 'class_2', 'b', 'A', '10x', '9y', 'x1y02', 'x1y1']
    assert list(in_order(names)) == sorted(names, key=natural_key)
    assert in_order(['5²', '²', '5']) == ('5', '5²', '²')  # where timm's key fails


def test_pictures_are_in_timms_order(tmp_path: Path) -> None:
    write(tmp_path, 'b/10.png', 'b/9.png', 'A/x.png', 'b/01.png', 'b/1.png')
    assert list(labels(tmp_path)) == [
        'A/x.png',
        'b/01.png',
        'b/1.png',
        'b/9.png',
        'b/10.png',
    ]


def test_a_class_map_chooses_labels(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.png')
    reader = ClassFolders(tmp_path, class_map={'bee': 0, 'cow': 1, 'ant': 2})
    assert [label for _, label in reader.samples] == [2, 0]
    (tmp_path / 'map.txt').write_text('bee\nant\n')
    reader = ClassFolders(tmp_path, class_map=str(tmp_path / 'map.txt'))
    assert [label for _, label in reader.samples] == [1, 0]
    with pytest.raises(ValueError, match=r'unknown classes: bee; the classes are ant'):
        ClassFolders(tmp_path, class_map={'ant': 0})


def test_names_in_another_unicode_form_are_told_so(tmp_path: Path) -> None:
    composed, parted = 'caf\u00e9', 'cafe\u0301'
    write(tmp_path, f'{parted}/0.png')
    with pytest.raises(ValueError, match=r'in another Unicode form, as macOS'):
        ClassFolders(tmp_path, class_map={composed: 0})
    with pytest.raises(ValueError, match=r'unknown classes: \S+; the classes are'):
        ClassFolders(tmp_path, class_map={'cafe': 0})


def test_other_options_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.png')
    with pytest.raises(TypeError, match='class_mapp'):
        TimmDataset(str(tmp_path), options=dict(class_mapp={}))


@pytest.mark.skipif(not CLOTHING.is_dir(), reason='the real pictures are not here')
@pytest.mark.parametrize('split', ['train', 'val'])
def test_real_pictures_keep_their_labels(split: str) -> None:
    data = TimmDataset(str(CLOTHING), split)
    classes = sorted(path.name for path in (CLOTHING / split).iterdir())
    assert data.metainfo['classes'] == tuple(classes)
    files = sorted(str(path) for path in (CLOTHING / split).glob('*/*'))
    assert sorted(path for path, _ in data.data.reader.samples) == files
    for path, label in data.data.reader.samples:
        assert classes[label] == Path(path).parent.name


# -- what is told ------------------------------------------------------------------


def notes(root: Path) -> list[str]:
    """Return what is noted, without the folder's name."""
    found = ClassFolders(root).notes
    assert all(note.startswith(f'{root}: ') for note in found)
    return [note.removeprefix(f'{root}: ') for note in found]


def test_usual_folders_need_no_note(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.JPEG', 'class_9/0.png', 'ant/boxes.txt')
    assert notes(tmp_path) == []


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (
            ['ant/1.heic', 'bee/2.HEIC', 'ant/3.jp2'],
            r'3 files left.*\.heic \(2\), \.jp2',
        ),
        (['ant/photo'], r'1 files left out.*none \(1\)'),
        (['ant/deep/1.jpg.1', 'bee/2.txt'], r'1 files left out.*\.1 \(1\)'),
    ],
)
def test_files_left_out_are_counted(
    tmp_path: Path, files: list[str], message: str
) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.png', *files)
    (note,) = notes(tmp_path)
    assert re.match(message, note)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('apple', 'Banana'), 'label 0 is apple, but Banana in the plain'),
        (('1', '2', '10'), 'label 1 is 2, but 10 in the plain'),
        (('apple 2', 'apple 10', 'Zoo'), 'label 0 is apple 2, but Zoo in the plain'),
    ],
)
def test_an_order_unlike_the_plain_one_is_told(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    write(tmp_path, *(f'{name}/0.png' for name in names))
    (note,) = notes(tmp_path)
    assert message in note
    labels = {name: i for i, name in enumerate(sorted(names))}
    assert ClassFolders(tmp_path, labels).notes == []


def test_one_class_is_told(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'ant/1.png')
    assert notes(tmp_path) == ['one class only (ant), so nothing to tell apart']


def test_deep_pictures_are_told(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'bee/images/0.png', 'bee/images/1.png')
    (note,) = notes(tmp_path)
    assert note.startswith('2 pictures in deeper folders are of the class')
    assert note.endswith('bee/images/0.png of bee')


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('train/ant/0.png', 'val/ant/0.png'), "splits, no classes .*split='train'"),
        (('Data/ant/0.png', 'Data/bee/0.png'), r'Data is its only .*\(ant, bee\)'),
        (('train/ant/0.png', 'train/bee/0.png'), r'set root .*/train, and no split'),
    ],
)
def test_folders_around_the_classes_are_named(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        ClassFolders(tmp_path)


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    write(tmp_path, 'test/0.png', 'train/0.png')
    assert tuple(ClassFolders(tmp_path).class_to_idx) == ('test', 'train')


def test_names_can_not_steer_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, 'a\x1b[2Jnt/0.png')
    (note,) = notes(tmp_path)
    assert r'a\x1b[2Jnt' in note
    write(tmp_path, '\x1b]0;x.png')
    with pytest.raises(ValueError, match=r'\\x1b\]0;x\.png lies outside') as error:
        ClassFolders(tmp_path)
    assert str(error.value).isprintable()


def test_notes_are_logged_once_for_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(classification, 'warn', told.append)
    write(tmp_path, 'apple/0.png', 'Banana/0.png')
    assert folder_classes(tmp_path, '') == ('apple', 'Banana')
    TimmDataset(str(tmp_path), quiet=True)
    assert told == []
    data = TimmDataset(str(tmp_path))
    assert told == data.notes
    assert len(told) == 1


@pytest.mark.skipif(os.getuid() == 0, reason='the superuser may list all folders')
def test_a_folder_that_can_not_be_listed_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.png')
    (tmp_path / 'bee').chmod(0)
    try:
        with pytest.raises(PermissionError, match='bee'):
            ClassFolders(tmp_path)
    finally:
        (tmp_path / 'bee').chmod(0o755)


# -- classes that are chosen -------------------------------------------------------


@pytest.mark.parametrize('as_file', [False, True])
def test_chosen_classes_set_the_order(tmp_path: Path, as_file: bool) -> None:
    write(tmp_path, 'train/ant/0.png', 'train/Bee/0.png', 'val/Bee/0.png')
    classes = ['cow', 'Bee', 'ant']
    if as_file:
        (tmp_path / 'names.txt').write_text('\n'.join(classes))
        classes = str(tmp_path / 'names.txt')
    assert folder_classes(tmp_path, classes=classes) == ('cow', 'Bee', 'ant')
    for split, expected in (('train', {'ant': 2, 'Bee': 1}), ('val', {'Bee': 1})):
        data = TimmDataset(str(tmp_path), split, classes=classes)
        assert data.metainfo['classes'] == ('cow', 'Bee', 'ant')
        samples = data.data.reader.samples
        assert {Path(path).parent.name: label for path, label in samples} == expected


def test_classes_without_pictures_are_told_in_training(tmp_path: Path) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.txt')
    options = dict(classes=('ant', 'bee', 'cow'), quiet=True)
    data = TimmDataset(str(tmp_path), transform=dict(is_training=True), **options)
    assert data.notes == [f'{tmp_path}: no picture to learn bee, cow from']
    assert TimmDataset(str(tmp_path), **options).notes == []


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (['ant'], r'folders of unknown classes: bee; the classes are ant; rename'),
        (['ant', 'Bee', 'x'], r'unknown classes: bee; the classes are ant, Bee, x'),
        (['ant', 'bee', 'ant'], r"classes: duplicate class 'ant'"),
        ([], r'classes: no class names'),
        ('names.txt', r'names\.txt: no such file of class names'),
    ],
)
def test_classes_that_do_not_fit_are_named(
    tmp_path: Path, classes: object, message: str
) -> None:
    write(tmp_path, 'ant/0.png', 'bee/0.png')
    with pytest.raises(ValueError, match=message):
        TimmDataset(str(tmp_path), classes=classes)


def test_classes_are_for_folders() -> None:
    with pytest.raises(ValueError, match=r"classes: .*'torch/cifar10' has its own"):
        TimmDataset(name='torch/cifar10', classes=['ant'])


def test_the_config_gives_one_list_to_all_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 'train/ant/0.png', 'train/bee/0.png', 'val/bee/0.png')
    monkeypatch.setenv('DATA_ROOT', str(tmp_path))
    root = Path(__file__).parents[2] / 'configs' / 'classification'
    config = Config.fromfile(root / 'poolformer_s12_folder.py')
    assert config.model.backbone.num_classes == 2
    data = DATASETS.build(config.val_dataloader.dataset)
    assert [label for _, label in data.data.reader.samples] == [1]
    text = (root / 'poolformer_s12_folder.py').read_text()
    names = str(tmp_path / 'names.txt')
    Path(names).write_text('bee\nant\n')
    own = tmp_path / 'own.py'
    text = text.replace("'_base_/", f"'{root}/_base_/")
    own.write_text(text.replace('classes = None', f'classes = {names!r}'))
    config = Config.fromfile(own)
    data = DATASETS.build(config.test_dataloader.dataset)
    assert [label for _, label in data.data.reader.samples] == [0]
    assert Config.fromstring(config.pretty_text, '.py').val_dataloader == (
        config.val_dataloader
    )


# -- tar files ---------------------------------------------------------------------


def packed(root: Path, *names: str) -> Path:
    write(root / 'data', *names)
    with tarfile.open(root / 'data.tar', 'w') as tar:
        for name in names:
            tar.add(root / 'data' / name, name)
    return root / 'data.tar'


def test_tar_files_have_the_same_rules(tmp_path: Path) -> None:
    names = ('train/a/0.webp', 'train/A/0.png', 'train/1/0.PNG', 'train/01/0.tif')
    hidden = ('__MACOSX/train/a/0.png', 'train/a/._0.png', 'train/.x/0.png')
    path = packed(tmp_path, *names, *hidden)
    data = TimmDataset(str(path))
    assert data.metainfo['classes'] == ('01', '1', 'A', 'a')
    assert data.notes == []
    found = {data.data.filename(i): data[i]['targets'] for i in range(len(data))}
    assert found == dict(zip(names, (3, 2, 1, 0), strict=True))
    data = TimmDataset(str(path), classes=['a', 'A', 'x', '1', '01'])
    found = {data.data.filename(i): data[i]['targets'] for i in range(len(data))}
    assert found == dict(zip(names, (0, 1, 3, 4), strict=True))


@pytest.mark.parametrize(
    ('classes', 'training', 'told'),
    [
        (['apple', 'Banana'], True, True),  # as the own-folder config lists them
        (['apple', 'Banana'], False, False),
        (['Banana', 'apple'], True, False),
        (None, True, True),
    ],
)
def test_the_order_to_learn_is_told_of_listed_classes_too(
    tmp_path: Path, classes: list[str] | None, training: bool, told: bool
) -> None:
    write(tmp_path, 'apple/0.png', 'Banana/0.png')
    transform = dict(input_size=16, is_training=training)
    data = TimmDataset(str(tmp_path), classes=classes, quiet=True, transform=transform)
    natural = 'label 0 is apple, but Banana in the plain order'
    assert [natural in note for note in data.notes] == [True] * told


def test_of_tar_files_the_order_is_told_too(tmp_path: Path) -> None:
    path = packed(tmp_path, 'apple/0.png', 'Banana/0.png')
    (note,) = TimmDataset(str(path), quiet=True).notes
    assert 'label 0 is apple, but Banana in the plain order' in note
    assert TimmDataset(str(path), classes=['Banana', 'apple']).notes == []


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('train/ant/0.png', 'val/ant/0.png'), 'lie in train/ant, val/ant; .* unpack'),
        (('n01/images/0.png', 'n02/images/0.png'), 'lie in n01/images, n02/images'),
        (('ant/0.png', '1.png'), r'lie in \., ant; .*CLASS/'),
        (('ant/0.txt',), 'no picture in class folders'),
    ],
)
def test_tar_files_of_other_layouts_are_named(
    tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    path = packed(tmp_path, *names)
    with pytest.raises(ValueError, match=rf'^{path}: .*{message}'):
        TimmDataset(str(path))


def test_unknown_classes_of_a_tar_file_are_named(tmp_path: Path) -> None:
    path = packed(tmp_path, 'ant/0.png', 'bee/0.png')
    with pytest.raises(ValueError, match='unknown classes: bee; the classes are ant'):
        TimmDataset(str(path), classes=['ant'])


def test_other_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / 'data.zip').touch()
    with pytest.raises(ValueError, match=r'data\.zip: neither a folder .* nor a \.tar'):
        TimmDataset(str(tmp_path / 'data.zip'))
