"""A training step, the schedule and the optimizer against timm's own."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import (
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    PARAM_SCHEDULERS,
)
from timm.data import Mixup
from timm.loss import (
    BinaryCrossEntropy,
    LabelSmoothingCrossEntropy,
    SoftTargetCrossEntropy,
)
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F

from mmpoolformer import create_model
from mmpoolformer.classification import Accuracy, ImageClassifier, TimmClassifier
from mmpoolformer.utils.errors import UserError

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), layer_scale_init=0.5)
MIXUP = dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)
CLASSES = 7


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    return images, torch.tensor([3, 0, 6, 3])


def ours(**options: object) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(
        dict(type='mmpoolformer.MetaFormerClassifier', arch=TINY, num_classes=CLASSES),
        **options,
    )


def criterion(mixup: bool, smoothing: float, bce: bool) -> nn.Module:
    """Choose as timm's training script does."""
    if mixup:
        return BinaryCrossEntropy() if bce else SoftTargetCrossEntropy()
    if smoothing:
        return (
            BinaryCrossEntropy(smoothing=smoothing)
            if bce
            else LabelSmoothingCrossEntropy(smoothing)
        )
    return nn.CrossEntropyLoss()


@pytest.mark.parametrize(
    ('mixup', 'smoothing', 'bce'),
    [
        (None, 0.0, False),
        (None, 0.1, False),
        (None, 0.1, True),
        *itertools.product(
            [MIXUP, {**MIXUP, 'mode': 'elem'}], [0.0, 0.1], [False, True]
        ),
    ],
)
@pytest.mark.parametrize('channels_last', [False, True])
def test_loss_and_gradients_equal_a_plain_timm_step(
    mixup: dict | None, smoothing: float, bce: bool, channels_last: bool
) -> None:
    loss = (
        dict(type='mmpoolformer.BinaryCrossEntropy', smoothing=smoothing or 0.1)
        if bce
        else None
    )
    model = ours(
        mixup=mixup, label_smoothing=smoothing, loss=loss, channels_last=channels_last
    )
    plain = copy.deepcopy(model.backbone)
    images, labels = batch()
    np.random.seed(5)
    found, _ = model.parse_losses(model(images.clone(), labels.clone(), mode='loss'))
    found.backward()

    np.random.seed(5)
    if mixup:
        mix = Mixup(**mixup, label_smoothing=smoothing, num_classes=CLASSES)
        images, labels = mix(images, labels)
    expected = criterion(bool(mixup), smoothing, bce)(plain(images), labels)
    expected.backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for (name, one), two in zip(
        model.backbone.named_parameters(), plain.parameters(), strict=True
    ):
        scale = two.grad.abs().max()
        error = (one.grad - two.grad).abs().max()
        assert error <= 1e-5 * scale, name


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
@pytest.mark.parametrize(
    ('loss', 'plain'),
    [
        (dict(type='mmpoolformer.BinaryCrossEntropy'), BinaryCrossEntropy),
        (
            dict(type='mmpoolformer.CrossEntropy'),
            lambda smoothing: nn.CrossEntropyLoss(label_smoothing=smoothing),
        ),
        (
            dict(type='mmpoolformer.LabelSmoothingCrossEntropy'),
            lambda smoothing: LabelSmoothingCrossEntropy(smoothing or 0.1),
        ),
        (
            dict(type='mmpoolformer.BinaryCrossEntropy', smoothing=0.2),
            lambda _: BinaryCrossEntropy(0.2),
        ),
    ],
)
def test_a_loss_that_is_named_smooths_as_the_model_says(
    loss: dict, plain: Callable, smoothing: float
) -> None:
    logits, labels = torch.randn(4, CLASSES), torch.tensor([3, 0, 6, 3])
    found = ours(loss=loss, label_smoothing=smoothing).criterion(logits, labels)
    torch.testing.assert_close(found, plain(smoothing)(logits, labels))


@pytest.mark.parametrize('name', ['test_vit', 'resnet10t', 'levit_128s'])
def test_weights_of_timm_outlive_the_start_of_a_training(
    name: str, tmp_path: Path
) -> None:
    """mmengine calls `init_weights` of what has it, as these do."""
    weights = timm.create_model(name, num_classes=CLASSES).state_dict()
    torch.save(weights, tmp_path / 'a.pth')
    checkpoint = str(tmp_path / 'a.pth')
    model = TimmClassifier(name, num_classes=CLASSES, checkpoint=checkpoint)
    model.init_weights()
    kept = model.backbone.state_dict()
    assert all(torch.equal(kept[key], weights[key]) for key in weights)


