"""Models in folders as the Hugging Face hub has them: config, weights and card.

`config.json` is data: it chooses among architectures that this package builds, by names
and numbers that are checked, and weights are safetensors. For a classifier it is also
what timm reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from os import PathLike
from pathlib import Path

from mmengine.config import Config
from torch import nn

from mmpoolformer.checkpoints import CheckpointError, resolve_source
from mmpoolformer.checkpoints.converting import write_safetensors
from mmpoolformer.checkpoints.errors import cause_of
from mmpoolformer.checkpoints.folders import CONFIG, FILES, OURS, read_config
from mmpoolformer.models.base import PretrainedModule
from mmpoolformer.models.variants import (
    PIT,
    POOLFORMER,
    VARIANTS,
    PiTVariant,
    Variant,
    resolve_variant,
)
from mmpoolformer.utils.files import atomic_file, write_atomically, write_json
from mmpoolformer.utils.paths import split_entry
from mmpoolformer.utils.text import first_few, shown
from mmpoolformer.version import __version__

HUB = 'hf://'
# What a config says of the machine and the run alone.
OF_A_RUN = ('work_dir', 'launcher', 'load_from', 'resume')
# The hub's names for tasks, by the package of the config.
TASKS = {'mmdet': 'object-detection', 'mmseg': 'image-segmentation'}
CLASSIFICATION, FEATURES = 'image-classification', 'image-feature-extraction'
WHOLE_CONFIG, CARD = 'config.py', 'README.md'
UNKNOWN = 'not stated'
# The tables of `arch`, by family, and the other fields of our entry of a config.
TABLES = {'metaformer': VARIANTS, 'pit': PIT}
OPTIONS = ('distilled', 'num_classes', 'in_channels', 'out_indices')


@dataclass(frozen=True)
class SavedModel:
    """What a name or a folder's config.json says of a model.

    Attributes:
        variant: Its architecture.
        distilled: Of a PiT: whether it has two class tokens.
        num_classes: Classes; None for a backbone.
        in_channels: Channels of the image.
        out_indices: Of a backbone: the stages that are given out, None for all.
    """

    variant: Variant | PiTVariant
    distilled: bool = False
    num_classes: int | None = None
    in_channels: int = 3
    out_indices: tuple[int, ...] | None = None


def is_saved(name: str | PathLike) -> bool:
    """Tell whether a model is given by a folder here or by a repository of the hub."""
    return str(name).startswith(HUB) or Path(name).expanduser().is_dir()


def read_saved(name: str | PathLike) -> SavedModel:
    """Read which model a folder or a repository of the hub holds.

    Args:
        name: A folder as `save_pretrained` of this package, of timm or of transformers
            (PoolFormer's) writes it, or `hf://OWNER/NAME`.

    Raises:
        CheckpointError: If it holds another kind of model, or no model.
    """
    config = read_config(resolve_source(split_entry(name)[0]))
    ours = config.get(OURS)
    if isinstance(ours, dict) and 'whole' in ours:
        raise CheckpointError(
            f'{name}: a whole {shown(str(ours["whole"]))}, no classifier or backbone: '
            f'give its {WHOLE_CONFIG} as config and the folder as checkpoint'
        )
    try:
        if OURS in config:
            return _read_ours(ours)
        if config.get('model_type') == 'poolformer':
            return _read_transformers(config)
        return _read_timm(config)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = cause_of(error)
        raise CheckpointError(
            f'{name}: its {CONFIG} names no architecture of this package ({reason})'
        ) from error


def _read_ours(fields: Mapping) -> SavedModel:
    if fields['family'] not in TABLES:
        raise ValueError(f'family={fields["family"]!r}')
    options = {key: fields[key] for key in OPTIONS if fields.get(key) is not None}
    if 'out_indices' in options:
        options['out_indices'] = tuple(options['out_indices'])
    table = TABLES[fields['family']]
    return SavedModel(resolve_variant(fields['arch'], table), **options)


def _read_transformers(config: Mapping) -> SavedModel:
    size = tuple(config['depths']), tuple(config['hidden_sizes'])
    sizes = {(row.depths, row.dims): row for row in POOLFORMER.values()}
    is_classifier = 'ForImageClassification' in str(config.get('architectures'))
    return SavedModel(
        sizes[size],
        num_classes=len(config.get('id2label') or range(2)) if is_classifier else None,
        in_channels=config.get('num_channels', 3),
    )


def _read_timm(config: Mapping) -> SavedModel:
    name, classes = config['architecture'], config.get('num_classes') or None
    if name in VARIANTS:
        return SavedModel(VARIANTS[name], num_classes=classes)
    size = name.removeprefix('pit_').removesuffix('_224').removesuffix('_distilled')
    return SavedModel(PIT[size], 'distilled' in name, classes)


def save_pretrained(
    model: nn.Module,
    folder: str | PathLike,
    *,
    config: Config | None = None,
    classes: Sequence[str] = (),
    preparation: Mapping | None = None,
    data: str = UNKNOWN,
    metrics: Mapping[str, float] | None = None,
    license: str | None = None,
) -> None:
    """Save a model as the Hugging Face hub has them.

    The folder gets `config.json`, `model.safetensors` and `README.md`, the model card.
    `create_model(folder)` builds classifiers and backbones again, `timm.create_model(
    'local-dir:FOLDER')` those classifiers that timm knows. With a detector or segmentor
    comes its config for mmengine, `config.py`, and the folder is the checkpoint.

    Args:
        model: A classifier or backbone of this package, or with `config` any model.
        folder: The folder. A card that it has stays, as somebody may have written it;
            other files of these names are replaced.
        config: What a whole detector or segmentor is built from.
        classes: Names of the classes.
        preparation: How pictures are prepared for a classifier: `input_size`, `mean`,
            `std`, `crop_pct`, `interpolation`, as timm has them.
        data: What it was trained on, for the card.
        metrics: What it reached, for the card.
        license: Of the weights, for the card: a name of the hub's, such as
            `'apache-2.0'`.

    Raises:
        ValueError: If the model is none of this package and has no config.
        OSError: If the folder can't be written.
    """
    folder = Path(folder).expanduser()
    if config is None:
        content = _own(model, preparation)
    else:
        content = {OURS: {'version': __version__, 'whole': type(model).__name__}}
    content |= {'label_names': list(classes)} if classes else {}
    scope = config and config.get('default_scope')
    card = _card(
        model, folder.resolve().name, scope, content, data, metrics or {}, license
    )
    if config is not None:
        lasting = {k: v for k, v in config.to_dict().items() if k not in OF_A_RUN}
        write_atomically(folder / WHOLE_CONFIG, Config(lasting).pretty_text)
    write_json(folder / CONFIG, content)
    with atomic_file(folder / FILES[0]) as file:
        write_safetensors(model.state_dict(), file)
    if not (folder / CARD).exists():
        write_atomically(folder / CARD, card)


def _own(model: nn.Module, preparation: Mapping | None) -> dict:
    if not isinstance(model, PretrainedModule):
        raise ValueError(
            f'{type(model).__name__} is no classifier or backbone of this package: '
            'give the config it is built from'
        )
    is_pit = isinstance(model.variant, PiTVariant)
    fields = {
        'version': __version__,
        'family': 'pit' if is_pit else 'metaformer',
        'arch': asdict(model.variant),
        'distilled': is_pit and model.cls_token.shape[1] == 2,
        **{key: getattr(model, key, None) for key in OPTIONS[1:]},
    }
    if fields['num_classes'] is None:
        return {OURS: fields}
    return {
        **_for_timm(model.variant, fields['distilled']),
        'num_classes': model.num_classes,
        'pretrained_cfg': dict(preparation or {}),
        OURS: fields,
    }


def _for_timm(variant: Variant | PiTVariant, distilled: bool) -> dict:
    """Return timm's name of an architecture, if it has one."""
    pits = (f'pit_{s}{"_distilled" * distilled}_224' for s in PIT if PIT[s] == variant)
    names = (name for name in VARIANTS if VARIANTS[name] == variant)
    found = next(chain(pits, names), None)
    return {} if found is None else {'architecture': found}


def _card(
    model: nn.Module,
    name: str,
    scope: str | None,
    content: Mapping,
    data: str,
    metrics: Mapping[str, float],
    license: str | None,
) -> str:
    """Return the text of a model card."""
    # Imported here: slow.
    from huggingface_hub import EvalResult, ModelCardData

    is_whole = 'whole' in content[OURS]
    is_backbone = not is_whole and 'num_classes' not in content
    task = FEATURES if is_backbone else TASKS.get(scope, CLASSIFICATION)
    about_data = dict(task_type=task, dataset_type='custom', dataset_name=data)
    head = ModelCardData(
        license=license,
        library_name=OURS,
        pipeline_tag=task,
        tags=['mmpoolformer', 'metaformer'],
        model_name=name if metrics else None,
        eval_results=[
            EvalResult(metric_type=key, metric_value=value, **about_data)
            for key, value in metrics.items()
        ]
        or None,
    ).to_yaml()
    count = sum(p.numel() for p in model.parameters()) / 1e6
    labels = content.get('label_names', ())
    classes = labels and f'{len(labels)}: {first_few(labels, 20)}'
    rows = {
        'model': content.get('architecture') or type(model).__name__,
        'parameters': f'{count:.2f} million',
        'classes': classes or content.get('num_classes') or UNKNOWN,
        'data': data,
        'licence of the weights': license or UNKNOWN,
        **metrics,
    }
    table = ''.join(f'| {_cell(k)} | {_cell(v)} |\n' for k, v in rows.items())
    use = WHOLE_USE if is_whole else OWN_USE
    options = ', features_only=True' if is_backbone else ''
    return (
        f'---\n{head}\n---\n\n# {name}\n\nMade by mmpoolformer {__version__}.\n\n'
        f'| | |\n|---|---|\n{table}\n{use.format(options=options)}'
    )


def _cell(value: object) -> str:
    return shown(str(value)).replace('|', r'\|')


OWN_USE = """```python
import mmpoolformer

model = mmpoolformer.create_model('hf://OWNER/NAME'{options})    # or the folder
```
"""
WHOLE_USE = """```bash
mmpoolformer infer FOLDER/config.py FOLDER PICTURE
```

FOLDER is a copy of these files; `hf download OWNER/NAME` makes one. `config.py` is a
config of mmengine, and so a program: read it before use.
"""
