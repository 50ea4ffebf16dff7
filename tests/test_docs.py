"""What README and docs name is there, and their Python runs.

Commands are run by `test_commands.py`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from documented import BLOCKS, PAGES, text_of
from mmengine.config import Config, config
from mmengine.registry import DefaultScope, build_functions
from PIL import Image
from random_models import make_models
from tool_process import ROOT
from torch import nn

from mmpoolformer import create_model
from mmpoolformer.registry import MODELS

PYTHON = [(page, text) for page, language, text in BLOCKS if language == 'python']


# Python's and the system's; mmengine's are looked up in its modules.
ELSEWHERE = (
    "No module named 'mmcv._ext'",
    'unexpected keyword argument',
    'No space left on device',
)
# What stands for a value in a message that a page quotes.
VALUES = r'\.\.\.;?|nan|(?:mmpoolformer\.)?PoolFormer|mmdet::model|mmsegmentation'


def name(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)[:40]


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r'\]\(([^)#\s]+)[^)]*\)', text_of(page)):
        if '://' not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_configs_and_tools_that_are_named_exist(page: Path) -> None:
    found = re.findall(r'\b((?:configs|tools)/[\w/]+\.(?:py|sh))', text_of(page))
    assert [path for path in found if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(('page', 'text'), PYTHON, ids=name)
def test_code_runs(
    page: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if '_base_' in text:
        model = build(text, tmp_path)
        if hasattr(model, 'neck'):
            assert model.neck.in_channels == list(model.backbone.out_channels)
        return
    model = create_model('poolformer_s12')
    torch.save(model.state_dict(), 'poolformer_s12.pth.tar')
    Image.new('RGB', (64, 48)).save('street.jpg')
    given = {'model': model.eval(), 'images': torch.zeros(1, 3, 64, 64)}
    if 'CONFIG' in text:
        made = make_models(tmp_path / 'made')
        given['CONFIG'] = made.config('detection')
        given['CHECKPOINT'] = made.checkpoint('detection')
    exec(text, given)


def build(text: str, folder: Path) -> nn.Module:
    """Build the model of a config in the repository's root, with random weights."""
    (folder / 'configs').symlink_to(ROOT / 'configs')
    (folder / 'config.py').write_text(text)
    config = Config.fromfile(folder / 'config.py')
    if 'backbone' in config.model:
        config.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmengine')):
        return MODELS.build(config.model)


def texts(file: Path) -> Iterator[str]:
    """Give the fixed parts of all texts in a Python file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_quoted_messages_are_printed() -> None:
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    rows = re.findall(r'^\| ([^|]*`[^|]*) \|', page, re.M)
    quoted = [text for row in rows for text in re.findall('`([^`]+)`', row)]
    assert len(quoted) > 8
    files = [*(ROOT / 'mmpoolformer').rglob('*.py')]
    files += [Path(build_functions.__file__), Path(config.__file__)]
    printed = '\n'.join(text for file in files for text in texts(file))
    parts = [part.strip() for text in quoted for part in re.split(VALUES, text)]
    missing = {part for part in parts if part not in printed}
    assert missing <= set(ELSEWHERE)