def test_timm_models_train_alike() -> None:
    torch.manual_seed(0)
    model = TimmClassifier('resnet10t', num_classes=CLASSES, label_smoothing=0.1)
    plain = copy.deepcopy(model.backbone)
    images, labels = batch()
    found = model(images, labels, mode='loss')['loss_cls']
    expected = LabelSmoothingCrossEntropy(0.1)(plain(images), labels)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize('name', ['deit_tiny_patch16_224', 'resmlp_12_224'])
def test_other_families_of_timm_are_there(name: str) -> None:
    model = TimmClassifier(name, num_classes=CLASSES, drop_path_rate=0.1)
    expected = timm.create_model(name, num_classes=CLASSES)
    count = sum(p.numel() for p in expected.parameters())
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.num_classes == CLASSES


@pytest.mark.parametrize('kind', ['hard', 'soft'])
def test_distillation_equals_its_formula(kind: str, tmp_path: object) -> None:
    torch.manual_seed(1)
    teacher = timm.create_model('resnet10t', num_classes=CLASSES).eval()
    torch.save(teacher.state_dict(), f'{tmp_path}/teacher.pth')
    model = ours(
        label_smoothing=0.1,
        distillation=dict(
            teacher='resnet10t',
            checkpoint=f'{tmp_path}/teacher.pth',
            kind=kind,
            alpha=0.3,
            tau=2.0,
        ),
    )
    assert not any('teacher' in key for key in model.state_dict())
    assert copy.deepcopy(model).distillation is model.distillation
    images, labels = batch()
    found = model(images, labels, mode='loss')
    logits = model.backbone(images)
    with torch.no_grad():
        taught = teacher(images)
    if kind == 'hard':
        distance = F.nll_loss(logits.log_softmax(1), taught.argmax(1))
    else:
        p, q = (taught / 2).softmax(1), (logits / 2).softmax(1)
        distance = (p * (p.log() - q.log())).sum() * 4 / logits.numel()
    base = LabelSmoothingCrossEntropy(0.1)(logits, labels)
    torch.testing.assert_close(found['loss_cls'], 0.7 * base, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        found['loss_distill'], 0.3 * distance, rtol=1e-4, atol=1e-7
    )


def test_the_teacher_gets_its_own_normalisation(tmp_path: object) -> None:
    teacher = timm.create_model('vit_tiny_patch16_224', num_classes=CLASSES).eval()
    torch.save(teacher.state_dict(), f'{tmp_path}/teacher.pth')
    model = ours(
        distillation=dict(
            teacher='vit_tiny_patch16_224',
            checkpoint=f'{tmp_path}/teacher.pth',
            kind='soft',
            alpha=1.0,
        )
    )
    own = teacher.pretrained_cfg
    assert own['mean'] != (0.485, 0.456, 0.406)
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    def normalised(mean: tuple, std: tuple) -> torch.Tensor:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
        return (pixels - mean) / std

    student_images = normalised((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    logits = model.backbone(student_images)
    found = model.distillation(torch.zeros(()), logits, student_images)
    with torch.no_grad():
        taught = teacher(normalised(own['mean'], own['std']))
    expected = model.distillation.distance(logits, taught)
    torch.testing.assert_close(found['loss_distill'], expected, rtol=1e-4, atol=1e-7)


class TwoHeads(nn.Module):
    """A student with a head for distillation, as timm's distilled models are."""

    num_classes = CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(3, 2 * CLASSES)
        self.distilled = False

    def set_distilled_training(self, enable: bool = True) -> None:
        self.distilled = enable

    def forward(self, x: torch.Tensor) -> tuple | torch.Tensor:
        one, two = self.heads(x.mean((2, 3))).chunk(2, 1)
        return (one, two) if self.distilled and self.training else (one + two) / 2


def test_the_second_head_follows_the_teacher(tmp_path: object) -> None:
    teacher = timm.create_model('resnet10t', num_classes=CLASSES).eval()
    torch.save(teacher.state_dict(), f'{tmp_path}/t.pth')
    model = ImageClassifier(
        TwoHeads(),
        distillation=dict(teacher='resnet10t', checkpoint=f'{tmp_path}/t.pth'),
    )
    images, labels = batch()
    found = model(images, labels, mode='loss')
    one, two = model.backbone(images)
    base = 0.5 * F.cross_entropy(one, labels)
    follow = 0.5 * F.cross_entropy(two, teacher(images).argmax(1))
    torch.testing.assert_close(found['loss_cls'], base)
    torch.testing.assert_close(found['loss_distill'], follow)


def optim_wrapper(model: nn.Module, **options: object) -> OptimWrapper:
    cfg = dict(
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        **{k: v for k, v in options.items() if k != 'layer_decay'},
    )
    rules = {k: v for k, v in options.items() if k == 'layer_decay'}
    builder = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type='mmpoolformer.TimmOptimizer',
            optim_wrapper_cfg=cfg,
            paramwise_cfg=rules,
        )
    )
    return builder(model)


