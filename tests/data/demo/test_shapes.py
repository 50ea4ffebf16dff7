import math

import numpy as np
import pytest
from scipy import ndimage

from mmpoolformer.data.demo import shapes as demo_shapes
from mmpoolformer.data.demo.shapes import CLASSES, TEXTURES, draw_scene

TOTAL = 60


@pytest.fixture(scope='module')
def scenes():
    return [draw_scene(0, 0, index, size=256) for index in range(TOTAL)]


@pytest.fixture(scope='module')
def instances(scenes):
    return [instance for scene in scenes for instance in scene.instances]


def lone_mask(name, radius=60, angle=0.7):
    shape = demo_shapes._Shape(
        label=CLASSES.index(name),
        x=100.3,
        y=99.6,
        radius=radius,
        aspect=1.0,
        angle=angle,
        texture=0,
        period=9.0,
        colours=np.zeros((2, 3)),
    )
    return demo_shapes._mask(shape, 200)


# Areas by school geometry, in units of the radius squared.
AREAS = {
    'circle': math.pi,
    'ring': math.pi * (1 - 0.5**2),
    'square': (2 * 0.85) ** 2,
    'triangle': 3 * math.sqrt(3) / 4,
    'cross': 2 * 2 * 0.64 - 0.64**2,
    'star': 10 * 0.5 * 0.45 * math.sin(math.pi / 5),
}


@pytest.mark.parametrize('name', CLASSES)
def test_shape_has_the_area_of_its_geometry(name):
    assert lone_mask(name).sum() == pytest.approx(AREAS[name] * 60**2, rel=0.01)


@pytest.mark.parametrize('name', CLASSES)
def test_shape_is_one_piece_with_a_hole_only_in_the_ring(name):
    mask = lone_mask(name)
    assert ndimage.label(mask)[1] == 1
    holes = ndimage.label(~mask)[1] - 1
    assert holes == (name == 'ring')


def test_scene_depends_on_each_part_of_its_seed_and_on_nothing_else():
    first = draw_scene(0, 0, 3, size=96)
    draw_scene(5, 1, 8, size=64)
    np.random.random(7)
    again = draw_scene(0, 0, 3, size=96)
    assert np.array_equal(first.image, again.image)
    assert all(
        np.array_equal(a.mask, b.mask)
        for a, b in zip(first.instances, again.instances, strict=True)
    )
    for other in ((1, 0, 3), (0, 1, 3), (0, 0, 4)):
        assert not np.array_equal(first.image, draw_scene(*other, size=96).image)


def test_masks_are_apart_and_leftovers_are_none_of_them(scenes):
    for scene in scenes:
        masks = [*(i.mask for i in scene.instances), scene.leftovers]
        assert sum(mask.astype(int) for mask in masks).max() == 1


def test_masks_follow_the_edges_of_the_picture(scenes):
    """Pixels on the two sides of a mask's border differ more than those inside."""
    across, within = [], []
    for scene in scenes:
        step = np.abs(np.diff(scene.image.astype(int), axis=1)).sum(2)
        for instance in scene.instances:
            crossing = instance.mask[:, 1:] != instance.mask[:, :-1]
            inside = instance.mask[:, 1:] & instance.mask[:, :-1]
            across.append(step[crossing].mean())
            within.append(np.median(step[inside]))
    assert np.mean(across) > 2 * np.mean(within)


def test_every_class_and_texture_is_drawn_about_equally_often(instances):
    labels = np.bincount([i.label for i in instances], minlength=len(CLASSES))
    textures = np.bincount([i.texture for i in instances], minlength=len(TEXTURES))
    for counts in (labels, textures):
        assert counts.min() > 0.6 * counts.mean()


def test_texture_says_nothing_about_the_class(instances):
    table = np.zeros((len(CLASSES), len(TEXTURES)))
    for instance in instances:
        table[instance.label, instance.texture] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    # chi squared with 20 degrees of freedom: above 45.3 once in a thousand
    assert ((table - expected) ** 2 / expected).sum() < 45.3


def test_sizes_are_small_medium_and_large_in_the_sense_of_coco(instances):
    areas = np.array([i.mask.sum() for i in instances])
    shares = [
        (areas < 32**2).mean(),
        ((areas >= 32**2) & (areas < 96**2)).mean(),
        (areas >= 96**2).mean(),
    ]
    assert min(shares) > 0.05


def test_shapes_hide_each_other_but_not_too_much(scenes, instances):
    visible = np.array([i.visible for i in instances])
    assert 0.1 < (visible < 0.9).mean() < 0.6
    assert visible.min() >= demo_shapes.MIN_VISIBLE_PART
    assert visible.max() == 1
    assert min(i.mask.sum() for i in instances) >= demo_shapes.MIN_VISIBLE_PIXELS


def test_front_shape_is_whole_and_its_class_goes_round(scenes):
    for index, scene in enumerate(scenes):
        front = scene.instances[-1]
        assert front.label == index % len(CLASSES)
        assert front.visible > 0.97
        border = np.ones_like(front.mask)
        border[1:-1, 1:-1] = False
        assert not (front.mask & border).any()


def test_brightness_and_contrast_vary(scenes):
    means = [scene.image.mean() for scene in scenes]
    spreads = [scene.image.std() for scene in scenes]
    assert np.ptp(means) > 60
    assert max(spreads) > 1.5 * min(spreads)


@pytest.mark.parametrize('size', [64, 100, 320])
def test_any_size_can_be_drawn(size):
    for index in range(6):
        scene = draw_scene(1, 0, index, size)
        assert scene.image.shape == (size, size, 3)
        assert scene.image.dtype == np.uint8
        assert scene.instances
