"""Annotations and pictures at random: what breaks a training is reported."""

import copy
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from PIL import Image
from pycocotools import mask as coco_masks

from mmpoolformer.data.checks.coco import CocoUse, check_coco, decode_counts
from mmpoolformer.data.checks.images import ImageInfo, inspect_image
from mmpoolformer.data.checks.report import DataReport, Findings
from mmpoolformer.data.class_names import coco_classes, read_json

EXAMPLES = int(os.environ.get('FUZZ_EXAMPLES', '250'))

bounded = settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 250,
    deadline=5000,
    database=None,
    suppress_health_check=list(HealthCheck),
)

SOUND = {
    'images': [
        {'id': i, 'file_name': f'{i}.png', 'width': 20, 'height': 10} for i in (1, 2)
    ],
    'annotations': [
        {
            'id': i,
            'image_id': i,
            'category_id': i,
            'bbox': [1, 1, 5, 5],
            'area': 25,
            'iscrowd': 0,
            'segmentation': mask,
        }
        for i, mask in (
            (1, [[1, 1, 6, 1, 6, 6]]),
            (2, {'size': [10, 20], 'counts': [100, 100]}),
        )
    ],
    'categories': [{'id': 1, 'name': 'ant'}, {'id': 2, 'name': 'bee'}],
}
USES = [
    CocoUse(),
    CocoUse(('ant', 'bee'), masks=True, evaluated=True, drops_empty=True, min_size=8),
]
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-3, 30),
        st.floats(),
        st.text(max_size=6),
        st.just(10**400),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(
            st.sampled_from(['id', 'size', 'counts', 'bbox', 'name', 'x']), inner
        ),
    ),
    max_leaves=6,
)


def places(content: object, path: tuple = ()) -> list[tuple]:
    """Return the paths of all values in JSON content."""
    found = [path]
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, child in pairs:
        found += places(child, (*path, key))
    return found


PLACES = places(SOUND)


@st.composite
def annotation_files(draw: st.DrawFn) -> object:
    """Return sound content with some values replaced or gone."""
    content = copy.deepcopy(SOUND)
    for _ in range(draw(st.integers(1, 4))):
        *path, key = draw(st.sampled_from(PLACES[1:]))
        node = content
        try:
            for step in path:
                node = node[step]
            if draw(st.booleans()):
                node[key] = draw(VALUES)
            else:
                del node[key]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken the place away
    return content


def check(content: object, use: CocoUse, folder: Path) -> None:
    """What has no errors must load as a training loads it."""
    report = DataReport('fuzz', findings=Findings())
    found = check_coco(content, use, report.findings)
    assert all(picture.width > 0 for picture in found.pictures.values())
    for line in report.lines():
        assert line.isprintable()
    if not report.findings.errors:
        load(content, use, found.classes, folder)


def load(content: object, use: CocoUse, classes: tuple[str, ...], folder: Path) -> None:
    (folder / 'a.json').write_text(json.dumps(content))
    read = LoadAnnotations(with_bbox=True, with_mask=use.masks)
    data = CocoDataset(
        ann_file=str(folder / 'a.json'),
        data_prefix={'img': ''},
        metainfo={'classes': classes},
        filter_cfg={'filter_empty_gt': use.drops_empty, 'min_size': use.min_size},
        serialize_data=False,
    )
    for i in range(len(data)):
        info = data.get_data_info(i)
        info['ori_shape'] = info['height'], info['width']
        labels = read(info)['gt_bboxes_labels']
        assert all(0 <= label < len(classes) for label in labels)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('fuzz')


@pytest.mark.parametrize('use', USES)
def test_sound_annotations_have_no_errors(use: CocoUse, folder: Path) -> None:
    findings = Findings()
    found = check_coco(SOUND, use, findings)
    assert not findings.errors
    load(SOUND, use, found.classes, folder)


@bounded
@given(annotation_files(), st.sampled_from(USES))
def test_changed_annotations_load_or_are_reported(
    folder: Path, content: object, use: CocoUse
) -> None:
    check(content, use, folder)


@bounded
@given(VALUES, st.sampled_from(USES))
def test_any_json_loads_or_is_reported(
    folder: Path, content: object, use: CocoUse
) -> None:
    check(content, use, folder)
    check(dict.fromkeys(SOUND, content), use, folder)
    check({key: [content] for key in SOUND}, use, folder)


# Beyond, pycocotools writes over the end of its buffer.
@bounded
@given(st.lists(st.integers(0, 2**28), min_size=1, max_size=30))
def test_run_lengths_are_those_that_pycocotools_wrote(counts: list[int]) -> None:
    written = coco_masks.frPyObjects({'size': [1, 1], 'counts': counts}, 1, 1)
    assert decode_counts(written['counts'].decode()) == counts
    unfinished = written['counts'].decode() + chr(48 + 32)
    assert decode_counts(unfinished) == []


@bounded
@given(st.data())
def test_changed_json_files(folder: Path, data: st.DataObject) -> None:
    content = bytearray(json.dumps(SOUND).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(
            st.binary(max_size=9)
        )
    (folder / 'a.json').write_bytes(content)
    for reader in (read_json, coco_classes):
        try:
            reader(folder / 'a.json')
        except ValueError as error:
            assert 'a.json' in str(error)


def pictures() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {'JPEG': 'RGB', 'PNG': 'RGB', 'TIFF': 'RGB', 'GIF': 'P', 'BMP': 'L'}
    kinds |= {'WEBP': 'RGB', 'PPM': 'RGB'}
    files = {}
    for kind, mode in kinds.items():
        stream = io.BytesIO()
        more = {'exif': exif} if kind in ('JPEG', 'PNG', 'WEBP') else {}
        Image.fromarray(noise).convert(mode).save(stream, kind, **more)
        files[kind] = stream.getvalue()
    return files


PICTURES = pictures()


@bounded
@given(st.data(), st.sampled_from(list(PICTURES)), st.booleans())
def test_changed_pictures(
    folder: Path, data: st.DataObject, kind: str, labels: bool
) -> None:
    content = bytearray(PICTURES[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(
            st.binary(max_size=9)
        )
    (folder / 'a').write_bytes(content)
    found = inspect_image(str(folder / 'a'), True, counted=labels)
    assert isinstance(found, ImageInfo)
    assert found.problem or found.width > 0
