import itertools
import json
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mmpoolformer.visual.curves import (
    Curve,
    draw_comparison,
    draw_curves,
    draw_training,
    find_curve,
    find_logs,
    loss_names,
    metric_names,
    read_curves,
    read_run,
    readable,
    running_mean,
    save_figure,
    three_digits,
)


def train_line(step, loss, epoch=None):
    line = {'lr': 0.1 / step, 'data_time': 0.1, 'loss': loss, 'iter': step}
    extra = {} if epoch is None else {'epoch': epoch}
    return json.dumps({**line, **extra, 'time': 0.5, 'memory': 3, 'step': step})


def val_line(step, ap):
    return json.dumps({'coco/bbox_mAP': ap, 'time': 0.1, 'step': step})


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n')
    return path


def test_values_are_read_back(tmp_path):
    log = write(tmp_path / 'a.json', train_line(10, 2.5), train_line(20, 1.25))
    curves = read_curves([log])
    assert sorted(curves) == ['loss', 'lr']
    assert curves['loss'] == Curve('loss', (10, 20), (2.5, 1.25))


def test_evaluation_of_an_epoch_lies_at_its_last_iteration(tmp_path):
    log = write(
        tmp_path / 'a.json',
        train_line(50, 2.0, epoch=1),
        val_line(1, 0.1),
        train_line(100, 1.0, epoch=2),
        val_line(2, 0.3),
    )
    assert read_curves([log])['coco/bbox_mAP'] == Curve(
        'coco/bbox_mAP', (50, 100), (0.1, 0.3)
    )


def test_evaluation_alone_lies_at_its_own_step(tmp_path):
    log = write(tmp_path / 'a.json', val_line(7, 0.1))
    assert read_curves([log])['coco/bbox_mAP'].steps == (7,)


def test_resumed_run_replaces_what_it_repeats(tmp_path):
    first = write(tmp_path / '1' / 'vis_data' / 'scalars.json')
    write(first, train_line(10, 4), train_line(20, 3), val_line(20, 0.2))
    second = write(tmp_path / '2' / 'vis_data' / 'scalars.json')
    write(second, train_line(20, 2), train_line(30, 1))
    assert find_logs(tmp_path) == [first, second]
    curves = read_curves(find_logs(tmp_path))
    assert curves['loss'] == Curve('loss', (10, 20, 30), (4, 2, 1))
    assert 'coco/bbox_mAP' not in curves


def test_line_cut_short_by_the_end_of_a_run_is_left_out(tmp_path):
    log = tmp_path / 'a.json'
    log.write_text(train_line(10, 2.0) + '\n' + train_line(20, 1.0)[:30])
    assert read_curves([log])['loss'].steps == (10,)


@pytest.mark.parametrize(
    ('line', 'message'),
    [('no json', r'a\.json:1: not a line of JSON'), ('{"a": 1}', 'has no "step"')],
)
def test_other_files_are_refused(tmp_path, line, message):
    log = write(tmp_path / 'a.json', line, train_line(20, 1.0))
    with pytest.raises(ValueError, match=message):
        read_curves([log])


def test_folder_without_a_log_is_refused(tmp_path):
    with pytest.raises(ValueError, match='is it the work dir of a run'):
        find_logs(tmp_path)


def test_logs_of_mmengine_itself_are_read(tmp_path):
    from mmengine.visualization import LocalVisBackend

    backend = LocalVisBackend(str(tmp_path / '20260101_000000' / 'vis_data'))
    backend.add_scalars({'loss': 3.0, 'lr': 0.1, 'iter': 5}, step=5)
    backend.add_scalars({'loss': 2.0, 'lr': 0.1, 'iter': 10}, step=10)
    backend.add_scalars({'mIoU': 40.0}, step=10)
    curves = read_curves(find_logs(tmp_path))
    assert curves['loss'] == Curve('loss', (5, 10), (3.0, 2.0))
    assert curves['mIoU'] == Curve('mIoU', (10,), (40.0,))


