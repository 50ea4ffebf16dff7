"""tools/convert_checkpoint.py, from the command line."""

from pathlib import Path

import pytest
import torch
from tool_process import run_here

from mmpoolformer import create_model
from mmpoolformer.checkpoints import convert_state_dict, detect_format, read_checkpoint
from mmpoolformer.cli.convert import main
from mmpoolformer.utils.errors import run_tool

from .weights import NAMES, numbered, same

TOOL = Path(__file__).parents[2] / 'tools' / 'convert_checkpoint.py'


@pytest.fixture
def convert():
    """Run the tool in this process; return its exit code."""
    return lambda *arguments: run_tool(main, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path) -> Path:
    torch.save(numbered('poolformer_s12'), tmp_path / 'sail.pth')
    return tmp_path / 'sail.pth'


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('format', ['timm', 'native', *NAMES])
def test_there_and_back(convert, source, tmp_path, capsys, format, suffix) -> None:
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    there, back = tmp_path / f'there{suffix}', tmp_path / f'back{suffix}'
    assert convert(source, there, '--to', format) == 0
    weights = read_checkpoint(there)
    assert same(weights, convert_state_dict(numbered('poolformer_s12'), format))
    assert convert(there, back, '--to', 'sail') == 0
    assert read_checkpoint(back).keys() == numbered('poolformer_s12').keys()
    assert same(read_checkpoint(back), numbered('poolformer_s12'))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f'{there}: 132 tensors from sail to {format} names'


def test_detector_keeps_its_other_parts(convert, tmp_path, capsys) -> None:
    part = numbered('poolformer_s12_feat')
    weights = {f'backbone.{key}': value for key, value in part.items()}
    weights['neck.norm2.weight'] = torch.ones(2)
    content = {'state_dict': weights, 'meta': {'epoch': 3}, 'optimizer': {'state': {}}}
    torch.save(content, tmp_path / 'a.pth')
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.pth', '--to', 'native') == 0
    result = read_checkpoint(tmp_path / 'b.pth')
    assert list(result) == ['state_dict', 'meta']
    assert result['meta'] == {'epoch': 3}
    native = convert_state_dict(part, 'native')
    expected = {f'backbone.{key}': value for key, value in native.items()}
    expected['neck.norm2.weight'] = torch.ones(2)
    assert same(result['state_dict'], expected)
    assert (
        capsys.readouterr()
        .out.strip()
        .endswith(
            "136 tensors from sail to native names, in state_dict, under 'backbone.', "
            '1 others kept, without optimizer'
        )
    )
    assert convert(tmp_path / 'b.pth', tmp_path / 'c.pth', '--to', 'sail') == 0
    assert same(read_checkpoint(tmp_path / 'c.pth')['state_dict'], weights)


def test_plain_and_averaged_weights_are_both_converted(convert, tmp_path) -> None:
    plain = numbered('poolformer_s12')
    averaged = {key: value + 1 for key, value in plain.items()}
    content = {'state_dict': plain, 'state_dict_ema': averaged, 'epoch': 3}
    torch.save(content, tmp_path / 'a.pth')
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.pth', '--to', 'timm') == 0
    result = read_checkpoint(tmp_path / 'b.pth')
    assert list(result) == ['state_dict', 'state_dict_ema', 'epoch']
    assert same(result['state_dict'], convert_state_dict(plain, 'timm'))
    assert same(result['state_dict_ema'], convert_state_dict(averaged, 'timm'))


def test_paddles_files_from_the_command_line(convert, tmp_path, capsys) -> None:
    weights = {k: v.clone() for k, v in create_model('pit_ti').state_dict().items()}
    torch.save(weights, tmp_path / 'a.pth')
    assert convert(tmp_path / 'a.pth', tmp_path / 'b.pdparams', '--to', 'paddle') == 0
    assert convert(tmp_path / 'b.pdparams', tmp_path / 'c.pth', '--to', 'timm') == 0
    assert same(read_checkpoint(tmp_path / 'c.pth'), weights)
    said = capsys.readouterr().out.splitlines()
    count = len(weights)
    assert said[1] == f'{tmp_path / "c.pth"}: {count} tensors from paddle to timm names'
    assert convert(tmp_path / 'a.pth', tmp_path / 'd.pdparams', '--to', 'pit') == 1
    error = capsys.readouterr().err
    assert error.startswith(f'error: {tmp_path / "d.pdparams"}: a .pdparams file takes')
    assert error.count('\n') == 1
    assert not (tmp_path / 'd.pdparams').exists()


def test_existing_file_is_kept_without_force(convert, source, tmp_path, capsys) -> None:
    target = tmp_path / 'b.pth'
    target.write_bytes(b'precious')
    assert convert(source, target, '--to', 'timm') == 1
    assert target.read_bytes() == b'precious'
    assert capsys.readouterr().err == (
        f'error: {target} exists: choose another name, or --force\n'
    )
    assert convert(source, target, '--to', 'timm', '--force') == 0
    assert detect_format(read_checkpoint(target)) == 'timm'


def test_file_may_replace_itself(convert, source) -> None:
    assert convert(source, source, '--to', 'timm', '--force') == 0
    assert detect_format(read_checkpoint(source)) == 'timm'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['none.pth', 'b.pth', '--to', 'timm'], "no checkpoint file 'none.pth'"),
        (['SOURCE', 'b.pth', '--to', 'sail', '--from', 'timm'], "format 'sail', not"),
        (['SOURCE', 'b.pth', '--to', 'timm', '--prefix', 'x.'], 'no known format'),
        (['zoo://nothing', 'b.pth', '--to', 'timm'], 'no such name'),
        (['SOURCE', '/dev/null/b.pth', '--to', 'timm'], '/dev/null'),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    convert, source, tmp_path, capsys, monkeypatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [str(source) if a == 'SOURCE' else a for a in arguments]
    assert convert(*arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith('error: ')
    assert message in error
    assert error.count('\n') == 1
    assert [file.name for file in tmp_path.iterdir()] == ['sail.pth']


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_full_disk_leaves_nothing(convert, source, tmp_path, capsys) -> None:
    temporary = tmp_path / 'b.pth.part'
    temporary.symlink_to('/dev/full')
    assert convert(source, tmp_path / 'b.pth', '--to', 'timm') == 1
    assert capsys.readouterr().err.count('\n') == 1
    assert [file.name for file in tmp_path.iterdir()] == ['sail.pth']


@pytest.mark.slow
def test_command_line(source, tmp_path) -> None:
    command = [TOOL, source, tmp_path / 'b.pth', '--to']
    done = run_here([*command, 'keras'], tmp_path)
    assert done['code'] == 2
    assert "invalid choice: 'keras'" in done['err']
    done = run_here([*command, 'timm'], tmp_path)
    assert (done['code'], done['err']) == (0, '')
    assert detect_format(read_checkpoint(tmp_path / 'b.pth')) == 'timm'
