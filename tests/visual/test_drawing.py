import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from mmpoolformer.utils.results import Detections
from mmpoolformer.visual import fonts
from mmpoolformer.visual.drawing import (
    GAP,
    arrange,
    caption,
    class_colours,
    detections_from_instances,
    draw_detections,
    draw_legend,
    draw_segmentation,
    enlarge,
    heat_legend,
    labels_from_sample,
    overlay_heat,
    place_tags,
    region_colours,
    save_picture,
)

CLASSES = ('circle', 'square', 'star')


@pytest.fixture
def grey():
    return np.full((60, 80, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize('scale', [1, 2, 3])
def test_frame_lies_on_the_outermost_pixels_of_the_box(grey, scale):
    found = Detections(np.array([[10, 20, 50, 45]]), np.array([1]))
    drawing = draw_detections(grey, found, CLASSES, scale)
    colour = class_colours(3)[1]
    assert drawing.shape == (60 * scale, 80 * scale, 3)
    # (the tag above the box has the same colour)
    rows = np.nonzero((drawing[20 * scale :] == colour).all(-1))[0]
    assert (rows.min(), rows.max()) == (0, 25 * scale - 1)
    beside = (drawing[30 * scale : 40 * scale] == colour).all(-1)
    assert set(np.nonzero(beside)[1]) == {
        10 * scale,
        50 * scale - 1,
    }
    assert (drawing[55 * scale :] == 128).all()


def test_image_and_inside_of_a_box_stay_as_they_are(grey):
    before = grey.copy()
    found = Detections(np.array([[10, 20, 50, 45]]), np.array([0]))
    drawing = draw_detections(grey, found, CLASSES)
    assert np.array_equal(grey, before)
    assert (drawing[24:40, 14:45] == 128).all()


def test_tag_has_the_colour_of_the_class_and_readable_ink(grey):
    found = Detections(np.array([[10, 30, 50, 45]]), np.array([2]), np.array([0.93]))
    with_score = draw_detections(grey, found, CLASSES)
    plate = (with_score[15:30] == class_colours(3)[2]).all(-1)
    assert plate.sum() > 300
    brightness = with_score[15:30, 12:60].mean(-1)
    assert brightness.max() - brightness.min() > 60
    truth = draw_detections(grey, Detections(found.boxes, found.labels), CLASSES)
    shorter = (truth[15:30] == class_colours(3)[2]).all(-1)
    assert shorter.any(0).sum() < plate.any(0).sum()


def test_tag_of_a_box_at_the_upper_right_edge_stays_in_the_picture(grey):
    found = Detections(np.array([[60, 0, 80, 30]]), np.array([0]))
    drawing = draw_detections(grey, found, CLASSES)
    plate = (drawing[4:14] == class_colours(3)[0]).all(-1)
    assert plate.all(0).any()


@pytest.mark.parametrize(
    ('shape', 'lines'), [((240, 320), 1), ((512, 512), 2), ((3000, 4000), 12)]
)
def test_lines_and_letters_grow_with_the_picture(
    shape: tuple[int, int], lines: int
) -> None:
    height, width = shape
    box = np.array([[0.25 * width, 0.5 * height, 0.75 * width, 0.875 * height]])
    picture = np.full((*shape, 3), 128, dtype=np.uint8)
    drawing = draw_detections(picture, Detections(box, np.array([0])), CLASSES)
    plate = (drawing[: height // 2] == class_colours(3)[0]).all(-1).any(1).sum()
    frame = (drawing[3 * height // 4] == class_colours(3)[0]).all(-1).sum()
    assert frame == 2 * lines
    assert 0.02 < plate / height < 0.06


def covered(places: list, plates: list) -> int:
    """Count the pairs of texts of which one covers a part of the other."""
    spans = [
        (x, y, x + w, y + h) for (x, y), (w, h) in zip(places, plates, strict=True)
    ]
    return sum(
        min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
        for a, b in itertools.combinations(spans, 2)
    )


def test_texts_do_not_cover_each_other_where_there_is_room() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = rng.integers(0, 500, (5, 2)).repeat(3, axis=0)  # three on each other
        boxes = np.hstack([corners, corners + rng.integers(20, 140, (15, 2))]).tolist()
        plates = [(w, 14) for w in rng.integers(40, 90, 15).tolist()]
        places = place_tags(boxes, plates, (640, 640))
        assert covered(places, plates) == 0
        for (x, y), (w, h), box in zip(places, plates, boxes, strict=True):
            assert 0 <= x <= 640 - w
            assert 0 <= y <= 640 - h
            # Each touches its box, or lies in it.
            assert x <= box[2] + 1
            assert x + w >= box[0]
            assert y <= box[3] + 1
            assert y + h >= box[1]
        assert places[0] == (
            min(boxes[0][0], 640 - plates[0][0]),
            max(boxes[0][1] - 14, 0),
        )


def test_the_surest_text_is_read_where_there_is_no_room(grey) -> None:
    box = np.tile([[0, 0, 80, 60]], (40, 1))
    scores = np.full(40, 0.5)
    scores[7] = 0.9
    crowd = draw_detections(grey, Detections(box, np.full(40, 1), scores), CLASSES)
    alone = Detections(box[7:8], np.array([1]), scores[7:8])
    plate = draw_detections(grey, alone, CLASSES)[:13]
    end = np.flatnonzero((plate[7] == class_colours(3)[1]).all(-1))[-2]
    assert np.array_equal(crowd[:13, :end], plate[:, :end])


def test_mask_is_tinted_and_nothing_else(grey):
    mask = np.zeros((1, 60, 80), dtype=bool)
    mask[0, 25:35, 15:25] = True
    found = Detections(
        np.array([[10, 20, 50, 45]]), np.array([1]), np.array([0.5]), mask
    )
    plain = draw_detections(grey, Detections(found.boxes, found.labels), CLASSES)
    masked = draw_detections(
        grey, Detections(found.boxes, found.labels, masks=mask), CLASSES
    )
    assert np.array_equal((plain != masked).any(-1), mask[0])
    expected = np.rint(0.55 * 128 + 0.45 * class_colours(3)[1].astype(float))
    assert np.array_equal(masked[30, 20], expected)


def test_threshold_keeps_what_belongs_together():
    masks = np.arange(3 * 4).reshape(3, 2, 2) > 5
    boxes = np.arange(12).reshape(3, 4)
    scores = np.array([0.9, 0.2, 0.5])
    kept = Detections(boxes, np.array([2, 1, 0]), scores, masks).above(0.5)
    assert kept.labels.tolist() == [2, 0]
    assert np.array_equal(kept.boxes, boxes[[0, 2]])
    assert np.array_equal(kept.masks, masks[[0, 2]])
    truth = Detections(boxes, np.array([2, 1, 0]))
    assert truth.above(0.5) is truth


def test_nothing_found_is_drawn_as_the_picture(grey):
    nothing = Detections(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    assert np.array_equal(draw_detections(grey, nothing, CLASSES), grey)


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match='1 boxes but 2 labels'):
        Detections(np.zeros((1, 4)), np.zeros(2, int))


def test_unknown_class_is_refused(grey):
    found = Detections(np.array([[1, 2, 3, 4]]), np.array([3]))
    with pytest.raises(ValueError, match='label 3: there are 3 classes, 0 to 2'):
        draw_detections(grey, found, CLASSES)


def test_overlay_mixes_the_colour_of_each_class(grey):
    labels = np.zeros((60, 80), dtype=np.int64)
    labels[:30] = 1
    labels[50:] = 255
    colours = np.array([[0, 0, 0], [255, 0, 100]], dtype=np.uint8)
    drawing = draw_segmentation(grey, labels, colours, opacity=0.25)
    assert drawing[0, 0].tolist() == [160, 96, 121]
    assert drawing[40, 0].tolist() == [96, 96, 96]
    assert drawing[55, 0].tolist() == [128, 128, 128]
    assert np.array_equal(draw_segmentation(grey, labels, colours, 0), grey)


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (np.zeros((3, 3), int), r'labels \(3, 3\) for an image \(60, 80\)'),
        (np.full((60, 80), 7), 'label 7: there are 2 classes'),
    ],
)
def test_labels_that_do_not_fit_are_refused(grey, labels, message):
    with pytest.raises(ValueError, match=message):
        draw_segmentation(grey, labels, class_colours(2))


@pytest.mark.parametrize('count', [0, 1, 7, 20, 151])
def test_every_class_has_its_own_colour(count):
    colours = class_colours(count)
    assert colours.shape == (count, 3)
    assert len(np.unique(colours, axis=0)) == count
    assert np.array_equal(colours, class_colours(200)[:count])


def test_enlarged_picture_repeats_each_pixel():
    picture = np.arange(12).reshape(2, 2, 3)
    large = enlarge(picture, 2)
    assert np.array_equal(large[::2, ::2], picture)
    assert np.array_equal(large[1::2, 1::2], picture)


def test_page_holds_the_pictures_in_order(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 255, (20, 90, 3), np.uint8) for _ in '12'] for _ in '123']
    page = arrange(rows, ['truth', 'prediction'], 'Title', {'circle': (1, 2, 3)})
    assert page.shape[1] == 2 * 90 + 3 * GAP
    bottom = page[-3 * (20 + GAP) :]
    for number, row in enumerate(rows):
        top = number * (20 + GAP)
        for place, picture in enumerate(row):
            left = GAP + place * (90 + GAP)
            assert np.array_equal(bottom[top : top + 20, left : left + 90], picture)
    above = page[: -3 * (20 + GAP)]
    assert (above == (1, 2, 3)).all(-1).sum() > 80
    assert (above < 60).all(-1).sum() > 100
    path = save_picture(page, tmp_path / 'new' / 'page.png')
    assert np.array_equal(np.array(Image.open(path)), page)


def test_long_legend_takes_more_lines():
    picture = np.zeros((10, 100, 3), dtype=np.uint8)
    names = {f'class {i}': (i, 0, 0) for i in range(10)}
    short = arrange([[picture]], ['a'], 'Title', {'class': (0, 0, 0)})
    long = arrange([[picture]], ['a'], 'Title', names)
    assert long.shape[0] - short.shape[0] == 9 * 22


@pytest.mark.parametrize('rows', [[], [[np.zeros((2, 2, 3), np.uint8)]]])
def test_rows_must_fit_the_headings(rows):
    with pytest.raises(ValueError, match='give as many in each row'):
        arrange(rows, ['truth', 'prediction'], 'Title')


def test_instances_of_mmdet_are_read():
    pytest.importorskip('mmdet')
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    masks = np.zeros((2, 6, 8), dtype=np.uint8)
    masks[1, 2:4, 3:5] = 1
    boxes = torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7]])
    truth = detections_from_instances(
        InstanceData(
            bboxes=HorizontalBoxes(boxes),
            labels=torch.tensor([3, 1]),
            masks=BitmapMasks(masks, 6, 8),
        )
    )
    assert np.array_equal(truth.boxes, boxes.numpy())
    assert truth.labels.tolist() == [3, 1]
    assert truth.scores is None
    assert np.array_equal(truth.masks, masks.astype(bool))
    found = detections_from_instances(
        InstanceData(
            bboxes=boxes.requires_grad_(),
            labels=torch.tensor([0, 1]),
            scores=torch.tensor([0.75, 0.25]),
        )
    )
    assert found.scores.tolist() == [0.75, 0.25]
    assert found.masks is None


