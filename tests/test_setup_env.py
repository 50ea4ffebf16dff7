import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / 'tools' / 'setup_env.py'


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location('setup_env', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture
def place(tmp_path: Path) -> 'tool.Place':
    return tool.Place('forks', tmp_path / 'venv')


def run_tool(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


# ------------------------------------------------------------------- preflight


def test_syntax_is_read_by_python_3_6() -> None:
    ast.parse(TOOL.read_text(), feature_version=(3, 6))


def test_only_the_standard_library_is_imported() -> None:
    for path in (TOOL, tool.TABLE):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
        assert {name.split('.')[0] for name in names} <= sys.stdlib_module_names


def old_pythons() -> list[str]:
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv'), 'versions')
    found = [str(p) for m in range(6, 10) for p in pyenv.glob(f'*/bin/python3.{m}')]
    return found or [p for m in range(6, 10) if (p := shutil.which(f'python3.{m}'))]


@pytest.mark.skipif(not old_pythons(), reason='no Python below 3.10 here')
def test_old_python_is_told_in_one_line() -> None:
    for python in old_pythons():
        done = subprocess.run([python, TOOL], capture_output=True, text=True)
        assert done.returncode == 1
        assert re.fullmatch(r'error: Python 3\.10 or newer .*\n', done.stderr)


@pytest.mark.parametrize(('stack', 'newest'), [('forks', 13), ('originals', 11)])
def test_python_too_new_for_the_stack(stack: str, newest: int, tmp_path: Path) -> None:
    place = tool.Place(stack, tmp_path)
    tool.check_python((3, newest), place)
    with pytest.raises(tool.SetupError, match=rf'too new.*PYTHON=python3\.{newest}'):
        tool.check_python((3, newest + 1), place)


def test_missing_compiler_stops_in_one_line_before_anything_is_made(
    tmp_path: Path,
) -> None:
    done = run_tool('--venv', tmp_path / 'venv', CXX='no-such-compiler')
    assert done.returncode == 1
    assert re.fullmatch(r'error: no C\+\+ compiler .*build-essential\n', done.stderr)
    assert not (tmp_path / 'venv').exists()


@pytest.mark.parametrize(
    ('said', 'told'),
    [
        ('small.cpp:1:10: error: Python.h: No such file', r'python3\.11-dev'),
        ('error: unrecognized option', 'CXX=g'),
    ],
)
def test_compiler_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    compiler = tmp_path / 'c++'
    compiler.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv('CXX', str(compiler))
    with pytest.raises(tool.SetupError, match=told):
        tool.check_compiler((3, 11))


def test_real_compiler_passes() -> None:
    tool.check_compiler(sys.version_info[:2])


def test_full_disk_is_told_with_what_is_needed(
    place: 'tool.Place', monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=int(3e9))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(tool.SetupError, match=r'7\.5 GB free are needed.*are 3\.0'):
        tool.check_disk(place)
    (place.venv / 'lib/python3.11/site-packages/torch').mkdir(parents=True)
    tool.check_disk(place)


def test_folder_with_somebodys_work_is_refused(place: 'tool.Place') -> None:
    place.venv.mkdir()
    tool.check_folder(place)
    (place.venv / 'thesis.tex').touch()
    with pytest.raises(tool.SetupError, match='no working virtual environment'):
        tool.check_folder(place)
    shutil.rmtree(place.venv)
    place.venv.touch()
    with pytest.raises(tool.SetupError, match='is a file'):
        tool.check_folder(place)


@pytest.mark.parametrize(
    ('stack', 'there', 'refused'),
    [
        ('forks', 'mmcv-2.1.0', True),
        ('forks', 'onedl_mmcv-2.3.6', False),
        ('originals', 'onedl_mmengine-0.10.12', True),
        ('originals', 'mmsegmentation-1.2.2', False),
    ],
)
def test_families_are_never_mixed(
    tmp_path: Path, stack: str, there: str, refused: bool
) -> None:
    place = tool.Place(stack, tmp_path)
    place.notes.mkdir()
    folder = tmp_path / f'lib/python3.11/site-packages/{there}.dist-info'
    folder.mkdir(parents=True)
    if not refused:
        tool.check_folder(place)
        return
    with pytest.raises(tool.SetupError, match=f'holds {there}, which does not go'):
        tool.check_folder(place)


# ----------------------------------------------------------------------- mirrors


def test_mirrors_of_pip_are_passed_on() -> None:
    listing = (
        ":env:.cert='/etc/ssl/ca.crt'\n:env:.find-links='/opt/wheels /b'\n"
        "global.index-url='https://old.example/simple'\n"
        "install.index-url='https://mirror.example/simple'\n"
        "global.extra-index-url='\\nfile:///a/simple\\nfile:///b/simple'\n"
    )
    assert tool.mirrors(listing) == {
        'SSL_CERT_FILE': '/etc/ssl/ca.crt',
        'UV_FIND_LINKS': '/opt/wheels,/b',
        'UV_DEFAULT_INDEX': 'https://mirror.example/simple',
        'UV_INDEX': 'file:///a/simple file:///b/simple',
        'UV_INDEX_STRATEGY': 'unsafe-best-match',
    }
    assert tool.mirrors('') == {}


def test_variables_of_pip_reach_uv_through_the_real_pip() -> None:
    environment = {**os.environ, 'PIP_INDEX_URL': 'https://mirror.example/simple'}
    command = [sys.executable, '-m', 'pip', 'config', 'list']
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found = tool.mirrors(done.stdout)
    assert found['UV_DEFAULT_INDEX'] == 'https://mirror.example/simple'


# -------------------------------------------------------------------------- steps


@pytest.mark.parametrize('stack', sorted(tool.STACKS))
def test_lock_is_exact_and_names_no_place(stack: str, tmp_path: Path) -> None:
    place = tool.Place(stack, tmp_path)
    lines = place.lock.read_text().splitlines()
    pins = [line for line in lines if not line.startswith('#')]
    assert all(re.match(r'[a-z0-9-]+==[\w.!+]+( ; .*)?$', pin) for pin in pins)
    assert not re.search(r'://|--index|--find-links', place.lock.read_text())
    tools = ['torch', 'torchvision', 'uv', 'numpy', 'setuptools', 'wheel', 'ninja']
    tools += ['psutil', 'packaging', 'pip', 'opencv-python', 'opencv-python-headless']
    for name in [*place.stack.packages.values(), *tools]:
        assert [pin for pin in pins if pin.startswith(f'{name}==')] == [place.pin(name)]


def test_packages_are_installed_with_their_bytecode(
    place: 'tool.Place', tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = Path(sys.prefix, 'bin', 'uv')
    if not uv.exists():
        pytest.skip('this environment was made without uv')
    wheel, about = tmp_path / 'small-1-py3-none-any.whl', 'small-1.dist-info'
    files = {
        'small.py': 'x = 1',
        f'{about}/METADATA': 'Metadata-Version: 2.1\nName: small\nVersion: 1\n',
        f'{about}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n',
        f'{about}/RECORD': '',
    }
    with zipfile.ZipFile(wheel, 'w') as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    monkeypatch.setenv('PYTHONDONTWRITEBYTECODE', '1')
    venv.create(place.venv)
    (place.venv / 'bin' / 'uv').symlink_to(uv)
    place.run('setup.log', *place.uv('--no-index', wheel))
    (source,) = place.venv.glob('lib/python*/site-packages/small.py')
    assert Path(importlib.util.cache_from_source(source)).is_file()


def test_sources_are_joined_once_each_and_in_order(tmp_path: Path) -> None:
    (tmp_path / 'cpu').mkdir()
    names = ['pybind', 'nms', 'roi_align', *(f'cpu/{x}' for x in tool.ROI)]
    names += [*(f'cpu/{x}' for x in tool.ROTATED), 'cpu/nms', 'cpu/voxelization']
    for name in names:
        (tmp_path / f'{name}.cpp').write_text('')
    tool.join_sources(tmp_path)
    compiled = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob('*.cpp')}
    assert len(compiled) == 5
    assert compiled[Path('pybind.cpp')] == ''
    included = [
        str(path.parent / name)
        for path, text in compiled.items()
        for name in re.findall(r'#include "(.+)\.inc"\n', text)
    ]
    assert sorted([*included, 'pybind']) == sorted(names)
    assert all((tmp_path / f'{name}.inc').is_file() for name in included)
    with_macros = next(text for text in compiled.values() if 'psamask' in text)
    assert with_macros.endswith('#include "psamask.inc"\n')


def test_gpu_is_hidden_from_mmcv_where_nothing_can_compile_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    monkeypatch.setenv('CFLAGS', '-O3')
    found = tool.build_variables()
    assert found['CUDA_VISIBLE_DEVICES'] == ''
    assert found['CFLAGS'] == '-O3 -g0 -O2'
    (tmp_path / 'nvcc').touch(mode=0o755)
    assert 'CUDA_VISIBLE_DEVICES' not in tool.build_variables()


def test_what_is_set_up_is_left_alone(
    place: 'tool.Place', monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    done: list[tuple[str, bool]] = []
    fail = True

    def step(name: str) -> object:
        def act(place: 'tool.Place', again: tuple = ()) -> None:
            done.append((name, bool(again)))
            if name == 'install_packages' and fail:
                raise KeyboardInterrupt
            place.python.parent.mkdir(parents=True, exist_ok=True)
            place.python.touch()

        return act

    monkeypatch.setattr(tool, 'preflight', lambda place: None)
    names = ['get_uv', 'install_torch', 'install_packages', 'install_ours', 'prove']
    for name in names:
        monkeypatch.setattr(tool, name, step(name))
    with pytest.raises(KeyboardInterrupt):
        tool.set_up(place)
    assert [name for name, again in done] == names[:3]
    fail = False
    done.clear()
    tool.set_up(place)
    # What was cut off is unpacked again.
    assert done[:3] == [('get_uv', False), (names[1], True), (names[2], True)]
    done.clear()
    tool.set_up(place)
    assert done == []
    assert 'is set up (forks)' in capsys.readouterr().out
    monkeypatch.setattr(tool, 'fingerprint', lambda place: 'other requirements')
    tool.set_up(place)
    assert done == [(name, False) for name in names]


@pytest.mark.parametrize(
    ('said', 'cure'),
    [
        ('OSError: [Errno 28] No space left on device', 'free some space'),
        ('error: dns error: failed to lookup address', 'cannot be reached'),
        ('ERROR: No matching distribution found for uv==0', 'no file for this Python'),
        ('g++: fatal error: Killed signal terminated cc1plus', 'MAX_JOBS=1'),
    ],
)
def test_failures_are_told_in_one_line_with_the_cure(
    place: 'tool.Place', said: str, cure: str
) -> None:
    code = f'print({said!r}); raise SystemExit(3)'
    with pytest.raises(tool.SetupError, match=cure) as caught:
        place.run('setup.log', sys.executable, '-c', code)
    assert '\n' not in str(caught.value)
    assert str(place.notes / 'setup.log') in str(caught.value)


def test_stop_reaches_the_children_of_the_child(
    place: 'tool.Place', tmp_path: Path
) -> None:
    pid = tmp_path / 'pid'
    child = place.start('setup.log', 'sh', '-c', f'sleep 60 & echo $! > {pid}; wait')
    while not (pid.exists() and pid.read_text().strip()):
        time.sleep(0.01)
    tool.stop(child)
    assert child.returncode == -9
    grandchild = int(pid.read_text())
    for _ in range(500):
        if not psutil.pid_exists(grandchild):
            break
        if psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.01)
    else:
        pytest.fail('the grandchild still runs')