def test_figure_holds_the_values_and_says_what_they_are():
    curves = {
        'first': Curve('a', (1, 2, 3), (3, 2, 1)),
        'second': Curve('b', (1, 3), (0.5, 0.25)),
    }
    figure = draw_curves(curves, 'Training', 'loss', (0, 4))
    (axes,) = figure.axes
    data = [line.get_xydata().tolist() for line in axes.lines]
    assert data == [[[1, 3], [2, 2], [3, 1]], [[1, 0.5], [3, 0.25]]]
    assert figure.get_suptitle() == 'Training'
    assert (axes.get_xlabel(), axes.get_ylabel()) == ('iteration', 'loss')
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ['first: 1.00', 'second: 0.250']
    assert axes.get_ylim() == (0, 4)


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (0.12345, '0.123'),
        (0.5, '0.500'),
        (7, '7.00'),
        (99.96, '100'),
        (1234.5, '1234'),
        (2e-6, '2.00e-06'),
        (float('nan'), 'nan'),
    ],
)
def test_values_have_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('coco/bbox_mAP', 'box AP'),
        ('coco/bbox_mAP_50', 'box AP50'),
        ('coco/segm_mAP', 'mask AP'),
        ('coco/segm_mAP_s', 'mask AP small'),
        ('lvis/bbox_AP50', 'box AP50'),
        ('mIoU', 'mIoU'),
        ('accuracy/top1', 'top-1'),
        ('loss', 'loss'),
        ('loss_rpn_cls', 'rpn class loss'),
        ('decode.loss_ce', 'decode ce loss'),
        ('backbone.lr', 'backbone learning rate'),
        ('box AP50 on held-out scenes', 'box AP50 on held-out scenes'),
    ],
)
def test_names_of_logs_are_put_in_words(name: str, text: str) -> None:
    assert readable(name) == text


def test_png_shows_a_curve_on_white(tmp_path):
    figure = draw_curves({'a': Curve('a', (0, 10), (0.0, 1.0))}, 'A', 'a')
    path = save_figure(figure, tmp_path / 'new' / 'a.png')
    pixels = np.array(Image.open(path).convert('RGB'))
    assert pixels.shape == (504, 1020, 3)
    assert (pixels[0, 0] == 255).all()
    colour = matplotlib.colors.to_rgb(figure.axes[0].lines[0].get_color())
    drawn = (pixels == np.rint(255 * np.array(colour))).all(-1)
    columns = np.flatnonzero(drawn.any(0))
    assert np.ptp(columns) > 500


