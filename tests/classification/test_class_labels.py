"""Names of classes, and which folder is which class."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from mmpoolformer.classification.class_labels import (
    check_class_order,
    describe_classes,
    imagenet_synsets,
    match_classes,
    recorded_classes,
)
from mmpoolformer.utils.errors import UserError

# As every list of ImageNet's classes has them.
WORDS = {0: 'tench, Tinca tinca', 281: 'tabby, tabby cat', 985: 'daisy'}
SYNSETS = {0: 'n01440764', 281: 'n02123045', 999: 'n15075141'}


def test_imagenet_has_words_and_synsets() -> None:
    names, synsets = describe_classes((), 1000), imagenet_synsets(1000)
    assert len(names) == len(synsets) == 1000
    assert {i: names[i] for i in WORDS} == WORDS
    assert {i: synsets[i] for i in SYNSETS} == SYNSETS


def test_imagenet_21k_has_words() -> None:
    names = describe_classes((), 21_841)
    assert len(names) == 21_841
    assert 'tabby, tabby cat' in names


def test_own_names_come_first_and_synsets_become_words() -> None:
    assert describe_classes(('ant', 'n02123045'), 2) == ('ant', 'tabby, tabby cat')
    assert describe_classes((), 3) == ('0', '1', '2')


@pytest.mark.parametrize(
    ('content', 'classes'),
    [
        ({'meta': {'dataset_meta': {'classes': ['a', 'b']}}}, ('a', 'b')),
        ({'meta': {'dataset_meta': None}}, ()),
        ({'meta': {'epoch': 3}}, ()),
        ({'meta': 'text'}, ()),
        ({}, ()),
    ],
)
def test_recorded_names(content: dict, classes: tuple) -> None:
    assert recorded_classes(content) == classes


def test_folders_are_matched_by_the_checkpoints_names() -> None:
    assert match_classes(('a', 'b'), ('b', 'a'), 2) == {'b': 0, 'a': 1}
    assert match_classes(('a',), ('b', 'a'), 2) == {'b': 0, 'a': 1}  # none of b


def test_some_of_imagenets_folders_are_matched_by_synset() -> None:
    labels = match_classes(('n02123045', 'n15075141'), (), 1000)
    assert (labels['n02123045'], labels['n15075141']) == (281, 999)


def test_other_folders_are_matched_by_order() -> None:
    assert match_classes(('x', 'y', 'z'), (), 3) == {'x': 0, 'y': 1, 'z': 2}


def test_differences_are_named() -> None:
    words = r'only in the folder: cup; only in the checkpoint: ant'
    with pytest.raises(ValueError, match=words):
        match_classes(('bee', 'cup'), ('ant', 'bee'), 2)
    with pytest.raises(ValueError, match=r'2 classes \(bee, cup\).*model has 1000'):
        match_classes(('bee', 'cup'), (), 1000)


@pytest.mark.parametrize(
    ('trained', 'data', 'told'),
    [
        ((), ('ant', 'bee'), ''),
        (('ant', 'bee'), ['ant', 'bee'], ''),
        (('ant', 'bee', 'cat'), ('ant', 'bee'), ''),
        (('tench, Tinca tinca',), ('n01440764',), ''),
        (('ant', 'bee'), ('ant', 'fly'), 'label 1 is bee in x.pth, fly in the data'),
    ],
)
def test_other_classes_than_the_weights_have_are_told(
    trained: tuple, data: Sequence, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings = []
    monkeypatch.setattr(
        'mmpoolformer.classification.class_labels.warn', warnings.append
    )
    check_class_order(trained, SimpleNamespace(metainfo={'classes': data}), 'x.pth')
    assert bool(warnings) == bool(told)
    assert told in ''.join(warnings)


@pytest.mark.parametrize(
    'data', [('bee', 'ant', 'cat'), ('bee', 'cat'), ('fly', 'ant')]
)
def test_classes_at_other_numbers_than_the_weights_have_are_refused(
    data: tuple,
) -> None:
    dataset = SimpleNamespace(metainfo={'classes': data})
    with pytest.raises(UserError, match=r'^x\.pth: its classes .* ant, bee, cat, but'):
        check_class_order(('ant', 'bee', 'cat'), dataset, 'x.pth')
