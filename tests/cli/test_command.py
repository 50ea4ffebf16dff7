"""The command `mmpoolformer` and what its commands share."""

import subprocess
import sys
from pathlib import Path

import pytest
from tool_process import ROOT

from mmpoolformer.cli import COMMANDS, main
from mmpoolformer.cli.test import parse as parse_test
from mmpoolformer.utils.errors import UsageError

PRINT_HELP = """
import sys
from mmpoolformer.cli import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, '--help'])
    except SystemExit as end:
        assert end.code == 0, command
    assert 'torch' not in sys.modules, command
"""


def test_every_help_does_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, '-c', PRINT_HELP], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for command in set(COMMANDS) - {'doctor'}:
        assert f'usage: mmpoolformer {command}' in done.stdout


def test_every_tool_is_a_command() -> None:
    tools = {path.stem: path.read_text() for path in (ROOT / 'tools').glob('*.py')}
    tools.pop('setup_env')  # runs where nothing is installed
    called = {text.split("run('")[1].split("'")[0] for text in tools.values()}
    assert called == set(COMMANDS) - {'doctor'}


def test_commands_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(
        any(line.startswith(f'  {name} ') for line in lines) for name in COMMANDS
    )
    assert max(map(len, lines)) <= 80


def test_a_wrong_command_brings_similar_ones(capsys: pytest.CaptureFixture) -> None:
    assert main(['tran']) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no command 'tran': did you mean train")
    assert error.count('\n') == 1


@pytest.mark.parametrize('command', ['export', 'gradcam', 'convert', 'infer', 'test'])
def test_what_reads_checkpoints_can_be_told_to_trust(
    command: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        main([command, '--help'])
    assert '--trust-checkpoint' in capsys.readouterr().out


def test_the_folder_of_a_checkpoint_may_hold_pictures(tmp_path: Path) -> None:
    words = [str(tmp_path / 'config.py'), str(tmp_path), '--optimize']
    for name in ('config.py', '0.png'):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match='is no model'):  # these are label maps
        parse_test(words)
    (tmp_path / 'model.safetensors').touch()
    assert parse_test(words).checkpoint == str(tmp_path)
