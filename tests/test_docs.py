"""What README and docs name is there: files, tools, options, targets and code."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from random_models import make_models
from torch import nn

from mmpoolformer import create_model
from mmpoolformer.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *ROOT.glob('*.md'),
    *sorted((ROOT / 'docs').rglob('*.md')),
]
BLOCKS = [
    (page, language, text)
    for page in PAGES
    for language, text in re.findall(r'```(\w+)\n(.*?)```', page.read_text(), re.S)
]
COMMANDS = [
    (page, line.split('  #')[0].strip())
    for page, language, text in BLOCKS
    if language == 'bash'
    for line in text.replace('\\\n', ' ').splitlines()
    if line.strip() and not line.startswith('#')
]
PYTHON = [(page, text) for page, language, text in BLOCKS if language == 'python']


def name(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)[:40]


@cache
def help_of(tool: str) -> str:
    interpreter = [sys.executable] if tool.endswith('.py') else ['bash']
    done = subprocess.run(
        [*interpreter, ROOT / tool, *(['--help'] if tool.endswith('.py') else [])],
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r'\]\(([^)#\s]+)[^)]*\)', page.read_text()):
        if '://' not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_configs_and_tools_that_are_named_exist(page: Path) -> None:
    found = re.findall(r'\b((?:configs|tools)/[\w/]+\.(?:py|sh))', page.read_text())
    assert [path for path in found if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(('page', 'command'), COMMANDS, ids=name)
def test_command_is_one_that_its_program_knows(page: Path, command: str) -> None:
    words = [w for w in shlex.split(command) if not re.match(r'[A-Z_]+=', w)]
    if words[0] == 'make':
        targets = [word for word in words[1:] if '=' not in word]
        makefile = (ROOT / 'Makefile').read_text()
        assert all(re.search(f'^{t}:', makefile, re.M) for t in targets)
    tool = next((word for word in words if word.startswith('tools/')), None)
    if tool is None:
        known = ('make', 'pip', 'python', 'git', 'cd', 'pre-commit', 'tensorboard')
        assert words[0].split('/')[-1] in known, 'a program that is not known here'
        return
    shown = help_of(tool)
    if tool.endswith('train.sh') or tool.endswith('test.sh'):
        shown += help_of(f'tools/{"train" if "train" in tool else "test"}.py')
    for option in re.findall(r'(?<=\s)--[\w-]+', command):
        assert option in shown, f'{tool} has no {option}'


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