@pytest.mark.parametrize('accumulated', [1, 2])
@pytest.mark.parametrize('warmup', [0, 2])
def test_schedule_equals_timms_at_every_update(accumulated: int, warmup: int) -> None:
    epochs, cooldown, length = 5, 2, 6
    wrapper = optim_wrapper(ours(), accumulative_counts=accumulated)
    schedule = PARAM_SCHEDULERS.build(
        dict(
            type='mmpoolformer.CosineLR',
            optimizer=wrapper,
            t_initial=epochs * length,
            warmup_t=warmup * length,
            warmup_lr_init=1e-6,
            lr_min=1e-5,
            by_epoch=False,
        )
    )
    theirs = create_optimizer_v2(nn.Linear(2, 2), 'adamw', lr=1e-3)
    updates = length // accumulated
    timms = CosineLRScheduler(
        theirs,
        t_initial=epochs * updates,
        warmup_t=warmup * updates,
        warmup_lr_init=1e-6,
        lr_min=1e-5,
        t_in_epochs=False,
    )
    timms.step_update(0)
    for iteration in range((epochs + cooldown) * length):
        expected = theirs.param_groups[0]['lr']
        assert all(
            math.isclose(group['lr'], expected, rel_tol=1e-12)
            for group in wrapper.param_groups
        ), iteration
        schedule.step()
        if (iteration + 1) % accumulated == 0:
            timms.step_update((iteration + 1) // accumulated)
    assert theirs.param_groups[0]['lr'] == 1e-5


def test_schedule_state_is_plain_and_comes_back() -> None:
    wrapper = optim_wrapper(ours())
    cfg = dict(type='mmpoolformer.CosineLR', optimizer=wrapper, t_initial=9)
    schedule = PARAM_SCHEDULERS.build({**cfg, 'by_epoch': False})
    for _ in range(4):
        schedule.step()
    state = schedule.state_dict()
    assert 'timm' not in state
    other = PARAM_SCHEDULERS.build({**cfg, 'by_epoch': False})
    other.load_state_dict(state)
    schedule.step(), other.step()
    assert other.get_last_value() == schedule.get_last_value()


def test_a_saved_schedule_goes_on_with_its_own_lengths_and_rates() -> None:
    lengths = dict(t_initial=9, warmup_t=2, lr_min=1e-5, by_epoch=False)
    others = dict(t_initial=90, warmup_t=5, lr_min=1e-4, by_epoch=False)
    wrappers = [optim_wrapper(ours()) for _ in range(2)]
    for group in wrappers[1].param_groups:
        group['lr'] = 1.0
    saved, resumed = (
        PARAM_SCHEDULERS.build(
            dict(type='mmpoolformer.CosineLR', optimizer=wrapper, **options)
        )
        for wrapper, options in zip(wrappers, (lengths, others), strict=True)
    )
    for _ in range(4):
        saved.step()
    wrappers[1].load_state_dict(wrappers[0].state_dict())  # as a Runner, before it
    resumed.load_state_dict(saved.state_dict())
    for _ in range(4):
        saved.step(), resumed.step()
        assert resumed.get_last_value() == saved.get_last_value()


def test_weight_decay_leaves_out_what_timm_leaves_out() -> None:
    model = ours()
    found = optim_wrapper(model).optimizer
    expected = create_optimizer_v2(model.backbone, 'adamw', lr=1e-3, weight_decay=0.05)
    names = {id(p): name for name, p in model.named_parameters()}

    def decays(optimizer: torch.optim.Optimizer) -> dict[str, float]:
        return {
            names[id(p)]: group['weight_decay']
            for group in optimizer.param_groups
            for p in group['params']
        }

    assert decays(found) == decays(expected)
    decay = decays(found)
    assert decay['backbone.stages.0.blocks.0.layer_scale1.scale'] == 0
    assert decay['backbone.stages.0.blocks.0.norm1.weight'] == 0
    assert decay['backbone.stages.0.blocks.0.mlp.fc1.weight'] == 0.05
    assert len(decay) == len(list(model.parameters()))


@pytest.mark.parametrize('name', ['lamb', 'Lamb', 'SGD'])
def test_optimizers_of_timm_by_name(name: str) -> None:
    builder = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type='mmpoolformer.TimmOptimizer',
            optim_wrapper_cfg=dict(optimizer=dict(type=name, lr=0.1)),
        )
    )
    expected = create_optimizer_v2(nn.Linear(1, 1), name.lower(), lr=0.1)
    assert type(builder(ours()).optimizer) is type(expected)


