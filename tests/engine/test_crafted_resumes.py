"""What a checkpoint that somebody else has written can do to a run that resumes it."""

import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import runner as mmengine_runner
from tiny_training import settings, train

from mmpoolformer.checkpoints import register_safe_loaders
from mmpoolformer.checkpoints.reading import read_checkpoint
from mmpoolformer.engine.resuming import resumable
from mmpoolformer.utils.errors import UserError

SAVED, STEPS = 'iter_6.pth', 8


@pytest.fixture(scope='module', autouse=True)
def quick() -> None:
    """Leave out what takes seconds at every start: asking compilers and git."""
    patch = pytest.MonkeyPatch()
    patch.setattr(mmengine_runner, 'collect_env', dict)
    patch.setattr(mmengine_runner, 'get_git_hash', str)
    patch.setattr(Config, 'pretty_text', property(str))
    register_safe_loaders()
    yield
    patch.undo()


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work dir after six steps."""
    folder = tmp_path_factory.mktemp('saved') / 'run'
    train(settings(folder, 6))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of that work dir."""
    return Path(shutil.copytree(saved, tmp_path / 'run'))


def craft(folder: Path, change: Callable[[dict], object]) -> None:
    """Change the checkpoint of a work dir."""
    content = read_checkpoint(folder / SAVED)
    change(content)
    torch.save(content, folder / SAVED)


def say(folder: Path, **facts: object) -> None:
    craft(folder, lambda content: content['message_hub']['runtime_info'].update(facts))


def go_on(folder: Path, **checkpoint: object) -> None:
    config = settings(folder, STEPS)
    config.default_hooks.checkpoint.update(checkpoint)
    runner = train(config)
    assert Path(runner._load_from) == folder / SAVED


@pytest.mark.parametrize('key', ['outdated_ckpts', 'interrupted_ckpt', 'best_ckpt'])
@pytest.mark.parametrize('form', ['absolute', 'up', 'inside', 'odd name', 'link'])
def test_files_of_others_stay(folder: Path, key: str, form: str) -> None:
    other = folder.parent / 'other' / 'epoch_1.pth'
    other.parent.mkdir()
    other.write_text('precious')
    mine = [folder / 'notes.txt', folder / 'weights.pth', folder / 'best.pth']
    for path in mine:
        path.write_text('precious')
    (folder / 'epoch_77.pth').symlink_to(other)
    named = {
        'absolute': str(other),
        'up': '../other/epoch_1.pth',
        'inside': 'notes.txt',
        'odd name': 'weights.pth',
        'link': 'epoch_77.pth',
    }[form]
    say(folder, **{key: [named, 'best.pth'] if key == 'outdated_ckpts' else named})
    go_on(folder)
    assert other.read_text() == 'precious'
    assert all(path.is_file() for path in mine)
    assert (folder / 'epoch_77.pth').is_symlink()
    assert (folder / f'iter_{STEPS}.pth').is_file()


