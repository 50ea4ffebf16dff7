"""Classifiers as mmengine trains them: a network, mixing of pictures, a loss."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from timm.data import Mixup
from torch import Tensor, nn

from mmpoolformer.classification.losses import Distillation, build_loss
from mmpoolformer.models import create_model
from mmpoolformer.models.timm_models import build_timm
from mmpoolformer.registry import MODELS


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A network of this package, trained by the recipes of the field.

    Args:
        backbone: The network from images to logits, such as
            `dict(type='mmpoolformer.MetaFormerClassifier', arch='poolformer_s12',
            num_classes=1000, drop_path_rate=0.1)`, or the options of
            `mmpoolformer.create_model`, `dict(name='poolformer_s12', ...)`.
        mixup: Options of `timm.data.Mixup` (both Mixup and CutMix), such as
            `dict(mixup_alpha=0.8, cutmix_alpha=1.0, switch_prob=0.5)`; None for none.
        label_smoothing: Share of the target given to all classes alike, in [0, 1).
        loss: See `losses.build_loss`; None chooses by the targets.
        distillation: Options of `losses.Distillation`; None for none.
        channels_last: Whether images and weights lie in memory with channels last.
        data_preprocessor: As in mmengine; None moves the data to the model's device.
        init_cfg: As in mmengine; the network's own loads its weights.

    Raises:
        ValueError: If an option is out of its range, or options contradict each other.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        mixup: dict | None = None,
        label_smoothing: float = 0.0,
        loss: dict | None = None,
        distillation: dict | None = None,
        channels_last: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'label_smoothing={label_smoothing!r}: must be in [0, 1)')
        self.backbone = _build_network(backbone)
        self.num_classes = self.backbone.num_classes
        self.mixup = mixup and _build_mixup(mixup, label_smoothing, self.num_classes)
        self.criterion = build_loss(loss, label_smoothing, bool(mixup))
        self.distillation = distillation and Distillation(
            num_classes=self.num_classes, **distillation
        )
        self.channels_last = channels_last
        if channels_last:
            self.backbone.to(memory_format=torch.channels_last)
        if distillation and hasattr(self.backbone, 'set_distilled_training'):
            self.backbone.set_distilled_training(True)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        img_path: Sequence[str] | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """Run the network.

        Args:
            inputs: Images (B, C, H, W).
            targets: Labels (B), for the modes `'loss'` and (if known) `'predict'`.
            img_path: Where the images are from, for `'predict'`.
            mode: `'tensor'` gives logits (B, num_classes), `'loss'` a dict of losses,
                `'predict'` one dict per image with `pred_scores` (probabilities),
                `pred_label`, `gt_label` and `img_path`.

        Raises:
            ValueError: If the mode is unknown.
        """
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if mode == 'tensor':
            return self.backbone(inputs)
        if mode == 'loss':
            return self.loss(inputs, targets)
        if mode == 'predict':
            return self.predict(inputs, targets, img_path)
        raise ValueError(f"mode={mode!r}: choose from 'tensor', 'loss', 'predict'")

    def loss(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the losses of images (B, C, H, W) with labels (B)."""
        if self.mixup:
            if len(inputs) % 2:
                raise ValueError(
                    f'a batch of {len(inputs)}: Mixup and CutMix mix pairs, so give an '
                    'even batch_size, with drop_last=True in train_dataloader'
                )
            inputs, targets = self.mixup(inputs, targets)
        logits = self.backbone(inputs)
        # Models with a head for distillation give both heads' logits in training.
        logits, followers = logits if isinstance(logits, tuple) else (logits, logits)
        loss = self.criterion(logits, targets)
        if self.distillation:
            return self.distillation(loss, followers, inputs)
        return {'loss_cls': loss}

    def predict(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        img_path: Sequence[str] | None = None,
    ) -> list[dict]:
        """Return probabilities and classes of images (B, C, H, W), see `forward`."""
        scores = self.backbone(inputs).float().softmax(1)
        count = len(scores)
        labels = [None] * count if targets is None else targets.tolist()
        paths = [None] * count if img_path is None else img_path
        return [
            {
                'pred_scores': one,
                'pred_label': int(one.argmax()),
                'gt_label': label,
                'img_path': path,
            }
            for one, label, path in zip(scores, labels, paths, strict=True)
        ]


@MODELS.register_module()
class TimmClassifier(ImageClassifier):
    """Any classifier of timm under the same trainer.

    Args:
        name: timm's name, such as `'resnet50'`.
        num_classes: Classes, from 1.
        checkpoint: Weights to start from, in timm's names: a path or URL; None for
            random ones.
        pretrained: Whether to start from timm's weights (a download); a head for
            another number of classes starts anew.
        drop_path_rate: Drop-path rate of the last block, in [0, 1); None leaves the
            model's own default, for models that have no such option.
        model_args: More options of `timm.create_model`.
        training: The options of `ImageClassifier` but `backbone`.

    Raises:
        ValueError: If timm has no such model, or an option is out of its range.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 1000,
        checkpoint: str | None = None,
        pretrained: bool = False,
        drop_path_rate: float | None = None,
        model_args: dict | None = None,
        **training: Any,
    ) -> None:
        options = dict(model_args or {})
        if drop_path_rate is not None:
            options['drop_path_rate'] = drop_path_rate
        network = build_timm(name, num_classes, checkpoint, pretrained, options)
        super().__init__(network, **training)


def _build_network(backbone: dict | nn.Module) -> nn.Module:
    if isinstance(backbone, nn.Module):
        return backbone
    if 'type' in backbone:
        return MODELS.build(backbone)
    return create_model(**backbone)


def _build_mixup(mixup: dict, label_smoothing: float, num_classes: int) -> Mixup:
    given = {'num_classes', 'label_smoothing'} & set(mixup)
    if given:
        raise ValueError(
            f'mixup has {", ".join(sorted(given))}: set label_smoothing of the model; '
            "the number of classes is the network's"
        )
    options = {'mixup_alpha': 0.0, **mixup}
    if not any(
        options.get(k) for k in ('mixup_alpha', 'cutmix_alpha', 'cutmix_minmax')
    ):
        raise ValueError(f'mixup={mixup!r}: give mixup_alpha or cutmix_alpha above 0')
    return Mixup(**options, num_classes=num_classes, label_smoothing=label_smoothing)