@pytest.mark.parametrize(
    'model',
    [
        dict(type='TimmClassifier', name='deit_tiny_patch16_224'),
        dict(type='ImageClassifier', backbone=dict(name='poolformer_s12')),
        dict(type='ImageClassifier', backbone=dict(name='caformer_s18')),
        dict(type='ImageClassifier', backbone=dict(name='metaformer_ppaa_s12_224')),
        dict(type='ImageClassifier', backbone=dict(name='pit_ti')),
    ],
    ids=str,
)
def test_layer_decay_scales_the_rates(model: dict) -> None:
    model = MODELS.build({**model, 'type': f'mmpoolformer.{model["type"]}'})
    wrapper = optim_wrapper(model, layer_decay=0.5)
    rates = sorted({group['lr'] for group in wrapper.param_groups})
    blocks = {n.rpartition('.norm1.')[0] for n, _ in model.named_parameters()} - {''}
    assert len(rates) == len(blocks) + 2  # and embedding and head
    for lower, higher in itertools.pairwise(rates):
        assert higher / lower == pytest.approx(2)
    assert rates[-1] == 1e-3


def test_schedules_keep_the_layer_decay() -> None:
    model, theirs = ours(), ours()
    schedule = dict(t_initial=10, warmup_t=3, warmup_lr_init=1e-6, lr_min=1e-5)
    optimizer = create_optimizer_v2(
        theirs.backbone, 'adamw', lr=1e-3, weight_decay=0.05, layer_decay=0.5
    )
    timms = CosineLRScheduler(optimizer, **schedule, t_in_epochs=False)
    wrapper = optim_wrapper(model, layer_decay=0.5)
    cosine = PARAM_SCHEDULERS.build(
        dict(type='mmpoolformer.CosineLR', optimizer=wrapper, by_epoch=False) | schedule
    )
    other = optim_wrapper(model, layer_decay=0.5)
    first = [group['lr'] for group in other.optimizer.param_groups]
    mmengines = PARAM_SCHEDULERS.build(
        dict(type='ConstantLR', optimizer=other, factor=0.1, end=5, by_epoch=False)
    )
    for step in range(12):
        timms.step_update(step)
        found = [group['lr'] for group in wrapper.optimizer.param_groups]
        assert found == pytest.approx([g['lr'] for g in optimizer.param_groups])
        share = 0.1 if step < 4 else 1
        found = [group['lr'] for group in other.optimizer.param_groups]
        assert found == pytest.approx([rate * share for rate in first])
        cosine.step()
        mmengines.step()


def test_accuracy_equals_a_count_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    samples = [
        {'pred_scores': one, 'gt_label': label}
        for one, label in zip(scores, [1, 2, 1], strict=True)
    ]
    metric = Accuracy(topk=(1, 2, 5))
    metric.process({}, samples)
    metric.process({}, [{'pred_scores': scores[0], 'gt_label': -1}])  # skipped
    assert metric.evaluate(4) == pytest.approx(
        {'accuracy/top1': 100 / 3, 'accuracy/top2': 200 / 3, 'accuracy/top5': 100.0}
    )


def test_scores_that_are_no_numbers_have_no_accuracy() -> None:
    sample = {'pred_scores': torch.full((3,), float('nan')), 'gt_label': 0}
    with pytest.raises(UserError, match='scores are not finite'):
        Accuracy().process({}, [sample])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mixup=dict(mixup_alpha=0.0)), 'give mixup_alpha or cutmix_alpha'),
        (dict(mixup=dict(mixup_alpha=1.0, num_classes=3)), 'mixup has num_classes'),
        (dict(label_smoothing=1.5), r'label_smoothing=1\.5'),
        (
            dict(mixup=MIXUP, loss=dict(type='mmpoolformer.CrossEntropy')),
            'takes no mixed targets',
        ),
        (
            dict(distillation=dict(teacher='resnet10t', kind='firm')),
            "kind='firm'.*hard, soft",
        ),
        (
            dict(distillation=dict(teacher='resnet10t', alpha=2.0)),
            'alpha is in',
        ),
        (dict(distillation=dict(teacher='no_net')), "name='no_net'"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours(**options)


def test_odd_batch_and_unknown_mode_are_named() -> None:
    model = ours(mixup=MIXUP)
    images, labels = batch()
    with pytest.raises(ValueError, match=r'batch of 3.*even batch_size'):
        model(images[:3], labels[:3], mode='loss')
    with pytest.raises(ValueError, match="mode='train'"):
        model(images, mode='train')


def test_create_model_names_serve_as_backbone() -> None:
    model = ImageClassifier(dict(name='poolformer_s12', num_classes=CLASSES))
    other = create_model('poolformer_s12', num_classes=CLASSES)
    other.load_state_dict(model.backbone.state_dict())
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(model.eval()(images), other.eval()(images))