def test_label_maps_of_mmseg_are_read():
    pytest.importorskip('mmseg')
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.arange(12).reshape(1, 3, 4)
    sample = SegDataSample(
        pred_sem_seg=PixelData(data=labels), gt_sem_seg=PixelData(data=labels + 1)
    )
    assert np.array_equal(labels_from_sample(sample), labels[0])
    assert np.array_equal(labels_from_sample(sample, 'gt_sem_seg'), labels[0] + 1)


def test_caption_stands_below_and_is_cut_to_the_width(grey):
    short, long = caption(grey, 'ab'), caption(grey, 'ab' * 50)
    assert short.shape == long.shape == (82, 80, 3)
    assert np.array_equal(short[:60], grey)
    dark = [(page[60:] < 100).any((0, 2)) for page in (short, long)]
    assert 0 < dark[0].sum() < dark[1].sum()
    assert np.nonzero(dark[0])[0].max() < 25


def test_heat_goes_from_blue_to_red_over_the_picture(grey):
    heat = np.linspace(0, 1, 80)[None].repeat(60, axis=0)
    before = grey.copy()
    drawing = overlay_heat(grey, heat).astype(int)
    assert np.array_equal(grey, before)
    assert drawing[30, 4, 2] > drawing[30, 4, 0] + 10
    assert drawing[30, 76, 0] > drawing[30, 76, 2] + 40
    assert np.array_equal(overlay_heat(grey, heat, opacity=0), grey)
    with pytest.raises(ValueError, match=r'heat \(5, 5\) for a picture \(60, 80\)'):
        overlay_heat(grey, np.zeros((5, 5)))