def test_drawing_leaves_pyplot_alone():
    code = (
        'import sys; from mmpoolformer.visual.curves import Curve, draw_curves; '
        "draw_curves({'a': Curve('a', (1,), (1,))}, 'A', 'a'); "
        "assert 'matplotlib.pyplot' not in sys.modules; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


def test_comparison_has_a_panel_for_each_quantity_and_names_last_values() -> None:
    one, other = Curve('loss', (1, 2), (4.0, 3.0)), Curve('loss', (1, 2), (4.0, 1.25))
    panels = {'loss': [('a', one), ('b', other)], 'AP': [('a', one), ('b', other)]}
    figure = draw_comparison(panels, 'Two runs')
    assert [axes.get_ylabel() for axes in figure.axes] == ['loss', 'AP']
    for axes in figure.axes:
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert texts == ['a: 3.00', 'b: 1.25']
        assert list(axes.get_lines()[1].get_ydata()) == [4.0, 1.25]
    with pytest.raises(ValueError, match='give each a curve'):
        draw_comparison({'loss': []}, 'None')


def write_own_logs(folder):
    lines = [
        dict(epoch=1, iter=i, lr=0.1, loss=float(10 - i), loss_cls=1.0, acc=50.0)
        for i in range(1, 5)
    ]
    write(folder / 'train_log.jsonl', *map(json.dumps, lines))
    metrics = {'coco/bbox_mAP': 0.25, 'coco/bbox_mAP_s': None, 'coco/bbox_mAP_50': 0.5}
    entries = [dict(epoch=1, iter=4, metrics=metrics)]
    (folder / 'val_results.json').write_text(json.dumps(entries))
    return folder


def test_a_work_dir_is_read_by_its_own_logs(tmp_path):
    run = read_run(write_own_logs(tmp_path / 'run'))
    assert run['loss'] == Curve('loss', (1, 2, 3, 4), (9.0, 8.0, 7.0, 6.0))
    assert run['coco/bbox_mAP'] == Curve('coco/bbox_mAP', (4,), (0.25,))
    assert 'coco/bbox_mAP_s' not in run
    assert loss_names(run) == ['loss', 'loss_cls']
    assert metric_names(run) == ['coco/bbox_mAP', 'coco/bbox_mAP_50']
    assert find_curve(run, 'bbox_mAP') is run['coco/bbox_mAP']
    assert find_curve(run, 'mAP') is run['coco/bbox_mAP']
    assert find_curve(run, 'top1') is None


def test_another_programs_work_dir_and_one_log_are_read(tmp_path):
    log = tmp_path / 'run' / '20260101_000000' / 'vis_data' / 'scalars.json'
    write(log, train_line(10, 2.5), val_line(1, 0.5))
    assert read_run(tmp_path / 'run') == read_run(log)
    assert read_run(log)['coco/bbox_mAP'].steps == (10,)


def test_no_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no such work dir or log'):
        read_run(tmp_path / 'missing')
    with pytest.raises(ValueError, match='is it the work dir of a run'):
        read_run(tmp_path)


def test_the_running_mean_is_of_the_values_before():
    curve = Curve('loss', tuple(range(100)), tuple(map(float, range(100))))
    mean = running_mean(curve)
    expected = [np.mean(curve.values[max(i - 4, 0) : i + 1]) for i in range(100)]
    np.testing.assert_allclose(mean.values, expected)


def test_a_training_has_a_panel_for_each_kind(tmp_path):
    run = read_run(write_own_logs(tmp_path))
    figure = draw_training(run, 'a run')
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ['loss', 'validation', 'learning rate']
    lines = [line.get_label() for line in figure.axes[1].get_lines()]
    assert lines == ['box AP: 0.250', 'box AP50: 0.500']
    with pytest.raises(ValueError, match='no loss, learning rate or metric'):
        draw_training({}, 'nothing')


@pytest.mark.parametrize(
    ('values', 'expected'),
    [
        ((3.0, 2.0), ['loss: 2.00']),  # the sum has this part alone
        ((2.0, 1.0), ['loss: 2.00', 'class loss: 1.00']),
    ],
)
def test_the_only_part_of_a_loss_is_drawn_once(values, expected):
    curves = (Curve('loss', (1, 2), (3.0, 2.0)), Curve('loss_cls', (1, 2), values))
    figure = draw_training({curve.name: curve for curve in curves}, 'a run')
    lines = [line.get_label() for line in figure.axes[0].get_lines()]
    assert [label for label in lines if label[0] != '_'] == expected


def test_nothing_overlaps_or_is_cut() -> None:
    names = ('loss', 'loss_cls', 'loss_bbox', 'coco/bbox_mAP', 'coco/bbox_mAP_50', 'lr')
    run = {name: Curve(name, (7, 87960), (0.5, 2e-6)) for name in names}
    other = Curve('loss', (5, 120), (2.0, 1.0))
    panels = {
        'loss': [('a_long_name_of_a_run_' * 4, run['loss']), ('b', other)],
        'coco/bbox_mAP': [('b', run['coco/bbox_mAP'])],
    }
    for figure in (draw_training(run, 'run ' * 40), draw_comparison(panels, 'runs')):
        FigureCanvasAgg(figure).draw()
        pages, ends = figure.bbox, set()
        for axes in figure.axes:
            legend, plot = (
                axes.get_legend().get_window_extent(),
                axes.get_window_extent(),
            )
            assert plot.x1 < legend.x0
            assert legend.x1 <= pages.x1
            assert axes.get_tightbbox().y0 >= pages.y0
            assert plot.width > pages.width / 2
            ends.add(axes.get_xlim())
            boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes) if b.width)
        assert ends == {(0, 1.01 * 87960)}
        assert figure._suptitle.get_window_extent().width < pages.width


def test_a_run_has_one_colour_in_every_panel() -> None:
    curve = Curve('loss', (1, 2), (4.0, 3.0))
    panels = {'loss': [('a', curve), ('b', curve)], 'mIoU': [('b', curve)]}
    loss, miou = draw_comparison(panels, 'Two runs').axes
    assert loss.get_lines()[0].get_color() != loss.get_lines()[1].get_color()
    assert miou.get_lines()[0].get_color() == loss.get_lines()[1].get_color()


def test_names_that_would_be_equal_stay_as_in_the_log() -> None:
    run = {n: Curve(n, (1, 2), (0, 1)) for n in ('day/bbox_mAP', 'night/bbox_mAP')}
    lines = draw_training(run, 'run').axes[0].get_lines()
    assert [line.get_label() for line in lines] == [f'{name}: 1.00' for name in run]


def test_first_peaks_of_a_loss_do_not_set_the_scale():
    values = (1000.0,) + (1.0,) * 99
    figure = draw_training({'loss': Curve('loss', tuple(range(100)), values)}, 'peak')
    assert figure.axes[0].get_ylim()[1] < 3