@pytest.mark.parametrize('metrics', ['error', ['error', 'loss']])
@pytest.mark.parametrize('name', ['victim', 'best_error_iter_1.pth', 'iter_3.pth'])
def test_folders_stay(
    folder: Path, metrics: object, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = isinstance(metrics, list)
    monkeypatch.setattr(
        'tiny_training.Error.compute_metrics',
        lambda self, results: {'error': -1.0, 'loss': -1.0},
    )
    place = folder / name
    place.mkdir()
    (place / 'x').write_text('precious')
    best = {'best_ckpt_error': str(place), 'best_ckpt_loss': str(place)}
    best = best if several else {'best_ckpt': str(place)}
    say(folder, **best, keep_ckpt_ids=[3, 4, 5, 6], outdated_ckpts=[name])
    rule = ['less', 'less'] if several else 'less'
    go_on(folder, save_best=metrics, rule=rule)
    assert (place / 'x').read_text() == 'precious'


def test_files_beside_the_checkpoint_go(folder: Path) -> None:
    """The honest case: what the hook itself has named is removed."""
    for name in ('iter_2.pth', 'iter_4.pth', 'iter_5.pth', 'best_error_iter_1.pth'):
        (folder / name).write_bytes(b'')
    (folder / 'best_error_iter_6.pth').unlink()
    say(
        folder,
        outdated_ckpts=['iter_2.pth'],
        keep_ckpt_ids=[4, 6],
        interrupted_ckpt='iter_5.pth',
        best_ckpt='/moved/from/best_error_iter_1.pth',
        best_score=1e9,
    )
    go_on(folder)
    left = sorted(path.name for path in folder.glob('*.pth'))
    assert left == [f'best_error_iter_{STEPS}.pth', f'iter_{STEPS}.pth']


def test_a_file_from_elsewhere_removes_nothing_here(folder: Path) -> None:
    work = folder.parent / 'mine'
    work.mkdir()
    for name in ('iter_2.pth', 'epoch_1.pth', 'best_error_iter_1.pth'):
        (work / name).write_bytes(b'')
    say(
        folder,
        outdated_ckpts=['epoch_1.pth'],
        keep_ckpt_ids=[2, 6],
        best_ckpt=str(work / 'best_error_iter_1.pth'),
        best_score=1e9,
    )
    train(settings(work, STEPS), resume=str(folder / SAVED))
    names = {path.name for path in work.glob('*.pth')}
    assert names >= {'iter_2.pth', 'epoch_1.pth', 'best_error_iter_1.pth'}
    assert (folder / SAVED).is_file()


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('keep_ckpt_ids', 7),
        ('keep_ckpt_ids', ['3']),
        ('keep_ckpt_ids', [-1]),
        ('keep_ckpt_ids', [2**80]),
        ('keep_ckpt_ids', [True]),
        ('keep_ckpt_ids', list(range(20_000))),
        ('keep_ckpt_ids', torch.ones(1).expand(10**6)),
        ('outdated_ckpts', 'iter_1.pth'),
        ('outdated_ckpts', {'iter_1.pth': 1}),
        ('outdated_ckpts', [3]),
        ('outdated_ckpts', ['a\nb.pth']),
        ('outdated_ckpts', ['\0']),
        ('outdated_ckpts', ['']),
        ('interrupted_ckpt', ['iter_1.pth']),
        ('interrupted_ckpt', 5),
        ('best_ckpt', 5),
        ('best_ckpt', b'best_error_iter_1.pth'),
        ('best_ckpt_error', 'x' * 9999),
    ],
)
def test_what_names_no_files_is_refused(folder: Path, key: str, value: object) -> None:
    say(folder, **{key: value})
    before = {path.name for path in folder.glob('*.pth')}
    with pytest.raises(UserError, match=rf'iter_6\.pth: .*message_hub\.{key}: not '):
        go_on(folder)
    assert {path.name for path in folder.glob('*.pth')} == before


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('{here}/iter_6.pth', 'iter_6.pth'),
        ('/gone/elsewhere/iter_6.pth', 'iter_6.pth'),
        ('{up}/other/iter_6.pth', 'iter_6.pth'),  # moved: the own one counts
        ('{up}/out/run/iter_9.pth', '../out/run/iter_9.pth'),  # mmengine's out_dir
        ('{up}/other/iter_9.pth', None),
        ('/etc/passwd', None),
        ('iter_6.pth\n/etc/x.pth', None),
        ('iter_6.pth\0', None),
        ('x' * 9999 + '.pth', None),
    ],
)
def test_last_checkpoint_names_a_checkpoint_of_this_run(
    folder: Path, text: str, found: str | None
) -> None:
    up = folder.parent
    for place in (up / 'other/iter_6.pth', up / 'other/iter_9.pth'):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b'')
    (up / 'out/run').mkdir(parents=True)
    (up / 'out/run/iter_9.pth').write_bytes(b'')
    (folder / 'last_checkpoint').write_text(text.format(here=folder, up=up))
    if found is None:
        with pytest.raises(UserError, match=r'last_checkpoint: names .*--resume'):
            resumable(folder)
    else:
        assert resumable(folder)[0].resolve() == (folder / found).resolve()


def _set(*path: object) -> Callable[[dict], None]:
    """Return what sets the last one at the place that the others name."""
    *way, last, value = path

    def change(content: dict) -> None:
        for key in way:
            content = content[key]
        if isinstance(content, HistoryBuffer):
            vars(content)[last] = value
        else:
            content[last] = value

    return change


def _huge() -> torch.Tensor:
    return torch.zeros(1).expand(2**27)  # half a gigabyte, of four bytes