def test_a_palette_that_does_not_fit_is_not_used() -> None:
    palette = [[1, 2, 3], [4, 5, 6]]
    assert region_colours({'palette': palette}, 2).tolist() == palette
    for meta, count in (({'palette': palette}, 3), ({'palette': None}, 3), ({}, 3)):
        assert np.array_equal(region_colours(meta, count), class_colours(count))


def test_legend_of_heat_shows_its_ends(grey):
    legend = heat_legend('low', 'high')
    assert list(legend) == ['low', 'high']
    assert legend['low'][2] > legend['low'][0]
    assert legend['high'][0] > legend['high'][2]


@pytest.fixture
def fresh_fonts() -> Iterator[None]:
    fonts._font_path.cache_clear()
    yield
    fonts._font_path.cache_clear()


@pytest.mark.parametrize('name', ['猫', 'ねこ', '고양이'])
@pytest.mark.usefixtures('fresh_fonts')
def test_letters_that_no_font_has_are_told_once(name: str, monkeypatch) -> None:
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [])
    with pytest.warns(UserWarning, match='install Noto Sans CJK'):
        draw_legend({name: (1, 2, 3)}, 90)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        draw_legend({name: (1, 2, 3)}, 90)
        draw_legend({'Katze, größer': (1, 2, 3)}, 90)


@pytest.mark.parametrize('family', ['Noto Sans CJK JP', 'WenQuanYi Zen Hei'])
@pytest.mark.usefixtures('fresh_fonts')
def test_an_installed_font_draws_cjk_names(family: str, monkeypatch) -> None:
    file = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSerif.ttf'
    entry = font_manager.FontEntry(fname=str(file), name=family)
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', [entry])
    assert fonts.font_for(12, 'ant').getname()[0] == 'DejaVu Sans'
    assert fonts.font_for(12, '犬 dog').getname()[0] == 'DejaVu Serif'