HUB, FIRST = 'message_hub', ('optimizer', 'state', 0)
GROUP, LOSS = ('optimizer', 'param_groups', 0), (HUB, 'log_scalars', 'train/loss')
SCHEDULE, WEIGHT = ('param_schedulers', 0), 'net.0.weight'
CRAFTED = [
    ('meta', 5),
    ('meta', []),
    ('meta', 'iter', -1),
    ('meta', 'iter', '6'),
    ('meta', 'iter', None),
    ('meta', 'iter', 2**80),
    ('meta', 'epoch', 1.5),
    ('meta', 'seed', 'a'),
    ('meta', 'seed', -1),
    ('meta', 'seed', 2**32),
    (HUB, []),
    (HUB, 'log_scalars', 3),
    (HUB, 'log_scalars', 'train/loss', 'x'),
    (HUB, 'log_scalars', 5, HistoryBuffer()),
    (HUB, 'runtime_info', []),
    (HUB, 'runtime_info', 5, 5),
    (HUB, 'runtime_info', 'best_score', 'good'),
    (HUB, 'runtime_info', 'best_score', {}),
    (HUB, 'runtime_info', 'batches_of_epoch', 'x'),
    (HUB, 'resumed_keys', None),
    (HUB, 'resumed_keys', 'train/loss', 'x'),
    (*LOSS, '_log_history', 'x'),
    (*LOSS, '_log_history', np.zeros((2, 2))),
    (*LOSS, '_log_history', np.array(['a'])),
    (*LOSS, '_count_history', np.zeros(3)),
    (*LOSS, 'max_length', None),
    ('optimizer', 3),
    ('optimizer', {}),
    ('optimizer', 'state', []),
    ('optimizer', 'state', 'x', {}),
    ('optimizer', 'state', 99, {}),
    ('optimizer', 'param_groups', {}),
    ('optimizer', 'param_groups', []),
    ('optimizer', 'param_groups', [5]),
    (*FIRST, 5),
    (*FIRST, {'step': torch.tensor(6.0)}),
    (*FIRST, 'step', 'x'),
    (*FIRST, 'step', torch.ones(2)),
    (*FIRST, 'step', -5),
    (*FIRST, 'step', float('nan')),
    (*FIRST, 'exp_avg', 3),
    (*FIRST, 'exp_avg', None),
    (*FIRST, 'exp_avg', torch.zeros(())),
    (*FIRST, 'exp_avg', torch.zeros(50, 150)),
    (*FIRST, 'exp_avg', torch.zeros(150, 50, dtype=torch.complex64)),
    (*FIRST, 'exp_avg_sq', _huge()),
    (*FIRST, 'more', _huge()),
    (*GROUP, 'lr', 'fast'),
    (*GROUP, 'lr', None),
    (*GROUP, 'lr', float('inf')),
    (*GROUP, 'betas', 0.9),
    (*GROUP, 'betas', (0.9,)),
    (*GROUP, 'betas', (1, 1)),
    (*GROUP, 'eps', []),
    (*GROUP, 'amsgrad', 'no'),
    (*GROUP, 'params', [0]),
    (*GROUP, 'params', None),
    ('param_schedulers', 5),
    ('param_schedulers', []),
    ('param_schedulers', [7]),
    (*SCHEDULE, 'step', 5),
    (*SCHEDULE, '_get_value', 5),
    (*SCHEDULE, 'last_step', 'x'),
    (*SCHEDULE, 'end', 'late'),
    (*SCHEDULE, 'base_values', []),
    (*SCHEDULE, 'base_values', ['x']),
    (*SCHEDULE, '_last_value', None),
    ('ema_state_dict', 5),
    ('ema_state_dict', {}),
    ('ema_state_dict', 'steps', torch.ones(3)),
    ('ema_state_dict', 'module.x', torch.ones(3)),
    ('ema_state_dict', f'module.{WEIGHT}', 'x'),
    ('ema_state_dict', f'module.{WEIGHT}', _huge()),
    ('state_dict', 5),
    ('state_dict', {}),
    ('state_dict', WEIGHT, None),
    ('state_dict', WEIGHT, _huge()),
    ('gradients', 5),
    ('gradients', {'x': torch.ones(1)}),
    ('gradients', {WEIGHT: 5}),
    ('gradients', {WEIGHT: torch.ones(3)}),
    ('gradients', {WEIGHT: _huge()}),
]


@pytest.mark.parametrize(
    'path', CRAFTED, ids=lambda path: '.'.join(str(p)[:20] for p in path[:-1])
)
def test_a_part_of_another_kind_is_refused_in_one_line(
    folder: Path, path: tuple
) -> None:
    craft(folder, _set(*path))
    with pytest.raises(UserError) as caught:
        go_on(folder)
    text = str(caught.value)
    # What costs much or is no plain data is refused by the reader already.
    if not text.startswith(
        (f'{folder / SAVED} is damaged', f'{folder / SAVED} asks for')
    ):
        assert text.startswith(f'{folder / SAVED}: can not be resumed: ')
        assert str(path[0]) in text
    assert '\n' not in text
    assert len(text) < 500


def test_nothing_is_allocated_for_what_is_refused(folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    saved = (folder / SAVED).read_bytes()
    for path in ((*FIRST, 'exp_avg', _huge()), ('gradients', {WEIGHT: _huge()})):
        (folder / SAVED).write_bytes(saved)
        craft(folder, _set(*path))
        with pytest.raises(
            UserError, match=r'of shape \(134217728,\), not|repeat their memory'
        ):
            go_on(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**18  # kilobytes: half of one of these tensors
